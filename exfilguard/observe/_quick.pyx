# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The common case of a session, in C: one request, and its whole answer in one read.

Strategy: a request that is alone (a Query, or Bind, Describe, Execute and Sync of a statement that was prepared before, or is by a Parse
in front of them) is kept until the server's next bytes are here. When these are its whole answer and nothing else:

    [ParseComplete] [BindComplete] [RowDescription | NoData] DataRow* CommandComplete ReadyForQuery

then both are read here, the event is written, and the session stands where the general path (session.py and what it is made of)
would have left it. In every other case the general path is given the same bytes in the order in which they came. So it is the
definition of all this, and tests/observe/test_quick.py compares the two. A signed context in the comment that a text ends with is
accepted when the text is read; for the general path, which may come to read it too, it is then the retry that passes.

Rules:
- Nothing but who is charged is changed before the whole answer was seen to be of this form.
- Left to the general path: settings that concern who is charged, contexts that do not hold, an answer in several pieces, errors, notices, COPY, more than one
  request on its way, a portal that is read in portions, rows that need a closer look, and more than the allowance (`enforce`).
"""

from cpython.bytearray cimport PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject_Size
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcmp

from ..errors import ProtocolError
from ..wire.postgres.messages import parameter_types, row_description
from .completed import SELECTS, kept, plain_names
from .effects import may_matter
from .pending import COLUMN_BYTES
from .session import MAX_STATEMENTS
from .templates import MAX_PREPARED

from ._asking cimport ANY_NUMBER, COLUMN, ESTIMATE, GENERAL, MOST_DESCRIBED, MOST_HELD, SKIP, Asking, Shape
from ._digests cimport Hmac
from ._rows cimport be32, canonical, count_column, count_estimated
from ._values cimport MOST_TEXT, Counted


cdef enum:
    MOST_PARSED = 4000  # bytes of a Parse that are remembered


cdef class PostgresAnswer(Answer):
    """With what the general path made of the columns."""


cdef class QuickObserver(SessionObserver):
    """A SessionObserver that answers, event for event, as one does."""

    # -- the request --------------------------------------------------------------------------------------------------

    cdef bint at_rest(self) except *:
        """Nothing is on its way, nothing is left to tell, and who is charged does not hang on what comes."""
        return not (
            self._lost or self.desynced or self._charged or self.always or not self.logged_in or self._skip_to_sync
            or self._copied_in or self.packed or self.large or self.refusals or self._rows or self._estimated
            or self.delivered or self._bytes or self.outlet is None or self.digester.compiled is None
            or self._patients.size or self._frontend._skip or self._backend._skip
            or PyByteArray_GET_SIZE(self._frontend._carry) or PyByteArray_GET_SIZE(self._backend._carry)
            or PyObject_Size(self._pending) or self._copy or PyObject_Size(self._made)
            or (self._identity._wants_settings and self._identity.sticky)
        )

    cdef bint ask(self, bytes data, long long now_ms) except *:
        """True: these bytes are one request that is kept until the server's next bytes are here."""
        cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        if n < 6 or n > MOST_HELD or not (at[0] == 81 or at[0] == 66 or at[0] == 80) or not self.at_rest():
            return False
        self.held_ms = now_ms
        if self.asking is None:
            self.asking = Asking(self._templates, self.digester.compiled)
        self.asking.begin()
        self.statement = self.parsed = self.script = None
        if at[0] == 81:  # Query
            if be32(at + 1) != <uint32_t>(n - 1) or not self.ask_text(at + 5, n - 5):
                return False
        elif at[0] == 80:
            if not self.ask_parsed(at, at + n):
                return False
        elif not self.ask_prepared(at, at + n):
            return False
        self.held = data
        return True

    cdef bint ask_text(self, const uint8_t *sql, Py_ssize_t n) except *:
        while n and not sql[n - 1]:
            n -= 1
        if not n or not self.asking.text(sql, n, False):
            return False
        if self.asking.end == n or not self._identity.wants_comments:
            return True
        self.script = self._held_for(PyBytes_FromStringAndSize(<char *>sql, n), self.asking.end, self.held_ms)
        return self.script is not None

    cdef bint ask_parsed(self, const uint8_t *at, const uint8_t *stop) except *:
        """Parse, and the others behind it."""
        cdef uint32_t length = be32(at + 1)
        cdef const uint8_t *end
        cdef const uint8_t *zero
        cdef const uint8_t *sql
        cdef Py_ssize_t n, own
        cdef bytes body
        if length < 8 or <Py_ssize_t>length > stop - at - 6:
            return False
        end = at + 1 + length
        zero = <const uint8_t *>memchr(at + 5, 0, end - at - 5)
        if zero == NULL or end - zero > MOST_PARSED or end[0] != 66:
            return False
        self.parsed_name = PyBytes_FromStringAndSize(<char *>at + 5, zero - at - 5)
        if self.parsed_name not in self._statements and len(self._statements) >= MAX_STATEMENTS:
            return False
        sql = zero + 1
        body = PyBytes_FromStringAndSize(<char *>sql, end - sql)
        zero = <const uint8_t *>memchr(sql, 0, end - sql)
        if zero == NULL:
            return False
        own = n = zero - sql
        if self._identity.wants_comments:
            own = self.asking.comment(sql, n)
            if own < 0:
                return False
            if own < n:
                self.signed = body[:n]
                body = body[:own] + body[n:]
        self.parsed = self.text_prepared(body)
        if self.parsed is None or not self.ask_prepared(end, stop):
            return False
        if own < n:
            self.script = self._held_for(self.signed, own, self.held_ms)
            return self.script is not None
        return True

    cdef Statement text_prepared(self, bytes body):
        """What all statements have in common that are made by a Parse with this body (but for their name), in any session; None: for the
        general path."""
        cdef Statement statement = <Statement>self._templates.prepared.get(body)
        cdef Py_ssize_t end = body.find(0)
        if statement is None:
            statement = Statement(body[:end] if end > 0 else b"")
            if may_matter(statement.sql) or b"*/" in statement.sql[-16:]:
                statement.sql = b""  # whom it is charged to is another question in each session
            elif statement.sql:
                if not self._recognise(statement, False, False) and self._asked is not None:
                    statement.plan = self._asked.plan(statement.sql)
                if statement.plan is not None:
                    statement.types = parameter_types(body[end + 1 :])
                if b"$" not in statement.sql and (statement.template is None or statement.literals):
                    return None  # a text for this once
            if len(self._templates.prepared) >= MAX_PREPARED:
                self._templates.prepared.clear()
            self._templates.prepared[body] = statement
        return statement if statement.sql else None

    cdef bint ask_prepared(self, const uint8_t *at, const uint8_t *stop) except *:
        """Bind of the unnamed portal, perhaps Describe, Execute of all its rows, Sync."""
        cdef const uint8_t *end
        cdef const uint8_t *name
        cdef const uint8_t *formats
        cdef const uint8_t *values
        cdef const uint8_t *value
        cdef const uint8_t *zero
        cdef uint8_t room[MOST_TEXT]
        cdef uint32_t length, size, type_oid
        cdef int parameters, count, i, j, which, literal = 0, format_
        cdef Py_ssize_t n
        cdef Statement statement
        cdef Shape shape
        cdef Asking asking = self.asking
        length = be32(at + 1)
        if length < 10 or <Py_ssize_t>length > stop - at - 1 or at[5]:
            return False
        end = at + 1 + length
        name = at + 6
        zero = <const uint8_t *>memchr(name, 0, end - name)
        if zero == NULL:
            return False
        statement = self.parsed
        if statement is None:
            statement = <Statement>self._statements.get(PyBytes_FromStringAndSize(<char *>name, zero - name))
        elif PyBytes_GET_SIZE(self.parsed_name) != zero - name or memcmp(PyBytes_AS_STRING(self.parsed_name), name, zero - name):
            return False
        if statement is None or statement.script is not None or not statement.sql:
            return False
        if b"" not in self._portals and len(self._portals) >= MAX_STATEMENTS:
            return False
        shape = <Shape>statement.answers
        if shape is None:
            statement.answers = shape = Shape()
            shape.take(statement.plan)
        if not shape.usable:
            return False
        asking.shape = shape
        at = zero + 1
        if end - at < 2:
            return False
        count = <int>at[0] << 8 | at[1]
        formats = at + 2
        at = formats + 2 * count
        if end - at < 2:
            return False
        parameters = <int>at[0] << 8 | at[1]
        values = at = at + 2
        for i in range(parameters):
            if end - at < 4:
                return False
            size = be32(at)
            at += 4
            if size != <uint32_t>0xFFFFFFFF:
                if size > <uint32_t>(end - at):
                    return False
                at += size
        for i in range(shape.count):
            which = shape.which[i]
            if not which:
                if not asking.literals(literal):
                    return False
                literal += 1
                continue
            if which > parameters:
                continue
            value = values
            for j in range(which - 1):
                size = be32(value)
                value += 4 + (size if size != <uint32_t>0xFFFFFFFF else 0)
            size = be32(value)
            if size == <uint32_t>0xFFFFFFFF:
                continue
            value += 4
            format_ = 0
            if count == 1:
                format_ = <int>formats[0] << 8 | formats[1]
            elif which <= count:
                format_ = <int>formats[2 * (which - 1)] << 8 | formats[2 * which - 1]
            if format_ == 0:
                if not asking.written(value, size):
                    return False
                continue
            elif format_ == 1:
                # Without a type, or as an array, it takes a closer look (asked.py).
                type_oid = <uint32_t>statement.types[which - 1] if which <= len(statement.types) else 0
                if not type_oid or size >= 20:
                    return False
            else:
                return False
            n = canonical(value, size, type_oid, True, room, &value)
            if n < 0 or not asking.value(value, n):
                return False
        # the formats of its results
        if end - at < 2:
            return False
        count = <int>at[0] << 8 | at[1]
        at += 2
        if end - at != 2 * count:
            return False
        self.format = 0
        for i in range(count):
            format_ = <int>at[2 * i] << 8 | at[2 * i + 1]
            if format_ > 1 or (i and format_ != self.format):
                return False
            self.format = format_
        if count > 1 and (statement.fields is None or len(statement.fields) != count):
            return False
        at = end
        self.described = stop - at >= 7 and at[0] == 68
        if self.described:
            if be32(at + 1) != 6 or at[5] != 80 or at[6]:
                return False
            at += 7
        # Execute of the unnamed portal without a limit, and Sync
        if stop - at != 15 or at[0] != 69 or be32(at + 1) != 9 or at[5] or be32(at + 6):
            return False
        if at[10] != 83 or be32(at + 11) != 4:
            return False
        self.statement = statement
        return True

    cdef Text written(self):
        """The text that is held, as the general path has it."""
        cdef Statement statement = Statement(self.held[5:].rstrip(b"\0"))
        statement.template = self.asking.template
        return statement

    cdef tuple held_flags(self):
        return self.asking.flags(self, self.statement)

    # -- the answer ---------------------------------------------------------------------------------------------------

    cdef bint answer(self, bytes data, long long now_ms) except *:
        """True: these bytes were the whole answer, and it was told."""
        cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef const uint8_t *stop = at + PyBytes_GET_SIZE(data)
        cdef const uint8_t *description = NULL
        cdef const uint8_t *tag
        cdef Py_ssize_t described = 0
        cdef uint32_t length
        cdef Counted counted
        cdef PostgresAnswer known
        cdef Portal portal
        cdef bytes empty = b""
        if stop - at < 17 or (stop - 6)[0] != 90 or be32(stop - 5) != 5:
            return False
        stop -= 6
        if self.parsed is not None:
            if at[0] != 49 or be32(at + 1) != 4:
                return False
            at += 5
        if self.statement is not None:
            if at[0] != 50 or be32(at + 1) != 4:
                return False
            at += 5
            if self.described and not (at[0] == 84 or at[0] == 110):
                return False
        if at[0] == 84 and (self.statement is None or self.described):
            length = be32(at + 1)
            if length < 6 or <Py_ssize_t>length > stop - at - 6:
                return False
            description = at + 5
            described = length - 4
            at += 1 + length
        elif self.statement is not None and self.described:
            if be32(at + 1) != 4 or stop - at < 10:
                return False
            at += 5
        known = self.find(description, described)
        if known is None or known.way == GENERAL:
            return False
        counted.end = at
        counted.count = counted.size = counted.further = 0
        try:
            if at[0] == 68:
                if self.statement is not None and description == NULL and known.fields is None:
                    return False  # rows that nobody described
                if known.way == SKIP:
                    while stop - counted.end >= 7 and counted.end[0] == 68:
                        length = be32(counted.end + 1)
                        if length < 4 or <Py_ssize_t>length > stop - counted.end - 1:
                            return False
                        counted.end += 1 + length
                        counted.size += length - 4
                        counted.count += 1
                elif known.way == COLUMN:
                    count_column(
                        at, stop, 68, ANY_NUMBER, known.position, known.type_oid, known.binary, <Hmac>self.digester.compiled,
                        self._patients, &self.asking.asked[0] if self.asking.count else NULL, &counted,
                    )
                else:
                    count_estimated(
                        at, stop, 68, ANY_NUMBER, known.columns, known.expressions, <Hmac>self.digester.compiled,
                        self._patients, &counted,
                    )
            at = counted.end
            # CommandComplete, with a tag that tells of no hidden rows
            if stop - at < 7 or at[0] != 67 or be32(at + 1) != <uint32_t>(stop - at - 1) or (stop - 1)[0]:
                return False
            if counted.size > self._large_value_bytes:
                return False
            if not counted.count:
                tag = at + 5
                if not ((stop - 2)[0] == 48 and (stop - 3)[0] == 32) and (
                    _starts(tag, stop, b"PREPARE", 7) or _starts(tag, stop, b"DECLARE", 7) or _starts(tag, stop, b"CREATE", 6)
                    or _starts(tag, stop, b"DO", 2) or _starts(tag, stop, b"CALL", 4)
                    or _starts(tag, stop, b"CLOSE", 5) or _starts(tag, stop, b"SELECT", 6) or _starts(tag, stop, b"COPY", 4)
                    or (known.selects and _starts(tag, stop, b"INSERT", 6))
                ):
                    return False
            if not self.asking.tell(self, known, now_ms, counted.count, counted.size, counted.further):
                return False
        finally:
            self._patients.clear()
        self.in_transaction = stop[5] != 73
        if self.parsed is not None:
            self.statement = self._statements[self.parsed_name] = self.parsed.again()
            if self.script is not None:
                self.statement.sql, self.statement.script = self.signed, self.script
            if self.parsed_name:
                self.keep(self.statement.weight())
        if self.statement is not None:
            portal = known.portal
            if portal.statement is not self.statement:  # of another statement with this text, perhaps another session's
                portal = Portal(self.statement, portal.formats)
                portal.fields = known.portal.fields
                portal.script = self.script
            if self._portals.get(empty) is not portal:
                self._portals[empty] = portal
        if description != NULL and self.statement is not None and self.statement.fields is None:
            self.statement.fields = known.portal.fields
            self.keep(COLUMN_BYTES * len(known.portal.fields))
        if self._charged:
            self._charge(None)
        self.held = None
        self.portion_rows = counted.count
        self.shortcuts += 1
        return True

    cdef PostgresAnswer find(self, const uint8_t *described, Py_ssize_t n):
        """What is known of these results; `described`: NULL without a RowDescription."""
        cdef PostgresAnswer known = <PostgresAnswer>self.asking.shape.answers
        if n > MOST_DESCRIBED:
            return None
        while known is not None:
            if known.generation == (<PatientColumns>self._columns).generation and (known.described is None) == (described == NULL):
                if described != NULL:
                    if PyBytes_GET_SIZE(known.described) == n and not memcmp(PyBytes_AS_STRING(known.described), described, n):
                        break
                elif self.statement is None or (known.fields is self.statement.fields and known.format == self.format):
                    break
            known = <PostgresAnswer>known.following
        if known is None:
            known = self.learn(PyBytes_FromStringAndSize(<char *>described, n) if described != NULL else None)
        if known is not None and self.statement is not None and known.backslashes != self._backslashes:
            return None
        return known

    cdef PostgresAnswer learn(self, bytes described):
        """Ask the general path how such results are read."""
        cdef PostgresAnswer known = PostgresAnswer()
        cdef Statement statement = self.statement
        cdef Reading reading
        cdef list fields = None
        if statement is None:
            statement = <Statement>self.written()
        try:
            if described is not None:
                fields = row_description(described)
        except ProtocolError:
            return None
        known.described = described
        known.fields = self.statement.fields if self.statement is not None else None
        known.format = self.format
        known.generation = (<PatientColumns>self._columns).generation
        known.backslashes = self._backslashes
        if self.statement is not None:
            known.portal = Portal(statement, (self.format,) if self.format else ())
            if described is not None:
                known.portal.fields = fields
                known.portal.formats = self._columns.reading(fields).formats
            else:
                fields = statement.fields
        if fields:
            self._begin_columns(
                fields, None if self.statement is None else known.portal.formats or (), statement
            )
        try:
            reading = self._reading
            known.by = self.patients_by
            known.expressions = self._expressions
            known.columns = len(self._fields)
            known.way = SKIP
            if known.expressions and kept(statement.sql):
                known.way = GENERAL  # what a function has put by will be read
            elif self._packed:
                known.way = GENERAL  # each row is measured
            elif described is not None and not fields:
                known.way = GENERAL  # no columns, or a description that says so and lies
            elif self.wants_rows:
                known.way = GENERAL
                if self.wants_column >= 0:
                    known.way = COLUMN
                    known.position = self.wants_column
                    known.type_oid = <uint32_t>self._fields[self.wants_column].type_oid
                    known.binary = self._formats[self.wants_column] == 1
                elif known.by == "estimate" and self._fields:
                    known.way = ESTIMATE
        finally:
            self._forget_columns()
        known.fingerprint, known.text = self._shape(statement)
        known.names = plain_names(reading.names) if known.text and reading is not None else ()
        known.selects = SELECTS.search(statement.bare) is not None
        self.asking.learned(self, statement, known)
        return known


cdef inline bint _starts(const uint8_t *tag, const uint8_t *stop, const char *verb, Py_ssize_t n) noexcept nogil:
    """The tag's first word is this."""
    return stop - tag > n and not memcmp(tag, verb, n) and (tag[n] == 32 or not tag[n])
