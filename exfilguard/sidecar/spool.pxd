
cdef class SpoolWriter:
    cdef public object directory, _map
    cdef public long long segment_bytes, max_bytes, _offset, _number
    cdef public object _compiled
    cdef public double _not_before
    cpdef append(self, hashed, time_ms, bytes payload)
