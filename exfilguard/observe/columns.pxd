cimport cython

from ._digests cimport DigestSet
from .copy_rows cimport CopyRows
from .patients cimport PatientColumns, Reading
from .pending cimport Pending, Portal, Statement
from .requests cimport Requests


cdef class Columns(Requests):
    cdef public Reading _reading
    cdef public tuple _positions, _formats, _packed
    cdef public list _fields
    cdef public Py_ssize_t _last_position
    cdef public long long _beside
    cdef public dict _made
    cdef public str _encoding
    cdef public bint _copied_in, _called
    cdef public CopyRows _copying
    cdef public object _passing

    @cython.locals(columns=PatientColumns, reading=Reading)
    cdef _begin_columns(self, list fields, tuple formats, Statement statement)
    cdef bint _mentioned(self, bytes sql) except *
    cdef bint _of_patients(self, Statement statement) except *
    cdef bint _of_view(self, bytes sql) except *
    cdef _note_made(self, bytes sql)
    cdef _note_kept(self, bytes sql)
    cdef _note_shadow(self, bytes sql)
    cdef _note_copy(self, Statement statement)
    cdef _note_ended(self, bytes sql)
    @cython.locals(portal=Portal)
    cdef _show_portal(self, Pending head)
    cdef _show_function(self, Pending head)
    cdef _forget_columns(self)
    @cython.locals(reading=Reading)
    cpdef tuple statement_columns(self)
    cpdef int aside(self, int kind, bytes data, Py_ssize_t start, Py_ssize_t end, long long size, bint may) except -2
    cdef bint _admit_aside(self, int kind, bytes body, long long size, bytes sql) except *
    @cython.locals(head=Pending)
    cdef bytes _text_answered(self)
    cpdef bint row(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint whole) except *
    cpdef bint fits(self, long long size) except *
    cdef _recount(self, long long rows)
    @cython.locals(kind=int)
    cpdef tuple scan(self, bytes data, Py_ssize_t pos, long long most)
    cdef long long _beside_columns(self, bytes data, Py_ssize_t start, Py_ssize_t end) except -1
    cdef tuple _row_patients(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint whole)
    cdef bytes _canonical(self, bytes value)
    cdef bint _copied(self, CopyRows copying, bytes data, Py_ssize_t start, Py_ssize_t end, bint whole) except -1
    cdef tuple _scan_copied(self, CopyRows copying, bytes data, Py_ssize_t pos, long long most)
    @cython.locals(columns=PatientColumns)
    cdef _begin_copy(self, Statement statement, long done, bytes answer)
