cimport cython


cdef class Account:
    cdef public long long rows, estimated, looked_at
    cdef public object slices, patients


cdef class LocalBudget:
    cdef public long long rows_limit, patients_limit, window_ms
    cdef long long _slice_ms, _swept, _latest, _set_back
    cdef dict _accounts

    cdef long long _slice(self, long long now_ms)
    cdef Account _found(self, str principal, long long now_ms)
    cdef bint _expire(self, Account account, long long number) except *
    @cython.locals(account=Account)
    cpdef rows_left(self, str principal, long long now_ms)
    @cython.locals(account=Account)
    cpdef patients_left(self, str principal, long long now_ms)
    @cython.locals(account=Account)
    cpdef known_patients(self, str principal, long long now_ms)
    @cython.locals(account=Account, number=cython.longlong)
    cpdef charge(self, str principal, long long rows, tuple patients, long long estimated, long long now_ms)
