cimport cython

from ..wire.postgres.backend cimport BackendReader
from ..wire.postgres.frontend cimport FrontendReader
from .observer cimport Observer
from .pending cimport Pending, Portal, Statement, Text


cdef class Requests(Observer):
    cdef public FrontendReader _frontend
    cdef public BackendReader _backend
    cdef public bint _skip_to_sync
    cdef public str _copy
    cdef public dict _statements, _portals

    @cython.locals(pending=Pending, statement=Statement, made=Portal, letter=str)
    cpdef request(self, int kind, bytes body, bint whole)
    @cython.locals(head=Pending)
    cdef _next_head(self)
    cdef _show_portal(self, Pending head)
    cdef _show_function(self, Pending head)
    cdef _remember(self, Pending pending, dict table, bytes name, object what)
    cdef tuple _prepared(self)
    @cython.locals(statement=Statement)
    cdef Statement _read(self, bytes sql, bint whole, bint simple)
    @cython.locals(head=Pending)
    cdef object current(self)
    @cython.locals(head=Pending)
    cdef Text _statement(self, object request)
    @cython.locals(head=Pending)
    cdef long long _asked_ms(self, object request) except -1
    @cython.locals(head=Pending, portal=Portal)
    cdef list statement_asked(self, object request)
