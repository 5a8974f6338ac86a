cimport cython

from ..sink cimport Sink
from .backend cimport length_at


cdef class FrontendReader:
    cdef public Sink sink
    cdef public bytearray _carry
    cdef public long long _skip

    @cython.locals(pos=Py_ssize_t, end=Py_ssize_t, taken=Py_ssize_t, kept=Py_ssize_t, kind=int, length=cython.longlong, sink=Sink)
    cpdef feed(self, bytes data)


cdef _check(int kind, long long length)
