cimport cython

from ...wire.mysql.backend cimport BackendReader
from ...wire.mysql.frontend cimport FrontendReader
from ..observer cimport Observer
from ..pending cimport Text


cdef class Statement(Text):
    cdef public object reading
    cdef public int parameters
    cdef public bint cut
    cdef public tuple types, direct, moved
    cdef public dict long_data


cdef class Command:
    cdef public int kind
    cdef public long long asked_ms, statement_id
    cdef public Statement statement
    cdef public object login, script
    cdef public bytes database, body
    cdef public long done
    cdef public list asked


cdef class Commands(Observer):
    cdef public bint _allow_replication, _certified
    cdef public unsigned long long capabilities
    cdef public object on_change_user, _inflate_server, _reading
    cdef public FrontendReader _frontend
    cdef public BackendReader _backend
    cdef public dict _statements
    cdef public Statement _last_prepared
    cdef public long long _held_bytes
    cdef public int _phase

    @cython.locals(command=Command, attributes=bint)
    cpdef request(self, int kind, bytes body, bint whole)
    @cython.locals(head=Command, prepared=bint)
    cdef _begin(self)
    cdef Command _head(self)
    cdef _identify(self, object login)
    cdef _done(self)
    cpdef _show_rows(self, object reading, bint binary)
    @cython.locals(statement=Statement)
    cdef _ask(self, Command command, bytes body)
    cdef list _parameters_asked(self, int kind, Statement statement, object plan, bytes body)
    cdef _note_long_data(self, bytes body, bint whole)
    cdef tuple _prepared(self)
    @cython.locals(statement=Statement)
    cdef Statement _read(self, bytes sql, bint whole, bint simple=*)
    cdef object current(self)
    @cython.locals(head=Command)
    cdef Text _statement(self, object request)
    @cython.locals(head=Command)
    cdef long long _asked_ms(self, object request) except -1
    @cython.locals(head=Command)
    cdef list statement_asked(self, object request)
