"""What the loops over rows of both engines share: values written anew as their canonical text, cells that need a closer look."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr, memcpy

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


cdef inline bint is_space(uint8_t c) noexcept nogil:
    return c == 32 or 9 <= c <= 13


cdef inline Py_ssize_t decimal(uint64_t magnitude, bint negative, uint8_t *out) noexcept nogil:
    """The number's digits, at most 21 bytes; how many."""
    cdef uint8_t digits[20]
    cdef Py_ssize_t at = 20, n = 0
    while True:
        at -= 1
        digits[at] = <uint8_t>(48 + magnitude % 10)
        magnitude //= 10
        if not magnitude:
            break
    if negative:
        out[0] = 45
        n = 1
    memcpy(out + n, digits + at, 20 - at)
    return n + 20 - at


cdef inline Py_ssize_t hexadecimal(const uint8_t *value, Py_ssize_t n, uint8_t *out) noexcept nogil:
    """Two digits a byte; how many."""
    cdef Py_ssize_t i
    cdef uint8_t c
    for i in range(n):
        c = value[i] >> 4
        out[2 * i] = c + 48 if c < 10 else c + 87
        c = value[i] & 15
        out[2 * i + 1] = c + 48 if c < 10 else c + 87
    return 2 * n


cdef inline bint plain_cell(const uint8_t *at, Py_ssize_t n) noexcept nogil:
    """False when it may be a list of identifiers, or JSON, XML, jsonb or an array, or hold an object (estimate.py)."""
    cdef Py_ssize_t i
    cdef uint8_t c
    if not n:
        return True
    if at[0] == 91 or at[0] == 60 or at[0] == 1 or memchr(at, 123, n) != NULL:  # [ < \1 {
        return False
    if n >= 20 and not at[0] and not at[1] and not at[2] and 1 <= at[3] <= 6:  # estimate.elements
        return False
    if n < 5:  # estimate.MIN_LIST items and what separates them
        return True
    for i in range(n):
        c = at[i]
        if c == 44 or c == 59 or c == 124 or c == 32 or 9 <= c <= 13 or 28 <= c <= 31:
            return False
    return True
