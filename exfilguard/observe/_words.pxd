from libc.stdint cimport uint8_t, uint32_t


cdef class Words:
    cdef uint8_t _kinds[256]  # of bytes: 0 for those that are in no word
    cdef Py_ssize_t _width
    cdef uint32_t *_next  # state and kind to state
    cdef uint32_t *_ends  # of a state in which words end: where in `_sizes` theirs are
    cdef uint32_t *_sizes
    cdef list _words  # which end in each state
    cdef readonly Py_ssize_t least  # bytes of the shortest word; 0: there is none
    cdef bint any(self, const uint8_t *s, Py_ssize_t n) noexcept nogil
    cdef bint within(self, const uint8_t *s, Py_ssize_t n) noexcept nogil
    cdef _free(self)
