cimport cython
from libc.stdint cimport uint32_t, uint64_t

from ._segment cimport Segment


cdef class SpoolWriter:
    cdef public object directory, _map, _bell
    cdef public long long segment_bytes, max_bytes, _offset, _number
    cdef public Segment _compiled
    cdef public double _not_before
    @cython.locals(end=cython.Py_ssize_t)
    cpdef append(self, uint32_t hashed, uint64_t time_ms, bytes payload)
