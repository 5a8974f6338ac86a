cimport cython

from ..sink cimport Sink


cdef class FrontendReader:
    cdef public Sink sink
    cdef public bytearray _carry
    cdef public bint _continued, answers, infile
    cdef public long long _skip, _logical
    cdef public int sequence

    @cython.locals(pos=Py_ssize_t, end=Py_ssize_t, taken=Py_ssize_t, kept=Py_ssize_t, start=Py_ssize_t, length=cython.longlong,
                   carry=bytearray)
    cpdef feed(self, bytes data)

    @cython.locals(length=cython.longlong, continued=bint)
    cdef bint _header(self, bytearray carry) except *
