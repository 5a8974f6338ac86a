"""One session: pairs what the server answers with what the client asked, and says what left the database.

Strategy: one queue of pending requests. The client's messages append to it, the server's messages work on its head:

    Query           rows.. CommandComplete, more of them for several statements .. until ReadyForQuery
    Parse Bind ..   one answer each; Execute: rows.. then CommandComplete, EmptyQueryResponse or PortalSuspended
    Sync            ReadyForQuery
    ErrorResponse   ends a Query's statement; in the extended protocol everything up to the next Sync is skipped

Rules:
- Rows are counted whatever the pairing says. When replies and requests no longer match, the session is `desynced`: its
  rows are still charged to its principal, without a statement.
- A row that hides its identifier (too long to be kept) counts as a patient of its own: too many, never too few.
- Everything that grows is bounded: pending requests, statements, portals, kept bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import replace
from typing import Any

from ..errors import ProtocolError
from ..events.query import Evidence, Flag, Kind, PatientsBy, QueryEvent
from ..wire.postgres import messages, startup
from ..wire.postgres._scan import column_values, row_values
from ..wire.postgres.backend import MAX_KEPT_BYTES, BackendReader, Sink
from ..wire.postgres.frontend import FrontendReader
from ..wire.postgres.messages import Field
from ..wire.postgres.startup import error_response
from . import digests
from .asked import AskedColumns, Plan
from .classify import Classifier
from .completed import hidden_rows, no_tuple, plain_names
from .contexts import Contexts
from .copy_rows import CopyRows
from .effects import returns_nothing
from .estimate import PATIENT_BYTES, patients_in
from .identity import Identity, Parameters, Rules, Script
from .outlet import Outlet, asked_part, constant_part, encode_query, flags_part, text_part
from .patients import Digester, PatientColumns, Reading, canonical
from .pending import Pending, Portal, Statement
from .portion import QUERY_CANCELED, Result
from .screening import SQLSTATE, Judge, Screener
from .statement import normalise_bytes
from .templates import Templates

try:
    from ._rows import column, estimated
except ImportError:  # no C compiler at installation
    column = estimated = None  # type: ignore[assignment]

try:
    from ._copy_rows import Passing
except ImportError:
    Passing = None  # type: ignore[assignment,misc]

MAX_PENDING = 100_000
MAX_STATEMENTS = 10_000

_DATA_ROW, _COPY_DATA, _READY_FOR_QUERY, _COMMAND_COMPLETE, _ROW_DESCRIPTION, _BIND_COMPLETE = b"DdZCT2"
_KEEPALIVE = b"k"


class SessionObserver(Sink):
    """Feed it both directions' bytes; it returns QueryEvents. Times are milliseconds since the Unix epoch."""

    forbidden = ""

    def __init__(
        self,
        listener: str,
        session_id: str,
        source: str,
        columns: PatientColumns,
        digester: Digester,
        progress_rows: int,
        progress_ms: int,
        identity: Identity | None = None,
        outlet: Outlet | None = None,
        classifier: Classifier | None = None,
        large_value_bytes: int = 1 << 20,
        asked: AskedColumns | None = None,
        templates: Templates | None = None,
    ) -> None:
        self.listener = listener
        self.session_id = session_id
        self.source = source
        self.principal = ""
        self.evidence: Evidence = "login"
        self.authenticated = False
        """AuthenticationOk was seen."""
        self.desynced = False
        self.in_transaction = False
        """By the last ReadyForQuery: true in a failed one too."""
        self.replication = False
        """The session was started for replication: all its events are flagged."""
        self.backend_key: bytes | None = None
        """Body of BackendKeyData, for a CancelRequest."""
        self._columns = columns
        self._digester = digester
        self._outlet = outlet
        self._constant = b""
        self._constant_of: tuple[object, object, object] = (None, None, None)
        self._progress_rows = progress_rows
        self._progress_ms = progress_ms
        self._identity = identity or Identity(Rules(), Contexts({}), session_id, source)
        self._classifier = classifier or Classifier("postgresql")
        self._large_value_bytes = large_value_bytes
        self._asked = asked
        self._templates = templates or Templates(asked)
        self._packed = self._large = False  # seen in the result since the last event
        self._screener = Screener(self)
        self.refusals = 0
        """Refused requests whose answer is still to come: until then use `server_data` before forwarding."""
        self.stop = False
        self.holds_errors = False
        self.free = False
        self._follow = False  # stop where another principal's answers begin
        self._patches: list[tuple[int, int, bytes]] = []
        self._charged = False  # the principal is that of a statement's own evidence
        self._login = self._database = self._application = ""
        self._logged_in = False
        self._backslashes = False
        self._lost = False  # the stream itself can no longer be cut into messages
        self._frontend = FrontendReader(self)
        self._backend = BackendReader(self)
        self._pending: deque[Pending] = deque([Pending("*")])
        self._skip_to_sync = False
        self._statements: dict[bytes, Statement] = {}
        self._portals: dict[bytes, Portal] = {}
        self._copy = ""  # "in" or "out" while COPY data flows
        self._copied_in = False
        self._copying: CopyRows | None = None  # a COPY whose identifiers are read
        self._passing: Passing | None = None  # the quick way over its rows
        self._encoding = ""
        # the result that is flowing now
        self.wants_rows = False
        self.wants_column = -1
        self._positions: tuple[int, ...] = ()
        self._last_position = 0
        self._reading: Reading | None = None
        self._fields: list[Field] = []
        self._formats: tuple[int, ...] = ()
        self._patients_by: PatientsBy = ""
        self._expressions = False
        self._delivered = 0  # rows of this statement so far, reported or not
        self._ordinal = 0
        # not yet reported
        self._rows = 0
        self._bytes = 0
        self._patients = digests.DigestSet()
        self._estimated = 0
        self._reported_ms = 0
        # the portion now being read
        self._now = 0
        self._events: list[QueryEvent] = []
        self.portion_rows = 0
        self._portion_patients = digests.DigestSet()
        self._keeps_portion = True
        self._portion_estimated = 0
        self._portion_new = 0  # of its patients, those that are not in the allowance already
        self._allowed_rows: int | None = None
        self._allowed_patients: int | None = None
        self._known_patients: Container[str] = ()

    # -- what the relay calls ---------------------------------------------------------------------------------------

    def startup(self, params: dict[str, str]) -> None:
        """The StartupMessage's parameters: establishes who is charged."""
        self._login = params.get("user", "")
        self._database = params.get("database", self._login)
        self._application = params.get("application_name", "")
        self.replication = startup.replicates(params)
        self._identity.login(self._login, params)
        self._charge(None)

    @property
    def at_boundary(self) -> bool:
        """True when the server's bytes so far are whole messages."""
        return self._lost or self._backend.at_boundary

    @property
    def awaiting_reply(self) -> bool:
        """True while the server owes an answer."""
        return bool(self._pending)

    @property
    def unreported(self) -> bool:
        """True while rows were counted, or patients seen, that no event has told yet: the identifier may come after its row
        was told."""
        return self.untold()

    def untold(self) -> bool:
        """`unreported` for those who call it in C."""
        return self._rows > 0 or self._estimated > 0 or bool(self._patients)

    def passes_first(self, data: bytes) -> bool:
        """Nothing of PostgreSQL's is forbidden behind the login."""
        return True

    def client_data(self, data: bytes, now_ms: int) -> list[QueryEvent]:
        """Bytes from the client, behind the start-up packet. Events are rare here: only a lost stream makes one."""
        self._events = []
        if not self._lost:
            self._now = now_ms
            try:
                self.requests(data)
            except ProtocolError as error:
                self._lose(str(error))
        return self._events

    @property
    def holding(self) -> bool:
        """True while the beginning of a request is held back: the next bytes go to `screen`."""
        return bool(self._screener.held)

    def screen(self, data: bytes, now_ms: int, judge: Judge) -> tuple[bytes, list[QueryEvent]]:
        """Like `client_data`, while somebody must be refused: returns what to send to the server instead of `data`."""
        self._events = []
        data = self._screener.release() + data
        if not self._lost:
            self._now = now_ms
            try:
                data = self._screener.data(data, judge)
            except ProtocolError as error:
                self._lose(str(error))
        return data, self._events

    @property
    def client_at_boundary(self) -> bool:
        """True when the client's bytes so far are whole messages."""
        return self._frontend.at_boundary

    def requests(self, data: bytes) -> None:
        """Bytes from the client that are sent to the server as they are. Raises ProtocolError."""
        self._frontend.feed(data)

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
        if self._lost:
            return Result()
        self._now = now_ms
        self._events = []
        self.portion_rows = 0
        self._portion_patients.clear()
        self._keeps_portion = True
        self._portion_estimated = self._portion_new = 0
        self._allowed_rows = allowed_rows
        self._allowed_patients = allowed_patients
        self._known_patients = known_patients if known_patients is not None else ()
        self._patches = []
        self.stop = False
        self._follow = follow
        cut_at = hold_at = stop_at = None
        try:
            scan = self._backend.feed(data, allowed_rows, hold=allowed_patients is not None)
            cut_at, hold_at, stop_at = scan.cut_at, scan.hold_at, scan.stop_at
            self._follow = False
        except ProtocolError as error:
            self._lose(str(error))
        self.tick(now_ms, self._events)
        return Result(
            self._events,
            self.portion_rows,
            tuple(self._portion_patients),
            self._portion_estimated,
            cut_at,
            hold_at,
            stop_at=stop_at,
            patches=self._patches,
        )

    def observed(self, data: bytes, now_ms: int) -> list[QueryEvent]:
        """`server_data` for bytes that have passed already: nothing is allowed or held back, and nobody asks whose patients they held.
        `portion_rows` has the rows."""
        self._events = []
        self.portion_rows = 0
        if self._lost:
            return self._events
        self._now = now_ms
        self._keeps_portion = self.stop = self._follow = False
        self._allowed_patients = self._allowed_rows = None
        if self._patches:
            self._patches = []
        try:
            self._backend.feed(data)
        except ProtocolError as error:
            self._lose(str(error))
        if self._rows or self._estimated or self._patients:
            self.tick(now_ms, self._events)
        return self._events

    def tick(self, now_ms: int, events: list[QueryEvent] | None = None) -> list[QueryEvent]:
        """A progress event when enough rows or enough time went by. Call it now and then while `unreported`."""
        out = [] if events is None else events
        if self.unreported and (self._rows >= self._progress_rows or now_ms - self._reported_ms >= self._progress_ms):
            self._now = now_ms
            self._events = out
            self._report("progress")
        return out

    def close(self, now_ms: int) -> list[QueryEvent]:
        """The connection ended: what was delivered of the running statement, and the logout."""
        self._now = now_ms
        out = self._events = []
        if self.unreported:
            self._report("query", None, 0, "" if self._lost else QUERY_CANCELED)
        if self._logged_in:
            out.append(self._event("logout"))
            self._logged_in = False
        return out

    # -- requests ---------------------------------------------------------------------------------------------------

    def request(self, kind_byte: int, body: bytes, whole: bool) -> None:
        kind = chr(kind_byte)
        if kind in "dHX" or kind == "p":
            return
        if kind in "cf":
            if self._copy == "in":
                self._copy = ""
            return
        if self._copy == "in" and kind == "S":
            return  # the server ignores Sync until the copy ends
        if self._skip_to_sync:
            if kind != "S":
                return
            self._skip_to_sync = False
        if len(self._pending) >= MAX_PENDING:
            raise ProtocolError("too many requests without an answer")
        pending = Pending(kind, self._now)
        if kind == "Q":
            pending.statement = self._read(body.rstrip(b"\0"), whole, True)
            pending.script = pending.statement.script
        elif kind == "P":
            name, pos = messages.cstring(body, 0)
            end = body.find(0, pos)
            statement = self._read(body[pos : end if end >= 0 else len(body)], whole, False)
            if statement.plan is not None and whole:
                statement.types = messages.parameter_types(body[end + 1 :])
            pending.script = statement.script
            self._remember(pending, self._statements, name, statement)
        elif kind == "B":
            portal, pos = messages.cstring(body, 0)
            name, pos = messages.cstring(body, pos)
            statement = self._statements.get(name) or Statement(b"")
            formats = messages.bind_result_formats(body, pos) if whole else None
            made = Portal(statement, formats)
            if statement.plan is not None and whole:
                self._bind_asked(made, statement.plan, body, pos)
            if statement.script is not None:
                self._bind_script(made, statement.script, body, pos)
                pending.script = made.script
            self._remember(pending, self._portals, portal, made)
        elif kind == "D":
            name, _ = messages.cstring(body, 1)
            if body[:1] == b"S":
                pending.statement = self._statements.get(name)
            else:
                pending.portal = self._portals.get(name)
        elif kind == "E":
            name, _ = messages.cstring(body, 0)
            pending.portal = self._portals.get(name)
            pending.statement = pending.portal.statement if pending.portal is not None else Statement(b"")
            pending.script = pending.portal.script if pending.portal is not None else None
        elif kind == "C":
            name, _ = messages.cstring(body, 1)
            table: dict[bytes, Any] = self._statements if body[:1] == b"S" else self._portals
            pending.undo = (table, name, table.pop(name, None))
        self._pending.append(pending)
        if len(self._pending) == 1:
            self._next_head()

    def judge(self, kind: str, body: bytes, judge: Judge) -> str:
        """Why this request must be refused; empty when it may pass. The signature of a text is used up here already: what the
        screener lets pass is read once more, as the retry that it then is."""
        if not self._pending:
            self._identity.settled()
        statement: Statement | None = None
        parameters = None
        script: Script | None = None
        if kind == "Q":
            statement = self._read(body.rstrip(b"\0"), True, True)
            script = statement.script
        elif kind == "P":
            _, pos = messages.cstring(body, 0)
            statement = self._read(body[pos : body.find(0, pos)], True, False)
            script = statement.script
        elif kind == "B":
            _, pos = messages.cstring(body, 0)
            name, pos = messages.cstring(body, pos)
            statement = self._statements.get(name)
            script = statement.script if statement is not None else None
            if script is not None:
                script = self._identity.again(script, self._now)
                values = messages.bind_texts(body, pos) if script.effects else None
                parameters = _lookup(values)
        elif kind == "E":
            portal = self._portals.get(messages.cstring(body, 0)[0])
            if portal is not None:
                statement, script, parameters = portal.statement, portal.script, _lookup(portal.parameters)
        text = statement.sql if statement is not None else b""
        harmless = (script is not None and script.harmless) or returns_nothing(text)
        assume = script if kind in "QE" or script is None else replace(script, effects=())
        names = self._identity.expected(assume, parameters)
        return "" if harmless else judge(names, text)

    def refused_request(self, kind: str, refusal: str) -> None:
        """A request that is sent as one which the server must refuse (screening.py)."""
        if len(self._pending) >= MAX_PENDING:
            raise ProtocolError("too many requests without an answer")
        if self._skip_to_sync:
            return
        pending = Pending(kind, self._now)
        pending.refusal = refusal
        self._pending.append(pending)
        self.refusals += 1
        self.holds_errors = True
        if len(self._pending) == 1:
            self._next_head()

    def _read(self, sql: bytes, whole: bool, simple: bool) -> Statement:
        """A text the client sent, and what it says of who is charged."""
        statement = Statement(sql)
        if whole:
            known = self._templates.find(sql)
            if known is not None and (simple or not known[0].asked):  # else what is asked for is told by each Bind
                statement.template, statement.numbers = known
                return statement
        script = self._identity.read(sql, self._now, whole=whole, backslashes=self._backslashes)
        if self._asked is not None:
            # Without its signature, which makes every text another one.
            own = sql[: script.shape_end] if script is not None and script.shape_end else sql
            statement.plan = self._asked.plan(own)
        if script is not None:
            statement.script = script
            if script.finding:
                self._tell_finding(statement)
        return statement

    def _bind_asked(self, portal: Portal, plan: Plan, body: bytes, pos: int) -> None:
        values = messages.bind_values(body, pos)
        types = portal.statement.types
        if values is None:
            return

        def parameter(number: int) -> tuple[int, bytes | None, int] | None:
            if not 0 < number <= len(values):
                return None
            return (*values[number - 1], types[number - 1] if number <= len(types) else 0)

        portal.asked = [self._digester.digest(value) for value in plan.resolve(parameter)]

    def _take_asked(self, head: Pending) -> list[str]:
        """Digests of what the statement asked for; once for each execution."""
        portal, statement = head.portal, head.statement
        if portal is not None:
            found, portal.asked = portal.asked, None
            return found or []
        if statement is not None and statement.template is not None and not head.done:
            return [self._digester.digest(value) for value in statement.template.values(statement.numbers)]
        if statement is not None and statement.plan is not None and not head.done:
            return [self._digester.digest(value) for value in statement.plan.resolve()]
        return []

    def _on_parameter_description(self, body: bytes) -> None:
        head = self._pending[0] if self._pending else None
        if head is not None and head.kind == "D" and head.statement is not None and head.statement.plan is not None:
            head.statement.types = messages.parameter_types(body)

    def _bind_script(self, portal: Portal, script: Script, body: bytes, pos: int) -> None:
        portal.script = again = self._identity.again(script, self._now)
        if again is not script:
            portal.statement.script = again
            self._tell_finding(portal.statement)
        if again.effects:
            portal.parameters = messages.bind_texts(body, pos)

    def _tell_finding(self, statement: Statement) -> None:
        """A context that does not hold: told of the login, which is charged."""
        detail = self._identity.finding(statement.script, self._now)
        if detail:
            fingerprint, text = self._shape(statement)
            found = self._event("finding", detail=detail, fingerprint=fingerprint, query=text)
            self._events.append(replace(found, principal=self._login, evidence="login"))

    @staticmethod
    def _remember(pending: Pending, table: dict[bytes, Any], name: bytes, what: Statement | Portal) -> None:
        if name not in table and len(table) >= MAX_STATEMENTS:
            # The oldest is forgotten: its rows are still counted, only without its text and columns.
            del table[next(iter(table))]
        pending.undo = (table, name, table.get(name))
        table[name] = what

    # -- replies: the backend reader's sink -------------------------------------------------------------------------

    def rows(self, kind: int, count: int, size: int) -> None:
        if count:
            if not self._delivered:
                self._reported_ms = self._now
            self._delivered += count
            self._rows += count
            self.portion_rows += count
            if self._patients_by == "estimate" and not self.wants_rows:
                self._estimate(max(count, size // PATIENT_BYTES) if self._expressions else count)
        self._bytes += size
        if size > self._large_value_bytes:
            self._large = True  # rows that are counted together come in one portion, which is smaller
        if self._expressions and size > MAX_KEPT_BYTES:
            self._estimate(size // PATIENT_BYTES)  # longer than what `row` is shown: judged by its length

    def _estimate(self, count: int) -> None:
        self._estimated += count
        self._portion_estimated += count

    def row(self, data: bytes, start: int, end: int, whole: bool) -> bool:
        if self._copying is not None:
            return self._copied(self._copying, data, start, end, whole)
        if (self._copy == "out" and whole and no_tuple(data, start, end)) or (
            self._copy == "both" and data[start : start + 1] == _KEEPALIVE
        ):
            # Not a tuple, or a keepalive of replication: taken back here, counted by `rows` next.
            self._recount(0)
            return True
        if not self._patients_by:
            return True
        found, further = self._row_patients(data, start, end, whole)
        return self._pass(found, further)

    def _pass(self, found: list[str], further: int) -> bool:
        """Charge these patients, and further ones by estimate; False: they are more than may pass."""
        allowed = self._allowed_patients
        if allowed is not None:
            seen, known = self._portion_patients, self._known_patients
            fresh = {digest for digest in found if digest not in seen and digest not in known}
            spent = self._portion_new + self._portion_estimated
            if (fresh or further) and spent + len(fresh) + further > allowed:
                return False
            self._portion_new += len(fresh)
        self._patients.update(found)
        if self._keeps_portion:
            self._portion_patients.update(found)
        self._estimate(further)
        return True

    def _copied(self, copying: CopyRows, data: bytes, start: int, end: int, whole: bool) -> bool:
        """`row` of a COPY whose identifiers are read."""
        rows = copying.message(data, start, end, whole)
        if rows > 1 and self._allowed_rows is not None and self.portion_rows + rows > self._allowed_rows:
            return False
        found = [self._digester.digest(value) for value in copying.values]
        # Whose rows these were nobody can say: somebody new each time.
        who = f"copy {self.session_id} {self._ordinal} {copying.total}"
        found += [self._digester.digest(f"{who} {n}".encode()) for n in range(copying.unread)]
        if not self._pass(found, 0):
            return False
        if rows != 1:
            self._recount(rows)
        return True

    def _scan_copied(self, copying: CopyRows, data: bytes, pos: int, most: int) -> tuple[int, int, int]:
        key = self._digester.compiled
        if key is None or self._passing is None or not copying.between():
            return pos, 0, 0
        found = digests.DigestSet() if self._keeps_portion else self._patients
        pos, count, size = self._passing.rows(data, pos, most, key, found)
        if count:
            copying.passed(count)
            if self._keeps_portion:
                self._patients.update(found)
                self._portion_patients.update(found)
        return pos, count, size

    def scan(self, data: bytes, pos: int, kind: int, most: int) -> tuple[int, int, int]:
        if self._copying is not None and kind == _COPY_DATA:
            return self._scan_copied(self._copying, data, pos, most)
        if kind != _DATA_ROW or self._copy:
            return pos, 0, 0
        key, further = self._digester.compiled, 0
        found = digests.DigestSet() if self._keeps_portion else self._patients
        if self.wants_column >= 0:
            type_oid, binary = self._fields[self.wants_column].type_oid, self._formats[self.wants_column] == 1
            if key is not None and column is not None:
                pos, count, size = column(data, pos, kind, most, self.wants_column, type_oid, binary, key, found)
            else:
                values: list[bytes | None] = []
                pos, count, size = column_values(data, pos, kind, most, self.wants_column, values)
                found.update([self._digester.digest(canonical(v, type_oid, binary)) for v in values if v is not None])
        elif self._patients_by == "estimate" and self._fields and key is not None and estimated is not None:
            pos, count, size, further = estimated(
                data, pos, kind, most, len(self._fields), self._expressions, key, found
            )
        else:
            return pos, 0, 0
        if self._keeps_portion:
            self._patients.update(found)
            self._portion_patients.update(found)
        if further:
            self._estimate(further)
        return pos, count, size

    def _recount(self, rows: int) -> None:
        """What `row` is shown counts for so many rows, not for one as `rows` counts it (before or behind)."""
        self._delivered += rows - 1
        self._rows += rows - 1
        self.portion_rows += rows - 1
        self.free = not rows

    def _row_patients(self, data: bytes, start: int, end: int, whole: bool) -> tuple[list[str], int]:
        """Digests of the row's patients, and how many more it stands for."""
        if self._patients_by == "estimate":
            return self._estimated_patients(data, start, end, whole)
        values = row_values(data, start, end, self._last_position)
        if values is None:
            # The identifier is beyond what is kept: nobody can say whose row it was, so it is somebody new.
            return [self._digester.digest(f"row {self.session_id} {self._ordinal} {self._delivered}".encode())], 0
        found = []
        for position in self._positions:
            value = values[position]
            if value is not None:
                binary = self._formats[position] == 1
                found.append(self._digester.digest(canonical(value, self._fields[position].type_oid, binary)))
        return found, 0

    def _estimated_patients(self, data: bytes, start: int, end: int, whole: bool) -> tuple[list[str], int]:
        values = row_values(data, start, end, len(self._fields) - 1) if whole and self._fields else None
        if values is None:  # a line of COPY, or a row too long to be kept
            packed = whole and self._expressions and self._copy == "out"
            return [self._digester.digest_row(data[start:end])], max(
                0, (end - start) // PATIENT_BYTES - 1
            ) if packed else 0
        identifiers, count = patients_in(values, expressions=self._expressions, keyed=self._columns.keyed)
        if identifiers:
            self._packed = self._packed or len(identifiers) > 1
            return [self._digester.digest(canonical(value, 0, False)) for value in identifiers], 0
        return [self._digester.digest_row(data[start:end])], count - 1

    def message(self, kind: int, body: bytes) -> None:
        # Those of every statement first, without a look into the table.
        if kind == _READY_FOR_QUERY:
            self._on_ready(body)
            return
        if kind == _COMMAND_COMPLETE:
            self._on_command_complete(body)
            return
        if kind == _ROW_DESCRIPTION:
            self._on_description(body)
            return
        if kind == _BIND_COMPLETE:
            self._on_answered("B")
            return
        handler = _HANDLERS.get(kind)
        if handler is not None:
            handler(self, body)

    def _head(self, kinds: str) -> Pending | None:
        """The request this reply belongs to; None, and `desynced`, when it belongs to none."""
        if self._pending and self._pending[0].kind in kinds:
            return self._pending[0]
        self._desync("a reply without its request")
        return None

    def _on_authentication(self, body: bytes) -> None:
        if body[:4] == b"\0\0\0\0":
            self.authenticated = True

    def _on_key(self, body: bytes) -> None:
        self.backend_key = body

    def _on_parameter(self, body: bytes) -> None:
        name, value = messages.parameter_status(body)
        if name == "standard_conforming_strings":
            self._backslashes = value == "off"
        elif name == "application_name":
            self._application = value
        elif name == "client_encoding":
            self._encoding = value
        if self._identity.reported(name, value):
            self._recharge()

    def _on_description(self, body: bytes) -> None:
        head = self._head("QD")
        if head is None:
            return
        fields = messages.row_description(body)
        if head.kind == "Q":
            self._begin_columns(fields, None, head.statement)
            return
        if head.portal is not None:
            head.portal.fields = fields
            head.portal.formats = self._columns.reading(fields).formats
        elif head.statement is not None:
            head.statement.fields = fields
        self._pending.popleft()
        self._next_head()

    def _begin_columns(self, fields: list[Field], formats: tuple[int, ...] | None, statement: Statement | None) -> None:
        """`formats`: None for those of the description."""
        self._reading = reading = self._columns.reading(fields)
        self._fields = fields
        if formats is None:
            self._formats = reading.formats
        else:
            if len(formats) == 1:
                formats = formats * len(fields)
            self._formats = formats if len(formats) == len(fields) else (0,) * len(fields)
        self._positions, self._patients_by, self._last_position = reading.positions, reading.by, reading.last
        self._expressions = False
        if (
            not reading.positions
            and statement is not None
            and (reading.identity or (reading.expressions and self._columns.mentioned_in(statement.sql)))
        ):
            self._patients_by = "estimate"
            self._expressions = reading.expressions
        self.wants_rows = bool(self._patients_by)
        self.wants_column = self._positions[0] if len(self._positions) == 1 else -1

    def _show_portal(self, head: Pending) -> None:
        """An Execute became the head: its columns decide whether its rows are looked into."""
        portal = head.portal
        fields = None
        if portal is not None:
            fields = portal.fields or portal.statement.fields
        if fields:
            self._begin_columns(fields, portal.formats or () if portal is not None else (), head.statement)
        else:
            self._forget_columns()

    def _forget_columns(self) -> None:
        self.wants_rows = False
        self.wants_column = -1
        self._positions = ()
        self._patients_by = ""
        self._expressions = False
        self._reading = None
        self._copying = None
        self._fields = []
        self._formats = ()

    def _on_answered(self, kinds: str) -> None:
        if self._head(kinds) is not None:
            self._pending.popleft()
            self._next_head()

    def _next_head(self) -> None:
        if not self._pending:
            return
        head = self._pending[0]
        if head.kind == "E":
            self._show_portal(head)
        if head.script is not None or self._charged:
            self._charge(head.script)

    # -- who is charged ---------------------------------------------------------------------------------------------

    def _charge(self, script: Script | None) -> None:
        """From here on, what the server sends is this statement's."""
        identity = self._identity
        identity.charge(script)
        self._charged = script is not None
        if self._follow and identity.principal != self.principal:
            self.stop = True
        self.principal, self.evidence = identity.principal, identity.evidence

    def _recharge(self) -> None:
        """The session's settings have changed."""
        self._charge(self._pending[0].script if self._pending else None)

    def _completed(self, head: Pending, tag: str) -> None:
        if head.script is not None:
            portal = head.portal
            values = portal.parameters if portal is not None else None
            self._identity.completed(
                head.script,
                head.done,
                _lookup(values),
                rolled_back=tag == "ROLLBACK",
            )
            self._recharge()
        head.done += 1

    def _on_no_data(self, body: bytes) -> None:
        self._on_answered("D")

    def _on_command_complete(self, body: bytes) -> None:
        head = self._head("QE")
        tag = messages.command_tag(body)
        hidden = 0
        if self._copying is not None:
            # Where the server has sent more rows than were made out, the others are somebody too.
            told = messages.tag_rows(tag)
            self._estimate(max(0, told - self._copying.total))
            if told > self._delivered:
                self._recount(told - self._delivered + 1)
                self.free = False
        if head is not None and head.statement is not None and not self._delivered and not self._copied_in:
            hidden = hidden_rows(tag, head.statement.sql)
            if hidden and self._columns.mentioned_in(head.statement.sql):
                self._patients_by = "estimate"
                self._estimate(hidden)
        self._end_statement(head, hidden, "", tag)

    def _on_statement_over(self, body: bytes) -> None:
        """EmptyQueryResponse or PortalSuspended."""
        self._end_statement(self._head("QE"))

    def _end_statement(
        self, head: Pending | None, hidden_rows: int = 0, error: str = "", tag: str | None = None
    ) -> None:
        """`tag`: of CommandComplete, when the statement ended with one."""
        self._copy = ""
        self._copied_in = False
        self._report("query", head, hidden_rows, error)
        self._delivered = 0
        self._forget_columns()
        if error:
            self._identity.failed()
            self._recharge()
        elif head is not None and tag is not None:
            self._completed(head, tag)
        if head is not None and head.kind == "E":
            self._pending.popleft()
            self._next_head()

    def _on_error(self, body: bytes) -> None:
        state = messages.sqlstate(body)
        if not self._pending:
            return  # not an answer: the server is going away
        head = self._pending[0]
        if head.kind == "*":
            self._pending.popleft()
            self._events.append(self._event("login_failed", error=state))
            return
        if head.refusal:
            self._answer_refusal(head)
            state = SQLSTATE
        if head.kind in "QF":
            self._end_statement(head, 0, state)
            return
        if head.kind == "S":
            return
        self._end_statement(head if head.kind == "E" else None, 0, state)
        refused = []
        while self._pending and self._pending[0].kind != "S":
            refused.append(self._pending.popleft())
        for pending in reversed(refused):
            if pending.refusal and pending is not head:
                self._forget_refusal()
            if pending.undo is not None:
                table, name, before = pending.undo
                if before is None:
                    table.pop(name, None)
                else:
                    table[name] = before
        self._skip_to_sync = not self._pending
        self._forget_columns()

    def _answer_refusal(self, head: Pending) -> None:
        """The server refused what was sent in place of the request: the client reads why the guard did."""
        at = self._backend.message_at
        if at >= 0:
            self._patches.append((at, self._backend.message_end, error_response("ERROR", SQLSTATE, head.refusal)))
        self._forget_refusal()

    def _forget_refusal(self) -> None:
        self.refusals -= 1
        self.holds_errors = self.refusals > 0

    def _on_ready(self, body: bytes) -> None:
        head = self._head("QSF*")
        if head is None:
            return
        self.in_transaction = body[:1] != b"I"
        if body[:1] == b"I" and self._identity.sticky:
            self._identity.idle()
            self._charged = True
        self._pending.popleft()
        if self._charged:
            self._charge(None)
        if head.kind == "*":
            self._logged_in = True
            self._events.append(self._event("login"))
        self._delivered = 0
        self._forget_columns()
        self._next_head()

    def _on_copy_out(self, body: bytes) -> None:
        self._copy = "out"
        self._forget_columns()
        self.wants_rows = body[:1] == b"\1"  # binary: only to know the trailer from a tuple
        head = self._pending[0] if self._pending else None
        if head is None or head.statement is None:
            return
        if self._columns.copies is not None:
            form = self._columns.copies.form(
                head.statement.sql, head.done, self._encoding, backslashes=self._backslashes, answer=body
            )
            if form is not None:
                self._copying = CopyRows(form)
                self._passing = Passing(form) if Passing is not None and form.position >= 0 else None
                self._patients_by = "origin"
                self.wants_rows = True
                return
        if self._columns.mentioned_in(head.statement.sql):
            self._patients_by = "estimate"
            fingerprint, _ = self._shape(head.statement)
            flags = self._classifier.flags(fingerprint, head.statement.sql, self._columns.mentioned_in)
            # A line may hold many patients then: its length says how many.
            self._expressions = "aggregate" in flags or "watched_call" in flags
            # With a budget of patients each line is looked at, so that the same patient again costs nothing.
            self.wants_rows = self.wants_rows or self._allowed_patients is not None

    def _on_copy_in(self, body: bytes) -> None:
        self._copy = "in"
        self._copied_in = True
        if len(self._pending) > 1 and self._pending[0].kind == "E":
            # Syncs that were sent before the copy's end are ignored by the server.
            while len(self._pending) > 1 and self._pending[1].kind == "S":
                del self._pending[1]

    def _on_copy_both(self, body: bytes) -> None:
        """START_REPLICATION was granted: whatever comes counts as a row, keepalives as none."""
        self._copy = "both"
        self._forget_columns()
        self.wants_rows = True

    def _on_function_result(self, body: bytes) -> None:
        if self._head("F") is not None:
            self._bytes += len(body)
            self._report("query")

    # -- events -----------------------------------------------------------------------------------------------------

    def _report(self, kind: Kind, head: Pending | None = None, hidden_rows: int = 0, error: str = "") -> None:
        """Tell all that was not reported yet: to the outlet, or as an event."""
        if head is None and self._pending and self._pending[0].kind in "QE":
            head = self._pending[0]
        fingerprint = text = ""
        flags: tuple[Flag, ...] = ()
        if head is not None and head.statement is not None and head.statement.sql:
            fingerprint, text = self._shape(head.statement)
            flags = self._classifier.flags(fingerprint, head.statement.sql, self._columns.mentioned_in)
        if self._packed or self._large:
            flags = (*flags, *(("packed",) if self._packed else ()), *(("large_value",) if self._large else ()))
            self._packed = self._large = False
        if self.replication and "replication" not in flags:
            flags = (*flags, "replication")
        final = kind == "query"
        asked = self._take_asked(head) if final and head is not None and self._asked is not None else ()
        if final:
            self._ordinal += 1
        statement = self._ordinal if final else self._ordinal + 1
        duration_us = max(0, self._now - head.asked_ms) * 1000 if head is not None and final else 0
        if error:
            text = ""  # a statement the server refused may hold anything, even a name between double quotes
        columns: tuple[str, ...] = ()
        if text and self._reading is not None:
            if self._reading.plain is None:
                self._reading.plain = plain_names(self._reading.names)
            columns = self._reading.plain
        if self._outlet is None:
            self._events.append(
                self._event(
                    kind,
                    statement=statement,
                    fingerprint=fingerprint,
                    query=text,
                    columns=columns,
                    rows=self._rows,
                    hidden_rows=hidden_rows,
                    bytes=self._bytes,
                    patients=tuple(self._patients),
                    patients_estimated=self._estimated,
                    patients_by=self._patients_by,
                    flags=flags,
                    asked=tuple(asked),
                    duration_us=duration_us,
                    error=error,
                )
            )
        else:
            told = b""
            if text and not self._outlet.told(fingerprint, columns):
                told = text_part(text, columns)
            if flags:
                told += flags_part(flags)
            if asked:
                told += asked_part(asked)
            payload = encode_query(
                self._now, final, self._constant_now(), statement, fingerprint, told, self._rows, hidden_rows,
                self._bytes, self._patients.json(), self._estimated, self._patients_by, duration_us, error,
            )  # fmt: skip
            patients = len(self._patients) + self._estimated
            self._outlet.put(self.principal, self._now, payload, self._rows, self._bytes, patients, final)
        self._rows = self._bytes = self._estimated = 0
        self._patients.clear()
        self._reported_ms = self._now

    def _constant_now(self) -> bytes:
        """The encoded fields that only a change of identity changes."""
        if (
            self.principal is not self._constant_of[0]
            or self.evidence is not self._constant_of[1]
            or self._application is not self._constant_of[2]
        ):
            self._constant_of = (self.principal, self.evidence, self._application)
            self._constant = constant_part(self._event("query", flags=()))
        return self._constant

    def _shape(self, statement: Statement) -> tuple[str, str]:
        """Fingerprint and normalised text, without a final comment: it differs each time."""
        if statement.template is not None:
            return statement.template.shape
        script = statement.script
        sql = statement.sql[: script.shape_end] if script is not None and script.shape_end else statement.sql
        return normalise_bytes(sql, self._backslashes)

    def _event(self, kind: Kind, **values: object) -> QueryEvent:
        if self.replication:
            values.setdefault("flags", ("replication",))
        return QueryEvent(
            time_ms=self._now,
            kind=kind,
            listener=self.listener,
            session=self.session_id,
            principal=self.principal,
            evidence=self.evidence,
            login=self._login,
            database=self._database,
            source=self.source,
            application=self._application,
            **values,  # type: ignore[arg-type]
        )

    def _desync(self, detail: str) -> None:
        if not self.desynced:
            self.desynced = True
            self._events.append(self._event("desynced", detail=detail))

    def give_up(self, now_ms: int) -> list[QueryEvent]:
        """See engine.Observer."""
        self._now = now_ms
        self._events = []
        self._lose("the guard failed at it")
        return self._events

    def _lose(self, detail: str) -> None:
        self._desync(detail)
        if self.unreported:
            self._report("progress")
        self._lost = True


def _lookup(values: list[str | None] | None) -> Parameters | None:
    if values is None:
        return None
    return lambda number: values[number - 1] if 0 < number <= len(values) else None


_HANDLERS = {  # of the messages that `message` does not know by itself
    ord("R"): SessionObserver._on_authentication,
    ord("K"): SessionObserver._on_key,
    ord("S"): SessionObserver._on_parameter,
    ord("t"): SessionObserver._on_parameter_description,
    ord("n"): SessionObserver._on_no_data,
    ord("1"): lambda observer, body: observer._on_answered("P"),
    ord("3"): lambda observer, body: observer._on_answered("C"),
    ord("I"): SessionObserver._on_statement_over,
    ord("s"): SessionObserver._on_statement_over,
    ord("E"): SessionObserver._on_error,
    ord("H"): SessionObserver._on_copy_out,
    ord("G"): SessionObserver._on_copy_in,
    ord("W"): SessionObserver._on_copy_both,
    ord("V"): SessionObserver._on_function_result,
}
