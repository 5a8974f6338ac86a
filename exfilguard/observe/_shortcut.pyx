# cython: language_level=3
"""What the relay asks an observer of either engine for every read, as calls in C. The two have no class in common; in engine.py
the same is said of any observer.

`Class.method(observer, ..)`: called as a method, one of a type with a `__dict__` would be looked up each time.
"""


cdef class Shortcut:
    """See engine.Observer."""

    cpdef bint passes_first(self, bytes data) except *:
        raise NotImplementedError

    cpdef list client_data(self, bytes data, long long now_ms):
        raise NotImplementedError

    cpdef list observed(self, bytes data, long long now_ms):
        raise NotImplementedError

    cpdef long long rows(self):
        """Of what was observed last."""
        return 0

    cpdef str principal(self):
        return ""

    cpdef bint ready(self):
        """The login is over."""
        return False

    cpdef bint counts_first(self):
        """Refused requests wait for their answer: nothing may pass unread."""
        return False

    cpdef bint desynced(self):
        return False

    cpdef bint untold(self):
        return False


cdef class PostgresShortcut(Shortcut):
    def __init__(self, QuickObserver observer not None):
        self.observer = observer

    cpdef bint passes_first(self, bytes data) except *:
        return True  # no request is forbidden

    cpdef list client_data(self, bytes data, long long now_ms):
        return self.observer.client_data(data, now_ms)

    cpdef list observed(self, bytes data, long long now_ms):
        return self.observer.observed(data, now_ms)

    cpdef long long rows(self):
        return self.observer.portion_rows

    cpdef str principal(self):
        return self.observer.principal

    cpdef bint ready(self):
        return self.observer.authenticated

    cpdef bint counts_first(self):
        return self.observer.refusals > 0

    cpdef bint desynced(self):
        return self.observer.desynced

    cpdef bint untold(self):
        return self.observer.untold()


cdef class MysqlShortcut(Shortcut):
    def __init__(self, QuickMysqlObserver observer not None):
        self.observer = observer

    cpdef bint passes_first(self, bytes data) except *:
        return self.observer.passes_first(data)

    cpdef list client_data(self, bytes data, long long now_ms):
        return self.observer.client_data(data, now_ms)

    cpdef list observed(self, bytes data, long long now_ms):
        return self.observer.observed(data, now_ms)

    cpdef long long rows(self):
        return self.observer.portion_rows

    cpdef str principal(self):
        return self.observer.principal

    cpdef bint ready(self):
        return self.observer.authenticated

    cpdef bint counts_first(self):
        return self.observer.refusals > 0

    cpdef bint desynced(self):
        return self.observer.desynced

    cpdef bint untold(self):
        return self.observer._rows > 0 or self.observer._estimated > 0 or self.observer._patients.size > 0
