# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The loops that every statement and every row of MySQL's pass, in C. Each has its twin in plain Python, which is the definition:

- `shape`: statement.py, for text in which a backslash escapes, of ASCII but for what it quotes and its comments.

tests/observe/test_mysql_hot.py holds them to it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from .._chars cimport DIGIT, DOLLAR, HEX, KINDS, SPACE, START, WORD, plain_identifier

# -- statements -------------------------------------------------------------------------------------------------------

cdef int NAME = WORD | DOLLAR


cdef inline Py_ssize_t string_end(const uint8_t *s, Py_ssize_t pos, Py_ssize_t n, uint8_t quote) noexcept nogil:
    """Behind the string whose opening quote is before `pos`."""
    while pos < n:
        if s[pos] == 92:
            pos += 2
        elif s[pos] == quote:
            if pos + 1 < n and s[pos + 1] == quote:
                pos += 2
                continue
            return pos + 1
        else:
            pos += 1
    return n


cdef inline Py_ssize_t string_at(const uint8_t *s, Py_ssize_t pos, Py_ssize_t n) noexcept nogil:
    """Where the quote of a string with its prefix (N'', X'', _utf8mb4 '') is; -1 when none begins here."""
    cdef uint8_t c = s[pos]
    if c == 39 or c == 34:
        return pos
    if c in (120, 88, 98, 66, 110, 78) and pos + 1 < n and s[pos + 1] in (39, 34):
        return pos + 1
    if c == 95:
        pos += 1
        while pos < n and KINDS[s[pos]] & NAME and s[pos] != 95 and s[pos] != 36:
            pos += 1
        if s[pos - 1] == 95:
            return -1
        while pos < n and KINDS[s[pos]] & SPACE:
            pos += 1
        if pos < n and s[pos] in (39, 34):
            return pos
    return -1


cdef inline Py_ssize_t number_end(const uint8_t *s, Py_ssize_t pos, Py_ssize_t n) noexcept nogil:
    """Behind the number that begins here; -1 where it takes more to tell: exponents, names that begin with digits."""
    if s[pos] == 48 and pos + 2 < n and s[pos + 1] in (120, 88) and KINDS[s[pos + 2]] & HEX:
        pos += 2
        while pos < n and KINDS[s[pos]] & HEX:
            pos += 1
    elif s[pos] == 46:
        pos += 1
        while pos < n and KINDS[s[pos]] & DIGIT:
            pos += 1
    else:
        while pos < n and (KINDS[s[pos]] & DIGIT or s[pos] == 46):
            pos += 1
    return -1 if pos < n and KINDS[s[pos]] & NAME else pos


def shape(bytes sql not None):
    """(tokens joined by a space, True when lists of literals are to be folded), or None: ask the plain twin."""
    cdef const uint8_t *s = <const uint8_t *>PyBytes_AS_STRING(sql)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(sql), pos = 0, at = 0, start, i
    cdef uint8_t c, kind, following
    cdef bint lists = False
    cdef uint8_t *out
    out = <uint8_t *>malloc(4 * n + 8)
    if out == NULL:
        raise MemoryError
    try:
        while pos < n:
            c = s[pos]
            kind = KINDS[c]
            following = s[pos + 1] if pos + 1 < n else 0
            start = pos
            if c & 0x80:
                return None
            if kind & SPACE:
                pos += 1
                continue
            if c == 35 or (c == 45 and following == 45 and (pos + 2 >= n or s[pos + 2] <= 32 or s[pos + 2] == 127)):
                while pos < n and s[pos] != 10:
                    pos += 1
                continue
            if c == 47 and following == 42:
                i = pos + 2
                if i < n and s[i] == 77:
                    i += 1
                if i < n and s[i] == 33:
                    pos = i + 1
                    while pos < n and pos < i + 7 and KINDS[s[pos]] & DIGIT:
                        pos += 1
                    memcpy(out + at, b"/*! ", 4)
                    at += 4
                else:
                    pos += 2
                    while pos < n and not (s[pos] == 42 and pos + 1 < n and s[pos + 1] == 47):
                        pos += 1
                    pos = min(pos + 2, n)
                continue
            if c == 42 and following == 47:
                memcpy(out + at, b"*/ ", 3)
                at += 3
                pos += 2
                continue
            i = string_at(s, pos, n)
            if i >= 0:
                pos = min(string_end(s, i + 1, n, s[i]), n)
            elif kind & DIGIT or (c == 46 and KINDS[following] & DIGIT):
                pos = number_end(s, pos, n)
                if pos < 0:
                    return None
            elif c == 96:
                pos += 1
                while pos < n:
                    if s[pos] == 96:
                        if pos + 1 < n and s[pos + 1] == 96:
                            pos += 2
                            continue
                        pos += 1
                        break
                    pos += 1
                if plain_identifier(s, start, pos, 96, 64):
                    memcpy(out + at, s + start, pos - start)
                    at += pos - start
                else:
                    memcpy(out + at, b"`?`", 3)
                    at += 3
                out[at] = 32
                at += 1
                continue
            elif kind & NAME or (
                c == 64
                and (KINDS[following] & NAME or (following == 64 and pos + 2 < n and KINDS[s[pos + 2]] & NAME))
            ):
                while pos < n and s[pos] == 64 and pos < start + 2:
                    out[at] = 64
                    at += 1
                    pos += 1
                while pos < n and KINDS[s[pos]] & NAME:
                    c = s[pos]
                    out[at] = c + 32 if 65 <= c <= 90 else c
                    at += 1
                    pos += 1
                out[at] = 32
                at += 1
                continue
            elif c == 63:  # a parameter
                pos += 1
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
