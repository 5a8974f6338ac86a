# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The loops that every statement and every row pass, in C. Each has its twin in plain Python, which is the definition:

- `shape`: observe/statement.py, for text in ASCII;
- `Hmac`: hmac.digest, through OpenSSL's own SHA-256 (SHA256_Transform), with the key's part computed once;
- `may_be_list`: observe/estimate.py, what cannot be a list of identifiers.

tests/observe/test_hot.py holds them to it.
"""

import ctypes
import hashlib
import hmac

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy, memset


# -- statements -------------------------------------------------------------------------------------------------------

cdef uint8_t SPACE = 1, DIGIT = 2, WORD = 4, START = 8  # START: the first character of a word
cdef uint8_t KINDS[256]
cdef int _c
for _c in range(256):
    KINDS[_c] = 0
for _c in (9, 10, 11, 12, 13, 28, 29, 30, 31, 32):
    KINDS[_c] = SPACE
for _c in range(48, 58):
    KINDS[_c] = DIGIT | WORD
for _c in range(65, 91):
    KINDS[_c] = KINDS[_c + 32] = WORD | START
KINDS[95] = WORD | START


cdef inline Py_ssize_t quoted_end(const uint8_t *s, Py_ssize_t pos, Py_ssize_t n, uint8_t quote) noexcept nogil:
    """Behind the string whose opening quote is before `pos`; a doubled quote is part of it."""
    while pos < n:
        if s[pos] == quote:
            if pos + 1 < n and s[pos + 1] == quote:
                pos += 2
                continue
            return pos + 1
        pos += 1
    return n


cdef inline Py_ssize_t escaped_end(const uint8_t *s, Py_ssize_t pos, Py_ssize_t n) noexcept nogil:
    """The same for E'..'; -1 where it ends in the middle of an escape."""
    while pos < n:
        if s[pos] == 92:
            if pos + 1 >= n:
                return -1
            pos += 2
        elif s[pos] == 39:
            if pos + 1 < n and s[pos + 1] == 39:
                pos += 2
                continue
            return pos + 1
        else:
            pos += 1
    return n


cdef inline Py_ssize_t comment_end(const uint8_t *s, Py_ssize_t pos, Py_ssize_t n) noexcept nogil:
    cdef int depth = 1
    while pos + 1 < n:
        if s[pos] == 47 and s[pos + 1] == 42:
            depth += 1
            pos += 2
        elif s[pos] == 42 and s[pos + 1] == 47:
            depth -= 1
            pos += 2
            if not depth:
                return pos
        else:
            pos += 1
    return n


cdef bint plain_identifier(const uint8_t *s, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t i
    if end - start < 3 or end - start > 65 or s[start] != 34 or s[end - 1] != 34 or not KINDS[s[start + 1]] & START:
        return False
    for i in range(start + 2, end - 1):
        if not KINDS[s[i]] & WORD and s[i] != 36:
            return False
    return True


def shape(bytes sql not None):
    """(tokens joined by a space, True when lists of literals are to be folded), or None: ask the plain twin."""
    cdef const uint8_t *s = <const uint8_t *>PyBytes_AS_STRING(sql)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(sql), pos = 0, at = 0, start, tag, i
    cdef uint8_t c, kind, following
    cdef bint lists = False
    cdef uint8_t *out
    for i in range(n):
        if s[i] & 0x80:
            return None
    out = <uint8_t *>malloc(4 * n + 8)
    if out == NULL:
        raise MemoryError
    try:
        while pos < n:
            c = s[pos]
            kind = KINDS[c]
            following = s[pos + 1] if pos + 1 < n else 0
            start = pos
            if kind & SPACE:
                pos += 1
                continue
            if kind & START:
                # A prefixed string is one token: E'', B'', X'', N'', U&'', U&"".
                if following == 39 and c in (69, 101):
                    pos = escaped_end(s, pos + 2, n)
                    if pos < 0:
                        return None
                elif following == 39 and c in (66, 98, 88, 120, 78, 110):
                    pos = quoted_end(s, pos + 2, n, 39)
                elif following == 38 and c in (85, 117) and pos + 2 < n and s[pos + 2] == 39:
                    pos = quoted_end(s, pos + 3, n, 39)
                elif following == 38 and c in (85, 117) and pos + 2 < n and s[pos + 2] == 34:
                    pos = quoted_end(s, pos + 3, n, 34)
                    out[at] = 34
                    out[at + 1] = 63
                    out[at + 2] = 34
                    out[at + 3] = 32
                    at += 4
                    continue
                else:
                    while pos < n and (KINDS[s[pos]] & WORD or s[pos] == 36):
                        c = s[pos]
                        out[at] = c + 32 if 65 <= c <= 90 else c
                        at += 1
                        pos += 1
                    out[at] = 32
                    at += 1
                    continue
            elif kind & DIGIT or (c == 46 and KINDS[following] & DIGIT):
                pos += 1
                while pos < n and (KINDS[s[pos]] & WORD or s[pos] == 46):
                    pos += 1
                if s[pos - 1] in (69, 101) and pos + 1 < n and s[pos] in (43, 45) and KINDS[s[pos + 1]] & DIGIT:
                    pos += 2
                    while pos < n and KINDS[s[pos]] & DIGIT:
                        pos += 1
            elif c == 39:
                pos = quoted_end(s, pos + 1, n, 39)
            elif c == 45 and following == 45:
                while pos < n and s[pos] != 10:
                    pos += 1
                continue
            elif c == 47 and following == 42:
                pos = comment_end(s, pos + 2, n)
                continue
            elif c == 34:
                pos = quoted_end(s, pos + 1, n, 34)
                if plain_identifier(s, start, pos):
                    memcpy(out + at, s + start, pos - start)
                    at += pos - start
                else:
                    out[at] = 34
                    out[at + 1] = 63
                    out[at + 2] = 34
                    at += 3
                out[at] = 32
                at += 1
                continue
            elif c == 36 and KINDS[following] & DIGIT:
                pos += 1
                while pos < n and KINDS[s[pos]] & DIGIT:
                    pos += 1
            elif c == 36 and (following == 36 or KINDS[following] & START):
                tag = pos + 1
                while tag < n and KINDS[s[tag]] & WORD:
                    tag += 1
                if tag >= n or s[tag] != 36:
                    out[at] = c
                    out[at + 1] = 32
                    at += 2
                    pos += 1
                    continue
                tag += 1
                i = sql.find(sql[pos:tag], tag)
                pos = n if i < 0 else i + tag - pos
            else:
                if c == 40 and at >= 2 and out[at - 2] == 44:
                    lists = True
                out[at] = c
                out[at + 1] = 32
                at += 2
                pos += 1
                continue
            # a value
            if at >= 2 and out[at - 2] == 44:
                lists = True
            out[at] = 63
            out[at + 1] = 32
            at += 2
        return PyUnicode_DecodeASCII(<char *>out, at - 1 if at else 0, NULL), lists
    finally:
        free(out)


# -- digests ----------------------------------------------------------------------------------------------------------

cdef struct State:
    # OpenSSL's SHA256_CTX; only `h` is used.
    uint32_t h[8]
    uint32_t rest[20]

ctypedef void (*Transform)(State *state, const uint8_t *block) noexcept nogil

cdef Transform transform = NULL
cdef const char *HEX = b"0123456789abcdef"


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


cdef class Hmac:
    """HMAC-SHA-256 (RFC 2104) of many short values under one key. `usable` is False where OpenSSL cannot be called."""

    cdef State inner, outer
    cdef readonly bint usable

    def __init__(self, bytes key not None):
        cdef uint8_t block[64]
        cdef const uint8_t *k
        cdef Py_ssize_t i, n
        self.usable = False
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
        self.usable = True
        for sample in (b"", b"1234567", b"x" * 55, b"x" * 56, b"x" * 300):
            if self.hex(sample) != hmac.digest(key, sample, "sha256")[:8].hex():
                self.usable = False

    cdef void compute(self, const uint8_t *value, Py_ssize_t n, uint8_t *out) noexcept nogil:
        """The first 8 bytes of the digest."""
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
        memcpy(&state, &self.outer, sizeof(State))
        transform(&state, block)
        for i in range(8):
            out[i] = <uint8_t>(state.h[i >> 2] >> (24 - 8 * (i & 3)))

    cdef str hex_of(self, const uint8_t *value, Py_ssize_t n):
        cdef uint8_t digest[8]
        cdef char text[16]
        cdef int i
        self.compute(value, n, digest)
        for i in range(8):
            text[2 * i] = HEX[digest[i] >> 4]
            text[2 * i + 1] = HEX[digest[i] & 15]
        return PyUnicode_DecodeASCII(text, 16, NULL)

    cpdef str hex(self, bytes value):
        """16 hex digits."""
        return self.hex_of(<const uint8_t *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))


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


# -- rows -------------------------------------------------------------------------------------------------------------


cpdef bint may_be_list(bytes cell):
    """False when a cell cannot be a list of identifiers: nothing in it separates one from the next."""
    cdef const uint8_t *s = <const uint8_t *>PyBytes_AS_STRING(cell)
    cdef Py_ssize_t i, n = PyBytes_GET_SIZE(cell)
    for i in range(n):
        if s[i] == 44 or s[i] == 59 or s[i] == 124 or KINDS[s[i]] & SPACE:
            return True
    return False
