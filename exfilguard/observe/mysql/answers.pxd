cimport cython

from .commands cimport Command, Commands, Statement


cdef class Answers(Commands):
    cdef public long long _left
    cdef public list _definitions
    cdef public bytes sizes
    cdef public tuple _packed
    cdef public bint _kept
    cdef public int _result_columns, _announced

    cdef bytes _canonical(self, bytes value)
    cdef _desync(self, str detail)
    cdef tuple _row_patients(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint whole)
    cdef long long _beside(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint whole) except -1
    @cython.locals(binary=bint, found=list)
    cdef tuple _row_judged(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint whole)
    cdef bint _of_patients(self, Statement statement) except *
    cdef object _subqueries(self, Statement statement, object reading)
    cdef str _whole_shape(self, Statement statement)
    cdef _describe(self, Statement statement, object reading)
    @cython.locals(head=Command)
    cdef _read_columns(self, list definitions)
    cdef _columns_complete(self)
    @cython.locals(head=Command)
    cdef _begin_rows(self)
    @cython.locals(statement=Statement)
    cdef long long _hidden(self, long long affected) except -1
    cdef tuple _note_moved(self, Statement statement, bint kept=*)
    @cython.locals(head=Command)
    cpdef int aside(self, int kind, bytes data, Py_ssize_t start, Py_ssize_t end, long long size, bint may) except -2
    cdef bint _discloses(self, bytes body, Statement statement) except *
    cdef bint _of_others(self, bytes sql) except *
    cdef _note_variables(self, Statement statement)
    cdef int _eof_status(self, bytes payload) except -1
    cdef int _ok_status(self, bytes payload) except -1
    cdef _end_result(self, int status, long long hidden=*)
    @cython.locals(head=Command)
    cdef _completed(self, int status)
    cdef _on_error(self, bytes payload)
    cdef _forget_rows(self)
    cdef _keep_prepared_columns(self)
    cdef _reset(self)
