# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""MySQL's rows, text and binary, from their bytes to the set of patients, in one loop without the interpreter.

The definition is the observer's path row by row (answers.py: `row`), which also takes every row that is left here: both stop
before one that is not complete, does not hold what it promises, or needs a closer look. `sizes`: see wire/mysql/_scan.py.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memchr, memcpy

from .._digests cimport DigestSet, Hmac, Lanes, take_value
from .._values cimport decimal, hexadecimal, is_space, plain_cell

cdef enum:
    TEXT = 0  # kinds of identifier columns
    SIGNED = 1
    UNSIGNED = 2
    BYTES = 3  # no character set: 16 bytes of them are a UUID
    PATIENT_BYTES = 128  # estimate.py
    MOST_TEXT = 64  # room for what is written anew: numbers, UUIDs, texts in UTF-16
    MOST_ROW = 2000
    NULL_CELL = -1
    MALFORMED = -2


cdef struct Row:
    const uint8_t *start  # of the payload
    const uint8_t *at  # of its first value
    const uint8_t *end


cdef inline bint next_row(const uint8_t *pos, const uint8_t *stop, Py_ssize_t columns, Row *row) noexcept nogil:
    """The complete row whose header is at `pos`; False where there is none. `columns`: of a binary result, else 0."""
    cdef Py_ssize_t length
    if stop - pos < 5:
        return False
    length = pos[0] | pos[1] << 8 | pos[2] << 16
    if pos[4] >= 0xFE or not length or length == 0xFFFFFF or stop - pos < 4 + length:
        return False
    row.start = row.at = pos + 4
    row.end = row.start + length
    if columns:
        row.at += 1 + (columns + 9) // 8
        return row.at <= row.end and not row.start[0]
    return True


cdef inline bint is_null(const uint8_t *start, Py_ssize_t column) noexcept nogil:
    """In a binary row's bitmap."""
    return start[1 + ((column + 2) >> 3)] >> ((column + 2) & 7) & 1


cdef inline Py_ssize_t cell(const uint8_t **at, const uint8_t *end, uint8_t size, bint text) noexcept nogil:
    """The length of the value at `at`, which is moved to its first byte; NULL_CELL or MALFORMED."""
    cdef const uint8_t *pos = at[0]
    cdef uint64_t length = size
    cdef int more, i
    if size >= 254:
        if pos >= end:
            return MALFORMED
        length = pos[0]
        pos += 1
        if size == 255 and length >= 0xFB:
            if length == 0xFB:
                at[0] = pos
                return NULL_CELL if text else MALFORMED
            more = 2 if length == 0xFC else (3 if length == 0xFD else 8)
            if length == 0xFF or end - pos < more:
                return MALFORMED
            length = 0
            for i in range(more - 1, -1, -1):
                length = length << 8 | pos[i]
            pos += more
    if length > <uint64_t>(end - pos):
        return MALFORMED
    at[0] = pos
    return <Py_ssize_t>length


cdef inline Py_ssize_t without_zeros(const uint8_t *value, Py_ssize_t n, uint8_t *room) noexcept nogil:
    """A text of a wide character set, without the zeros between its characters; -1: too long."""
    cdef Py_ssize_t i, at = 0
    if n > MOST_TEXT:
        return -1
    for i in range(n):
        if value[i]:
            room[at] = value[i]
            at += 1
    return at


cdef Py_ssize_t canonical(
    const uint8_t *value, Py_ssize_t n, int kind, bint binary, uint8_t *room, const uint8_t **out
) noexcept nogil:
    """Length of patients.canonical(value), which `out` points to: in the value or in `room` (MOST_TEXT bytes). -1: too long."""
    cdef uint64_t number = 0
    cdef Py_ssize_t i
    out[0] = room
    if kind == SIGNED or kind == UNSIGNED:
        if binary:
            if n < 1 or n > 8:
                return -1
            for i in range(n - 1, -1, -1):
                number = number << 8 | value[i]
            if kind == SIGNED and value[n - 1] & 0x80:
                if n < 8:
                    number |= ~<uint64_t>0 << (8 * n)
                return decimal(0 - number, True, room)
            return decimal(number, False, room)
        if n and (not value[0] or not value[n - 1]):  # UTF-16 or UTF-32
            n = without_zeros(value, n, room)
            if n < 0:
                return -1
            value = room
        if n > 1 and value[0] == 48:  # ZEROFILL
            while n and value[0] == 48:
                value += 1
                n -= 1
            if not n:
                room[0] = 48
                return 1
            out[0] = value
            return n
    elif kind == BYTES and n == 16:
        return hexadecimal(value, 16, room)
    elif memchr(value, 0, n) != NULL:
        n = without_zeros(value, n, room)
        if n < 0:
            return -1
        value = room
    while n and is_space(value[0]):
        value += 1
        n -= 1
    while n and is_space(value[n - 1]):
        n -= 1
    out[0] = value
    return n


cdef int count_column(
    const uint8_t *start, const uint8_t *stop, Py_ssize_t most, Py_ssize_t position, const uint8_t *size, Py_ssize_t columns,
    int kind, Hmac key, DigestSet found, const Known *known, Counted *out,
) except -1 nogil:
    """`column`, from `start` on; `size`, `columns`: `sizes`. `known`: a value whose digest is known already; NULL: none."""
    cdef const uint8_t *at
    cdef const uint8_t *value
    cdef Py_ssize_t i, n
    cdef uint8_t room[MOST_TEXT]
    cdef Lanes lanes
    cdef Row row
    out.end = start
    out.count = out.size = out.further = 0
    if columns and position >= columns:
        return 0
    lanes.count = 0
    while out.count < most and next_row(out.end, stop, columns, &row):
        at = row.at
        n = NULL_CELL
        for i in range(position + 1):
            if n > 0:
                at += n
            if columns and is_null(row.start, i):
                n = NULL_CELL
                continue
            n = cell(&at, row.end, size[i] if columns else 255, not columns)
            if n == MALFORMED:
                break
        if n == MALFORMED:
            break
        if n != NULL_CELL:
            n = canonical(at, n, kind, columns > 0, room, &value)
            if n < 0:
                break
            take_value(key, &lanes, found, value, n, known)
        out.size += row.end - row.start
        out.end = row.end
        out.count += 1
    key.flush(&lanes, found)
    return 0


def column(
    bytes data not None, Py_ssize_t pos, Py_ssize_t most, Py_ssize_t position, bytes sizes not None, int kind,
    Hmac key not None, DigestSet found not None,
):
    """Complete rows from `pos` on, at most `most`, whose identifier is the column `position`, of this kind; digests go to `found`.
    Returns (position behind the last one, rows, bytes of their payloads)."""
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef const uint8_t *stop = start + PyBytes_GET_SIZE(data)
    cdef const uint8_t *size = <const uint8_t *>PyBytes_AS_STRING(sizes)
    cdef Py_ssize_t columns = PyBytes_GET_SIZE(sizes)
    cdef Counted counted
    with nogil:
        count_column(start + pos, stop, most, position, size, columns, kind, key, found, NULL, &counted)
    return counted.end - start, counted.count, counted.size


cdef int count_estimated(
    const uint8_t *start, const uint8_t *stop, Py_ssize_t most, Py_ssize_t fields, const uint8_t *size, Py_ssize_t columns,
    bint expressions, Hmac key, DigestSet found, Counted *out,
) except -1 nogil:
    """`estimated`, from `start` on; `size`, `columns`: `sizes`."""
    cdef const uint8_t *at
    cdef Py_ssize_t cells, i, n
    cdef uint8_t room[MOST_ROW + 4]
    cdef Lanes lanes
    cdef Row row
    cdef bint plain
    out.end = start
    out.count = out.size = out.further = 0
    if columns and fields > columns:
        return 0
    lanes.count = 0
    memcpy(room, b"row\0", 4)
    while out.count < most and next_row(out.end, stop, columns, &row):
        n = row.end - row.start
        if n > MOST_ROW:
            break
        at = row.at
        plain = True
        cells = 0
        for i in range(fields):
            if columns and is_null(row.start, i):
                continue
            n = cell(&at, row.end, size[i] if columns else 255, not columns)
            if n == NULL_CELL:
                continue
            if n == MALFORMED or not plain_cell(at, n):
                plain = False
                break
            at += n
            cells += n
        if not plain:
            break
        n = row.end - row.start
        memcpy(room + 4, row.start, n)
        take_value(key, &lanes, found, room, 4 + n, NULL)
        if expressions and cells >= 2 * PATIENT_BYTES:
            out.further += cells // PATIENT_BYTES - 1
        out.end = row.end
        out.size += n
        out.count += 1
    key.flush(&lanes, found)
    return 0


def estimated(
    bytes data not None, Py_ssize_t pos, Py_ssize_t most, Py_ssize_t fields, bytes sizes not None, bint expressions,
    Hmac key not None, DigestSet found not None,
):
    """The same for rows without an identifier (../estimate.py), of `fields` columns: each is known by the digest of its bytes. Returns
    (position behind the last one, rows, bytes of their payloads, patients they stand for beyond one each). Stops before a row that
    may hold a list of identifiers or a structure."""
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef const uint8_t *stop = start + PyBytes_GET_SIZE(data)
    cdef const uint8_t *size = <const uint8_t *>PyBytes_AS_STRING(sizes)
    cdef Py_ssize_t columns = PyBytes_GET_SIZE(sizes)
    cdef Counted counted
    with nogil:
        count_estimated(start + pos, stop, most, fields, size, columns, expressions, key, found, &counted)
    return counted.end - start, counted.count, counted.size, counted.further
