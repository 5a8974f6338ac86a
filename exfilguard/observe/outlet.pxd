cdef class Outlet:
    cpdef bint told(self, str fingerprint, tuple columns) except *
    cpdef put(self, str principal, long long time_ms, bytes payload, long long rows, long long size, long long patients, bint final)
