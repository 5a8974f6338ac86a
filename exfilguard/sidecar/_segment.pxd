from libc.stdint cimport uint32_t, uint64_t


cdef class Segment:
    cdef Py_buffer buffer
    cdef bint held
    cpdef Py_ssize_t append(self, Py_ssize_t at, uint32_t hashed, uint64_t time_ms, bytes payload) except -1
