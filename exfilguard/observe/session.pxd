cimport cython

from ..wire.postgres.backend cimport Scan
from .answers cimport Answers


cdef class SessionObserver(Answers):
    @cython.locals(scan=Scan)
    cdef _read_server(self, bytes data, object allowed_rows, bint hold, object found)
    cdef _read_passed(self, bytes data)
