from ..observe.outlet cimport Outlet
from .spool cimport SpoolWriter


cdef class Counters:
    cdef public long long idle_closed, queries, rows, patients, result_bytes, connections, refused, garbage, desynced, login_timeouts
    cdef public long long tls_failures, upstream_failures, local_cuts, verdict_cuts, records_past_limit, spool_gap, cancels_failed
    cdef dict __dict__


cdef class Journal:
    cdef public str tenant
    cdef public object directory
    cdef public SpoolWriter spool
    cdef public bint full
    cdef public long long recorded, _gap, _names
    cdef public dict _hashes, _shapes
    cpdef bint told(self, str fingerprint, tuple columns) except *
    cpdef put(self, Counters counters, str listener, str principal, long long time_ms, bytes payload)
    cdef bint _tell_gap(self, Counters counters, str listener, long long time_ms) except *
    cdef bint _write(self, Counters counters, str principal, long long time_ms, bytes payload) except *


cdef class ListenerOutlet(Outlet):
    cdef public Journal journal
    cdef public Counters counters
    cdef public str listener
    cpdef bint told(self, str fingerprint, tuple columns) except *
    cpdef put(self, str principal, long long time_ms, bytes payload, long long rows, long long size, long long patients, bint final)
