from ._words cimport Words


cdef class Template:
    cdef public bytes key, example
    cdef public tuple shape, asked
    cdef public bint usable
    cdef public object answers  # _quick.pyx


cdef class Templates:
    cdef public object _asked, _shape
    cdef public bint mysql, _settings
    cdef public Words words, doubted  # plain_skeleton
    cdef public dict _known, prepared
