from ..runtime.stats cimport Histogram


cdef class Gate:
    cdef public bint telling, screens
    cdef public dict standing
    cdef public Histogram added
