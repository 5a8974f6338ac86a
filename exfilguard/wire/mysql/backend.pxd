cimport cython

from ..sink cimport Sink


cdef class Scan:
    cdef public object cut_at, hold_at, stop_at


cdef class BackendReader:
    cdef public Sink sink
    cdef public bytearray _carry
    cdef public bint _is_row, _counted, _continued
    cdef public long long _skip
    cdef public int sequence

    @cython.locals(pos=Py_ssize_t, end=Py_ssize_t, left=cython.longlong, length=cython.longlong, limited=bint, count=cython.longlong,
                   size=cython.longlong, after=Py_ssize_t, start=Py_ssize_t, sink=Sink, taken=Py_ssize_t, told=int)
    cpdef Scan feed(self, bytes data, object allowed=*, bint hold=*)

    @cython.locals(length=cython.longlong, kept=Py_ssize_t, taken=Py_ssize_t, carry=bytearray, sink=Sink)
    cdef Py_ssize_t _continue(self, bytes data, Py_ssize_t pos, Py_ssize_t end) except -1

    cdef _drop(self, long long skip)
