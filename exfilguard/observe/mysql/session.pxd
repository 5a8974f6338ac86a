cimport cython

from ...wire.mysql.backend cimport Scan
from .answers cimport Answers


cdef class MysqlObserver(Answers):
    cdef public object _inflate_client, _envelopes
    cdef public bint _begun_passed
    cdef public bytearray _numbers

    cpdef bint passes_first(self, bytes data) except *
    cdef _read_client(self, bytes data)
    cdef bint _screens(self) except *
    cdef _misread(self, str detail)
    @cython.locals(scan=Scan)
    cdef _read_server(self, bytes data, object allowed_rows, bint hold, object found)
    cdef _read_passed(self, bytes data)
    cdef _unread(self, bytes data, object allowed_rows, object found)
