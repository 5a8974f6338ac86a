cdef class Session:
    cdef public object guard, listener, client, server, front, observer, budget, throttle, envelopes, ending, in_step, journal
    cdef public str source, id, principal, login, application
    cdef public long long rows_total, session_limit, heard_ms
    cdef public bint closed, started, enforces, refuses_when_full
    cdef public bytes held, early
    cpdef from_client(self, bytes data)
    cpdef from_server(self, bytes data, bint opened=*)
    cpdef _account(self, long long rows, long long now)
