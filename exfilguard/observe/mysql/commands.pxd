cimport cython

from ...wire.mysql.backend cimport BackendReader
from ...wire.mysql.frontend cimport FrontendReader
from ..identity cimport Identity
from ..tally cimport Tally
from ..templates cimport Template, Templates


cdef class Statement:
    cdef public bytes sql
    cdef public object reading, script, plan, answers
    cdef public Template template
    cdef public list numbers
    cdef public int parameters
    cdef public tuple types, direct
    cdef public dict long_data


cdef class Command:
    cdef public int kind
    cdef public long long asked_ms, statement_id
    cdef public Statement statement
    cdef public object login, script
    cdef public bytes database, body
    cdef public long done
    cdef public list asked


cdef class Commands(Tally):
    cdef public bint desynced, _follow, _charged, _allow_replication, _backslashes
    cdef public str forbidden
    cdef public unsigned long long capabilities
    cdef public Identity _identity
    cdef public Templates _templates
    cdef public object on_change_user, _columns, _classifier, _asked, _inflate_server, _pending, _reading
    cdef public FrontendReader _frontend
    cdef public BackendReader _backend
    cdef public dict _statements
    cdef public Statement _last_prepared
    cdef public long long _held_bytes
    cdef public int _phase

    @cython.locals(command=Command, attributes=bint)
    cpdef command(self, int kind, bytes body, bint whole)
    @cython.locals(head=Command, prepared=bint)
    cdef _begin(self)
    cdef Command _head(self)
    cdef Command _current(self)
    cdef _identify(self, object login)
    cdef _done(self)
    cpdef _show_rows(self, object reading, bint binary)
    cpdef _desync(self, str detail)
    @cython.locals(statement=Statement)
    cdef _ask(self, Command command, bytes body)
    cdef list _parameters_asked(self, int kind, Statement statement, object plan, bytes body)
    cdef _note_long_data(self, bytes body, bint whole)
    @cython.locals(statement=Statement)
    cdef Statement _read(self, bytes sql, bint whole, bint simple=*)
    cdef _charge(self, object script)
    cdef _tell_finding(self, Statement statement)
    cdef tuple _shape(self, Statement statement)
