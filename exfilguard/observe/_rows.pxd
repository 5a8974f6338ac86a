"""For whoever counts rows in C: _rows.pyx has the meaning."""

from libc.stdint cimport uint8_t, uint32_t

from ._digests cimport DigestSet, Hmac
from ._values cimport Counted, Known

cdef inline uint32_t be32(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef Py_ssize_t canonical(
    const uint8_t *value, Py_ssize_t n, uint32_t type_oid, bint binary, uint8_t *room, const uint8_t **out
) noexcept nogil
cdef int count_column(
    const uint8_t *start, const uint8_t *stop, int kind, Py_ssize_t most, Py_ssize_t position, uint32_t type_oid, bint binary,
    Hmac key, DigestSet found, const Known *known, Counted *out,
) except -1 nogil
cdef int count_estimated(
    const uint8_t *start, const uint8_t *stop, int kind, Py_ssize_t most, Py_ssize_t columns, bint expressions, Hmac key,
    DigestSet found, Counted *out,
) except -1 nogil
