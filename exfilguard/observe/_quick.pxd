from libc.stdint cimport uint8_t, uint32_t

from ._rows cimport Known
from .patients cimport Reading
from .pending cimport Portal, Statement
from .session cimport SessionObserver
from .templates cimport Template

cdef enum:
    MOST_ASKED = 8
    MOST_HELD = 16384
    MOST_ANSWERS = 4


cdef class Answer:
    cdef bytes described
    cdef list fields
    cdef Reading reading
    cdef long generation
    cdef bint backslashes, binary, expressions, selects
    cdef int format, way
    cdef Py_ssize_t position, columns
    cdef uint32_t type_oid
    cdef str fingerprint, text, by
    cdef tuple names
    cdef bytes flags
    cdef Portal portal
    cdef Answer following


cdef class Shape:
    cdef bint usable
    cdef int count
    cdef int which[MOST_ASKED]
    cdef list literals
    cdef Answer answers


cdef class QuickObserver(SessionObserver):
    cdef readonly long shortcuts  # answers that were told here
    cdef bytes held
    cdef long long held_ms
    cdef Shape shape
    cdef Template template
    cdef Statement statement
    cdef bint described, eager
    cdef int format
    cdef Known asked[MOST_ASKED]
    cdef int asked_count
    cdef bytes key
    cdef Template key_template
    cpdef list client_data(self, bytes data, long long now_ms)
    cpdef list observed(self, bytes data, long long now_ms)
    cdef bint at_rest(self) except *
    cdef bint ask(self, bytes data, long long now_ms) except *
    cdef bint ask_text(self, const uint8_t *sql, Py_ssize_t n) except *
    cdef bint ask_prepared(self, const uint8_t *at, const uint8_t *stop) except *
    cdef bint asks(self, const uint8_t *value, Py_ssize_t n) noexcept
    cdef bint answer(self, bytes data, long long now_ms) except *
    cdef Answer find(self, const uint8_t *described, Py_ssize_t n)
    cdef Answer learn(self, bytes described)
    cdef tell(self, Answer known, long long now_ms, long long rows, long long size, long long further)
    cdef list settle(self)
