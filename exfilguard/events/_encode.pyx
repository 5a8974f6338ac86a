# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The bytes of a statement's event without the event: codec.encode_event(QueryEvent(..)) is the definition
(tests/observe/test_outlet.py holds this to it)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy


cdef inline char *text(char *at, const char *what, Py_ssize_t n) noexcept nogil:
    memcpy(at, what, n)
    return at + n


cdef inline char *number(char *at, const char *name, Py_ssize_t n, long long value) noexcept nogil:
    """`,"name":value`; nothing for 0, the default of every count."""
    cdef char digits[20]
    cdef int i = 20
    if value <= 0:
        return at
    at = text(at, name, n)
    while value:
        i -= 1
        digits[i] = <char>(48 + value % 10)
        value //= 10
    return text(at, digits + i, 20 - i)


cdef char *write_query(
    char *at, long long time_ms, bint final, const char *constant, Py_ssize_t constant_bytes, long long statement,
    const char *fingerprint, Py_ssize_t fingerprint_bytes, const char *told, Py_ssize_t told_bytes, long long rows,
    long long hidden_rows, long long size, const char *patients, Py_ssize_t patients_bytes, long long estimated,
    const char *patients_by, Py_ssize_t by_bytes, long long duration_us, const char *error, Py_ssize_t error_bytes,
) noexcept nogil:
    """query_event's bytes to `at`, which has room for MOST_FIXED and the five parts; returns what is behind them."""
    at = text(at, b'{"time_ms":', 11)
    if time_ms > 0:
        at = number(at, b"", 0, time_ms)
    else:
        at = text(at, b"0", 1)
    if final:
        at = text(at, b',"kind":"query"', 15)
    else:
        at = text(at, b',"kind":"progress"', 18)
    at = text(at, constant, constant_bytes)
    at = number(at, b',"statement":', 13, statement)
    if fingerprint_bytes:
        at = text(at, b',"fingerprint":"', 16)
        at = text(at, fingerprint, min(fingerprint_bytes, 32))
        at = text(at, b'"', 1)
    at = text(at, told, told_bytes)
    at = number(at, b',"rows":', 8, rows)
    at = number(at, b',"hidden_rows":', 15, hidden_rows)
    at = number(at, b',"bytes":', 9, size)
    if patients_bytes:
        at = text(at, b',"patients":[', 13)
        at = text(at, patients, patients_bytes)
        at = text(at, b"]", 1)
    at = number(at, b',"patients_estimated":', 22, estimated)
    if by_bytes:
        at = text(at, b',"patients_by":"', 16)
        at = text(at, patients_by, min(by_bytes, 32))
        at = text(at, b'"', 1)
    at = number(at, b',"duration_us":', 15, duration_us)
    if error_bytes:
        at = text(at, b',"error":"', 10)
        at = text(at, error, error_bytes)
        at = text(at, b'"', 1)
    return text(at, b"}", 1)


cpdef bytes query_event(
    long long time_ms, bint final, bytes constant, long long statement, str fingerprint, bytes told, long long rows,
    long long hidden_rows, long long size, bytes patients, long long estimated, str patients_by, long long duration_us,
    str error,
):
    """A `query` event (`progress` unless `final`). `constant`: the session's own fields, `,"listener":..`; `told`: further
    fields, `,"query":..`, or nothing; `patients`: the elements of their JSON array. The strings hold nothing that JSON would escape."""
    cdef Py_ssize_t shape_bytes, by_bytes, error_bytes
    cdef const char *shape = PyUnicode_AsUTF8AndSize(fingerprint, &shape_bytes)
    cdef const char *by = PyUnicode_AsUTF8AndSize(patients_by, &by_bytes)
    cdef const char *failed = PyUnicode_AsUTF8AndSize(error, &error_bytes)
    cdef char *end
    cdef Py_ssize_t most = (
        MOST_FIXED + PyBytes_GET_SIZE(constant) + PyBytes_GET_SIZE(told) + PyBytes_GET_SIZE(patients) + error_bytes
    )
    cdef char *start = <char *>malloc(most)
    if start == NULL:
        raise MemoryError
    try:
        end = write_query(
            start, time_ms, final, PyBytes_AS_STRING(constant), PyBytes_GET_SIZE(constant), statement, shape, shape_bytes,
            PyBytes_AS_STRING(told), PyBytes_GET_SIZE(told), rows, hidden_rows, size, PyBytes_AS_STRING(patients),
            PyBytes_GET_SIZE(patients), estimated, by, by_bytes, duration_us, failed, error_bytes,
        )
        return PyBytes_FromStringAndSize(start, end - start)
    finally:
        free(start)
