"""One MySQL session: pairs what the server answers with what the client asked, and says what left the database.

Strategy: one queue of pending commands, mostly of length one (MariaDB's connectors pipeline). What a packet of the server is
depends on the head of the queue and on how far its answer has come, the `phase`:

    FIRST     OK | ERR | LOCAL INFILE | column count        COM_QUERY, COM_STMT_EXECUTE; again after each of several results
    COLUMNS   a column definition, `left` of them
    MIDDLE    the EOF behind them, where CLIENT_DEPRECATE_EOF was not agreed on
    ROWS      rows, up to EOF or the OK that stands for it; COM_STMT_FETCH begins here
    PREPARED  the answer to COM_STMT_PREPARE; DEFS: the definitions behind it
    FIELDS    definitions up to an EOF: COM_FIELD_LIST
    AUTH      up to OK or ERR: COM_CHANGE_USER, whose identity counts from its OK on
    SINGLE    one packet: every other command

Rules:
- When replies and commands no longer match, the session is `desynced`: every packet is charged as a row of its principal,
  too many rather than too few, since packets still can be told apart.
- A row that hides its identifier (too long to be kept) counts as a patient of its own.
- Everything that grows is bounded: pending commands, statements, kept bytes.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Container
from dataclasses import dataclass, replace

from ...errors import ProtocolError
from ...events.query import Engine, Flag, QueryEvent
from ...wire.mysql import messages
from ...wire.mysql._scan import binary_values, text_values
from ...wire.mysql.backend import MAX_KEPT_BYTES, BackendReader
from ...wire.mysql.compression import Algorithm, Envelopes, Inflater, envelope
from ...wire.mysql.frontend import FrontendReader
from ...wire.mysql.messages import Column
from ...wire.mysql.startup import Login, change_user
from ..asked import AskedColumns, Parameters, Plan
from ..classify import Classifier
from ..contexts import Contexts
from ..effects import returns_nothing
from ..estimate import PATIENT_BYTES, patients_in
from ..identity import APPLICATION, Identity, Rules, Script
from ..screening import Judge
from ..session import QUERY_CANCELED, Result
from ..tally import Setting, Tally
from .patients import OriginColumns, canonical
from .screening import Screener
from .statement import normalise

MAX_PENDING = 100_000
MAX_STATEMENTS = 20_000
MAX_COLUMNS = 4_096
MAX_CACHED_DEFINITIONS = 4_096

FIRST, COLUMNS, MIDDLE, ROWS, PREPARED, DEFS, FIELDS, AUTH, SINGLE, IDLE = range(10)

_BEGINS = {
    messages.COM_QUERY: FIRST,
    messages.COM_PROCESS_INFO: FIRST,
    messages.COM_STMT_EXECUTE: FIRST,
    messages.COM_STMT_BULK_EXECUTE: FIRST,
    messages.COM_STMT_FETCH: ROWS,
    messages.COM_STMT_PREPARE: PREPARED,
    messages.COM_FIELD_LIST: FIELDS,
    messages.COM_CHANGE_USER: AUTH,
}
_BINARY = frozenset({messages.COM_STMT_EXECUTE, messages.COM_STMT_BULK_EXECUTE, messages.COM_STMT_FETCH})
_BY_STATEMENT = _BINARY | {messages.COM_STMT_RESET}
_REPORTED = _BINARY | {messages.COM_QUERY, messages.COM_STMT_PREPARE}
"""Commands whose end is an event of kind `query`; preparing only when it fails."""


@dataclass(slots=True)
class _Statement:
    """A prepared statement, or the text of a COM_QUERY."""

    sql: bytes
    columns: list[Column] | None = None
    script: Script | None = None
    """What the text says of who is charged; None for most."""
    plan: Plan | None = None
    """What it asks for (../asked.py); None for most."""


@dataclass(slots=True)
class _Command:
    """One command that awaits its answer."""

    kind: int
    asked_ms: int
    statement: _Statement | None = None
    statement_id: int = 0
    login: Login | None = None
    database: bytes = b""
    script: Script | None = None
    done: int = 0
    """Statements of it that have completed."""
    parameters: Parameters | None = None
    """Of an execution whose statement asks for patients."""


class MysqlObserver(Tally):
    """Feed it both directions' bytes from the end of the login on; it returns QueryEvents."""

    engine: Engine = "mysql"

    def __init__(
        self,
        setting: Setting,
        session_id: str,
        source: str,
        columns: OriginColumns,
        identity: Identity | None = None,
        *,
        classifier: Classifier | None = None,
        asked: AskedColumns | None = None,
        allow_replication: bool = False,
    ) -> None:
        super().__init__(setting, session_id, source)
        self.authenticated = False
        """The server's OK to the login was seen: from here on bytes are this observer's."""
        self.desynced = False
        self.reads_first = True
        self.forbidden = ""
        """Set when the client asks for what may not pass: its bytes must not be forwarded."""
        self.capabilities = 0
        """As agreed at login."""
        self._columns = columns
        self._identity = identity or Identity(Rules(engine="mysql"), Contexts({}), session_id, source)
        self._classifier = classifier or Classifier("mysql")
        self._asked = asked
        self._screener = Screener(self)
        self.stop = False
        self._follow = False  # stop where another principal's answers begin
        self.refusals = 0
        self._charged = False  # the principal is that of a statement's own evidence
        self.in_transaction = False
        self._allow_replication = allow_replication
        self._backslashes = True
        self._lost = False  # packets can no longer be told apart
        self._frontend = FrontendReader()
        self._backend = BackendReader(self)
        self._inflate_client: Inflater | None = None
        self._inflate_server: Inflater | None = None
        self._envelopes: Envelopes | None = None
        self._pending: deque[_Command] = deque()
        self._statements: dict[int, _Statement] = {}
        self._last_prepared: _Statement | None = None
        # the answer that is flowing now
        self._phase = IDLE
        self._left = 0
        self._definitions: list[bytes] = []
        self._result_columns = 0
        self.in_rows = False
        self.wants_rows = False
        self.wants_column = -1
        self.sizes = b""
        self._fields: list[Column] = []
        self._positions: tuple[int, ...] = ()
        self._last_position = 0
        self._expressions = False

    # -- what the relay calls ---------------------------------------------------------------------------------------

    def startup(self, login: Login) -> None:
        """The client's login packet: establishes who is charged."""
        self._identify(login)

    def _identify(self, login: Login) -> None:
        self.login, self.database = login.user, login.database
        attributes = login.attributes
        self.application = attributes.get("program_name") or attributes.get("_client_name", "")
        self._identity.login(self.login, {**attributes, APPLICATION: self.application})
        self._charge(None)

    def login_succeeded(
        self, capabilities: int, compression: Algorithm, now_ms: int, envelopes: Envelopes | None = None
    ) -> list[QueryEvent]:
        """The server accepted the login. What follows is the command phase, compressed or not.

        `envelopes`: the relay opens the server's, and this observer is shown what is inside.
        """
        self.now = now_ms
        self.authenticated = self.logged_in = True
        self.capabilities = capabilities
        if compression:
            self._inflate_client = Inflater(compression)
            self._envelopes = envelopes
            self._inflate_server = Inflater(compression) if envelopes is None else None
        return [self.event("login")]

    def login_failed(self, sqlstate: str, now_ms: int) -> list[QueryEvent]:
        """The server refused the login."""
        self.now = now_ms
        return [self.event("login_failed", error=sqlstate)]

    @property
    def at_boundary(self) -> bool:
        """True when the server's bytes so far are whole packets."""
        inflate = self._inflate_server
        return self._lost or (self._backend.at_boundary and (inflate is None or inflate.at_boundary))

    @property
    def awaiting_reply(self) -> bool:
        """True while the server owes an answer."""
        return bool(self._pending)

    @property
    def only_reads(self) -> bool:
        """True when the statement whose result is flowing begins as one that changes nothing."""
        head = self._pending[0] if self._pending else None
        sql = head.statement.sql if head is not None and head.statement is not None else b""
        return _READS.match(sql) is not None

    @property
    def next_sequence(self) -> int:
        """The sequence number that the server's next packet has."""
        return (self._backend.sequence + 1) & 0xFF if self._pending else 1

    @property
    def next_envelope(self) -> int | None:
        """The same of a compressed session's envelope; None without compression."""
        inflate = self._inflate_server
        if inflate is None:
            return None
        return (inflate.sequence + 1) & 0xFF if self._pending else 1

    def client_data(self, data: bytes, now_ms: int) -> list[QueryEvent]:
        """Bytes from the client. Events are rare here: only a lost stream makes one."""
        self.events = []
        if self._lost:
            return self.events
        self.now = now_ms
        if self._inflate_client is None:
            self._read_client(data)
            return self.events
        try:
            for content, _ in self._inflate_client.feed(data):
                self._read_client(content)
            if self._envelopes is not None:
                self._envelopes.next = (self._inflate_client.sequence + 1) & 0xFF
        except ProtocolError as error:
            self._lose(str(error))
        return self.events

    def _read_client(self, data: bytes) -> None:
        try:
            self.commands(data)
        except ProtocolError as error:
            self._desync(str(error))

    def commands(self, data: bytes) -> None:
        """Bytes that are sent to the server as they are. Raises ProtocolError."""
        for command, body, whole in self._frontend.feed(data):
            self._command(command, body, whole)

    @property
    def client_at_boundary(self) -> bool:
        """True when the client's bytes so far are whole packets."""
        return self._frontend.at_boundary and not self._frontend.infile

    @property
    def holding(self) -> bool:
        """True while the beginning of a command is held back: the next bytes go to `screen`."""
        return bool(self._screener.held)

    def screen(self, data: bytes, now_ms: int, judge: Judge) -> tuple[bytes, list[QueryEvent]]:
        """Like `client_data`, while somebody must be refused: returns what to send to the server instead of `data`."""
        if self._inflate_client is not None or self._lost:
            return data, self.client_data(data, now_ms)
        self.events = []
        self.now = now_ms
        data = self._screener.release() + data
        try:
            data = self._screener.data(data, judge)
        except ProtocolError as error:
            self._desync(str(error))
        return data, self.events

    def judge(self, kind: int, body: bytes, judge: Judge) -> str:
        """Why this command must be refused; empty when it may pass."""
        if not self._pending:
            self._identity.settled()
        if kind == messages.COM_STMT_EXECUTE:
            number = int.from_bytes(body[:4], "little")
            statement = self._last_prepared if number == messages.LAST_PREPARED else self._statements.get(number)
        elif kind == messages.COM_QUERY:
            attributes = bool(self.capabilities & messages.CLIENT_QUERY_ATTRIBUTES)
            statement = self._read(messages.query_text(body, attributes), True)
        else:
            statement = self._read(body, True)
        if statement is None:
            return ""
        script = statement.script
        harmless = (script is not None and script.harmless) or returns_nothing(statement.sql)
        if kind == messages.COM_STMT_PREPARE and script is not None:
            script = replace(script, effects=())
        names = self._identity.expected(script)
        return "" if harmless else judge(names, statement.sql)

    def observed(self, data: bytes, now_ms: int) -> list[QueryEvent]:
        """`server_data` for bytes that have passed already."""
        return self.server_data(data, now_ms).events

    def server_data(
        self,
        data: bytes,
        now_ms: int,
        allowed_rows: int | None = None,
        allowed_patients: int | None = None,
        known_patients: Container[str] | None = None,
        *,
        follow: bool = False,
    ) -> Result:
        """Bytes from the server. With an allowance, reading stops where it is spent; with `follow`, where somebody else's answers
        begin (see Result)."""
        self.begin_portion(now_ms, allowed_patients, known_patients)
        if self._lost:
            # Nothing can be told apart: charged by its length, too many rather than too few.
            self.count(len(data) // PATIENT_BYTES, len(data))
            self.tick(now_ms, self.events)
            return Result(self.events, self.portion_rows, cut_at=0 if allowed_rows == 0 else None)
        cut_at = hold_at = stop_at = None
        tail = b""
        self.stop = False
        if self._inflate_server is None:
            self._follow = follow
            scan = self._backend.feed(data, allowed_rows, hold=allowed_patients is not None)
            self._follow = False
            cut_at, hold_at, stop_at = scan.cut_at, scan.hold_at, scan.stop_at
        else:
            try:
                cut_at, hold_at, tail = self._inflated(self._inflate_server, data, allowed_rows)
            except ProtocolError as error:
                self._lose(str(error))
        self.tick(now_ms, self.events)
        patients = tuple(self.portion_patients)
        return Result(self.events, self.portion_rows, patients, self.portion_estimated, cut_at, hold_at, tail, stop_at)

    def _inflated(self, inflate: Inflater, data: bytes, allowed: int | None) -> tuple[int | None, int | None, bytes]:
        """A compressed session's bytes: (cut_at, hold_at, tail) of Result. An allowance is only ever that of a session that
        is being ended: in `enforce` the relay opens the envelopes."""
        if allowed is None:
            for content, _ in inflate.feed(data):
                self._backend.feed(content)
            return None, None, b""
        partly_forwarded = not inflate.at_boundary
        forwarded = 0
        for content, behind in inflate.feed(data):
            if partly_forwarded:
                partly_forwarded = False
                self._backend.feed(content)
            else:
                scan = self._backend.feed(content, max(0, allowed - self.portion_rows))
                stop = scan.cut_at if scan.cut_at is not None else scan.hold_at
                if stop is not None:
                    # An envelope cannot be cut: what may pass of this one goes in one of the guard's own.
                    tail = envelope(inflate.sequence, content[:stop])
                    if not stop:
                        inflate.sequence -= 1
                    return forwarded, None, tail
            forwarded = behind
        if partly_forwarded or inflate.at_boundary:
            return None, None, b""
        inflate.forget()
        return None, forwarded, b""

    def close(self, now_ms: int) -> list[QueryEvent]:
        """The connection ended: what was delivered of the running statement, and the logout."""
        self.now = now_ms
        out = []
        if self.unreported:
            out.append(self.report("query", error="" if self._lost else QUERY_CANCELED))
        if self.logged_in:
            out.append(self.event("logout"))
            self.logged_in = False
        return out

    # -- commands ---------------------------------------------------------------------------------------------------

    def _command(self, kind: int, body: bytes, whole: bool) -> None:
        if kind in messages.REPLICATION and not self._allow_replication:
            self.forbidden = "replication"
            return
        if self.desynced:
            return
        command = _Command(kind, self.now)
        if kind in messages.UNANSWERED:
            if kind != messages.COM_STMT_CLOSE:
                return
            command.statement_id = int.from_bytes(body[:4], "little")
            if not self._pending:
                self._statements.pop(command.statement_id, None)
                return
        elif kind == messages.COM_QUERY:
            attributes = bool(self.capabilities & messages.CLIENT_QUERY_ATTRIBUTES)
            try:
                command.statement = self._read(messages.query_text(body, attributes), whole)
                command.script = command.statement.script
            except (ProtocolError, IndexError):
                if whole:
                    raise ProtocolError("query attributes are malformed") from None
                command.statement = _Statement(b"")  # longer than what is kept: the statement is behind it
        elif kind == messages.COM_STMT_PREPARE:
            command.statement = self._read(body, whole)
        elif kind in _BY_STATEMENT:
            command.statement_id = int.from_bytes(body[:4], "little")
        elif kind == messages.COM_CHANGE_USER:
            command.login = change_user(body, self.capabilities)
        elif kind == messages.COM_INIT_DB:
            command.database = body
        if len(self._pending) >= MAX_PENDING:
            raise ProtocolError("too many commands without an answer")
        self._pending.append(command)
        if len(self._pending) == 1:
            self._begin()

    def _begin(self) -> None:
        """A command became the head of the queue: what its answer begins with."""
        self._backend.sequence = 0  # commands have number 0, so the answer begins with 1
        if self._inflate_server is not None:
            self._inflate_server.sequence = 0
        while self._pending:
            head = self._pending[0]
            if head.kind == messages.COM_STMT_CLOSE:
                self._statements.pop(head.statement_id, None)
                self._pending.popleft()
                continue
            if head.kind in _BINARY:
                prepared = head.statement_id == messages.LAST_PREPARED
                head.statement = self._last_prepared if prepared else self._statements.get(head.statement_id)
                if head.statement is not None and head.statement.script is not None:
                    head.script = again = self._identity.again(head.statement.script, self.now)
                    if again is not head.statement.script:
                        head.statement.script = again
                        self._tell_finding(head.statement)
            if head.script is not None or self._charged:
                self._charge(head.script)
            self._phase = _BEGINS.get(head.kind, SINGLE)
            if self._phase == ROWS:
                self._show_rows(head.statement.columns if head.statement is not None else None, binary=True)
            return
        self._phase = IDLE

    def _done(self) -> None:
        """The head's answer is complete."""
        if self._pending:
            self._pending.popleft()
        self._begin()
        if self._charged and not self._pending:
            self._charge(None)

    # -- who is charged ---------------------------------------------------------------------------------------------

    def _read(self, sql: bytes, whole: bool) -> _Statement:
        """A text the client sent, and what it says of who is charged."""
        statement = _Statement(sql)
        script = self._identity.read(sql, self.now, whole=whole, backslashes=self._backslashes)
        statement.script = script
        if self._asked is not None:
            # Without its signature, which makes every text another one.
            own = sql[: script.shape_end] if script is not None and script.shape_end else sql
            statement.plan = self._asked.plan(own)
        if statement.script is not None and statement.script.finding:
            self._tell_finding(statement)
        return statement

    def _charge(self, script: Script | None) -> None:
        """From here on, what the server sends is this statement's."""
        identity = self._identity
        identity.charge(script)
        self._charged = script is not None
        if self._follow and identity.principal != self.principal:
            self.stop = True
        self.principal, self.evidence = identity.principal, identity.evidence

    def _tell_finding(self, statement: _Statement) -> None:
        """A context that does not hold: told of the login, which is charged."""
        detail = self._identity.finding(statement.script, self.now)
        if detail:
            fingerprint, text = self._shape(statement)
            found = self.event("finding", detail=detail, fingerprint=fingerprint, query=text)
            self.events.append(replace(found, principal=self.login, evidence="login"))

    # -- replies: the backend reader's sink -------------------------------------------------------------------------

    def rows(self, count: int, size: int) -> None:
        self.count(count, size)
        if self.patients_by == "estimate" and not self.wants_rows:
            self.estimate(count)
        if self._expressions and size > MAX_KEPT_BYTES:
            self.estimate(size // PATIENT_BYTES)  # longer than what `row` is shown: judged by its length

    def row(self, data: bytes, start: int, end: int, *, whole: bool) -> bool:
        found, further = self._row_patients(data, start, end, whole)
        return self.admit(found, further)

    def column(self, values: list[bytes | None]) -> None:
        digest, field, binary = self.setting.digester.digest, self._fields[self.wants_column], bool(self.sizes)
        self.found([digest(canonical(value, field, binary)) for value in values if value is not None])

    def _values(self, data: bytes, start: int, end: int, last: int) -> list[bytes | None] | None:
        if self.sizes:
            found: list[bytes | None] | None = binary_values(data, start, end, last, self.sizes)
        else:
            found = text_values(data, start, end, last)
        return found

    def _row_patients(self, data: bytes, start: int, end: int, whole: bool) -> tuple[list[str], int]:
        """Digests of the row's patients, and how many more it stands for."""
        digester = self.setting.digester
        if self.patients_by == "estimate":
            values = self._values(data, start, end, len(self._fields) - 1) if whole and self._fields else None
            if values is None:
                return [digester.digest_row(data[start:end])], 0
            identifiers, count = patients_in(values, expressions=self._expressions, keyed=self._columns.keyed)
            if identifiers:
                self.packed = self.packed or len(identifiers) > 1
                return [digester.digest(canonical(value, _TEXT, False)) for value in identifiers], 0
            return [digester.digest_row(data[start:end])], count - 1
        values = self._values(data, start, end, self._last_position)
        if values is None:
            # The identifier is beyond what is kept: nobody can say whose row it was, so it is somebody new.
            return [digester.digest(f"row {self.session_id} {self.ordinal} {self.delivered}".encode())], 0
        binary = bool(self.sizes)
        return [
            digester.digest(canonical(value, self._fields[position], binary))
            for position in self._positions
            if (value := values[position]) is not None
        ], 0

    def message(self, payload: bytes) -> None:
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
            self._end_result(found, self._hidden(found.affected_rows))
        elif first == messages.ERR:
            self._on_error(payload)
        elif first == messages.LOCAL_INFILE:
            self._frontend.infile = True
        else:
            count, pos = messages.lenenc(payload, 0)
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
            head = self._pending[0]
            columns = self._parsed(self._definitions)
            if head.statement is None:
                head.statement = _Statement(b"")
            head.statement.columns = columns
            self._columns_complete()

    def _parsed(self, definitions: list[bytes]) -> list[Column]:
        extended = bool(self.capabilities & messages.MARIADB_CLIENT_EXTENDED_METADATA)
        return [_column(payload, extended) for payload in definitions]

    def _columns_complete(self) -> None:
        if self.capabilities & messages.CLIENT_DEPRECATE_EOF:
            self._begin_rows()
        else:
            self._phase = MIDDLE

    def _on_middle(self, payload: bytes) -> None:
        if payload[0] == messages.ERR:
            self._on_error(payload)
            return
        status = messages.eof(payload).status
        if status & messages.SERVER_STATUS_CURSOR_EXISTS and self._pending[0].kind in _BINARY:
            self._end_result(messages.eof(payload))  # the rows are for COM_STMT_FETCH
        else:
            self._begin_rows()

    def _begin_rows(self) -> None:
        head = self._pending[0]
        self._show_rows(head.statement.columns if head.statement is not None else None, head.kind in _BINARY)

    def _show_rows(self, columns: list[Column] | None, binary: bool) -> None:
        """Rows follow: whether they are looked into depends on their columns."""
        self._phase = ROWS
        self.in_rows = True
        self._fields = fields = columns or []
        self._positions, self.patients_by = self._columns.find(fields)
        self._last_position = max(self._positions, default=0)
        self._expressions = False
        head = self._pending[0]
        sql = head.statement.sql if head.statement is not None else b""
        if not self._positions and fields and self._columns.estimates(fields, sql):
            self.patients_by = "estimate"
            self._expressions = not any(field.table for field in fields)
        self.wants_rows = bool(self.patients_by)
        self.wants_column = self._positions[0] if len(self._positions) == 1 else -1
        self.sizes = bytes(map(_size, fields)) if binary and self.wants_rows else b""

    def _on_rows(self, payload: bytes) -> None:
        if payload[0] == messages.ERR:
            self._on_error(payload)
        elif self.capabilities & messages.CLIENT_DEPRECATE_EOF:
            self._end_result(messages.ok(payload))
        else:
            self._end_result(messages.eof(payload))

    def _hidden(self, affected: int) -> int:
        """Rows that a statement without a result moved: INSERT .. SELECT, CREATE .. SELECT, SELECT .. INTO OUTFILE."""
        head = self._pending[0]
        sql = head.statement.sql if head.statement is not None else b""
        if not sql or _MOVES.match(sql) is None or _SELECT.search(sql) is None:
            return 0
        self._columns.note_copy(sql)
        if affected and self._columns.mentioned_in(sql):
            self.patients_by = "estimate"
            self.estimate(affected)
        return affected

    def _end_result(self, found: messages.Ok, hidden: int = 0) -> None:
        self._backslashes = not found.status & messages.SERVER_STATUS_NO_BACKSLASH_ESCAPES
        if self._pending[0].kind in _REPORTED:
            self.events.append(self.report("query", hidden_rows=hidden))
        self._forget_rows()
        self._completed(found.status)
        if found.status & messages.SERVER_MORE_RESULTS_EXISTS:
            self._phase = FIRST
        else:
            self._done()

    def _completed(self, status: int) -> None:
        """One statement of the head ended well: what it set counts from here on."""
        head, identity = self._pending[0], self._identity
        self.in_transaction = bool(status & messages.SERVER_STATUS_IN_TRANS)
        changed = head.script is not None
        if head.script is not None and head.kind != messages.COM_STMT_PREPARE:
            identity.completed(head.script, head.done)
        head.done += 1
        if not status & messages.SERVER_STATUS_IN_TRANS and identity.sticky:
            identity.idle()
            changed = True
        if changed:
            self._charge(head.script)
            self._charged = True

    def _on_error(self, payload: bytes) -> None:
        if messages.is_progress(payload):
            return
        if self._pending[0].kind in _REPORTED:
            self.events.append(self.report("query", error=messages.sqlstate(payload)))
        self._forget_rows()
        self._identity.failed()
        self._charged = True
        self._done()

    def _forget_rows(self) -> None:
        self.delivered = 0
        self.in_rows = self.wants_rows = self._expressions = False
        self.wants_column = -1
        self.sizes = b""
        self._positions = ()
        self._fields = []
        self.patients_by = ""

    def _on_prepared(self, payload: bytes) -> None:
        if payload[0] == messages.ERR:
            self._on_error(payload)
            return
        if payload[0] != messages.OK or len(payload) < 9:
            raise ProtocolError("the answer to COM_STMT_PREPARE is malformed")
        head = self._pending[0]
        statement_id = int.from_bytes(payload[1:5], "little")
        columns, parameters = (int.from_bytes(payload[at : at + 2], "little") for at in (5, 7))
        if statement_id not in self._statements and len(self._statements) >= MAX_STATEMENTS:
            # The oldest is forgotten: its rows are still counted, only without its text.
            del self._statements[next(iter(self._statements))]
        statement = head.statement or _Statement(b"")
        self._statements[statement_id] = self._last_prepared = statement
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
        statement = self._pending[0].statement
        if statement is not None and self._result_columns:
            payloads = [payload for payload in self._definitions if payload[0] != messages.EOF]
            statement.columns = self._parsed(payloads[max(0, len(payloads) - self._result_columns) :])
            self._columns.find(statement.columns)

    def _on_fields(self, payload: bytes) -> None:
        if payload[0] == messages.ERR:
            self._on_error(payload)
        elif payload[0] == messages.EOF:
            self._done()

    def _on_auth(self, payload: bytes) -> None:
        head = self._pending[0]
        if payload[0] == messages.OK and head.login is not None:
            self._identify(head.login)
            self._reset()
            self.events.append(self.event("login"))
            self._done()
        elif payload[0] == messages.ERR:
            self.events.append(self.event("login_failed", error=messages.sqlstate(payload)))
            self._done()

    def _reset(self) -> None:
        """What a session loses by COM_CHANGE_USER and COM_RESET_CONNECTION."""
        self._statements.clear()
        self._last_prepared = None

    def _on_single(self, payload: bytes) -> None:
        if messages.is_progress(payload):
            return
        head = self._pending[0]
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

    # -- events -----------------------------------------------------------------------------------------------------

    def shape(self) -> tuple[str, str, int]:
        head = self._pending[0] if self._pending else None
        if head is None:
            return "", "", 0
        if head.statement is None or not head.statement.sql:
            return "", "", head.asked_ms
        return *self._shape(head.statement), head.asked_ms

    def statement_asked(self) -> list[str]:
        head = self._pending[0] if self._pending else None
        if head is None or head.statement is None or head.statement.plan is None or head.done:
            return []
        return [self.setting.digester.digest(value) for value in head.statement.plan.resolve(head.parameters)]

    def statement_flags(self, fingerprint: str) -> tuple[Flag, ...]:
        head = self._pending[0] if self._pending else None
        if head is None or head.statement is None or not fingerprint:
            return ()
        return self._classifier.flags(fingerprint, head.statement.sql, self._columns.mentioned_in)

    def _shape(self, statement: _Statement) -> tuple[str, str]:
        """Fingerprint and normalised text, without a final comment: it differs each time."""
        script = statement.script
        sql = statement.sql[: script.shape_end] if script is not None and script.shape_end else statement.sql
        return normalise(sql.decode("utf-8", "replace"), self._backslashes)

    def _desync(self, detail: str) -> None:
        if not self.desynced:
            self.desynced = True
            self.events.append(self.event("desynced", detail=detail))
            self._forget_rows()
            self.in_rows = True  # from here on every packet counts

    def _lose(self, detail: str) -> None:
        self._desync(detail)
        if self.unreported:
            self.events.append(self.report("progress"))
        self._lost = True


_TEXT = Column("", "", "", "", 0xFD, 33, 0)

_MOVES = re.compile(
    rb"\s*(?:/\*.*?\*/\s*)*(?:insert|replace|create|select|with|\(|table|alter|call)\b|\s*\(", re.IGNORECASE | re.DOTALL
)
_READS = re.compile(
    rb"[\s(]*(?:/\*.*?\*/[\s(]*)*(?:select|show|describe|desc|explain|with|table|values)\b", re.IGNORECASE | re.DOTALL
)
_SELECT = re.compile(rb"\bselect\b|\btable\b", re.IGNORECASE)

_definitions: dict[tuple[bytes, bool], Column] = {}


def _column(payload: bytes, extended: bool) -> Column:
    """A parsed column definition: the same few are sent again and again."""
    key = (payload, extended)
    found = _definitions.get(key)
    if found is None:
        if len(_definitions) >= MAX_CACHED_DEFINITIONS:
            _definitions.clear()
        found = _definitions[key] = messages.column(payload, extended)
    return found


def _size(column: Column) -> int:
    fixed = messages.FIXED_BYTES.get(column.type)
    if fixed is not None:
        return fixed
    dated = (
        messages.MYSQL_TYPE_DATE,
        messages.MYSQL_TYPE_TIME,
        messages.MYSQL_TYPE_DATETIME,
        messages.MYSQL_TYPE_TIMESTAMP,
    )
    return 254 if column.type in dated else 255


_PHASES = {
    FIRST: MysqlObserver._on_first,
    COLUMNS: MysqlObserver._on_column,
    MIDDLE: MysqlObserver._on_middle,
    ROWS: MysqlObserver._on_rows,
    PREPARED: MysqlObserver._on_prepared,
    DEFS: MysqlObserver._on_definitions,
    FIELDS: MysqlObserver._on_fields,
    AUTH: MysqlObserver._on_auth,
    SINGLE: MysqlObserver._on_single,
    IDLE: MysqlObserver._on_idle,
}
