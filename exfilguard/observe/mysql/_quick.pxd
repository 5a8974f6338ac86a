from libc.stdint cimport uint8_t

from .._asking cimport Answer, Asking, Shape
from ...wire.mysql._parameters cimport MOST
from ..pending cimport Text
from .commands cimport Statement
from .patients cimport Reading
from .session cimport MysqlObserver


cdef class MysqlAnswer(Answer):
    cdef int kind, columns
    cdef bytes described
    cdef Reading reading
    cdef long version
    cdef bint backslashes, expressions
    cdef Py_ssize_t position, fields
    cdef int column_kind
    cdef bytes sizes


cdef class Execution(Shape):
    cdef tuple types
    cdef int kinds[MOST]


cdef class QuickMysqlObserver(MysqlObserver):
    cdef readonly long shortcuts  # answers that were told here
    cdef Asking asking
    cdef Statement statement
    cdef tuple types  # that its execution brought; None: those of the last one
    cdef bint between_commands(self) noexcept
    cdef bint at_rest(self) except *
    cdef bint ask(self, bytes data, long long now_ms) except *
    cdef bint ask_execution(self, const uint8_t *body, Py_ssize_t n) except *
    cdef Execution execution(self, Statement statement)
    cdef Text written(self)
    cdef tuple held_flags(self)
    cdef bint answer(self, bytes data, long long now_ms) except *
    cdef MysqlAnswer find(self, int kind, int columns, const uint8_t *at, const uint8_t *stop)
    cdef MysqlAnswer learn(self, int kind, int columns, const uint8_t *at, const uint8_t *stop)
