cdef class Reading:
    cdef public list fields
    cdef public tuple positions, names, kinds, computed
    cdef public str by
    cdef public Py_ssize_t last
    cdef public bint of_patients, of_known, of_packed, expressions
    cdef public object tables
    cdef public bytes sizes
    cdef public long version


cdef class OriginColumns:
    cdef public object _copied, _copies, _identity, _mentions, _names, _packed, _qualified, _tables, keyed
    cdef public dict _readings, _without
    cdef public long _version
