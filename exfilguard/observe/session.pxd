cimport cython

from ..wire.postgres.backend cimport BackendReader, Scan, Sink
from ..wire.postgres.frontend cimport FrontendReader
from ._digests cimport DigestSet
from .copy_rows cimport CopyRows
from .identity cimport Identity
from .outlet cimport Outlet
from .patients cimport Digester, PatientColumns, Reading
from .pending cimport Pending, Portal, Statement


cdef class SessionObserver(Sink):
    cdef dict __dict__  # what is not named here works too, only slower
    cdef public str listener, session_id, source, principal, evidence
    cdef public bint authenticated, desynced, in_transaction, replication
    cdef public bytes backend_key
    cdef public object _pending
    cdef public PatientColumns _columns
    cdef public Digester _digester
    cdef public Reading _reading
    cdef public Identity _identity
    cdef public long long _progress_rows, _progress_ms
    cdef public object _screener, _classifier, _asked, _templates
    cdef public long long _large_value_bytes
    cdef public bint _packed, _large
    cdef public list _patches
    cdef public long refusals
    cdef public bint _follow, _keeps_portion
    cdef public bint _charged, _logged_in, _backslashes, _lost, _skip_to_sync, _copied_in, _expressions
    cdef public str _login, _database, _application, _copy, _patients_by
    cdef public Outlet _outlet
    cdef public bytes _constant
    cdef public tuple _constant_of
    cdef public FrontendReader _frontend
    cdef public BackendReader _backend
    cdef public dict _statements, _portals
    cdef public DigestSet _patients, _portion_patients
    cdef public Py_ssize_t wants_column
    cdef public tuple _positions, _formats
    cdef public list _fields, _events
    cdef public Py_ssize_t _last_position
    cdef public long long _delivered, _ordinal, _rows, _bytes, _estimated, _reported_ms, _now
    cdef public long long portion_rows, _portion_estimated, _portion_new
    cdef public object _allowed_rows, _allowed_patients, _known_patients
    cdef public CopyRows _copying
    cdef public object _passing
    cdef public str _encoding

    cpdef list client_data(self, bytes data, long long now_ms)
    cdef bint untold(self)
    cpdef list observed(self, bytes data, long long now_ms)
    cpdef request(self, int kind_byte, bytes body, bint whole)
    cpdef rows(self, int kind, long long count, long long size)
    cpdef bint row(self, bytes data, Py_ssize_t start, Py_ssize_t end, bint whole) except *
    cpdef tuple scan(self, bytes data, Py_ssize_t pos, int kind, long long most)
    cdef bint _pass(self, list found, long long further) except -1
    cdef bint _copied(self, CopyRows copying, bytes data, Py_ssize_t start, Py_ssize_t end, bint whole) except -1
    cdef tuple _scan_copied(self, CopyRows copying, bytes data, Py_ssize_t pos, long long most)
    cdef _recount(self, long long rows)
    cpdef message(self, int kind, bytes body)
    cpdef _on_ready(self, bytes body)
    cpdef _on_command_complete(self, bytes body)
    cpdef _on_description(self, bytes body)
    cpdef _on_answered(self, str kinds)
    cdef Pending _head(self, str kinds)
    cdef _begin_columns(self, list fields, tuple formats, Statement statement)
    cdef _charge(self, script)
    cdef _completed(self, Pending head, str tag)
    cdef Statement _read(self, bytes sql, bint whole, bint simple)
    cdef list _take_asked(self, Pending head)
    cdef _estimate(self, long long count)
    @cython.locals(statement=cython.longlong, duration_us=cython.longlong, final=bint)
    cdef _report(self, str kind, Pending head=*, long long hidden_rows=*, str error=*)
    cdef bytes _constant_now(self)
    cdef tuple _shape(self, Statement statement)
    cdef _end_statement(self, Pending head, long long hidden_rows=*, str error=*, str tag=*)
    cdef _next_head(self)
    cdef _forget_columns(self)
