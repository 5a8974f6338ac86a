"""From an identifier's canonical text to the set of digests, without an object in between.

For a loop over rows, of any engine: for each value `take_value`, at last `key.flush(&lanes, found)`. All of it runs without the
interpreter; `lanes.count` is 0 before the first.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from ._values cimport Known

cdef enum:
    LANES = 32

cdef struct Lanes:
    # Values that wait to be hashed in pairs, padded to SHA-256's block.
    uint32_t blocks[LANES][16]
    int count

cdef struct State:
    # OpenSSL's SHA256_CTX; only `h` is used.
    uint32_t h[8]
    uint32_t rest[20]


cdef void write_hex(char *at, uint64_t digest) noexcept nogil


cdef class DigestSet:
    cdef uint64_t *order
    cdef uint32_t *table  # index into `order`, plus one; 0: free
    cdef readonly Py_ssize_t size
    cdef Py_ssize_t room
    cdef uint64_t mask
    cdef int reserve(self, Py_ssize_t more) except -1 nogil
    cdef void link(self, Py_ssize_t index) noexcept nogil
    cdef bint put(self, uint64_t digest) noexcept nogil
    cdef bint has(self, uint64_t digest) noexcept nogil
    cpdef add(self, str digest)
    cpdef clear(self)
    cpdef bytes json(self)
    cdef char *write_json(self, char *at) noexcept nogil


cdef class Hmac:
    cdef State inner, outer
    cdef readonly bint usable, paired
    cdef uint64_t compute(self, const uint8_t *value, Py_ssize_t n) noexcept nogil
    cdef void finish(self, const uint8_t *value, Py_ssize_t n, State *out) noexcept nogil
    cdef void take(self, Lanes *lanes, DigestSet found, const uint8_t *value, Py_ssize_t n) noexcept nogil
    cdef void flush(self, Lanes *lanes, DigestSet found) noexcept nogil
    cpdef str hex(self, bytes value)
    cpdef str whole(self, bytes value)


cdef inline int take_value(
    Hmac key, Lanes *lanes, DigestSet found, const uint8_t *value, Py_ssize_t n, const Known *known
) except -1 nogil:
    """One row's value of `n` bytes. `known`: one whose digest is known already; NULL: none."""
    if not lanes.count:
        found.reserve(LANES + 1)
    if known != NULL and known.size == n and not memcmp(known.value, value, n):
        key.flush(lanes, found)
        found.put(known.digest)
    else:
        key.take(lanes, found, value, n)
    return 0
