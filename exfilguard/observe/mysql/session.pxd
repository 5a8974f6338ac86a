cimport cython

from .answers cimport Answers


cdef class MysqlObserver(Answers):
    cdef public bint authenticated, _lost
    cdef public long refusals
    cdef public object _screener, _inflate_client, _envelopes

    cdef _read_client(self, bytes data)
