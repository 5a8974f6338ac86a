from ._quick cimport QuickObserver
from .mysql._quick cimport QuickMysqlObserver


cdef class Shortcut:
    cpdef bint passes_first(self, bytes data) except *
    cpdef list client_data(self, bytes data, long long now_ms)
    cpdef list observed(self, bytes data, long long now_ms)
    cpdef long long rows(self)
    cpdef str principal(self)
    cpdef bint ready(self)
    cpdef bint counts_first(self)
    cpdef bint desynced(self)
    cpdef bint untold(self)


cdef class PostgresShortcut(Shortcut):
    cdef QuickObserver observer


cdef class MysqlShortcut(Shortcut):
    cdef QuickMysqlObserver observer
