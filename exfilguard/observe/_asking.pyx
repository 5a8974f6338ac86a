# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What the shortcuts of both engines (_quick.pyx, mysql/_quick.pyx) have in common: a statement's shape, the patients a request asks
for, what is known of a statement's results, and the event that tells of them. The packets are theirs.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from .outlet import flags_part, text_part

from ..events._encode cimport MOST_FIXED, write_query
from ._digests cimport write_hex
from ._hot cimport MOST_LITERALS, MOST_SKELETON, Literal, take_literals
from ._rows cimport canonical
from ._values cimport MOST_TEXT

cdef enum:
    UUID = 2950
    TEXT = 25
    ON_STACK = 4096


cdef class Answer:
    """What is known of a statement's results, for one description of their columns: `way`: how its rows are counted."""


cdef class Shape:
    """What is known of a statement (or of all texts of a template): which patients it asks for, how its results are read.

    `which`: literals of the text, negative numbers by their complement, or parameters from 1; 0: the next of `literals`."""

    cdef take(self, object plan):
        """A prepared statement's plan (asked.Plan), or None."""
        self.usable = True
        self.literals = []
        if plan is None:
            return
        self.usable = not plan.guarded and len(plan.values) <= MOST_ASKED
        if not self.usable:
            return
        for value in plan.values:
            if isinstance(value, bytes):
                self.which[self.count] = 0
                self.literals.append(value)
            else:
                self.which[self.count] = <int>value if 0 < value < ANY_NUMBER else ANY_NUMBER
            self.count += 1

    cdef keep(self, Answer known):
        """One answer more, in front; the oldest is forgotten."""
        cdef Answer last = self.answers
        cdef int kept = 1
        known.following = last
        self.answers = known
        while last is not None:
            kept += 1
            if kept >= MOST_ANSWERS:
                last.following = None
            last = last.following


cdef Shape _shape_of_template(Template template):
    cdef Shape shape = Shape()
    shape.usable = len(template.asked) <= MOST_ASKED
    if shape.usable:
        for sign, which in template.asked:
            shape.which[shape.count] = ~<int>which if sign else <int>which
            shape.count += 1
    return shape


cdef inline bint is_uuid(const uint8_t *s, Py_ssize_t n) noexcept nogil:
    """asked._UUID."""
    cdef Py_ssize_t i
    cdef uint8_t c
    if n != 36:
        return False
    for i in range(36):
        c = s[i]
        if i == 8 or i == 13 or i == 18 or i == 23:
            if c != 45:
                return False
        elif not (48 <= c <= 57 or 65 <= c <= 70 or 97 <= c <= 102):
            return False
    return True


cdef class Asking:
    """The request at hand. `template`: of a text; None: it is an execution."""

    def __init__(self, Templates templates not None, Hmac key not None):
        self.templates = templates
        self.key = key

    cdef void begin(self):
        self.count = 0
        self.template = None
        self.shape = None

    cdef bint text(self, const uint8_t *sql, Py_ssize_t n, bint escapes) except *:
        """False: a text for the general path. `escapes`: a backslash escapes in its strings."""
        cdef uint8_t out[MOST_SKELETON]
        cdef Literal literals[MOST_LITERALS]
        cdef Literal *literal
        cdef uint8_t value[MOST_TEXT]
        cdef int count = 0, i, which
        cdef Py_ssize_t size, length
        cdef bytes key
        cdef object found
        cdef Shape shape
        size = take_literals(sql, n, self.templates.mysql, escapes, self.templates.words, self.templates.doubted, out, literals, &count, &self.end)
        if size < 0:
            return False
        if (
            self.skeleton is None or PyBytes_GET_SIZE(self.skeleton) != size
            or memcmp(PyBytes_AS_STRING(self.skeleton), out, size)
        ):
            key = PyBytes_FromStringAndSize(<char *>out, size)
            found = self.templates._known.get(key)
            if found is None:
                return False
            self.skeleton, self.last = key, <Template>found
        if not self.last.usable:
            return False
        if self.last.answers is None:
            self.last.answers = _shape_of_template(self.last)
        shape = <Shape>self.last.answers
        if not shape.usable:
            return False
        for i in range(shape.count):
            which = shape.which[i] if shape.which[i] >= 0 else ~shape.which[i]
            literal = &literals[which]
            length = literal.end - literal.start
            if literal.quoted:
                if not literal.plain or not self.written(sql + literal.start, length):
                    return False
            elif shape.which[i] >= 0:
                if not self.value(sql + literal.start, length):
                    return False
            else:
                if length + 1 > MOST_TEXT:
                    return False
                value[0] = 45
                memcpy(value + 1, sql + literal.start, length)
                if not self.value(value, length + 1):
                    return False
        self.template, self.shape = self.last, shape
        return True

    cdef Py_ssize_t comment(self, const uint8_t *sql, Py_ssize_t n) noexcept:
        """Where the comment begins that a text of PostgreSQL's ends with; `n`: it ends with none; -1: a text for the general path."""
        cdef uint8_t out[MOST_SKELETON]
        cdef Literal literals[MOST_LITERALS]
        cdef int count = 0
        cdef Py_ssize_t i, end
        for i in range(n - 2, max(n - 16, -1), -1):
            if sql[i] == 42 and sql[i + 1] == 47:
                if take_literals(sql, n, False, False, self.templates.words, self.templates.doubted, out, literals, &count, &end) < 0:
                    return -1
                return end
        return n

    cdef bint literals(self, Py_ssize_t which) except *:
        """A literal of a prepared statement's text."""
        cdef bytes known = <bytes>self.shape.literals[which]
        return self.value(<const uint8_t *>PyBytes_AS_STRING(known), PyBytes_GET_SIZE(known))

    cdef bint written(self, const uint8_t *value, Py_ssize_t n) noexcept:
        """A parameter as text (asked._elements); False where it takes a closer look: an array."""
        cdef uint8_t room[MOST_TEXT]
        if n and value[0] == 123:
            return False
        n = canonical(value, n, UUID if is_uuid(value, n) else TEXT, False, room, &value)
        return n >= 0 and self.value(value, n)

    cdef bint value(self, const uint8_t *value, Py_ssize_t n) noexcept:
        """One patient more that is asked for, each once; False where there are too many, or it is too long."""
        cdef int i
        cdef Known *known
        if n > MOST_TEXT:
            return False
        for i in range(self.count):
            if self.asked[i].size == n and not memcmp(self.asked[i].value, value, n):
                return True
        if self.count == MOST_ASKED:
            return False
        known = &self.asked[self.count]
        memcpy(known.value, value, n)
        known.size = n
        known.digest = self.key.compute(value, n)
        self.count += 1
        return True

    cdef bytes event(
        self, Answer known, bytes text, bytes constant, long long now_ms, long long asked_ms, long long statement, long long rows,
        long long size, DigestSet patients, long long further
    ):
        """The encoded event of a request that was answered so. `text`: outlet.text_part, or nothing; `constant`: codec.encode_fields."""
        cdef char on_stack[ON_STACK]
        cdef char *room = on_stack
        cdef char *told
        cdef char *at
        cdef char *end
        cdef const char *shape
        cdef const char *by
        cdef Py_ssize_t shape_bytes, by_bytes, told_bytes, patients_bytes, most
        cdef int i
        shape = PyUnicode_AsUTF8AndSize(known.fingerprint, &shape_bytes)
        by = PyUnicode_AsUTF8AndSize(known.by, &by_bytes)
        most = (
            2 * (PyBytes_GET_SIZE(text) + PyBytes_GET_SIZE(known.flags) + 19 * self.count + 20 + 19 * patients.size)
            + PyBytes_GET_SIZE(constant) + MOST_FIXED
        )
        if most > ON_STACK:
            room = <char *>malloc(most)
            if room == NULL:
                raise MemoryError
        try:
            at = patients.write_json(room)
            patients_bytes = at - room
            told = at
            memcpy(at, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
            at += PyBytes_GET_SIZE(text)
            memcpy(at, PyBytes_AS_STRING(known.flags), PyBytes_GET_SIZE(known.flags))
            at += PyBytes_GET_SIZE(known.flags)
            if self.count:
                memcpy(at, b',"asked":[', 10)
                at += 10
                for i in range(self.count):
                    if i:
                        at[0] = 44
                        at += 1
                    at[0] = 34
                    write_hex(at + 1, self.asked[i].digest)
                    at[17] = 34
                    at += 18
                at[0] = 93
                at += 1
            told_bytes = at - told
            end = write_query(
                at, now_ms, True, PyBytes_AS_STRING(constant), PyBytes_GET_SIZE(constant), statement, shape, shape_bytes,
                told, told_bytes, rows, 0, size, room, patients_bytes, further, by, by_bytes,
                max(0, now_ms - asked_ms) * 1000, b"", 0,
            )
            return PyBytes_FromStringAndSize(at, end - at)
        finally:
            if room != on_stack:
                free(room)

    cdef learned(self, Observer observer, Text statement, Answer known):
        """Keep what the general path made of this statement's results."""
        cdef bytes text = statement.sql if statement.template is None else statement.template.example
        flags = observer._classifier.flags(known.fingerprint, text, observer._columns.mentioned_in)
        if not observer._classifier.lasting(known.fingerprint):
            known.way = GENERAL
        known.flags = flags_part(flags) if flags else b""
        self.shape.keep(known)

    cdef tuple flags(self, Observer observer, Text statement):
        """Of the request at hand, an execution of `statement` or, without one, the text that is held; None where another of its shape
        may have others. Asked once for each shape."""
        cdef str fingerprint
        cdef bytes text
        cdef tuple flags
        if self.shape.classified:
            return self.shape.flags
        if statement is None:
            statement = observer.written()
        fingerprint, _ = observer._shape(statement)
        text = statement.sql if statement.template is None else statement.template.example
        flags = observer._classifier.flags(fingerprint, text, observer._columns.mentioned_in)
        self.shape.flags = flags if observer._classifier.lasting(fingerprint) else None
        self.shape.classified = True
        return self.shape.flags

    cdef bint tell(
        self, Observer observer, Answer known, long long now_ms, long long rows, long long size, long long further
    ) except *:
        """Write the event of the request that the observer holds. False, and nothing done, where it is more than may pass."""
        cdef bytes text = b"", payload
        if rows > observer.most_rows or observer._patients.size + further > observer.most_patients:
            return False
        if observer._keeps_portion:
            observer.portion_patients.update(observer._patients)
            observer.portion_estimated = further
        observer.now = now_ms
        if known.text and not observer.outlet.told(known.fingerprint, known.names):
            text = text_part(known.text, known.names)
        payload = self.event(
            known, text, observer._constant_now(), now_ms, observer.held_ms, observer.ordinal + 1, rows, size, observer._patients,
            further,
        )
        observer.ordinal += 1
        observer._reported_ms = now_ms
        observer.outlet.put(observer.principal, now_ms, payload, rows, size, observer._patients.size + further, True)
        return True
