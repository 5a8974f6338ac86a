from libc.stdint cimport uint8_t

from ._words cimport Words

cdef enum:
    MOST_SKELETON = 2000
    MOST_LITERALS = 50

cdef struct Literal:
    # Where a number, or what a string holds, stands in its text.
    Py_ssize_t start
    Py_ssize_t end
    bint quoted
    bint plain  # what stands there is its value


cpdef bint may_be_list(bytes cell)
cdef Py_ssize_t take_literals(
    const uint8_t *s, Py_ssize_t n, bint mysql, bint escapes, Words words, Words doubted, uint8_t *out, Literal *literals, int *count, Py_ssize_t *end
) noexcept
