from libc.stdint cimport uint8_t, uint32_t

from ._asking cimport Answer, Asking
from .patients cimport PatientColumns, Reading
from .pending cimport Portal, Statement, Text
from .session cimport SessionObserver


cdef class PostgresAnswer(Answer):
    cdef bytes described
    cdef list fields
    cdef Reading reading
    cdef long generation
    cdef bint backslashes, binary, expressions, selects
    cdef int format
    cdef Py_ssize_t position, columns
    cdef uint32_t type_oid
    cdef Portal portal


cdef class QuickObserver(SessionObserver):
    cdef readonly long shortcuts  # answers that were told here
    cdef Asking asking
    cdef Statement statement
    cdef Statement parsed  # what `statement` is made of; None: it was prepared before
    cdef bytes parsed_name
    cdef bytes signed  # the text of `parsed`, where it ends with a comment
    cdef object script  # what the comment says that the text at hand ends with
    cdef bint described
    cdef int format
    cdef bint at_rest(self) except *
    cdef bint ask(self, bytes data, long long now_ms) except *
    cdef bint ask_text(self, const uint8_t *sql, Py_ssize_t n) except *
    cdef bint ask_parsed(self, const uint8_t *at, const uint8_t *stop) except *
    cdef Statement text_prepared(self, bytes body)
    cdef bint ask_prepared(self, const uint8_t *at, const uint8_t *stop) except *
    cdef Text written(self)
    cdef tuple held_flags(self)
    cdef bint answer(self, bytes data, long long now_ms) except *
    cdef PostgresAnswer find(self, const uint8_t *described, Py_ssize_t n)
    cdef PostgresAnswer learn(self, bytes described)
