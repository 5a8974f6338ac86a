# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Keyed digests of identifiers and sets of them, in C. digests.py has the same in plain Python, which is the definition; _digests.pxd
says how a loop over rows uses this; tests/observe/test_digests.py holds one to the other.

`Hmac` is HMAC-SHA-256 (RFC 2104) of many short values under one key: the key's two blocks are hashed once, so that a value of up to
55 bytes costs two compressions. Where the CPU has SHA instructions two values are hashed at once (_sha256.h); everything else
goes through OpenSSL's own block function.
"""

import ctypes
import hashlib
import hmac

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeASCII
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

cdef extern from "_sha256.h" nogil:
    int sha256_x2_usable()
    void sha256_x2(const uint32_t *state, const uint32_t *one, const uint32_t *two, uint32_t *out_one, uint32_t *out_two)

cdef extern from * nogil:
    uint32_t bswap32 "__builtin_bswap32"(uint32_t word)

cdef enum:
    SMALL = 4096  # digests a set keeps room for when it is cleared
    SHORT = 55  # bytes of a value that fit one block with its padding

ctypedef void (*Transform)(State *state, const uint8_t *block) noexcept nogil

cdef Transform transform = NULL
cdef bint paired = sha256_x2_usable()


def _find_transform():
    """OpenSSL's block function, from the library that Python's own hashlib has loaded; 0 where it has none."""
    try:
        import _hashlib

        return ctypes.cast(ctypes.CDLL(_hashlib.__file__).SHA256_Transform, ctypes.c_void_p).value or 0
    except (ImportError, AttributeError, OSError, TypeError):
        return 0


cdef uintptr_t _address = _find_transform()
if _address:
    transform = <Transform>_address


cdef char HEX[512]
cdef int _i
for _i in range(256):
    HEX[2 * _i] = b"0123456789abcdef"[_i >> 4]
    HEX[2 * _i + 1] = b"0123456789abcdef"[_i & 15]


cdef void write_hex(char *at, uint64_t digest) noexcept nogil:
    cdef int i
    for i in range(8):
        memcpy(at + 2 * i, HEX + 2 * ((digest >> (56 - 8 * i)) & 255), 2)


cdef int read_hex(str digest, uint64_t *out) except -1:
    """0 where it is none."""
    cdef Py_ssize_t n
    cdef const char *at = PyUnicode_AsUTF8AndSize(digest, &n)
    cdef uint64_t value = 0
    cdef int i
    if n != 16:
        return 0
    for i in range(16):
        if 48 <= at[i] <= 57:
            value = value << 4 | <uint64_t>(at[i] - 48)
        elif 97 <= at[i] <= 102:
            value = value << 4 | <uint64_t>(at[i] - 87)
        else:
            return 0
    out[0] = value
    return 1


cdef class DigestSet:
    """Different digests, in the order in which they came first."""

    def __cinit__(self):
        self.order = NULL
        self.table = NULL
        self.size = self.room = 0
        self.mask = 0

    def __dealloc__(self):
        free(self.order)
        free(self.table)

    cdef int reserve(self, Py_ssize_t more) except -1 nogil:
        """Room for so many further digests."""
        cdef Py_ssize_t room = 16, i
        cdef uint64_t *order
        cdef uint32_t *table
        if self.size + more <= self.room:
            return 0
        while room < self.size + more:
            room *= 2
        order = <uint64_t *>realloc(self.order, room * sizeof(uint64_t))
        if order != NULL:
            self.order = order
        table = <uint32_t *>malloc(2 * room * sizeof(uint32_t))
        if order == NULL or table == NULL:
            free(table)
            with gil:
                raise MemoryError
        free(self.table)
        memset(table, 0, 2 * room * sizeof(uint32_t))
        self.table, self.room, self.mask = table, room, 2 * room - 1
        for i in range(self.size):
            self.link(i)
        return 0

    cdef void link(self, Py_ssize_t index) noexcept nogil:
        cdef uint64_t slot = self.order[index] & self.mask
        while self.table[slot]:
            slot = (slot + 1) & self.mask
        self.table[slot] = <uint32_t>(index + 1)

    cdef bint put(self, uint64_t digest) noexcept nogil:
        """True when it is new. Its room was reserved."""
        cdef uint64_t slot = digest & self.mask
        cdef uint32_t index = self.table[slot]
        while index:
            if self.order[index - 1] == digest:
                return False
            slot = (slot + 1) & self.mask
            index = self.table[slot]
        self.order[self.size] = digest
        self.size += 1
        self.table[slot] = <uint32_t>self.size
        return True

    cdef bint has(self, uint64_t digest) noexcept nogil:
        cdef uint64_t slot
        if not self.size:
            return False
        slot = digest & self.mask
        while self.table[slot]:
            if self.order[self.table[slot] - 1] == digest:
                return True
            slot = (slot + 1) & self.mask
        return False

    cpdef add(self, str digest):
        """16 hex digits. Raises ValueError."""
        cdef uint64_t value = 0
        if not read_hex(digest, &value):
            raise ValueError("not a digest")
        self.reserve(1)
        self.put(value)

    def update(self, digests):
        """`add` each."""
        cdef Py_ssize_t i
        cdef DigestSet others
        if type(digests) is DigestSet:
            others = <DigestSet>digests
            self.reserve(others.size)
            for i in range(others.size):
                self.put(others.order[i])
            return
        for digest in digests:
            self.add(digest)

    cpdef clear(self):
        if self.room > SMALL:
            free(self.order)
            free(self.table)
            self.order, self.table = NULL, NULL
            self.room = 0
            self.mask = 0
        elif self.size:
            memset(self.table, 0, 2 * self.room * sizeof(uint32_t))
        self.size = 0

    cpdef bytes json(self):
        """`"0123456789abcdef","..`: the elements of a JSON array."""
        cdef bytes out
        if not self.size:
            return b""
        out = PyBytes_FromStringAndSize(NULL, 19 * self.size - 1)
        self.write_json(PyBytes_AS_STRING(out))
        return out

    cdef char *write_json(self, char *at) noexcept nogil:
        """`json` into 19 bytes a digest; returns what is behind it."""
        cdef Py_ssize_t i
        for i in range(self.size):
            if i:
                at[0] = 44
                at += 1
            at[0] = 34
            write_hex(at + 1, self.order[i])
            at[17] = 34
            at += 18
        return at

    def __len__(self):
        return self.size

    def __bool__(self):
        return self.size > 0

    def __contains__(self, digest):
        cdef uint64_t value = 0
        return type(digest) is str and read_hex(digest, &value) == 1 and self.has(value)

    def __iter__(self):
        cdef Py_ssize_t i
        cdef char text[16]
        out = []
        for i in range(self.size):
            write_hex(text, self.order[i])
            out.append(PyUnicode_DecodeASCII(text, 16, NULL))
        return iter(out)


cdef class Hmac:
    """One key. `usable` is False where OpenSSL cannot be called."""

    def __init__(self, bytes key not None):
        cdef uint8_t block[64]
        cdef const uint8_t *k
        cdef Py_ssize_t i, n
        self.usable = False
        self.paired = paired
        if transform == NULL:
            return
        if len(key) > 64:
            key = hashlib.sha256(key).digest()
        k, n = <const uint8_t *>PyBytes_AS_STRING(key), len(key)
        for pad, which in ((0x36, 0), (0x5C, 1)):
            for i in range(64):
                block[i] = <uint8_t>((k[i] if i < n else 0) ^ <int>pad)
            _begin(&self.outer if which else &self.inner)
            transform(&self.outer if which else &self.inner, block)
        samples = [b"", b"1234567", b"x" * 55, b"x" * 56, b"x" * 300]
        expected = [hmac.digest(key, sample, "sha256").hex() for sample in samples]
        self.usable = [self.whole(sample) for sample in samples] == expected
        expected = [digest[:16] for digest in expected]
        self.usable = self.usable and [self.hex(sample) for sample in samples] == expected
        found = DigestSet()
        self.collect(samples, found)
        self.usable = self.usable and list(found) == expected

    cdef uint64_t compute(self, const uint8_t *value, Py_ssize_t n) noexcept nogil:
        """The first 8 bytes of the digest."""
        cdef State state
        self.finish(value, n, &state)
        return <uint64_t>state.h[0] << 32 | state.h[1]

    cdef void finish(self, const uint8_t *value, Py_ssize_t n, State *out) noexcept nogil:
        """`h` of `out` is the digest."""
        cdef State state
        cdef uint8_t block[64]
        cdef Py_ssize_t left = n
        cdef uint64_t bits = <uint64_t>(64 + n) * 8
        cdef int i
        memcpy(&state, &self.inner, sizeof(State))
        while left >= 64:
            transform(&state, value)
            value += 64
            left -= 64
        memset(block, 0, 64)
        memcpy(block, value, left)
        block[left] = 0x80
        if left >= 56:
            transform(&state, block)
            memset(block, 0, 64)
        for i in range(8):
            block[63 - i] = <uint8_t>(bits >> (8 * i))
        transform(&state, block)
        memset(block, 0, 64)
        for i in range(32):
            block[i] = <uint8_t>(state.h[i >> 2] >> (24 - 8 * (i & 3)))
        block[32] = 0x80
        block[62] = 3  # 96 bytes are 768 bits
        memcpy(out, &self.outer, sizeof(State))
        transform(out, block)

    cdef void take(self, Lanes *lanes, DigestSet found, const uint8_t *value, Py_ssize_t n) noexcept nogil:
        """One value's digest goes to `found`, at the latest with the next `flush`."""
        cdef uint8_t *block
        if n > SHORT or not self.paired:
            self.flush(lanes, found)
            found.put(self.compute(value, n))
            return
        block = <uint8_t *>lanes.blocks[lanes.count]
        memset(block, 0, 64)
        memcpy(block, value, n)
        block[n] = 0x80
        block[62] = <uint8_t>((64 + n) >> 5)
        block[63] = <uint8_t>((64 + n) << 3)
        lanes.count += 1
        if lanes.count == LANES:
            self.flush(lanes, found)

    cdef void flush(self, Lanes *lanes, DigestSet found) noexcept nogil:
        cdef uint32_t one[16]
        cdef uint32_t two[16]
        cdef uint32_t state_one[8]
        cdef uint32_t state_two[8]
        cdef int i, j, second
        if not lanes.count:
            return
        memset(one, 0, 64)
        memset(two, 0, 64)
        i = 0
        while i < lanes.count:
            second = i + 1 if i + 1 < lanes.count else i
            for j in range(16):
                lanes.blocks[i][j] = bswap32(lanes.blocks[i][j])
            if second != i:
                for j in range(16):
                    lanes.blocks[second][j] = bswap32(lanes.blocks[second][j])
            sha256_x2(self.inner.h, lanes.blocks[i], lanes.blocks[second], one, two)
            one[8] = two[8] = 0x80000000
            one[15] = two[15] = 768  # 96 bytes in bits
            sha256_x2(self.outer.h, one, two, state_one, state_two)
            found.put(<uint64_t>state_one[0] << 32 | state_one[1])
            if second != i:
                found.put(<uint64_t>state_two[0] << 32 | state_two[1])
            i += 2
        lanes.count = 0

    cpdef str hex(self, bytes value):
        """16 hex digits."""
        cdef char text[16]
        write_hex(text, self.compute(<const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)))
        return PyUnicode_DecodeASCII(text, 16, NULL)

    cpdef str whole(self, bytes value):
        """The whole digest, 64 hex digits."""
        cdef State state
        cdef char text[64]
        cdef int i
        self.finish(<const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), &state)
        for i in range(4):
            write_hex(text + 16 * i, <uint64_t>state.h[2 * i] << 32 | state.h[2 * i + 1])
        return PyUnicode_DecodeASCII(text, 64, NULL)

    def collect(self, values, DigestSet found not None):
        """The digests of all these values."""
        cdef Lanes lanes
        cdef bytes value
        lanes.count = 0
        found.reserve(len(values))
        for value in values:
            self.take(&lanes, found, <const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        self.flush(&lanes, found)


cdef void _begin(State *state) noexcept nogil:
    # FIPS 180-4, 5.3.3
    memset(state, 0, sizeof(State))
    state.h[0] = 0x6A09E667
    state.h[1] = 0xBB67AE85
    state.h[2] = 0x3C6EF372
    state.h[3] = 0xA54FF53A
    state.h[4] = 0x510E527F
    state.h[5] = 0x9B05688C
    state.h[6] = 0x1F83D9AB
    state.h[7] = 0x5BE0CD19
