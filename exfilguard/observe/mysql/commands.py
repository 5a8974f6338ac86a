# cython: annotation_typing=False
"""The client's part of a MySQL session: the queue of commands that await their answers, prepared statements, who is charged.

The queue is mostly of length one (MariaDB's connectors pipeline). Its head decides what the server's packets are (answers.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import ProtocolError
from ...wire.mysql import messages, parameters
from ...wire.mysql.backend import BackendReader
from ...wire.mysql.compression import Inflater
from ...wire.mysql.frontend import MAX_KEPT_BYTES, FrontendReader
from ...wire.mysql.startup import Login, change_user
from ..asked import MAX_ASKED, AskedColumns, Parameter, Parameters, Plan
from ..classify import Classifier
from ..completed import plain_names
from ..identity import APPLICATION, Identity, Script
from ..observer import Observer
from ..pending import COLUMN_BYTES, TYPE_BYTES, VALUE_BYTES, Text
from ..screening import Judge
from ..tally import Setting
from ..templates import Templates
from .patients import UUID_BYTES, OriginColumns, Reading
from .screening import Screener
from .statement import normalise_bytes
from .statement import templates as shared

MAX_PENDING = 100_000
MAX_STATEMENTS = 20_000
MAX_HELD_BYTES = 1 << 20
"""Of executions whose statement is not known yet (MariaDB pipelines them behind its preparation)."""
MAX_LONG_BYTES = 64
"""No identifier that is sent as long data is longer."""

FIRST, COLUMNS, MIDDLE, ROWS, PREPARED, DEFS, FIELDS, AUTH, SINGLE, IDLE = range(10)
"""How far the answer to the head has come: see answers.py."""

_BEGINS = {
    messages.COM_QUERY: FIRST,
    messages.COM_PROCESS_INFO: FIRST,
    messages.COM_STMT_EXECUTE: FIRST,
    messages.COM_STMT_BULK_EXECUTE: FIRST,
    messages.COM_STMT_FETCH: ROWS,
    messages.COM_STMT_PREPARE: PREPARED,
    messages.COM_FIELD_LIST: FIELDS,
    messages.COM_CHANGE_USER: AUTH,
    # A dump: each event of the log, or row of the table, in a packet of its own up to an EOF; nobody looks into them.
    messages.COM_BINLOG_DUMP: ROWS,
    messages.COM_BINLOG_DUMP_GTID: ROWS,
    messages.COM_TABLE_DUMP: ROWS,
}
BINARY = frozenset({messages.COM_STMT_EXECUTE, messages.COM_STMT_BULK_EXECUTE, messages.COM_STMT_FETCH})
_EXECUTES = frozenset({messages.COM_STMT_EXECUTE, messages.COM_STMT_BULK_EXECUTE})
_BY_STATEMENT = BINARY | {messages.COM_STMT_RESET}
REPORTED = BINARY | messages.REPLICATION | {messages.COM_QUERY, messages.COM_STMT_PREPARE}
"""Commands whose end is an event of kind `query`; preparing only when it fails."""


class Statement(Text):
    """A prepared statement, or the text of a COM_QUERY."""

    __slots__ = ("cut", "direct", "long_data", "moved", "parameters", "reading", "types")

    def __init__(self, sql: bytes) -> None:
        self._begin(sql)
        self.cut = False
        """The text is longer than what is kept of it."""
        self.moved: tuple[int, bool, bool] | None = None
        """What it moves without showing it (answers.py), once it was asked."""
        self.reading: Reading | None = None
        """How its rows are read; None until its columns were seen."""
        self.direct: tuple[int, ...] | None = None
        """Of a plan that is nothing but parameters: which ones. None: not known yet."""
        self.parameters = 0
        """How many it takes."""
        self.types: parameters.Types = ()
        """Of its last execution; kept only with a plan."""
        self.long_data: dict[int, bytes | None] = {}
        """Values that were sent ahead of the next execution, None for one that is no identifier; kept only with a plan."""

    def weight(self) -> int:
        columns = len(self.reading.fields) if self.reading is not None else 0
        values = VALUE_BYTES * len(self.long_data)
        return Text.weight(self) + COLUMN_BYTES * columns + TYPE_BYTES * len(self.types) + values


class Command:
    """One command that awaits its answer."""

    __slots__ = (
        "asked",
        "asked_ms",
        "body",
        "database",
        "done",
        "kind",
        "login",
        "script",
        "statement",
        "statement_id",
    )

    def __init__(self, kind: int, asked_ms: int) -> None:
        self.kind = kind
        self.asked_ms = asked_ms
        self.statement: Statement | None = None
        self.statement_id = 0
        self.login: Login | None = None
        self.database = b""
        self.script: Script | None = None
        self.done = 0
        """Statements of it that have completed."""
        self.asked: list[str] | None = None
        """Digests of the patients an execution asks for, until an event has told them."""
        self.body = b""
        """Of an execution whose statement is not known yet."""


class Commands(Observer):
    """Who asks for what."""

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
        templates: Templates | None = None,
        allow_replication: bool = False,
        certified: bool = False,
    ) -> None:
        super().__init__(
            "mysql", setting, session_id, source, columns, identity, classifier, asked, templates or shared(asked)
        )
        self.capabilities = 0
        """As agreed at login."""
        self.on_change_user: Callable[[str], None] | None = None
        """Called with its plugin when a COM_CHANGE_USER is read that waits for nothing else."""
        self._screener = Screener(self)
        self._allow_replication = allow_replication
        self._certified = certified  # the client's certificate is the account's, and no other's
        self._backslashes = True
        self._frontend = FrontendReader(self)
        self._backend = BackendReader(self)
        self._inflate_server: Inflater | None = None
        self._statements: dict[int, Statement] = {}
        self._last_prepared: Statement | None = None
        self._held_bytes = 0  # of Command.body
        self._phase = IDLE
        self._reading: Reading | None = None  # of the rows that are flowing

    def requests(self, data: bytes) -> None:
        self._frontend.feed(data)

    @property
    def client_at_boundary(self) -> bool:
        """True when the client's bytes so far are whole packets."""
        return self._frontend.at_boundary and not self._frontend.infile

    @property
    def client_answers(self) -> bool:
        """True while a packet with another number than 0 is the answer of an authentication."""
        return self._frontend.answers

    @property
    def client_missing(self) -> int:
        """Bytes up to the end of the packet that has begun, or of its header; 0 between commands."""
        return self._frontend.missing

    @property
    def client_in_header(self) -> bool:
        """True when the client's next byte is of a packet's header."""
        return self._frontend.in_header

    def request(self, kind: int, body: bytes, whole: bool) -> None:
        if kind in messages.REPLICATION:
            if not self._allow_replication:
                self.forbidden = "replication"
                return
            self.always = ("replication",)
        if kind == messages.COM_CHANGE_USER and self._certified and self._other_account(body):
            self.forbidden = "another account than the client certificate's"
            return
        if self.desynced:
            return
        command = Command(kind, self.now)
        if kind in messages.UNANSWERED:
            if kind == messages.COM_STMT_SEND_LONG_DATA:
                self._note_long_data(body, whole)
            if kind != messages.COM_STMT_CLOSE:
                return
            command.statement_id = int.from_bytes(body[:4], "little")
            if not self._pending:
                self._statements.pop(command.statement_id, None)
                return
        elif kind == messages.COM_QUERY:
            attributes = bool(self.capabilities & messages.CLIENT_QUERY_ATTRIBUTES)
            try:
                command.statement = self._read(messages.query_text(body, attributes), whole, simple=True)
                command.script = command.statement.script
            except (ProtocolError, IndexError):
                if whole:
                    self._desync("query attributes are malformed")
                    return
                command.statement = Statement(b"")  # longer than what is kept: the statement is behind it
        elif kind == messages.COM_STMT_PREPARE:
            command.statement = self._read(body, whole)
        elif kind in _BY_STATEMENT:
            command.statement_id = int.from_bytes(body[:4], "little")
            if kind == messages.COM_STMT_RESET and command.statement_id in self._statements:
                self._statements[command.statement_id].long_data = {}
            if self._asked is not None and kind in _EXECUTES:
                self._ask(command, body)
        elif kind == messages.COM_CHANGE_USER:
            try:
                command.login = change_user(body, self.capabilities)
            except ProtocolError as error:
                self._desync(str(error))
                return
        elif kind == messages.COM_INIT_DB:
            command.database = body
        if len(self._pending) >= MAX_PENDING:
            self._desync("too many commands without an answer")
            return
        self._pending.append(command)
        if len(self._pending) == 1:
            self._begin()
            if command.login is not None and self.on_change_user is not None:
                self.on_change_user(command.login.plugin)

    def _other_account(self, body: bytes) -> bool:
        """True when a COM_CHANGE_USER is for another account than is logged in."""
        try:
            return change_user(body, self.capabilities).user != self.login
        except ProtocolError:
            return True

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
            if head.kind in BINARY:
                prepared = head.statement_id == messages.LAST_PREPARED
                head.statement = self._last_prepared if prepared else self._statements.get(head.statement_id)
                if head.body:
                    self._held_bytes -= len(head.body)
                    if head.statement is not None and head.statement.plan is not None:
                        head.asked = self._parameters_asked(head.kind, head.statement, head.statement.plan, head.body)
                    head.body = b""
                if head.statement is not None and head.statement.script is not None:
                    head.script = self._sent_again(head.statement, head.statement.script)
            if head.script is not None or self._charged:
                self._charge(head.script)
            self._phase = _BEGINS.get(head.kind, SINGLE)
            if self._phase == ROWS:
                self._show_rows(head.statement.reading if head.statement is not None else None, True)
            return
        self._phase = IDLE

    def _head(self) -> Command:
        """The command whose answer is coming; there must be one."""
        head: Command = self._pending[0]
        return head

    def _done(self) -> None:
        """The head's answer is complete."""
        if self._pending:
            self._pending.popleft()
        self._begin()
        if self._charged and not self._pending:
            self._charge(None)

    def _show_rows(self, reading: Reading | None, binary: bool) -> None:
        """Rows follow: the answers' part."""
        raise NotImplementedError

    # -- what it asks for -------------------------------------------------------------------------------------------

    def _ask(self, command: Command, body: bytes) -> None:
        """An execution was sent: the patients among its parameters."""
        if command.statement_id == messages.LAST_PREPARED:
            if self._held_bytes + len(body) <= MAX_HELD_BYTES:
                command.body = body
                self._held_bytes += len(body)
            return
        statement = self._statements.get(command.statement_id)
        if statement is not None and statement.plan is not None:
            command.asked = self._parameters_asked(command.kind, statement, statement.plan, body)

    def _parameters_asked(self, kind: int, statement: Statement, plan: Plan, body: bytes) -> list[str]:
        found: dict[bytes, None] = {}
        rows: list[list[bytes | None]] = []
        if statement.direct is None:
            statement.direct = _direct(plan)
        long_data, statement.long_data = statement.long_data, {}
        try:
            if kind == messages.COM_STMT_BULK_EXECUTE:
                rows, statement.types = parameters.executed_in_bulk(
                    body, statement.parameters, statement.types, MAX_ASKED
                )
            else:
                attributes = bool(self.capabilities & messages.CLIENT_QUERY_ATTRIBUTES)
                values, statement.types = parameters.executed(
                    body, statement.parameters, statement.types, long_data, attributes=attributes
                )
                rows = [values]
                known = _numbers(values, statement.direct) if statement.direct else None
                if known is not None:
                    return [self.digester.digest(value) for value in known]
        except (ProtocolError, IndexError):
            rows = [[]]  # the server's to refuse, or longer than what is kept: the text's own literals
        for values in rows:
            found.update(dict.fromkeys(plan.resolve(_lookup(values))))
        return [self.digester.digest(value) for value in list(found)[:MAX_ASKED]]

    def _note_long_data(self, body: bytes, whole: bool) -> None:
        statement = self._statements.get(int.from_bytes(body[:4], "little"))
        number = int.from_bytes(body[4:6], "little")
        if statement is None or statement.plan is None or len(body) < 6 or number >= statement.parameters:
            return
        if number not in statement.long_data:
            self.keep(VALUE_BYTES)
        before = statement.long_data.get(number, b"")
        value = None if before is None or not whole else before + body[6:]
        statement.long_data[number] = None if value is None or len(value) > MAX_LONG_BYTES else value

    def _prepared(self) -> tuple[dict[Any, Any], ...]:
        return (self._statements,)

    # -- who is charged ---------------------------------------------------------------------------------------------

    def _identify(self, login: Login) -> None:
        self.login, self.database = login.user, login.database
        attributes = login.attributes
        self.application = attributes.get("program_name") or attributes.get("_client_name", "")
        self._identity.login(self.login, {**attributes, APPLICATION: self.application})
        self._charge(None)

    def _read(self, sql: bytes, whole: bool, simple: bool = False) -> Statement:
        """A text the client sent, and what it says of who is charged. `simple`: it is a COM_QUERY's."""
        statement = Statement(sql)
        statement.cut = not whole
        if not (simple and whole and self._recognise(statement, self._backslashes)):
            self._understand(statement, whole)
        return statement

    def judge(self, kind: int, body: bytes, judge: Judge) -> str:
        """Why this command, or the beginning of it, must be refused; empty when it may pass."""
        if not self._pending:
            self._identity.settled()
        whole = 1 + len(body) <= MAX_KEPT_BYTES
        text = body
        if kind in BINARY:
            number = int.from_bytes(body[:4], "little")
            statement = self._last_prepared if number == messages.LAST_PREPARED else self._statements.get(number)
        elif kind == messages.COM_QUERY:
            attributes = bool(self.capabilities & messages.CLIENT_QUERY_ATTRIBUTES)
            try:
                text = messages.query_text(body, attributes)
            except (ProtocolError, IndexError):
                if whole:
                    raise ProtocolError("query attributes are malformed") from None
            statement = self._judged_text(text, whole)
        else:
            statement = self._judged_text(text, whole)
        if statement is None:
            return self._words(judge, b"", None, True, None, whole)
        if kind in BINARY:
            text = statement.sql
        return self._words(judge, text, statement.script, kind != messages.COM_STMT_PREPARE, None, whole)

    def _judged_text(self, text: bytes, whole: bool) -> Statement:
        if whole:
            return self._read(text, True)
        statement = Statement(text)
        statement.script = self._long_script(text)
        return statement

    # -- the statement whose result is flowing ------------------------------------------------------------------------

    def current(self) -> Command | None:
        head: Command | None = self._pending[0] if self._pending else None
        return head

    def _statement(self, request: Command) -> Statement | None:
        head = request
        return head.statement

    def _asked_ms(self, request: Command) -> int:
        head = request
        return head.asked_ms

    def _normalise(self, sql: bytes) -> tuple[str, str]:
        return normalise_bytes(sql, self._backslashes)

    def statement_asked(self, request: Command | None) -> list[str]:
        head = request
        if head is None or head.statement is None or head.done:
            return []
        if head.statement.plan is not None and head.asked is not None:
            found, head.asked = head.asked, []
            return found
        return self._asked_in(head.statement)

    def statement_columns(self) -> tuple[str, ...]:
        return plain_names(self._reading.names) if self._reading is not None else ()


def _direct(plan: Plan) -> tuple[int, ...]:
    """The parameters of a plan that has nothing else; empty for any other."""
    numbers = tuple(value for value in plan.values if not isinstance(value, bytes))
    return numbers if not plan.guarded and len(numbers) == len(plan.values) <= MAX_ASKED else ()


def _numbers(values: list[bytes | None], wanted: tuple[int, ...]) -> list[bytes] | None:
    """What `plan.resolve` makes of these parameters where they are unsigned numbers, each once; None where one is something else."""
    out: list[bytes] = []
    for number in wanted:
        if not 0 < number <= len(values):
            continue
        value = values[number - 1]
        if value is None:
            continue
        if not value.isdigit():
            return None
        if value not in out:
            out.append(value)
    return out


def _lookup(values: list[bytes | None]) -> Parameters:
    def parameter(number: int) -> Parameter | None:
        if not 0 < number <= len(values):
            return None
        value = values[number - 1]
        if value is not None and len(value) == UUID_BYTES and not value.isascii():
            value = value.hex().encode("ascii")
        return 0, value, 0

    return parameter
