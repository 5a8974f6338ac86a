cdef class Sink:
    cdef public bint wants_rows, stop, in_rows, free, holds_errors, wants_asides

    cpdef rows(self, long long count, long long size)
    cpdef bint row(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint whole) except *
    cpdef bint fits(self, long long size) except *
    cpdef tuple scan(self, bytes data, Py_ssize_t pos, long long most)
    cpdef int aside(self, int kind, bytes data, Py_ssize_t start, Py_ssize_t end, long long size, bint may) except -2
    cpdef message(self, int kind, bytes body)
    cpdef packet(self, bytes payload)
    cpdef request(self, int kind, bytes body, bint whole)
