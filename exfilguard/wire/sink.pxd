cdef class Sink:
    cdef public bint wants_rows, stop, in_rows, free, holds_errors

    cpdef rows(self, long long count, long long size)
    cpdef bint row(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint whole) except *
    cpdef tuple scan(self, bytes data, Py_ssize_t pos, long long most)
    cpdef message(self, int kind, bytes body)
    cpdef packet(self, bytes payload)
    cpdef request(self, int kind, bytes body, bint whole)
