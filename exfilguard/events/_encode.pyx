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


cpdef bytes query_event(
    long long time_ms, bint final, bytes constant, long long statement, str fingerprint, bytes told, long long rows,
    long long hidden_rows, long long size, bytes patients, long long estimated, str patients_by, long long duration_us,
    str error,
):
    """A `query` event (`progress` unless `final`). `constant`: the session's own fields, `,"listener":..`; `told`: further
    fields, `,"query":..`, or nothing; `patients`: the elements of their JSON array. The strings hold nothing that JSON would escape."""
    cdef Py_ssize_t n, names = PyBytes_GET_SIZE(patients)
    cdef const char *chars
    cdef bytes out
    cdef char *start
    cdef char *at
    cdef Py_ssize_t most = 400 + PyBytes_GET_SIZE(constant) + PyBytes_GET_SIZE(told) + names + len(error)
    start = <char *>malloc(most)
    if start == NULL:
        raise MemoryError
    try:
        at = text(start, b'{"time_ms":', 11)
        if time_ms > 0:
            at = number(at, b"", 0, time_ms)
        else:
            at = text(at, b"0", 1)
        if final:
            at = text(at, b',"kind":"query"', 15)
        else:
            at = text(at, b',"kind":"progress"', 18)
        at = text(at, PyBytes_AS_STRING(constant), PyBytes_GET_SIZE(constant))
        at = number(at, b',"statement":', 13, statement)
        chars = PyUnicode_AsUTF8AndSize(fingerprint, &n)
        if n:
            at = text(at, b',"fingerprint":"', 16)
            at = text(at, chars, min(n, 32))
            at = text(at, b'"', 1)
        at = text(at, PyBytes_AS_STRING(told), PyBytes_GET_SIZE(told))
        at = number(at, b',"rows":', 8, rows)
        at = number(at, b',"hidden_rows":', 15, hidden_rows)
        at = number(at, b',"bytes":', 9, size)
        if names:
            at = text(at, b',"patients":[', 13)
            at = text(at, PyBytes_AS_STRING(patients), names)
            at = text(at, b"]", 1)
        at = number(at, b',"patients_estimated":', 22, estimated)
        chars = PyUnicode_AsUTF8AndSize(patients_by, &n)
        if n:
            at = text(at, b',"patients_by":"', 16)
            at = text(at, chars, min(n, 32))
            at = text(at, b'"', 1)
        at = number(at, b',"duration_us":', 15, duration_us)
        chars = PyUnicode_AsUTF8AndSize(error, &n)
        if n:
            at = text(at, b',"error":"', 10)
            at = text(at, chars, n)
            at = text(at, b'"', 1)
        at = text(at, b"}", 1)
        return PyBytes_FromStringAndSize(start, at - start)
    finally:
        free(start)
