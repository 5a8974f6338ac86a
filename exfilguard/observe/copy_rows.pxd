cimport cython


cdef class CopyForm:
    cdef public int kind, delimiter, quote, escape
    cdef public Py_ssize_t columns, position
    cdef public long long type_oid
    cdef public tuple positions, types
    cdef public bytes null
    cdef public bint header


cdef class CopyRows:
    cdef public CopyForm form
    cdef public list values
    cdef public Py_ssize_t unread, total
    cdef public bint _header, _aligned, _lost, _open, _spoiled, _escaped, _quoted
    cdef public Py_ssize_t _column, _found
    cdef public bytearray _carry
    cdef public int _state
    cdef public long long _left

    cpdef bint between(self)
    cpdef passed(self, Py_ssize_t count)
    @cython.locals(before=Py_ssize_t, rows=Py_ssize_t, counts=bint, header=bint, ended=bint)
    cpdef Py_ssize_t message(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint whole) except -1
    cdef Py_ssize_t _cut_short(self, Py_ssize_t rows, bint counts) except -1
    cdef _begin_row(self)
    cdef _end_row(self)
    cdef bint _wanted(self) except -1
    @cython.locals(form=CopyForm, csv=bint, delimiter=int, quote=int, escape=int, newline=int, backslash=int, mark=Py_ssize_t, byte=int)
    cdef _lines(self, bytes data, Py_ssize_t pos, Py_ssize_t end)
    cdef _keep(self, bytes data, Py_ssize_t start, Py_ssize_t end)
    cdef _end_field(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint last)
    cdef _take(self, bytes raw)
    @cython.locals(taken=Py_ssize_t, need=Py_ssize_t)
    cdef _tuples(self, bytes data, Py_ssize_t pos, Py_ssize_t end)
    cdef bint _word_read(self, bytes piece) except -1
    cdef _end_bytes(self)
    cdef _next_column(self)
    cdef _give_up(self)
