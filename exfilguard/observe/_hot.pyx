# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The loops that every statement and every row pass, in C. Each has its twin in plain Python, which is the definition:

- `shape`: observe/statement.py, for text of ASCII but for what it quotes and its comments;
- `may_be_list`: observe/estimate.py, what cannot be a list of identifiers.

tests/observe/test_hot.py holds them to it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from ._chars cimport DIGIT, KINDS, SPACE, START, WORD, plain_identifier


# -- statements -------------------------------------------------------------------------------------------------------

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


cdef inline bint may_go_on(const uint8_t *s, Py_ssize_t pos, Py_ssize_t n) noexcept nogil:
    """True when the string that ends at `pos` may go on in quotes on a further line."""
    cdef bint line = False
    while pos < n and KINDS[s[pos]] & SPACE:
        line = line or s[pos] == 10 or s[pos] == 13
        pos += 1
    return pos < n and ((line and s[pos] == 39) or (s[pos] == 45 and pos + 1 < n and s[pos + 1] == 45))


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


def shape(bytes sql not None):
    """(tokens joined by a space, True when lists of literals are to be folded), or None: ask the plain twin."""
    cdef const uint8_t *s = <const uint8_t *>PyBytes_AS_STRING(sql)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(sql), pos = 0, at = 0, start, tag, i
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
                while pos < n and s[pos] != 10 and s[pos] != 13:
                    pos += 1
                continue
            elif c == 47 and following == 42:
                pos = comment_end(s, pos + 2, n)
                continue
            elif c == 34:
                pos = quoted_end(s, pos + 1, n, 34)
                if plain_identifier(s, start, pos, 34, 63):
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
            if s[pos - 1] == 39 and may_go_on(s, pos, n):
                return None
            if at >= 2 and out[at - 2] == 44:
                lists = True
            out[at] = 63
            out[at + 1] = 32
            at += 2
        return PyUnicode_DecodeASCII(<char *>out, at - 1 if at else 0, NULL), lists
    finally:
        free(out)


# -- rows -------------------------------------------------------------------------------------------------------------


cpdef bint may_be_list(bytes cell):
    """False when a cell cannot be a list of identifiers: nothing in it separates one from the next."""
    cdef const uint8_t *s = <const uint8_t *>PyBytes_AS_STRING(cell)
    cdef Py_ssize_t i, n = PyBytes_GET_SIZE(cell)
    for i in range(n):
        if s[i] == 44 or s[i] == 59 or s[i] == 124 or KINDS[s[i]] & SPACE:
            return True
    return False


# -- texts that differ in their literals only -------------------------------------------------------------------------


cdef Py_ssize_t take_literals(
    const uint8_t *s, Py_ssize_t n, bint mysql, bint escapes, Words words, Words doubted, uint8_t *out, Literal *literals, int *count, Py_ssize_t *end
) noexcept:
    """templates.skeleton: the text with `\\0` for each of its numbers and `\\1` for each of its strings goes to `out` (MOST_SKELETON
    bytes), up to a comment that it ends with, which begins at `end`; its length. Where the literals stand goes to `literals`
    (MOST_LITERALS). -1: a text for the plain way. `words`: that no string may have; None: no text with strings.
    `doubted`: that no text may have which the server may read otherwise; None for any."""
    cdef Py_ssize_t pos = 0, at = 0, start
    cdef uint8_t c, before = 32, after
    cdef bint plain, doubtful = False
    cdef int found = 0
    end[0] = n
    while pos < n:
        if at >= MOST_SKELETON:
            return -1
        c = s[pos]
        after = s[pos + 1] if pos + 1 < n else 32
        if KINDS[c] & DIGIT:
            start = pos
            while pos < n and KINDS[s[pos]] & DIGIT:
                pos += 1
            after = s[pos] if pos < n else 32
            if not (KINDS[before] & WORD or before == 46 or before == 36 or KINDS[after] & WORD or after == 46 or after == 36):
                if found == MOST_LITERALS:
                    return -1
                literals[found] = Literal(start, pos, False, True)
                found += 1
                out[at] = 0
                at += 1
            else:
                if at + pos - start > MOST_SKELETON:
                    return -1
                memcpy(out + at, s + start, pos - start)
                at += pos - start
            before = 48
            continue
        if c == 39 or (mysql and c == 34):
            start = pos + 1
            pos = start
            plain = True
            while True:
                if pos >= n:
                    return -1
                if s[pos] == c:
                    if pos + 1 == n or s[pos + 1] != c:
                        break
                    plain = False
                    pos += 2
                elif s[pos] == 92:
                    if not escapes:
                        return -1
                    plain = False
                    doubtful = True
                    pos += 2
                else:
                    doubtful |= s[pos] >> 7
                    pos += 1
            if found == MOST_LITERALS or words is None or words.any(s + start, pos - start):
                return -1
            literals[found] = Literal(start, pos, True, plain)
            found += 1
            out[at] = 1
            at += 1
            before = c
            pos += 1
            continue
        if c == (96 if mysql else 34):
            # a quoted name
            start = pos
            pos += 1
            while True:
                if pos >= n or s[pos] < 32 or s[pos] == 92 or s[pos] & 0x80:
                    return -1
                if s[pos] == c:
                    if pos + 1 == n or s[pos + 1] != c:
                        break
                    pos += 1
                pos += 1
            pos += 1
            if at + pos - start > MOST_SKELETON:
                return -1
            memcpy(out + at, s + start, pos - start)
            at += pos - start
            before = c
            continue
        if c == 42 and before == 47:
            if mysql and (after == 33 or (after == 77 and pos + 2 < n and s[pos + 2] == 33)):
                return -1  # code
            start = pos - 1
            pos += 1
            while True:
                if pos + 1 >= n or (s[pos] == 47 and s[pos + 1] == 42):
                    return -1
                if s[pos] == 42 and s[pos + 1] == 47:
                    break
                pos += 1
            pos += 2
            while pos < n and (s[pos] == 59 or 9 <= s[pos] <= 13 or s[pos] == 32):
                pos += 1
            if pos < n:
                return -1
            end[0] = start
            at -= 1
            doubtful = True
            break
        # Other strings, comments, escapes and what is no ASCII are for the plain way.
        if c < 2 or c == 34 or c == 92 or c & 0x80 or (mysql and c == 35) or (c == before and c == 45):
            return -1
        if c == 36 and (after == 36 or KINDS[after] & START) and not (KINDS[before] & WORD or before == 36):
            return -1
        out[at] = c
        at += 1
        before = c
        pos += 1
    if doubtful and doubted is not None and doubted.within(s, n):
        return -1
    count[0] = found
    return at


def skeleton(bytes sql not None, bint mysql=False, bint escapes=False, Words words=None, Words doubted=None):
    """templates.skeleton: (the text with its literals taken out, those literals, where it ends), or None."""
    cdef uint8_t out[MOST_SKELETON]
    cdef Literal literals[MOST_LITERALS]
    cdef Literal literal
    cdef int count = 0, i
    cdef Py_ssize_t end = 0
    cdef Py_ssize_t n = take_literals(
        <const uint8_t *>PyBytes_AS_STRING(sql), PyBytes_GET_SIZE(sql), mysql, escapes, words, doubted, out, literals, &count, &end
    )
    if n < 0:
        return None
    taken = []
    for i in range(count):
        literal = literals[i]
        taken.append(sql[literal.start - literal.quoted : literal.end + literal.quoted])
    return PyBytes_FromStringAndSize(<char *>out, n), taken, end
