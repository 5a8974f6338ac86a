# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""parameters.plain_executed without an object per step, for executions as drivers send them most: no query attributes, nothing sent
ahead, integers, strings, dates and NULL. The plain one is the definition, and takes whatever is left (None) here, what is malformed
included; tests/wire/test_mysql_parameters.py compares the two.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    MOST = 64  # parameters


cdef bytes decimal(uint64_t number, bint negative):
    cdef char room[24]
    cdef int at = 24
    while True:
        at -= 1
        room[at] = 48 + number % 10
        number //= 10
        if not number:
            break
    if negative:
        at -= 1
        room[at] = 45
    return PyBytes_FromStringAndSize(room + at, 24 - at)


cdef inline int integer_bytes(int base) noexcept nogil:
    """Of an integer type; 0: it is none."""
    if base == 3 or base == 9:  # LONG, INT24
        return 4
    if base == 8:
        return 8
    if base == 2 or base == 13:  # SHORT, YEAR
        return 2
    return 1 if base == 1 else 0


def executed(bytes body not None, Py_ssize_t count, tuple known not None):
    """(values, types), or None: ask the plain twin."""
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(body)
    cdef const uint8_t *end = start + PyBytes_GET_SIZE(body)
    cdef const uint8_t *at
    cdef const uint8_t *bitmap
    cdef int kinds[MOST]
    cdef Py_ssize_t i, size, j
    cdef int base
    cdef uint64_t number
    cdef bint negative
    cdef list values, found
    cdef tuple types = known
    if count < 1 or count > MOST or end - start < 9 + (count + 7) // 8 + 1:
        return None
    bitmap = start + 9
    at = bitmap + (count + 7) // 8 + 1
    if (at - 1)[0]:
        if end - at < 2 * count:
            return None
        found = []
        for i in range(count):
            kinds[i] = at[0] | at[1] << 8
            at += 2
            found.append(kinds[i])
        if len(types) != count or list(types) != found:
            types = tuple(found)
    else:
        if len(types) < count:
            return None
        for i in range(count):
            kinds[i] = <int>types[i]
        types = types[:count]
    values = []
    for i in range(count):
        if bitmap[i >> 3] >> (i & 7) & 1:
            values.append(None)
            continue
        base = kinds[i] & 0xFF
        size = integer_bytes(base)
        if size:
            if end - at < size:
                return None
            number = 0
            for j in range(size - 1, -1, -1):
                number = number << 8 | at[j]
            negative = not kinds[i] & 0x8000 and at[size - 1] & 0x80
            if negative:
                if size < 8:
                    number |= ~<uint64_t>0 << (8 * size)
                number = 0 - number
            values.append(decimal(number, negative))
            at += size
        elif base == 7 or 10 <= base <= 12:  # TIMESTAMP, DATE, TIME, DATETIME
            if at >= end or end - at < 1 + at[0]:
                return None
            at += 1 + at[0]
            values.append(None)
        elif base == 0 or base == 15 or base == 16 or base >= 0xF6:  # text and bytes of any length
            if at >= end or at[0] >= 0xFD:
                return None
            size = at[0]
            at += 1
            if size == 0xFC:
                if end - at < 2:
                    return None
                size = at[0] | at[1] << 8
                at += 2
            elif size == 0xFB:
                return None
            if end - at < size:
                return None
            values.append(PyBytes_FromStringAndSize(<const char *>at, size))
            at += size
        else:
            return None
    return values, types
