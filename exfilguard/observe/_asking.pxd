"""For the shortcuts of both engines: _asking.pyx has the meaning."""

from libc.stdint cimport uint8_t

from ._digests cimport DigestSet, Hmac
from ._values cimport Known
from .observer cimport Observer
from .pending cimport Text
from .templates cimport Template, Templates

cdef enum:
    MOST_ASKED = 16
    MOST_HELD = 16384
    MOST_ANSWERS = 4
    MOST_DESCRIBED = 8192  # bytes of one answer's columns, as they came: wider ones are for the general path
    ANY_NUMBER = 1 << 30
    SKIP = 0  # rows are counted only
    COLUMN = 1
    ESTIMATE = 2
    GENERAL = 3  # for the general path


cdef class Answer:
    cdef int way
    cdef str fingerprint, text, by
    cdef tuple names
    cdef bytes flags
    cdef Answer following


cdef class Shape:
    cdef bint usable
    cdef int count
    cdef int which[MOST_ASKED]
    cdef list literals
    cdef Answer answers
    cdef bint classified
    cdef tuple flags  # once it is classified; None: each statement has its own
    cdef take(self, object plan)
    cdef keep(self, Answer known)


cdef class Asking:
    cdef Templates templates
    cdef Hmac key
    cdef Py_ssize_t end  # of the text, where it ends with a comment: where that begins
    cdef Shape shape
    cdef Template template
    cdef Known asked[MOST_ASKED]
    cdef int count
    cdef bytes skeleton
    cdef Template last
    cdef void begin(self)
    cdef Py_ssize_t comment(self, const uint8_t *sql, Py_ssize_t n) noexcept
    cdef bint text(self, const uint8_t *sql, Py_ssize_t n, bint escapes) except *
    cdef bint literals(self, Py_ssize_t which) except *
    cdef bint written(self, const uint8_t *value, Py_ssize_t n) noexcept
    cdef bint value(self, const uint8_t *value, Py_ssize_t n) noexcept
    cdef bytes event(
        self, Answer known, bytes text, bytes constant, long long now_ms, long long asked_ms, long long statement, long long rows,
        long long size, DigestSet patients, long long further
    )
    cdef learned(self, Observer observer, Text statement, Answer known)
    cdef tuple flags(self, Observer observer, Text statement)
    cdef bint tell(
        self, Observer observer, Answer known, long long now_ms, long long rows, long long size, long long further
    ) except *
