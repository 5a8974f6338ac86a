cimport cython

from ..observe.observer cimport Observer as AnyObserver
from ..runtime.clock cimport elapsed_s, now_ms
from ._pump cimport Pump
from .budget cimport LocalBudget
from .gate cimport Gate
from .sides cimport Side, Talk


cdef class Session(Talk):
    cdef public object guard, listener, front, throttle, envelopes, ending, in_step, journal
    cdef public object client, server  # sides; in tests also what looks like one
    cdef public Side downstream, upstream
    cdef public LocalBudget budget
    cdef public Gate gate
    cdef public AnyObserver observer
    cdef public str source, id, principal, login, application
    cdef public long long rows_total, session_limit, heard_ms
    cdef public bint closed, started, enforces, screened, refuses_when_full, passed
    cdef public bytes held, early
    cpdef from_client(self, bytes data)
    @cython.locals(began=double, now=cython.longlong, gate=Gate, observer=AnyObserver, downstream=Side,
                   pump=Pump, forward_first=bint)
    cpdef _from_client(self, bytes data)
    cpdef from_server(self, bytes data, bint opened=*)
    @cython.locals(began=double, now=cython.longlong, observer=AnyObserver, downstream=Side, pump=Pump)
    cpdef _from_server(self, bytes data, bint opened)
    cdef _counted(self, list events, long long rows, str principal, long long now)
    @cython.locals(observer=AnyObserver)
    cdef _count_then_forward(self, bytes data, long long now)
    @cython.locals(budget=LocalBudget, observer=AnyObserver, rest=bytes, behind=bytes)
    cdef bytes _count_part(self, bytes data, long long now)
    cdef _charge(self, long long rows, tuple patients, long long estimated, long long now)
    cdef _to_server(self, bytes data)
    cdef _to_client(self, bytes data)
    @cython.locals(observer=AnyObserver, flags=tuple)
    cdef bint _passes(self, bytes data, long long now) except *
    cpdef _account(self, long long rows, long long now)
