# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""parameters.plain_executed without an object per step, for executions as drivers send them most: nothing sent ahead, integers,
strings, dates and NULL. The plain one is the definition, and takes whatever is left (None) here, what is malformed included;
tests/wire/test_mysql_parameters.py compares the two.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t


cdef inline void decimal(uint64_t number, bint negative, Cell *cell) noexcept nogil:
    cdef int at = 24
    while True:
        at -= 1
        cell.room[at] = 48 + number % 10
        number //= 10
        if not number:
            break
    if negative:
        at -= 1
        cell.room[at] = 45
    cell.at = cell.room + at
    cell.size = 24 - at


cdef inline int integer_bytes(int base) noexcept nogil:
    """Of an integer type; 0: it is none."""
    if base == 3 or base == 9:  # LONG, INT24
        return 4
    if base == 8:
        return 8
    if base == 2 or base == 13:  # SHORT, YEAR
        return 2
    return 1 if base == 1 else 0


cdef bint take_values(
    const uint8_t *body, Py_ssize_t n, Py_ssize_t count, bint attributes, bint known, int *kinds, Cell *cells
) noexcept nogil:
    """The `count` values of an execution (MOST at most) go to `cells`, their types to `kinds`, where the last execution's are when
    they are `known`. False: ask the plain twin; then `kinds` is not to be used."""
    cdef const uint8_t *end = body + n
    cdef const uint8_t *at
    cdef const uint8_t *bitmap
    cdef Py_ssize_t i, size, j
    cdef int base
    cdef uint64_t number
    cdef bint negative
    if count < 1 or count > MOST or n < 9 + attributes + (count + 7) // 8 + 1:
        return False
    bitmap = body + 9
    if attributes:
        if bitmap[0] != count:  # one of 64 has one byte
            return False
        bitmap += 1
    at = bitmap + (count + 7) // 8 + 1
    if (at - 1)[0]:
        for i in range(count):
            if end - at < 2:
                return False
            kinds[i] = at[0] | at[1] << 8
            at += 2
            if attributes:  # a name
                if at >= end or at[0] >= 0xFB or end - at < 1 + at[0]:
                    return False
                at += 1 + at[0]
    elif not known:
        return False
    for i in range(count):
        cells[i].at = NULL
        if bitmap[i >> 3] >> (i & 7) & 1:
            continue
        base = kinds[i] & 0xFF
        size = integer_bytes(base)
        if size:
            if end - at < size:
                return False
            number = 0
            for j in range(size - 1, -1, -1):
                number = number << 8 | at[j]
            negative = not kinds[i] & 0x8000 and at[size - 1] & 0x80
            if negative:
                if size < 8:
                    number |= ~<uint64_t>0 << (8 * size)
                number = 0 - number
            decimal(number, negative, &cells[i])
            at += size
        elif base == 7 or 10 <= base <= 12:  # TIMESTAMP, DATE, TIME, DATETIME
            if at >= end or end - at < 1 + at[0]:
                return False
            at += 1 + at[0]
        elif base == 0 or base == 15 or base == 16 or base >= 0xF6:  # text and bytes of any length
            if at >= end or at[0] >= 0xFD:
                return False
            size = at[0]
            at += 1
            if size == 0xFC:
                if end - at < 2:
                    return False
                size = at[0] | at[1] << 8
                at += 2
            elif size == 0xFB:
                return False
            if end - at < size:
                return False
            cells[i].at, cells[i].size = at, size
            at += size
        else:
            return False
    return True


def executed(bytes body not None, Py_ssize_t count, tuple known not None, bint attributes):
    """(values, types), or None: ask the plain twin."""
    cdef int kinds[MOST]
    cdef Cell cells[MOST]
    cdef Py_ssize_t i
    cdef bint has = len(known) >= count
    cdef tuple types
    cdef list values
    if count < 1 or count > MOST:
        return None
    if has:
        for i in range(count):
            kinds[i] = <int>known[i]
    if not take_values(<const uint8_t *>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), count, attributes, has, kinds, cells):
        return None
    types = known
    if len(known) != count:
        types = tuple([kinds[i] for i in range(count)])
    else:
        for i in range(count):
            if kinds[i] != <int>known[i]:
                types = tuple([kinds[j] for j in range(count)])
                break
    values = [
        None if cells[i].at == NULL else PyBytes_FromStringAndSize(<const char *>cells[i].at, cells[i].size) for i in range(count)
    ]
    return values, types
