# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The common case of a MySQL session, in C: one command, and its whole answer in one read.

Strategy: a COM_QUERY or COM_STMT_EXECUTE that is alone is kept until the server's next bytes are here. When these are its whole
answer and nothing else:

    OK | columns definition* [EOF] row* (EOF | OK)

then both are read here, the event is written, and the session stands where the general path (session.py and what it is made of)
would have left it. In every other case the general path is given the same bytes in the order in which they came. So it is the
definition of all this, and tests/observe/test_mysql_quick.py compares the two. A signed context in the comment that a text ends with is
accepted when the text is read; for the general path, which may come to read it too, it is then the retry that passes.

Rules:
- Nothing but who is charged is changed before the whole answer was seen to be of this form.
- Left to the general path: settings that concern who is charged, contexts that do not hold, an answer in several pieces, errors, several results, a file that the
  server asks for, cursors, compression, rows that were moved or need a closer look, parameters that were sent ahead, and more than
  the allowance (`enforce`).
"""

from cpython.bytearray cimport PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject_Size
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from ...errors import ProtocolError
from ..completed import plain_names
from ..templates import MAX_PREPARED
from .commands import IDLE
from .moved import moves

from ...wire.mysql._parameters cimport MOST, Cell, take_values
from .._asking cimport ANY_NUMBER, COLUMN, ESTIMATE, GENERAL, MOST_DESCRIBED, MOST_HELD, SKIP, Asking
from .._digests cimport Hmac
from .._values cimport Counted, Known
from ._rows cimport count_column, count_estimated
from .commands cimport Command
from .patients cimport OriginColumns

cdef enum:
    QUERY = 0x03
    EXECUTE = 0x17
    LAST_PREPARED = 0xFFFFFFFF
    PARAMETER_COUNT_AVAILABLE = 0x08
    FULL = 0xFFFFFF  # a payload that goes on in the next packet
    IN_TRANS = 0x0001
    MORE_RESULTS = 0x0008
    CURSOR = 0x0040
    NO_BACKSLASH_ESCAPES = 0x0200
    MOST_READ = 256 << 10  # backend.MAX_KEPT_BYTES: a longer row is judged by its length
    MOST_PREPARED = 4000  # bytes of a text that is remembered

cdef enum:
    NOTHING = 0  # an OK
    DESCRIBED = 1
    CACHED = 2  # MariaDB: columns as they were when the statement was prepared or last executed

cdef unsigned long long DEPRECATE_EOF = 1 << 24
cdef unsigned long long QUERY_ATTRIBUTES = 1 << 27
cdef unsigned long long CACHE_METADATA = <unsigned long long>1 << 36


cdef class MysqlAnswer(Answer):
    """With what the general path made of the columns."""


cdef class Execution(Shape):
    """A prepared statement's. `kinds`: the types of the last execution, those of `types`."""


cdef inline Py_ssize_t payload(const uint8_t *at, const uint8_t *stop) noexcept nogil:
    """The length of the whole packet's payload at `at`; -1 where there is none, or an empty one, or one that goes on."""
    cdef Py_ssize_t length
    if stop - at < 5:
        return -1
    length = at[0] | at[1] << 8 | at[2] << 16
    return -1 if not length or length == FULL or length > stop - at - 4 else length


cdef inline int number_bytes(uint8_t first) noexcept nogil:
    """Of a length-encoded integer; 0: it is none."""
    if first < 0xFB:
        return 1
    return 3 if first == 0xFC else (4 if first == 0xFD else (9 if first == 0xFE else 0))


cdef inline int ok_status(const uint8_t *at, Py_ssize_t n) noexcept nogil:
    """Of an OK packet of `n` bytes: behind two numbers. -1: for the general path."""
    cdef const uint8_t *stop = at + n
    cdef int size, i
    at += 1
    for i in range(2):
        if at >= stop:
            return -1
        size = number_bytes(at[0])
        if not size or size > stop - at:
            return -1
        at += size
    return -1 if stop - at < 2 else at[0] | at[1] << 8


cdef class QuickMysqlObserver(MysqlObserver):
    """A MysqlObserver that answers, event for event, as one does."""

    cpdef bint passes_first(self, bytes data) except *:
        cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        if (
            n > 5 and (at[4] == QUERY or at[4] == EXECUTE) and not at[3] and payload(at, at + n) == n - 4
            and self._inflate_client is None and self.between_commands()
        ):
            return True
        return MysqlObserver.passes_first(self, data)

    cdef bint between_commands(self) noexcept:
        """client_at_boundary."""
        return not (
            self._frontend._skip or self._frontend._continued or self._frontend.infile
            or PyByteArray_GET_SIZE(self._frontend._carry)
        )

    # -- the command --------------------------------------------------------------------------------------------------

    cdef bint at_rest(self) except *:
        """Nothing is on its way, nothing is left to tell, and who is charged does not hang on what comes."""
        return not (
            self._lost or self.desynced or self._charged or self.always or not self.logged_in or self.outlet is None
            or self._inflate_client is not None or self.refusals or self._rows or self._estimated or self._bytes
            or self.delivered or self.packed or self.large or self.in_rows or self._patients.size
            or not self.between_commands() or self._backend._skip or self._backend._continued
            or PyByteArray_GET_SIZE(self._backend._carry) or PyObject_Size(self._pending)
            or (self._identity._wants_settings and self._identity.sticky)
        )

    cdef bint ask(self, bytes data, long long now_ms) except *:
        """True: these bytes are one command that is kept until the server's next bytes are here."""
        cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        if n < 6 or n > MOST_HELD or not (at[4] == QUERY or at[4] == EXECUTE) or at[3] or payload(at, at + n) != n - 4:
            return False
        if not self.at_rest():
            return False
        if self.asking is None:
            if self.digester.compiled is None:
                return False
            self.asking = Asking(self._templates, self.digester.compiled)
        self.asking.begin()
        self.statement = None
        self.types = None
        if at[4] == EXECUTE:
            if not self.ask_execution(at + 5, n - 5):
                return False
        else:
            at += 5
            n -= 5
            if self.capabilities & QUERY_ATTRIBUTES:  # none of them, one set of none
                if n < 2 or at[0] or at[1] != 1:
                    return False
                at += 2
                n -= 2
            if not n or not self.asking.text(at, n, self._backslashes):
                return False
            if self.asking.end < n and self._identity.wants_comments:
                if self._held_for(PyBytes_FromStringAndSize(<const char *>at, n), self.asking.end, now_ms) is None:
                    return False
        self.held = data
        self.held_ms = now_ms
        return True

    cdef bint ask_execution(self, const uint8_t *body, Py_ssize_t n) except *:
        cdef int kinds[MOST]
        cdef Cell cells[MOST]
        cdef Asking asking = self.asking
        cdef Statement statement
        cdef Execution shape
        cdef bint known, attributes = (self.capabilities & QUERY_ATTRIBUTES) != 0
        cdef int i, which, literal = 0
        cdef Py_ssize_t j, count
        cdef uint32_t number
        if n < 9:
            return False
        number = <uint32_t>body[0] | <uint32_t>body[1] << 8 | <uint32_t>body[2] << 16 | <uint32_t>body[3] << 24
        if number == <uint32_t>LAST_PREPARED or body[4] & ~PARAMETER_COUNT_AVAILABLE:
            return False
        statement = <Statement>self._statements.get(number)
        if statement is None or statement.script is not None or not statement.sql:
            return False
        shape = <Execution>statement.answers
        if shape is None:
            statement.answers = shape = self.execution(statement)
        if not shape.usable:
            return False
        asking.shape = shape
        if statement.plan is not None:
            count = statement.parameters
            if statement.long_data or count > MOST:
                return False
            if count:
                known = len(statement.types) == count
                if known:
                    if shape.types is not statement.types:
                        for i in range(count):
                            shape.kinds[i] = <int>statement.types[i]
                        shape.types = statement.types
                    memcpy(kinds, shape.kinds, count * sizeof(int))
                if not take_values(body, n, count, attributes, known, kinds, cells):
                    return False
                if not known or memcmp(kinds, shape.kinds, count * sizeof(int)):
                    self.types = tuple([kinds[i] for i in range(count)])
            for i in range(shape.count):
                which = shape.which[i]
                if not which:
                    if not asking.literals(literal):
                        return False
                    literal += 1
                    continue
                if which > count or cells[which - 1].at == NULL:
                    continue
                if cells[which - 1].size == 16:  # perhaps a UUID's bytes
                    for j in range(16):
                        if cells[which - 1].at[j] & 0x80:
                            return False
                if not asking.written(cells[which - 1].at, cells[which - 1].size):
                    return False
        self.statement = statement
        return True

    cdef Execution execution(self, Statement statement):
        """What all statements of this text have in common: many are prepared for one execution."""
        cdef dict known = self._templates.prepared
        cdef Execution shape = <Execution>known.get(statement.sql)
        if shape is None:
            shape = Execution()
            shape.take(statement.plan)
            if b"@" in statement.sql:
                shape.usable = False  # a variable may hold patients, in this session
            if PyBytes_GET_SIZE(statement.sql) <= MOST_PREPARED:
                if len(known) >= MAX_PREPARED:
                    known.clear()
                known[statement.sql] = shape
        return shape

    cdef Text written(self):
        """The text that is held, as the general path has it."""
        cdef Statement statement = Statement(self.held[7 if self.capabilities & QUERY_ATTRIBUTES else 5 :])
        statement.template = self.asking.template
        return statement

    cdef tuple held_flags(self):
        return self.asking.flags(self, self.statement)

    # -- the answer ---------------------------------------------------------------------------------------------------

    cdef bint answer(self, bytes data, long long now_ms) except *:
        """True: these bytes were the whole answer, and it was told."""
        cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef const uint8_t *stop = at + PyBytes_GET_SIZE(data)
        cdef const uint8_t *sizes
        cdef Py_ssize_t length = payload(at, stop), columns
        cdef int status = 0, count, kind = DESCRIBED
        cdef const Known *asked
        cdef Hmac key = self.asking.key
        cdef Counted counted
        cdef MysqlAnswer known
        if length < 0 or stop - at > MOST_READ or at[4] > 0xFA:
            return False
        count = at[4]
        if not count:
            kind = NOTHING
            status = ok_status(at + 4, length)
            if status < 0 or at + 4 + length != stop:
                return False
        elif self.capabilities & CACHE_METADATA and length > 1 and not at[5]:
            if self.statement is None:
                return False
            kind = CACHED
        at += 4 + length
        known = self.find(kind, count, at, stop)
        if known is None or known.way == GENERAL:
            return False
        counted.end = at
        counted.count = counted.size = counted.further = 0
        try:
            if kind != NOTHING:
                if kind == DESCRIBED:
                    at += PyBytes_GET_SIZE(known.described)
                if not self.capabilities & DEPRECATE_EOF:
                    # EOF, which may announce a cursor, or what comes behind the rows
                    if payload(at, stop) != 5 or at[4] != 0xFE or (at[7] | at[8] << 8) & (CURSOR | MORE_RESULTS):
                        return False
                    at += 9
                counted.end = at
                sizes = <const uint8_t *>PyBytes_AS_STRING(known.sizes)
                columns = PyBytes_GET_SIZE(known.sizes)
                if known.way == SKIP:
                    while True:
                        length = payload(counted.end, stop)
                        if length < 0 or counted.end[4] >= 0xFE:
                            break
                        counted.end += 4 + length
                        counted.size += length
                        counted.count += 1
                elif known.way == COLUMN:
                    asked = &self.asking.asked[0] if self.asking.count else NULL
                    count_column(
                        at, stop, ANY_NUMBER, known.position, sizes, columns, known.column_kind, key, self._patients, asked, &counted
                    )
                else:
                    count_estimated(
                        at, stop, ANY_NUMBER, known.fields, sizes, columns, known.expressions, key, self._patients, &counted
                    )
                at = counted.end
                # EOF, or the OK that stands for it
                length = payload(at, stop)
                if length < 5 or length != stop - at - 4 or at[4] != 0xFE:
                    return False
                if self.capabilities & DEPRECATE_EOF and (at[5] >= 0xFC or at[6] >= 0xFC):
                    return False
                status = at[7] | at[8] << 8
            if status & MORE_RESULTS or counted.size > self._large_value_bytes:
                return False
            if not self.asking.tell(self, known, now_ms, counted.count, counted.size, counted.further):
                return False
        finally:
            self._patients.clear()
        if kind == DESCRIBED and self.statement is not None:
            self.statement.reading = known.reading
        if self.types is not None:
            self.statement.types = self.types
        self._backslashes = not status & NO_BACKSLASH_ESCAPES
        self.in_transaction = status & IN_TRANS
        self._frontend.sequence = self._backend.sequence = 0
        self._frontend._logical = 0
        if self._charged:
            self._charge(None)
        self.held = None
        self.portion_rows = counted.count
        self.shortcuts += 1
        return True

    cdef MysqlAnswer find(self, int kind, int columns, const uint8_t *at, const uint8_t *stop):
        """What is known of these results; `at`: the definitions of so many columns."""
        cdef MysqlAnswer known = <MysqlAnswer>self.asking.shape.answers
        cdef long version = (<OriginColumns>self._columns)._version
        while known is not None:
            if known.kind == kind and known.columns == columns and known.version == version:
                if kind == NOTHING:
                    break
                if kind == CACHED:
                    if known.reading is self.statement.reading:
                        break
                elif PyBytes_GET_SIZE(known.described) <= stop - at and not memcmp(
                    PyBytes_AS_STRING(known.described), at, PyBytes_GET_SIZE(known.described)
                ):
                    break
            known = <MysqlAnswer>known.following
        if known is None:
            known = self.learn(kind, columns, at, stop)
        if known is not None and self.statement is not None and known.backslashes != self._backslashes:
            return None
        return known

    cdef MysqlAnswer learn(self, int kind, int columns, const uint8_t *at, const uint8_t *stop):
        """Ask the general path how such results are read."""
        cdef MysqlAnswer known = MysqlAnswer()
        cdef Statement statement = self.statement
        cdef Reading reading = None
        cdef const uint8_t *start = at
        cdef Py_ssize_t length
        cdef list definitions
        cdef Command command
        if statement is None:
            statement = <Statement>self.written()
        if kind == CACHED:
            reading = statement.reading
        elif kind == DESCRIBED:
            definitions = []
            for _ in range(columns):
                length = payload(at, stop)
                if length < 0 or at[4] == 0xFF:
                    return None
                definitions.append(PyBytes_FromStringAndSize(<const char *>at + 4, length))
                at += 4 + length
            if at - start > MOST_DESCRIBED:
                return None
            known.described = PyBytes_FromStringAndSize(<const char *>start, at - start)
            try:
                reading = self._read_columns(definitions)
            except ProtocolError:
                return None
        known.kind = kind
        known.columns = columns
        known.backslashes = self._backslashes
        known.way = SKIP
        known.by = ""
        known.sizes = b""
        known.names = ()
        command = Command(EXECUTE if self.statement is not None else QUERY, self.held_ms)
        command.statement = statement
        self._pending.append(command)
        try:
            known.fingerprint, known.text = self._shape(statement)
            if kind == NOTHING:
                if moves(statement.bare):
                    known.way = GENERAL
            else:
                self._show_rows(reading, self.statement is not None)
                known.reading, reading = reading, self._reading
                known.by = self.patients_by
                known.sizes = self.sizes
                known.expressions = self._expressions
                if known.text and reading is not None:
                    known.names = plain_names(reading.names)
                if self._packed:
                    known.way = GENERAL  # each row is measured
                elif self.wants_rows:
                    known.way = GENERAL
                    if self.wants_column >= 0:
                        known.way = COLUMN
                        known.position = self.wants_column
                        known.column_kind = reading.kinds[self.wants_column]
                    elif known.by == "estimate" and reading.fields:
                        known.way = ESTIMATE
                        known.fields = len(reading.fields)
        finally:
            self._forget_rows()
            self._pending.clear()
            self._phase = IDLE
        known.version = (<OriginColumns>self._columns)._version
        self.asking.learned(self, statement, known)
        return known
