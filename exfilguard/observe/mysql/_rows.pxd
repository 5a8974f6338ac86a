"""For whoever counts rows in C: _rows.pyx has the meaning."""

from libc.stdint cimport uint8_t

from .._digests cimport DigestSet, Hmac
from .._values cimport Counted, Known


cdef int count_column(
    const uint8_t *start, const uint8_t *stop, Py_ssize_t most, Py_ssize_t position, const uint8_t *size, Py_ssize_t columns,
    int kind, Hmac key, DigestSet found, const Known *known, Counted *out,
) except -1 nogil
cdef int count_estimated(
    const uint8_t *start, const uint8_t *stop, Py_ssize_t most, Py_ssize_t fields, const uint8_t *size, Py_ssize_t columns,
    bint expressions, Hmac key, DigestSet found, Counted *out,
) except -1 nogil
