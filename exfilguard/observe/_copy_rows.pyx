# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""CopyData messages that hold one row each, from their bytes to the set of patients, without the interpreter.

The definition is copy_rows.py, which also takes every message that is left here: this stops before one that does not hold exactly one
row, or whose identifier has an escape or quotes inside it, is none of its type, or is too long.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

from ._digests cimport LANES, DigestSet, Hmac, Lanes
from ._rows cimport be32, canonical
from ._values cimport MOST_TEXT

cdef enum:
    TEXT = 0  # copy_rows.py
    CSV = 1
    BINARY = 2
    MAX_IDENTIFIER_BYTES = 8192
    INT2 = 21
    INT4 = 23
    INT8 = 20
    UUID = 2950
    NEWLINE = 10
    BACKSLASH = 92
    COPY_DATA = 100
    NULL_LENGTH = 0xFFFFFFFF

cdef struct Form:
    Py_ssize_t columns
    Py_ssize_t position
    const uint8_t *null
    Py_ssize_t null_size
    uint32_t type_oid
    uint8_t delimiter
    uint8_t quote
    uint8_t escape
    bint backslashes  # they are escapes


cdef inline bint of_its_type(const uint8_t *value, Py_ssize_t n, uint32_t type_oid) noexcept nogil:
    """copy_rows.identifier of what is canonical already."""
    cdef Py_ssize_t i
    if type_oid == INT4 or type_oid == INT8 or type_oid == INT2:
        if n and value[0] == 45:
            value += 1
            n -= 1
        if not n:
            return False
        for i in range(n):
            if value[i] < 48 or value[i] > 57:
                return False
    elif type_oid == UUID:
        return n == 32
    return True


cdef inline int field_of_line(
    const uint8_t *at, const uint8_t *last, const Form *form, const uint8_t **value, Py_ssize_t *size
) noexcept nogil:
    """The identifier of the line that ends before `last`, its newline: 1, 0 for NULL, -1: not to be said here."""
    cdef const uint8_t *start = at
    cdef Py_ssize_t column = 0
    cdef uint8_t c, delimiter = form.delimiter
    while True:
        if at < last:
            c = at[0]
            if c == BACKSLASH and form.backslashes:
                if column == form.position and not (at == start and form.null_size == 2 and last - at >= 2 and at[1] == form.null[1]):
                    return -1
                at += 2
                if at > last:
                    return -1
                continue
            if c != delimiter:
                at += 1
                continue
        if column == form.position:
            break
        if at >= last:
            return -1
        at += 1
        column += 1
        start = at
    if (at == last) != (form.position == form.columns - 1):
        return -1
    value[0], size[0] = start, at - start
    if size[0] == form.null_size and not memcmp(start, form.null, size[0]):
        return 0
    return -1 if form.backslashes and memchr(start, BACKSLASH, size[0]) != NULL else 1


cdef inline int field_of_csv(
    const uint8_t *at, const uint8_t *last, const Form *form, const uint8_t **value, Py_ssize_t *size
) noexcept nogil:
    """The same of a csv row, of which nobody has seen yet that no newline outside of quotes is in it."""
    cdef const uint8_t *start = at
    cdef const uint8_t *end = NULL
    cdef Py_ssize_t column = 0
    cdef bint quoted = False
    cdef uint8_t c, delimiter = form.delimiter, quote = form.quote, escape = form.escape
    while at < last:
        c = at[0]
        if quoted:
            if c == escape and at + 1 <= last and (at[1] == quote or at[1] == escape):
                at += 1
            elif c == quote:
                quoted = False
        elif c == quote:
            quoted = True
        elif c == NEWLINE:
            return -1
        elif c == delimiter:
            if column == form.position:
                value[0], end = start, at
            column += 1
            start = at + 1
        at += 1
    if quoted or at != last:
        return -1
    if end == NULL:
        if column != form.position or column != form.columns - 1:
            return -1
        value[0], end = start, last
    elif form.position == form.columns - 1:
        return -1
    size[0] = end - value[0]
    if size[0] == form.null_size and not memcmp(value[0], form.null, size[0]):
        return 0
    if memchr(value[0], quote, size[0]) == NULL:
        return 1
    if size[0] < 2 or size[0] > MAX_IDENTIFIER_BYTES or value[0][0] != quote or (end - 1)[0] != quote:
        return -1
    value[0] += 1
    size[0] -= 2
    return -1 if memchr(value[0], quote, size[0]) != NULL or memchr(value[0], escape, size[0]) != NULL else 1


cdef inline int field_of_tuple(
    const uint8_t *at, const uint8_t *end, const Form *form, const uint8_t **value, Py_ssize_t *size
) noexcept nogil:
    """The same of a tuple, which must end where the message does."""
    cdef Py_ssize_t column
    cdef uint32_t length
    cdef int found = 0
    if end - at < 2 or (<Py_ssize_t>at[0] << 8 | at[1]) != form.columns:
        return -1
    at += 2
    for column in range(form.columns):
        if end - at < 4:
            return -1
        length = be32(at)
        at += 4
        if length == <uint32_t>NULL_LENGTH:
            continue
        if length > <uint32_t>0x7FFFFFFF or <Py_ssize_t>length > end - at:
            return -1
        if column == form.position:
            value[0], size[0], found = at, length, 1
        at += length
    if at != end:
        return -1
    if found and (
        (form.type_oid == INT4 and size[0] != 4) or (form.type_oid == INT8 and size[0] != 8) or (form.type_oid == INT2 and size[0] != 2)
        or (form.type_oid == UUID and size[0] != 16)
    ):
        return -1
    return found


cdef class Passing:
    """For the rows of one COPY; `said`: its CopyForm, with one identifier."""

    cdef Form form
    cdef int kind
    cdef bytes null

    def __init__(self, said):
        self.kind = said.kind
        self.null = said.null
        self.form.columns, self.form.position, self.form.type_oid = said.columns, said.position, said.type_oid
        self.form.null, self.form.null_size = <const uint8_t *>PyBytes_AS_STRING(self.null), PyBytes_GET_SIZE(self.null)
        self.form.delimiter, self.form.quote, self.form.escape = said.delimiter, said.quote, said.escape
        self.form.backslashes = self.kind == TEXT
        if self.form.position < 0:
            raise ValueError("not one identifier")

    def rows(self, bytes data not None, Py_ssize_t pos, Py_ssize_t most, Hmac key not None, DigestSet found not None):
        """Complete CopyData messages from `pos` on, at most `most`, of which each is one row; digests of their identifiers go to
        `found`. Returns (position behind the last one, messages, bytes of their bodies)."""
        cdef const uint8_t *begin = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef const uint8_t *stop = begin + PyBytes_GET_SIZE(data)
        cdef const uint8_t *row = begin + pos
        cdef const uint8_t *end
        cdef const uint8_t *at
        cdef const uint8_t *value = NULL
        cdef uint8_t room[MOST_TEXT]
        cdef Lanes lanes
        cdef Py_ssize_t n = 0, count = 0, size = 0
        cdef uint32_t length
        cdef int got
        lanes.count = 0
        with nogil:
            while count < most and stop - row >= 6 and row[0] == COPY_DATA:
                length = be32(row + 1)
                if length < 5 or <uint64_t>(stop - row) < 1 + <uint64_t>length:
                    break
                at = row + 5
                end = row + 1 + length
                if self.kind == BINARY:
                    got = field_of_tuple(at, end, &self.form, &value, &n)
                elif (end - 1)[0] != NEWLINE:
                    break
                elif self.kind == CSV and memchr(at, self.form.quote, end - at) != NULL:
                    got = field_of_csv(at, end - 1, &self.form, &value, &n)
                elif memchr(at, NEWLINE, end - 1 - at) != NULL:
                    break
                else:
                    got = field_of_line(at, end - 1, &self.form, &value, &n)
                if got < 0 or n > MAX_IDENTIFIER_BYTES:
                    break
                if got:
                    n = canonical(value, n, self.form.type_oid, self.kind == BINARY, room, &value)
                    if n < 0 or not (self.kind == BINARY or of_its_type(value, n, self.form.type_oid)):
                        break
                    if not lanes.count:
                        found.reserve(LANES + 1)
                    key.take(&lanes, found, value, n)
                n = 0
                row = end
                size += length - 4
                count += 1
            key.flush(&lanes, found)
        return row - begin, count, size
