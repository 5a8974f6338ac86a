cdef class Identity:
    cdef public object _ahead, _claims, _contexts, _defaults, _findings, _rules, _tracked
    cdef public tuple _base
    cdef public str _login, _session, principal, evidence
    cdef public bint _trusted, _wants_settings, wants_comments
    cpdef charge(self, script)
    cdef tuple _whom(self, script, tuple base)
