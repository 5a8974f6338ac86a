

cdef class Digester:
    cdef public bytes _key
    cdef public dict _cache
    cdef public object compiled
    cdef public object _hex
    cpdef str digest(self, bytes value)


cdef class Reading:
    cdef public list fields
    cdef public tuple positions, formats, names, plain, computed
    cdef public str by
    cdef public Py_ssize_t last
    cdef public bint identity, expressions, known


cdef class PatientColumns:
    cdef public object _names, _mentions, _identity_tables, _known_tables, _origins, _others, copies, keyed
    cdef public dict _readings
    cdef public long generation
    cpdef Reading reading(self, list fields)
