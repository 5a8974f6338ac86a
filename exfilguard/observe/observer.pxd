cimport cython

from .identity cimport Identity
from .pending cimport Text
from .tally cimport Tally
from .templates cimport Templates


cdef class Observer(Tally):
    cdef public bint authenticated, desynced, in_transaction
    cdef public str forbidden
    cdef public long refusals
    cdef public bint _charged, _follow, _backslashes, _lost, _wrapped, _expressions
    cdef public object _columns, _classifier, _asked, _pending, _screener, _allowed_rows
    cdef public Identity _identity
    cdef public Templates _templates
    cdef public Py_ssize_t wants_column
    cdef public bytes held
    cdef public long long held_ms, _prepared_bytes
    cdef public long long most_rows, most_patients

    cpdef bint passes_first(self, bytes data) except *
    cpdef list client_data(self, bytes data, long long now_ms)
    cpdef list observed(self, bytes data, long long now_ms)
    cpdef requests(self, bytes data)
    cdef bint ask(self, bytes data, long long now_ms) except *
    cdef bint answer(self, bytes data, long long now_ms) except *
    cpdef tuple hold(self, bytes data, long long now_ms)
    cpdef let_go(self)
    cdef Text written(self)
    cdef tuple held_flags(self)
    cpdef bint answered(self, bytes data, long long now_ms, object allowed_rows, object allowed_patients) except *
    cdef list settle(self)
    cdef list _asked_for(self, bytes data, long long now_ms)
    cdef _read_client(self, bytes data)
    cdef bint _screens(self) except *
    cdef _misread(self, str detail)
    cdef _portion(
        self, bytes data, long long now_ms, object allowed_rows, object allowed_patients, object known_patients, bint follow
    )
    cdef list _passed(self, bytes data, long long now_ms)
    cdef _read_server(self, bytes data, object allowed_rows, bint hold, object found)
    cdef _read_passed(self, bytes data)
    cdef _unread(self, bytes data, object allowed_rows, object found)
    cdef _desync(self, str detail)
    cdef _lose(self, str detail)
    cpdef rows(self, long long count, long long size)
    cdef list _hidden_patient(self)
    cdef tuple _judged(self, bytes row, list values)
    cdef bytes _canonical(self, bytes value)
    @cython.locals(identity=Identity)
    cdef _charge(self, object script)
    cdef _said_in(self, bytes sql, Py_ssize_t end, long long now_ms)
    cdef _held_for(self, bytes sql, Py_ssize_t end, long long now_ms)
    cdef bytes _own(self, Text statement)
    cdef _understand(self, Text statement, bint whole)
    cdef _sent_again(self, Text statement, object script)
    cdef _tell_finding(self, Text statement)
    cdef str _words(self, object judge, bytes text, object script, bint takes_effect, object parameters=*, bint whole=*)
    cdef keep(self, long long size)
    cdef tuple _prepared(self)
    cdef Text _statement(self, object request)
    cdef long long _asked_ms(self, object request) except -1
    cdef tuple _normalise(self, bytes sql)
    @cython.locals(statement=Text, asked_ms=cython.longlong)
    cdef tuple shape(self, object request)
    @cython.locals(statement=Text)
    cdef tuple statement_flags(self, object request, str fingerprint)
    cdef tuple _shape(self, Text statement)
    cdef list _asked_in(self, Text statement)
