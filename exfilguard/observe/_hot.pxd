from libc.stdint cimport uint8_t

cdef enum:
    MOST_SKELETON = 2000
    MOST_NUMBERS = 50

cdef struct Number:
    # Where a number stands in its text.
    Py_ssize_t start
    Py_ssize_t end


cpdef bint may_be_list(bytes cell)
cdef Py_ssize_t take_numbers(const uint8_t *s, Py_ssize_t n, uint8_t *out, Number *numbers, int *count) noexcept nogil
