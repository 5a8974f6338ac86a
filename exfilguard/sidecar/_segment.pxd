from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._bell cimport Bell


cdef uint32_t crc32(const uint8_t *p, Py_ssize_t n, uint32_t crc) noexcept nogil


cdef class Segment:
    cdef Py_buffer buffer
    cdef bint held
    cdef Bell bell
    cpdef Py_ssize_t append(self, Py_ssize_t at, uint32_t hashed, uint64_t time_ms, bytes payload) except -1
