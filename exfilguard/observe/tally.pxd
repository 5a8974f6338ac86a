cimport cython

from ..wire.sink cimport Sink
from ._digests cimport DigestSet
from .outlet cimport Outlet
from .patients cimport Digester


cdef class Tally(Sink):
    cdef public object setting
    cdef public Digester digester
    cdef public Outlet outlet
    cdef public bytes _constant
    cdef public tuple _constant_of, always
    cdef public long long _progress_rows, _progress_ms, _large_value_bytes
    cdef public str engine, session_id, source, principal, evidence, login, database, application, patients_by
    cdef public bint logged_in, packed, large
    cdef public long long delivered, ordinal, _rows, _bytes, _estimated, _reported_ms, now
    cdef public long long portion_rows, portion_estimated, _portion_new
    cdef public DigestSet _patients, portion_patients
    cdef public bint _keeps_portion
    cdef public list events
    cdef public object _allowed_patients, _known_patients

    cpdef bint untold(self) except *
    cdef begin_portion(self, long long now_ms, object allowed_patients, object known_patients)
    cdef count(self, long long rows, long long size)
    cdef estimate(self, long long patients)
    cdef found(self, object patients)
    cdef DigestSet gathering(self)
    cdef gathered(self, DigestSet found, long long further)
    cdef bint admit(self, list patients, long long further) except *
    cpdef list tick(self, long long now_ms, list events=*)
    cdef object current(self)
    cdef tuple shape(self, object request)
    cdef tuple statement_flags(self, object request, str fingerprint)
    cdef list statement_asked(self, object request)
    cpdef tuple statement_columns(self)
    @cython.locals(fingerprint=str, text=str, flags=tuple, statement=cython.longlong, duration_us=cython.longlong,
                   asked_ms=cython.longlong, final=bint, asked=list, columns=tuple, told=bytes, payload=bytes, outlet=Outlet,
                   patients=cython.longlong)
    cdef report(self, str kind, long long hidden_rows=*, str error=*)
    cdef bytes _constant_now(self)
