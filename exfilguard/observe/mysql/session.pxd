cimport cython

from .answers cimport Answers


cdef class MysqlObserver(Answers):
    cdef public bint authenticated, _lost
    cdef public long refusals
    cdef public object _screener, _inflate_client, _envelopes

    cpdef bint passes_first(self, bytes data) except *
    cpdef list client_data(self, bytes data, long long now_ms)
    cpdef list observed(self, bytes data, long long now_ms)
    cdef _read_client(self, bytes data)
