"""For whoever looks at an execution's values in C: _parameters.pyx has the meaning."""

from libc.stdint cimport uint8_t

cdef enum:
    MOST = 64  # parameters

cdef struct Cell:
    # One value as text, in the packet or in `room`; `at` is NULL where there is none: NULL, a date.
    const uint8_t *at
    Py_ssize_t size
    uint8_t room[24]


cdef bint take_values(
    const uint8_t *body, Py_ssize_t n, Py_ssize_t count, bint attributes, bint known, int *kinds, Cell *cells
) noexcept nogil
