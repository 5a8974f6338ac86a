cimport cython


cdef class Histogram:
    cdef public tuple bounds
    cdef public list counts
    cdef public double total
    @cython.locals(i=cython.Py_ssize_t, bound=double)
    cpdef observe(self, double value)
