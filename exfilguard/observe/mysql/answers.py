# cython: annotation_typing=False
"""The server's part of a MySQL session: what each packet is, and what left the database with it.

Strategy: what a packet is depends on the head of the queue of commands (commands.py) and on how far its answer has come, the
`phase`:

    FIRST     OK | ERR | LOCAL INFILE | column count        COM_QUERY, COM_STMT_EXECUTE; again after each of several results
    COLUMNS   a column definition, `left` of them
    MIDDLE    the EOF behind them, where CLIENT_DEPRECATE_EOF was not agreed on
    ROWS      rows, up to EOF or the OK that stands for it; COM_STMT_FETCH begins here
    PREPARED  the answer to COM_STMT_PREPARE; DEFS: the definitions behind it
    FIELDS    definitions up to an EOF: COM_FIELD_LIST
    AUTH      up to OK or ERR: COM_CHANGE_USER, whose identity counts from its OK on
    SINGLE    one packet: every other command

Rules:
- When replies and commands no longer match, the session is `desynced`: every packet is charged as a row and a patient of its
  principal, too many rather than too few, since packets still can be told apart.
- A row that hides its identifier (too long to be kept) counts as a patient of its own.
"""

from __future__ import annotations

import re
from typing import Any

from ...errors import ProtocolError
from ...wire.mysql import messages
from ...wire.mysql._scan import column_values, computed_bytes, row_values
from ...wire.mysql.messages import Column
from ..estimate import PATIENT_BYTES, aggregates, beside, nested, packs
from ..pending import COLUMN_BYTES
from ..statement import MAX_TEXT_CHARS
from .commands import (
    AUTH,
    BINARY,
    COLUMNS,
    DEFS,
    FIELDS,
    FIRST,
    IDLE,
    MAX_STATEMENTS,
    MIDDLE,
    PREPARED,
    REPORTED,
    ROWS,
    SINGLE,
    Commands,
    Statement,
)
from .moved import UNREAD, beyond, copies, made, moves
from .patients import Reading, canonical, subqueries
from .statement import whole_shape

try:
    from ._rows import column, estimated
except ImportError:  # no C compiler at installation
    column = estimated = None  # type: ignore[assignment]

MAX_COLUMNS = 4_096
MAX_ROWS = 10**15
"""Of one answer; more are a lie, and would not fit into the sums."""


class Answers(Commands):
    """What was answered."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._left = 0
        self._definitions: list[bytes] = []
        self._result_columns = 0
        self._announced = 0
        """Status bits of the result that is read, told before its rows (wire/mysql/messages.py, announced)."""
        self.sizes = b""
        """Of a binary result's columns (wire/mysql/_scan.py); empty for a text result."""
        self._kept = False
        """The session's variables may hold what patients' tables do."""
        self._packed: tuple[int, ...] = ()
        """Columns that may hold many patients, beside others that come from tables."""

    # -- rows -------------------------------------------------------------------------------------------------------

    def row(self, data: bytes, start: int, end: int, whole: bool) -> bool:
        if not whole and self._expressions and self._allowed_patients is not None and start >= 4:
            # Too long to be held back: `rows` will judge it by its length, which its header tells before a byte of it passes.
            length = data[start - 4] | data[start - 3] << 8 | data[start - 2] << 16
            if self._portion_new + self.portion_estimated + length // PATIENT_BYTES > self._allowed_patients:
                return False
        found, further = self._row_patients(data, start, end, whole)
        return self.admit(found, further)

    def scan(self, data: bytes, pos: int, most: int) -> tuple[int, int, int]:
        reading, key, further = self._reading, self.digester.compiled, 0
        if reading is None or self._packed:
            return pos, 0, 0
        found = self.gathering()
        if self.wants_column >= 0:
            field = reading.fields[self.wants_column]
            if key is not None and column is not None:
                kind = reading.kinds[self.wants_column]
                pos, count, size = column(data, pos, most, self.wants_column, self.sizes, kind, key, found)
            else:
                values: list[bytes | None] = []
                pos, count, size = column_values(data, pos, most, self.wants_column, self.sizes, values)
                digester, binary = self.digester, bool(self.sizes)
                found.update(
                    [digester.digest(canonical(value, field, binary)) for value in values if value is not None]
                )
        elif self.patients_by == "estimate" and reading.fields and key is not None and estimated is not None:
            fields = len(reading.fields)
            pos, count, size, further = estimated(data, pos, most, fields, self.sizes, self._expressions, key, found)
        else:
            return pos, 0, 0
        self.gathered(found, further)
        return pos, count, size

    def _row_patients(self, data: bytes, start: int, end: int, whole: bool) -> tuple[list[str], int]:
        """Digests of the row's patients, and how many more it stands for."""
        found, further = self._row_judged(data, start, end, whole)
        return found, further + (self._beside(data, start, end, whole) if self._packed else 0)

    def _beside(self, data: bytes, start: int, end: int, whole: bool) -> int:
        """How many patients more the computed columns of a row stand for, by their length."""
        reading = self._reading
        if reading is None:
            return 0
        total = end - start
        if not whole and start >= 4:
            total = data[start - 4] | data[start - 3] << 8 | data[start - 2] << 16
        size = computed_bytes(data, start, end, total, self._packed, self.sizes)
        return beside(size, known=bool(reading.positions) or reading.of_patients)

    def _row_judged(self, data: bytes, start: int, end: int, whole: bool) -> tuple[list[str], int]:
        """The same without what may be packed beside columns of tables."""
        digester = self.digester
        reading = self._reading
        if reading is None or self.patients_by == "estimate":
            last = len(reading.fields) - 1 if reading is not None else -1
            values = row_values(data, start, end, last, self.sizes) if whole and last >= 0 else None
            if values is None:
                return [digester.digest_row(data[start:end])], 0
            return self._judged(data[start:end], values)
        values = row_values(data, start, end, reading.last, self.sizes)
        if values is None:
            return self._hidden_patient(), 0
        binary = bool(self.sizes)
        found = []
        for position in reading.positions:
            value = values[position]
            if value is not None:
                found.append(digester.digest(canonical(value, reading.fields[position], binary)))
        return found, 0

    def _canonical(self, value: bytes) -> bytes:
        return canonical(value, _TEXT, False)

    def packet(self, payload: bytes) -> None:
        if self.desynced:
            return
        if not self._pending:
            # Unasked for: an error says that the server is going away. Anything else was not understood before.
            if payload[:1] != b"\xff":
                self._desync("a reply without its command")
            return
        try:
            if not payload:
                raise ProtocolError("an empty reply")
            _PHASES[self._phase](self, payload)
        except ProtocolError as error:
            self._desync(str(error))

    def _on_first(self, payload: bytes) -> None:
        first = payload[0]
        if first == messages.OK:
            found = messages.ok(payload)
            self._end_result(found.status, self._hidden(min(max(0, found.affected_rows), MAX_ROWS)))
        elif first == messages.ERR:
            self._on_error(payload)
        elif first == messages.LOCAL_INFILE:
            if len(self._pending) > 1:
                raise ProtocolError("a file was sent before it was asked for")
            self._frontend.infile = True
        else:
            count, pos = (first, 1) if first < messages.LOCAL_INFILE else messages.lenenc(payload, 0)
            if not 0 < count <= MAX_COLUMNS:
                raise ProtocolError("a result has too many columns")
            self._definitions = []
            if self.capabilities & messages.MARIADB_CLIENT_CACHE_METADATA and payload[pos : pos + 1] == b"\0":
                self._columns_complete()  # the same as when the statement was prepared or last executed
                return
            self._left = count
            self._phase = COLUMNS

    def _on_column(self, payload: bytes) -> None:
        if payload[0] == messages.ERR:
            self._on_error(payload)
            return
        self._definitions.append(payload)
        self._left -= 1
        if not self._left:
            head = self._head()
            if head.statement is None:
                head.statement = Statement(b"")
            self._describe(head.statement, self._read_columns(self._definitions))
            self._columns_complete()

    def _describe(self, statement: Statement, reading: Reading) -> None:
        if statement.reading is None and self._head().kind != messages.COM_QUERY:
            self.keep(COLUMN_BYTES * len(reading.fields))
        statement.reading = reading

    def _read_columns(self, definitions: list[bytes]) -> Reading:
        extended = bool(self.capabilities & messages.MARIADB_CLIENT_EXTENDED_METADATA)
        reading: Reading = self._columns.reading(tuple(definitions), extended)
        return reading

    def _columns_complete(self) -> None:
        if self.capabilities & messages.CLIENT_DEPRECATE_EOF:
            self._begin_rows()
        else:
            self._phase = MIDDLE

    def _on_middle(self, payload: bytes) -> None:
        if payload[0] == messages.ERR:
            self._on_error(payload)
            return
        status = self._eof_status(payload)
        self._announced = messages.announced(status)
        if status & messages.SERVER_STATUS_CURSOR_EXISTS and self._head().kind in BINARY:
            self._end_result(status)  # the rows are for COM_STMT_FETCH
        else:
            self._begin_rows()

    def _begin_rows(self) -> None:
        head = self._head()
        self._show_rows(head.statement.reading if head.statement is not None else None, head.kind in BINARY)

    def _show_rows(self, reading: Reading | None, binary: bool) -> None:
        """Rows follow: whether they are looked into depends on their columns."""
        self._phase = ROWS
        self.in_rows = True
        self._expressions = False
        self._packed = ()
        self.wants_column = -1
        self.sizes = b""
        if reading is None:
            self._reading = None
            self.patients_by = ""
            self.wants_rows = False
            return
        reading = self._columns.current(reading)
        head = self._head()
        statement = head.statement
        computed = head.kind in REPORTED and self._of_patients(statement)
        if computed and statement is not None and reading.tables:
            hidden: frozenset[str] = frozenset()
            low = statement.bare.lower()
            if b"returning" in low and copies(statement.bare):
                hidden = reading.tables  # of the table that was filled
                self._note_moved(statement)
            elif b"user_variables" in low:
                hidden = reading.tables
            elif nested(statement.bare):
                hidden = self._subqueries(statement, reading)
            if hidden:
                reading = self._columns.without(reading, hidden)
        self._reading = reading
        self.patients_by = reading.by
        computed = computed and bool(reading.computed)
        if not reading.positions and (reading.of_patients or computed):
            self.patients_by = "estimate"
            self._expressions = reading.of_packed or (computed and reading.expressions)
        elif len(reading.positions) == 1:
            self.wants_column = reading.positions[0]
        if computed and not self._expressions and (not reading.of_known or statement is None or packs(statement.bare)):
            self._packed = reading.computed
        self.wants_rows = bool(self.patients_by)
        if binary and self.wants_rows:
            self.sizes = reading.sizes

    def _of_patients(self, statement: Statement | None) -> bool:
        """True for a statement that may tell of patients, whatever its columns say: it names a table of theirs, or nobody has read it."""
        if statement is None or statement.cut or not statement.sql:
            return True
        bare = statement.bare
        return self._columns.mentioned_in(bare) or UNREAD.search(bare) is not None or self._of_others(bare)

    def _of_others(self, sql: bytes) -> bool:
        """True for a text that asks for what the session has kept of patients, or the server has said of them: variables, warnings."""
        if self._kept and _VARIABLE.search(sql) is not None:
            return True
        low = sql.lower()
        return b"user_variables" in low or (b"show" in low and (b"warnings" in low or b"errors" in low))

    def aside(self, kind: int, data: bytes, start: int, end: int, size: int, may: bool) -> int:
        body = data[start:end]
        if self.desynced or not self._pending or messages.is_progress(body):
            return 0
        head = self._head()
        if head.kind not in REPORTED or not self._discloses(body, head.statement):
            return 0
        if not may or not self.admit([self.digester.digest_row(body)], max(0, size // PATIENT_BYTES - 1)):
            return -1
        self._bytes += size
        self.portion_rows += 1  # it takes its place in the allowance, though it is no row
        if not self.patients_by:
            self.patients_by = "estimate"
        return 1

    def _discloses(self, body: bytes, statement: Statement | None) -> bool:
        """True for an error that may say something of patients: it answers a statement that names a table of theirs and quotes what
        does not stand there, or says what a variable or a routine makes it say."""
        if statement is None or not self._of_patients(statement):
            return False
        sql = statement.sql.lower()
        if b"signal" in sql or UNREAD.search(sql) or self._columns.copy_in(sql) or self._of_others(sql):
            return True
        if int.from_bytes(body[1:3], "little") in _OF_NAMES:
            return False
        return bool([q for q in _QUOTED.findall(_OF_KEY.sub(b"", body[3:])) if q.lower() not in sql])

    def _note_variables(self, statement: Statement | None) -> None:
        """A statement is over: whether it may have put something of patients into a variable."""
        if statement is None or self._kept:
            return
        if statement.cut or (b"@" in statement.bare and _VARIABLE.search(statement.bare) is not None):
            self._kept = self._of_patients(statement) or b"diagnostics" in statement.bare.lower()

    def _subqueries(self, statement: Statement, reading: Reading) -> frozenset[str]:
        """The tables of these columns that are none."""
        bare = statement.bare
        certain = bare.isascii() and b"\\" not in bare and not statement.cut
        return subqueries(self._whole_shape(statement), reading.tables, certain=certain)

    def _whole_shape(self, statement: Statement) -> str:
        """The normalised text, to its end."""
        shape: str = self._shape(statement)[1]
        return shape if len(shape) < MAX_TEXT_CHARS else whole_shape(statement.sql, self._backslashes)

    def _on_rows(self, payload: bytes) -> None:
        if payload[0] == messages.ERR:
            self._on_error(payload)
        elif self.capabilities & messages.CLIENT_DEPRECATE_EOF:
            self._end_result(self._ok_status(payload))
        else:
            self._end_result(self._eof_status(payload))

    def _eof_status(self, payload: bytes) -> int:
        """messages.eof's, without its object."""
        if len(payload) >= 5:
            return payload[3] | payload[4] << 8
        return messages.eof(payload).status

    def _ok_status(self, payload: bytes) -> int:
        """messages.ok's, without its object where both numbers before it are of one byte."""
        if len(payload) >= 5 and payload[1] < 0xFC and payload[2] < 0xFC:
            return payload[3] | payload[4] << 8
        return messages.ok(payload).status

    def _hidden(self, affected: int) -> int:
        """Rows that a statement without a result moved: INSERT .. SELECT, CREATE .. SELECT, SELECT .. INTO OUTFILE."""
        statement = self._head().statement
        if statement is None:
            return 0
        if affected and statement.cut and beyond(self._whole_shape(statement), self._head().done):
            self.patients_by = "estimate"
            self.estimate(affected)
            return affected
        kept = self._kept and _VARIABLE.search(statement.bare) is not None
        if not kept and not moves(statement.bare):
            return 0
        known = statement.moved
        if kept or known is None or known[0] != self._columns._version:
            known = statement.moved = self._note_moved(statement, kept)
        _, moved, mentioned = known
        if not moved:
            return 0
        if affected and mentioned:
            self.patients_by = "estimate"
            self.estimate(affected)
        return affected

    def _note_moved(self, statement: Statement, kept: bool = False) -> tuple[int, bool, bool]:
        """(version of what is known of the tables, True when the rows that it says are moved ones, and when they are patients').
        `kept`: it names a variable that may hold patients."""
        sql, columns = statement.bare, self._columns
        mentioned, moved = kept or columns.mentioned_in(sql), copies(sql)
        if mentioned:
            shape = self._whole_shape(statement)
            names = made(sql, shape, kept)
            moved = moved or bool([table for table in names if not columns.configured(table)])
            columns.note_copies(names, packed=kept or aggregates(sql))
        return columns._version, moved, mentioned

    def _end_result(self, status: int, hidden: int = 0) -> None:
        self._backslashes = not status & messages.SERVER_STATUS_NO_BACKSLASH_ESCAPES
        self._frontend.infile = False  # the server has read it to its end
        if self._head().kind in REPORTED:
            self.report("query", hidden)
        self._forget_rows()
        self._completed(status)
        more, self._announced = (status | self._announced) & messages.SERVER_MORE_RESULTS_EXISTS, 0
        if more:
            self._phase = FIRST
        else:
            self._done()

    def _completed(self, status: int) -> None:
        """One statement of the head ended well: what it set counts from here on."""
        head, identity = self._head(), self._identity
        if not self._kept:
            self._note_variables(head.statement)
        self.in_transaction = bool(status & messages.SERVER_STATUS_IN_TRANS)
        changed = head.script is not None
        if head.script is not None and head.kind != messages.COM_STMT_PREPARE:
            identity.completed(head.script, head.done)
        head.done += 1
        if identity._wants_settings and not status & messages.SERVER_STATUS_IN_TRANS and identity.sticky:
            identity.idle()
            changed = True
        if changed:
            self._charge(head.script)
            self._charged = True

    def _on_error(self, payload: bytes) -> None:
        if messages.is_progress(payload):
            return
        if self._head().kind in REPORTED:
            self.report("query", 0, messages.sqlstate(payload))
        self._note_variables(self._head().statement)
        self._forget_rows()
        self._announced = 0  # whatever was to follow, an error is the last
        self._frontend.infile = False
        self._identity.failed()
        self._charged = True
        self._done()

    def _forget_rows(self) -> None:
        self.delivered = 0
        self.in_rows = self.wants_rows = self._expressions = False
        self._packed = ()
        self.wants_column = -1
        self.sizes = b""
        self._reading = None
        self.patients_by = ""

    def _on_prepared(self, payload: bytes) -> None:
        if payload[0] == messages.ERR:
            self._on_error(payload)
            return
        if payload[0] != messages.OK or len(payload) < 9:
            raise ProtocolError("the answer to COM_STMT_PREPARE is malformed")
        head = self._head()
        statement_id = int.from_bytes(payload[1:5], "little")
        columns = int.from_bytes(payload[5:7], "little")
        parameters = int.from_bytes(payload[7:9], "little")
        if statement_id not in self._statements and len(self._statements) >= MAX_STATEMENTS:
            # The oldest is forgotten: its rows are still counted, only without its text.
            del self._statements[next(iter(self._statements))]
        statement = head.statement or Statement(b"")
        statement.parameters = parameters
        self._statements[statement_id] = statement
        self._last_prepared = statement
        self.keep(statement.weight())
        ends = 0 if self.capabilities & messages.CLIENT_DEPRECATE_EOF else 1
        self._result_columns = columns
        self._left = (parameters + ends if parameters else 0) + (columns + ends if columns else 0)
        self._definitions = []
        self._phase = DEFS
        if not self._left:
            self._done()

    def _on_definitions(self, payload: bytes) -> None:
        if payload[0] == messages.ERR:
            self._on_error(payload)
            return
        self._definitions.append(payload)
        self._left -= 1
        if not self._left:
            self._keep_prepared_columns()
            self._done()

    def _keep_prepared_columns(self) -> None:
        """The result's columns, behind the parameters: an execution may refer to them (MariaDB's cached metadata)."""
        statement = self._head().statement
        if statement is not None and self._result_columns:
            payloads = [payload for payload in self._definitions if payload[0] != messages.EOF]
            self._describe(statement, self._read_columns(payloads[max(0, len(payloads) - self._result_columns) :]))

    def _on_fields(self, payload: bytes) -> None:
        if payload[0] == messages.ERR:
            self._on_error(payload)
        elif payload[0] == messages.EOF:
            self._done()

    def _on_auth(self, payload: bytes) -> None:
        head = self._head()
        if payload[0] == messages.OK and head.login is not None:
            self._identify(head.login)
            self._reset()
            self.events.append(self.event("login"))
            self._authenticated()
        elif payload[0] == messages.ERR:
            self.events.append(self.event("login_failed", error=messages.sqlstate(payload)))
            self._authenticated()
        else:
            self._frontend.answers = payload != messages.FAST_AUTHENTICATION

    def _authenticated(self) -> None:
        self._done()
        self._frontend.answers = False

    def _reset(self) -> None:
        """What a session loses by COM_CHANGE_USER and COM_RESET_CONNECTION."""
        self._statements.clear()
        self._last_prepared = None
        self._kept = False

    def _on_single(self, payload: bytes) -> None:
        if messages.is_progress(payload):
            return
        head = self._head()
        if payload[0] == messages.OK:
            if head.kind == messages.COM_INIT_DB:
                self.database = head.database.decode("utf-8", "replace")
            elif head.kind == messages.COM_RESET_CONNECTION:
                self._reset()
                self._identity.reset()
                self._charged = True
        self._done()

    def _on_idle(self, payload: bytes) -> None:
        self._desync("a reply without its command")

    def _desync(self, detail: str) -> None:
        if not self.desynced:
            Commands._desync(self, detail)
            self._forget_rows()
            self.in_rows = True  # from here on every packet counts, as a patient too
            self.patients_by = "estimate"


_TEXT = Column("", "", "", "", 0xFD, 33, 0)

_QUOTED = re.compile(rb"'([^']*)'")
_OF_KEY = re.compile(rb" for key '[^']*'\Z")
_OF_NAMES = frozenset((1044, 1045, 1054, 1064, 1142, 1143, 1146, 1305, 1370))
"""Errors that quote names, or the statement itself."""
_VARIABLE = re.compile(rb"(?<![@\w$])@(?!@)")

_PHASES = {
    FIRST: Answers._on_first,
    COLUMNS: Answers._on_column,
    MIDDLE: Answers._on_middle,
    ROWS: Answers._on_rows,
    PREPARED: Answers._on_prepared,
    DEFS: Answers._on_definitions,
    FIELDS: Answers._on_fields,
    AUTH: Answers._on_auth,
    SINGLE: Answers._on_single,
    IDLE: Answers._on_idle,
}
