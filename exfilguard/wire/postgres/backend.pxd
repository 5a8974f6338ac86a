cimport cython

from ..sink cimport Sink


cdef class Scan:
    cdef public object cut_at
    cdef public object hold_at
    cdef public object stop_at


@cython.locals(length=cython.longlong)
cpdef long long length_at(bytes data, Py_ssize_t at) noexcept


cdef class BackendReader:
    cdef public Sink sink
    cdef public bytearray _carry
    cdef public bint _counted
    cdef public Py_ssize_t message_at, message_end
    cdef public long long _skip

    @cython.locals(pos=Py_ssize_t, end=Py_ssize_t, left=Py_ssize_t, length=cython.longlong, kind=int, count=Py_ssize_t, size=Py_ssize_t,
                   pos_after=Py_ssize_t, sink=Sink, taken=Py_ssize_t, whole=bint, told=int)
    cpdef Scan feed(self, bytes data, object allowed=*, bint hold=*)

    @cython.locals(length=cython.longlong, kept=Py_ssize_t, taken=Py_ssize_t, counted=bint)
    cdef Py_ssize_t _continue(self, bytes data, Py_ssize_t pos, Py_ssize_t end) except -1

    cdef _drop(self, Py_ssize_t skip)


cdef _check(int kind, long long length)
