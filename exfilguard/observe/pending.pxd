from .templates cimport Template


cdef class Text:
    cdef public bytes sql
    cdef public list literals
    cdef public object script, plan, answers
    cdef public Template template

    cdef _begin(self, bytes sql)


cdef class Statement(Text):
    cdef public list fields
    cdef public tuple types

    cpdef Statement again(self)


cdef class Portal:
    cdef public Statement statement
    cdef public tuple formats
    cdef public list fields
    cdef public object script
    cdef public list parameters, asked


cdef class Pending:
    cdef public str kind
    cdef public long long asked_ms
    cdef public Statement statement
    cdef public Portal portal
    cdef public object script
    cdef public long done
    cdef public long long function
    cdef public str refusal
    cdef public tuple undo
