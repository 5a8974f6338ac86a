cimport cython

from .columns cimport Columns
from .pending cimport Pending, Portal


cdef class Answers(Columns):
    cdef public bytes backend_key
    cdef public list _patches

    cpdef message(self, int kind, bytes body)
    @cython.locals(head=Pending)
    cdef Pending _head(self, str kinds)
    cdef _recharge(self)
    @cython.locals(head=Pending)
    cpdef _on_ready(self, bytes body)
    cpdef _on_answered(self, str kinds)
    @cython.locals(head=Pending)
    cpdef _on_description(self, bytes body)
    @cython.locals(head=Pending)
    cpdef _on_command_complete(self, bytes body)
    cdef _end_statement(self, Pending head, long long hidden_rows=*, str error=*, str tag=*)
    @cython.locals(portal=Portal)
    cdef _completed(self, Pending head, str tag)
    cdef _answer_refusal(self, Pending head)
    cdef _forget_refusal(self)
