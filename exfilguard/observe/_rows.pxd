"""For whoever counts rows in C: _rows.pyx has the meaning."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ._digests cimport DigestSet, Hmac

cdef enum:
    MOST_TEXT = 100  # bytes of a UUID with all the hyphens it may have; a longer value is left

cdef struct Counted:
    # What a loop over rows found, and where it stopped.
    const uint8_t *end
    Py_ssize_t count
    Py_ssize_t size
    Py_ssize_t further

cdef struct Known:
    # An identifier's canonical text and its digest.
    uint8_t value[MOST_TEXT]
    Py_ssize_t size
    uint64_t digest


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
