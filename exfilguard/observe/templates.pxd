cdef class Template:
    cdef public tuple shape, asked
    cdef public bint usable
    cdef public object answers  # _quick.pyx


cdef class Templates:
    cdef public object _asked, _shape
    cdef public tuple _foreign
    cdef public dict _known
