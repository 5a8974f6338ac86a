# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""PostgreSQL's DataRows, from their bytes to the set of patients, in one loop without the interpreter.

The definition is the observer's path row by row (columns.py: `row`), which also takes every row that is left here: both stop
before one that is not complete, does not hold what its counts promise, or needs a closer look.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ._digests cimport DigestSet, Hmac, Lanes, take_value
from ._values cimport MOST_TEXT, decimal, hexadecimal, is_space, plain_cell

cdef enum:
    INT2 = 21
    INT4 = 23
    INT8 = 20
    UUID = 2950
    PATIENT_BYTES = 128  # estimate.py
    MOST_BODY = 2000
    NULL_CELL = 0xFFFFFFFF


cdef inline Py_ssize_t signed(int64_t value, uint8_t *room) noexcept nogil:
    return decimal(<uint64_t>value if value >= 0 else 0 - <uint64_t>value, value < 0, room)


cdef Py_ssize_t canonical(
    const uint8_t *value, Py_ssize_t n, uint32_t type_oid, bint binary, uint8_t *room, const uint8_t **out
) noexcept nogil:
    """Length of patients.canonical(value), which `out` points to: in the value or in `room` (MOST_TEXT bytes). -1: too long."""
    cdef Py_ssize_t i, at = 0
    cdef int64_t number
    cdef uint8_t c
    out[0] = room
    if binary:
        if type_oid == INT4 and n == 4:
            return signed(<int32_t>be32(value), room)
        if type_oid == INT8 and n == 8:
            number = <int64_t>(<uint64_t>be32(value) << 32 | be32(value + 4))
            return signed(number, room)
        if type_oid == INT2 and n == 2:
            return signed(<int16_t>(<int>value[0] << 8 | value[1]), room)
        if type_oid == UUID and n == 16:
            return hexadecimal(value, 16, room)
    if type_oid == UUID:
        if n > MOST_TEXT:
            return -1
        for i in range(n):
            c = value[i]
            if c != 45:
                room[at] = c + 32 if 65 <= c <= 90 else c
                at += 1
        return at
    while n and is_space(value[0]):
        value += 1
        n -= 1
    while n and is_space(value[n - 1]):
        n -= 1
    out[0] = value
    return n


cdef inline const uint8_t *cell(const uint8_t *at, const uint8_t *end, uint32_t *size) noexcept nogil:
    """The value whose length is at `at`; NULL when it does not fit."""
    if end - at < 4:
        return NULL
    size[0] = be32(at)
    if size[0] != <uint32_t>NULL_CELL and <uint64_t>(end - at) < 4 + <uint64_t>size[0]:
        return NULL
    return at + 4


cdef int count_column(
    const uint8_t *start, const uint8_t *stop, int kind, Py_ssize_t most, Py_ssize_t position, uint32_t type_oid, bint binary,
    Hmac key, DigestSet found, const Known *known, Counted *out,
) except -1 nogil:
    """`column`, from `start` on. `known`: a value whose digest is known already; NULL: none."""
    cdef const uint8_t *row = start
    cdef const uint8_t *end
    cdef const uint8_t *at
    cdef const uint8_t *value
    cdef uint8_t room[MOST_TEXT]
    cdef Lanes lanes
    cdef Py_ssize_t i, n
    cdef uint32_t length, size
    lanes.count = 0
    out.count = out.size = out.further = 0
    while out.count < most and stop - row >= 7 and row[0] == kind:
        length = be32(row + 1)
        if length < 6 or <uint64_t>(stop - row) < 1 + <uint64_t>length:
            break
        end = row + 1 + length
        if (<Py_ssize_t>row[5] << 8 | row[6]) <= position:
            break
        at = row + 7
        size = <uint32_t>NULL_CELL
        for i in range(position + 1):
            if size != <uint32_t>NULL_CELL:
                at += size
            at = cell(at, end, &size)
            if at == NULL:
                break
        if at == NULL:
            break
        if size != <uint32_t>NULL_CELL:
            n = canonical(at, size, type_oid, binary, room, &value)
            if n < 0:
                break
            take_value(key, &lanes, found, value, n, known)
        row = end
        out.size += length - 4
        out.count += 1
    key.flush(&lanes, found)
    out.end = row
    return 0


def column(
    bytes data not None, Py_ssize_t pos, int kind, Py_ssize_t most, Py_ssize_t position, uint32_t type_oid, bint binary,
    Hmac key not None, DigestSet found not None,
):
    """Complete rows from `pos` on, at most `most`, whose identifier is the column `position`; digests go to `found`. Returns
    (position behind the last one, rows, bytes of their bodies)."""
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef const uint8_t *stop = start + PyBytes_GET_SIZE(data)
    cdef Counted counted
    with nogil:
        count_column(
            start + pos, stop, kind, most, position, type_oid, binary, key, found, NULL, &counted
        )
    return counted.end - start, counted.count, counted.size


cdef int count_estimated(
    const uint8_t *start, const uint8_t *stop, int kind, Py_ssize_t most, Py_ssize_t columns, bint expressions, Hmac key,
    DigestSet found, Counted *out,
) except -1 nogil:
    """`estimated`, from `start` on."""
    cdef const uint8_t *row = start
    cdef const uint8_t *end
    cdef const uint8_t *at
    cdef uint8_t room[MOST_BODY + 4]
    cdef Lanes lanes
    cdef Py_ssize_t i, cells
    cdef uint32_t length, size
    cdef bint plain
    lanes.count = 0
    out.count = out.size = out.further = 0
    memcpy(room, b"row\0", 4)
    while out.count < most and stop - row >= 7 and row[0] == kind:
        length = be32(row + 1)
        if length < 6 or length > MOST_BODY or <uint64_t>(stop - row) < 1 + <uint64_t>length:
            break
        end = row + 1 + length
        if (<Py_ssize_t>row[5] << 8 | row[6]) < columns:
            break
        at = row + 7
        plain = True
        cells = 0
        for i in range(columns):
            at = cell(at, end, &size)
            if at == NULL:
                plain = False
                break
            if size != <uint32_t>NULL_CELL:
                if not plain_cell(at, size):
                    plain = False
                    break
                at += size
                cells += size
        if not plain:
            break
        memcpy(room + 4, row + 5, length - 4)
        take_value(key, &lanes, found, room, length, NULL)
        if expressions and cells >= 2 * PATIENT_BYTES:
            out.further += cells // PATIENT_BYTES - 1
        row = end
        out.size += length - 4
        out.count += 1
    key.flush(&lanes, found)
    out.end = row
    return 0


def estimated(
    bytes data not None, Py_ssize_t pos, int kind, Py_ssize_t most, Py_ssize_t columns, bint expressions, Hmac key not None,
    DigestSet found not None,
):
    """The same for rows without an identifier (estimate.py), of `columns` columns: each is known by the digest of its bytes. Returns
    (position behind the last one, rows, bytes of their bodies, patients they stand for beyond one each). Stops before a row that may
    hold a list of identifiers or a structure."""
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef const uint8_t *stop = start + PyBytes_GET_SIZE(data)
    cdef Counted counted
    with nogil:
        count_estimated(
            start + pos, stop, kind, most, columns, expressions, key, found, &counted
        )
    return counted.end - start, counted.count, counted.size, counted.further
