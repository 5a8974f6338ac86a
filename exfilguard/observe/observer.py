# cython: annotation_typing=False
"""What the observers of both engines do alike: what the relay calls, who is charged, what is known of the statement whose result flows.

The rest is each engine's: requests.py, columns.py and answers.py for PostgreSQL, mysql/commands.py and mysql/answers.py for MySQL.

Rules:
- The relay calls these in C, so no class of these has a `__dict__`: a method of one that has is looked up at each call.
- A request may be held until its answer is here, so that both are read at once (`ask`, `answer`: the shortcut, where it is compiled).
  Whatever else happens first, the general path is shown what was held: `settle`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import replace
from typing import Any

from ..errors import ProtocolError
from ..events.query import Engine, Flag, QueryEvent
from ..wire.sink import MAX_KEPT_BYTES
from .asked import AskedColumns
from .classify import Classifier
from .contexts import Contexts
from .effects import returns_nothing
from .estimate import PATIENT_BYTES, patients_in
from .identity import Identity, Parameters, Rules, Script
from .pending import Text, forget
from .portion import QUERY_CANCELED, Result
from .screening import MAX_AT_ONCE, MAX_HELD_BYTES, Judge, RequestScreener
from .tally import Setting, Tally
from .templates import Templates

UNBOUNDED = 1 << 62
MAX_PREPARED_BYTES = 64 << 20
"""Of what a session has prepared: texts, descriptions, portals. The server need not keep as much: it forgets at DEALLOCATE ALL or, of
portals, at a transaction's end, where nothing tells the guard."""
MAX_AROUND_BYTES = 1 << 10
"""Of a request, around its text: a longer text may be only a beginning."""
NOTHING: list[QueryEvent] = []
"""Never changed."""


class Observer(Tally):
    """Feed it both directions' bytes; it returns QueryEvents. Times are milliseconds since the Unix epoch."""

    _screener: RequestScreener

    def __init__(
        self, engine: Engine, setting: Setting, session_id: str, source: str, columns: Any, identity: Identity | None,
        classifier: Classifier | None, asked: AskedColumns | None, templates: Templates,
    ) -> None:  # fmt: skip
        super().__init__(setting, session_id, source)
        self.engine = engine
        self.authenticated = False
        """The server has accepted the login."""
        self.desynced = False
        self.in_transaction = False
        """By the server's last word: true in a failed one too."""
        self.forbidden = ""
        """Set when the client asks for what may not pass: its bytes must not be forwarded."""
        self.refusals = 0
        """Refused requests whose answer is still to come: until then use `server_data` before forwarding."""
        self._columns = columns
        self._identity = identity or Identity(Rules(engine=engine), Contexts({}), session_id, source)
        self._classifier = classifier or Classifier(engine)
        self._asked = asked
        self._templates = templates
        self._pending: deque[Any] = deque()  # requests without an answer; the server's bytes work on the head
        self._charged = False  # the principal is that of a statement's own evidence
        self._follow = False  # stop where another principal's answers begin
        self._backslashes = False  # they escape in strings
        self._prepared_bytes = 0
        """At least what is kept of what the client has prepared: counted anew when it is too much."""
        self._lost = False  # the stream itself can no longer be cut into messages
        self._wrapped = False  # the server's bytes are compressed
        self._allowed_rows: int | None = None
        self.stop = self.free = self.holds_errors = self.wants_asides = False
        # the result that is flowing
        self.in_rows = self.wants_rows = False
        self.wants_column = -1
        """The one identifier column that is looked at; -1 for none, or several."""
        self._expressions = False
        """A cell may hold several identifiers."""
        self.held: bytes | None = None
        """A request that waits for its answer (`ask`)."""
        self.held_ms = 0
        self.most_rows = self.most_patients = UNBOUNDED
        """What `answer` may let pass."""

    # -- what the relay calls ---------------------------------------------------------------------------------------

    @property
    def awaiting_reply(self) -> bool:
        """True while the server owes an answer."""
        return self.held is not None or bool(self._pending)

    @property
    def holding(self) -> bool:
        """True while the beginning of a request is held back: the next bytes go to `screen`."""
        return self._screener.holding

    def passes_first(self, data: bytes) -> bool:
        """True when nothing in these client bytes can be forbidden: they may be forwarded before they are read."""
        return True

    def client_data(self, data: bytes, now_ms: int) -> list[QueryEvent]:
        """Bytes from the client, behind the login. Events are rare here: only a lost stream makes one."""
        if self.held is None:
            if self.ask(data, now_ms):
                return NOTHING
            return self._asked_for(data, now_ms)
        return self.settle() + self._asked_for(data, now_ms)

    def screen(self, data: bytes, now_ms: int, judge: Judge) -> tuple[bytes, list[QueryEvent]]:
        """Like `client_data`, while somebody must be refused: returns what to send to the server instead of `data`."""
        late = self.settle()
        if not self._screens():
            return data, late + self._asked_for(data, now_ms)
        self.events = []
        if self._lost:
            return self._screener.release() + data, late
        self.now = now_ms
        self._screener.left = MAX_AT_ONCE
        out = bytearray()
        try:
            self._screener.data(data, judge, out)
        except ProtocolError as error:
            self._misread(str(error))
        return bytes(out), late + self.events

    def hold(self, data: bytes, now_ms: int) -> tuple[Flag, ...] | None:
        """Before `screen`, which costs more: these bytes are a statement of the principal at hand, with these flags, and are held (or
        `let_go`) until its answer is here. None: nothing was done."""
        if self.held is not None or self._screener.holding or not self._screens() or not self.ask(data, now_ms):
            return None
        flags = self.held_flags()
        if flags is None:
            self.let_go()
        return flags

    def let_go(self) -> None:
        """What was held now is another's to read."""
        self.held = None

    def requests(self, data: bytes) -> None:
        """Bytes from the client that are sent to the server as they are. Raises ProtocolError."""
        raise NotImplementedError

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
        if self.answered(data, now_ms, allowed_rows, allowed_patients):
            return Result([], self.portion_rows, tuple(self.portion_patients), self.portion_estimated)
        late = self.settle()
        found = self._portion(data, now_ms, allowed_rows, allowed_patients, known_patients, follow)
        if late:
            found.events[:0] = late
        return found

    def observed(self, data: bytes, now_ms: int) -> list[QueryEvent]:
        """`server_data` for bytes that have passed already: nothing is allowed or held back, and nobody asks whose patients they held.
        `portion_rows` has the rows."""
        if self.held is None:
            return self._passed(data, now_ms)
        self.most_rows = self.most_patients = UNBOUNDED
        self._keeps_portion = False
        if self.answer(data, now_ms):
            return NOTHING
        return self.settle() + self._passed(data, now_ms)

    def give_up(self, now_ms: int) -> list[QueryEvent]:
        """Reading failed with an error that is the guard's own: the session is desynced, and its bytes are not read any more."""
        self.held = None
        self.now = now_ms
        self.events = []
        self._lose("the guard failed at it")
        return self.events

    def close(self, now_ms: int) -> list[QueryEvent]:
        """The connection ended: what was delivered of the running statement, and the logout."""
        out = self.settle()[:]
        self.now = now_ms
        self.events = out
        if self.untold():
            self.report("query", 0, "" if self._lost else QUERY_CANCELED)
        if self.logged_in:
            out.append(self.event("logout"))
            self.logged_in = False
        return out

    # -- the shortcut -----------------------------------------------------------------------------------------------

    def ask(self, data: bytes, now_ms: int) -> bool:
        """True: these bytes are one request that is held until the server's next bytes are here."""
        return False

    def written(self) -> Text:
        """The text that is held, as the general path has it."""
        raise NotImplementedError

    def held_flags(self) -> tuple[Flag, ...] | None:
        """Of the statement that is held; None where its shape does not tell."""
        return None

    def answer(self, data: bytes, now_ms: int) -> bool:
        """True: these bytes were the whole answer to it, within `most_rows` and `most_patients`, and it was told."""
        return False

    def answered(self, data: bytes, now_ms: int, allowed_rows: int | None, allowed_patients: int | None) -> bool:
        """`answer` within an allowance: then what passed is in `portion_rows`, `portion_patients` and `portion_estimated`. Patients that
        are known cost here what others do: close to the limit it is False, and the general path (`server_data`) looks at each row."""
        if self.held is None:
            return False
        self.most_rows = UNBOUNDED if allowed_rows is None else allowed_rows
        self.most_patients = UNBOUNDED if allowed_patients is None else allowed_patients
        self.portion_patients.clear()
        self.portion_estimated = 0
        self._keeps_portion = True
        return self.answer(data, now_ms)

    def settle(self) -> list[QueryEvent]:
        """Show the general path what was held."""
        held = self.held
        if held is None:
            return NOTHING
        self.held = None
        return self._asked_for(held, self.held_ms)

    # -- the general path -------------------------------------------------------------------------------------------

    def _asked_for(self, data: bytes, now_ms: int) -> list[QueryEvent]:
        """Bytes from the client."""
        self.events = []
        if not self._lost:
            self.now = now_ms
            try:
                self._read_client(data)
            except ProtocolError as error:
                self._misread(str(error))
        return self.events

    def _read_client(self, data: bytes) -> None:
        """Raises ProtocolError."""
        self.requests(data)

    def _screens(self) -> bool:
        """False where no request can be replaced by another."""
        return True

    def _misread(self, detail: str) -> None:
        """The client's bytes are not what they must be."""
        self._lose(detail)

    def _portion(
        self, data: bytes, now_ms: int, allowed_rows: int | None, allowed_patients: int | None,
        known_patients: Container[str] | None, follow: bool,
    ) -> Result:  # fmt: skip
        """Bytes from the server that are counted before they pass."""
        self.begin_portion(now_ms, allowed_patients, known_patients)
        self._allowed_rows = allowed_rows
        found = Result(self.events)
        if self._lost:
            self._unread(data, allowed_rows, found)
        else:
            self.stop = False
            self._follow = follow and not self._wrapped
            try:
                self._read_server(data, allowed_rows, allowed_patients is not None, found)
            except ProtocolError as error:
                self._lose(str(error))
            self._follow = False
        self.tick(now_ms, self.events)
        found.rows, found.estimated = self.portion_rows, self.portion_estimated
        found.new_patients = tuple(self.portion_patients)
        return found

    def _passed(self, data: bytes, now_ms: int) -> list[QueryEvent]:
        """Bytes from the server that have passed."""
        if self._lost or self._wrapped:
            return self._portion(data, now_ms, None, None, None, False).events
        self.events = []
        self.portion_rows = 0
        self.now = now_ms
        self._keeps_portion = self.stop = self._follow = False
        self._allowed_patients = self._allowed_rows = None
        try:
            self._read_passed(data)
        except ProtocolError as error:
            self._lose(str(error))
        if self.untold():
            self.tick(now_ms, self.events)
        return self.events

    def _read_server(self, data: bytes, allowed_rows: int | None, hold: bool, found: Result) -> None:
        """What may pass of it goes into `found`. Raises ProtocolError."""
        raise NotImplementedError

    def _read_passed(self, data: bytes) -> None:
        """Raises ProtocolError."""
        raise NotImplementedError

    def _unread(self, data: bytes, allowed_rows: int | None, found: Result) -> None:
        """Bytes of a lost stream."""

    def _desync(self, detail: str) -> None:
        if not self.desynced:
            self.desynced = True
            self.events.append(self.event("desynced", detail=detail))

    def _lose(self, detail: str) -> None:
        self._desync(detail)
        if self.untold():
            self.report("progress")
        self._lost = True

    # -- rows -------------------------------------------------------------------------------------------------------

    def rows(self, count: int, size: int) -> None:
        self.count(count, size)
        if count and self.patients_by == "estimate" and not self.wants_rows:
            self.estimate(max(count, size // PATIENT_BYTES) if self._expressions else count)
        if self._expressions and size > MAX_KEPT_BYTES:
            self.estimate(size // PATIENT_BYTES)  # longer than what `row` is shown: judged by its length

    def _hidden_patient(self) -> list[str]:
        """The row's identifier is beyond what is kept: nobody can say whose row it was, so it is somebody new."""
        return [self.digester.digest(f"row {self.session_id} {self.ordinal} {self.delivered}".encode())]

    def _judged(self, row: bytes, values: list[bytes | None]) -> tuple[list[str], int]:
        """Without an identifier column: digests of the row's patients, and how many more it stands for (estimate.py)."""
        identifiers, patients = patients_in(values, expressions=self._expressions, keyed=self._columns.keyed)
        if identifiers:
            self.packed = self.packed or len(identifiers) > 1
            return [self.digester.digest(self._canonical(value)) for value in identifiers], 0
        return [self.digester.digest_row(row)], patients - 1

    def _canonical(self, value: bytes) -> bytes:
        """An identifier that was found in a text."""
        raise NotImplementedError

    # -- who is charged ---------------------------------------------------------------------------------------------

    def _charge(self, script: Script | None) -> None:
        """From here on, what the server sends is this statement's."""
        identity = self._identity
        identity.charge(script)
        self._charged = script is not None
        if self._follow and identity.principal != self.principal:
            self.stop = True
        self.principal, self.evidence = identity.principal, identity.evidence

    def _recognise(self, statement: Text, escapes: bool = False, asks: bool = True) -> bool:
        """True: a text that is known but for its literals and the comment it ends with, which are read here. `asks`: False for one that is
        only prepared: which patients it asks for is told by each execution. `escapes`: see Templates.find."""
        known = self._templates.find(statement.sql, escapes)
        if known is None or (known[0].asked and not asks):
            return False
        statement.template, statement.literals, end = known
        if end < len(statement.sql) and self._identity.wants_comments:
            statement.script = self._said_in(statement.sql, end, self.now)
            if statement.script.finding:
                self._tell_finding(statement)
        return True

    def _said_in(self, sql: bytes, end: int, now_ms: int) -> Script:
        """What the comment says of who is charged that the text ends with, and that begins at `end`."""
        return self._identity.claimed(sql, end, sql[end + 2 : sql.rindex(b"*/")], now_ms)

    def _held_for(self, sql: bytes, end: int, now_ms: int) -> Script | None:
        """The same of a request that is about to be held: it is charged so from here on. None: for the general path."""
        script = self._said_in(sql, end, now_ms)
        if script.finding:
            return None
        self._charge(script)
        return script

    def _understand(self, statement: Text, whole: bool) -> None:
        """What a text of the client's says of who is charged, and which patients it asks for."""
        script = self._identity.read(statement.sql, self.now, whole=whole, backslashes=self._backslashes)
        statement.script = script
        if self._asked is not None:
            statement.plan = self._asked.plan(self._own(statement))
        if script is not None and script.finding:
            self._tell_finding(statement)

    def _long_script(self, text: bytes) -> Script | None:
        """What a text says of who is charged that is longer than what the reader is shown, and held to be judged: whoever signed it
        may be locked, though the login will be charged."""
        whole = len(text) + MAX_AROUND_BYTES < MAX_HELD_BYTES
        return self._identity.read(text, self.now, whole=whole, backslashes=self._backslashes)

    def _sent_again(self, statement: Text, script: Script) -> Script:
        """The script of a prepared statement, for its next execution."""
        again = self._identity.again(script, self.now)
        if again is not script:
            statement.script = again
            self._tell_finding(statement)
        return again

    def _tell_finding(self, statement: Text) -> None:
        """A context that does not hold: told of the login, which is charged."""
        detail = self._identity.finding(statement.script, self.now)
        if detail:
            fingerprint, text = self._shape(statement)
            found = self.event("finding", detail=detail, fingerprint=fingerprint, query=text)
            self.events.append(replace(found, principal=self.login, evidence="login"))

    def _words(
        self,
        judge: Judge,
        text: bytes,
        script: Script | None,
        takes_effect: bool,
        parameters: Parameters | None = None,
        whole: bool = True,
    ) -> str:
        """Why the request must be refused; empty when it may pass. `takes_effect`: it is executed, not only prepared; `whole`: False
        when `script` is of its beginning."""
        harmless = whole and ((script is not None and script.harmless) or returns_nothing(text))
        if script is not None and not takes_effect:
            script = replace(script, effects=())
        names = self._identity.expected(script, parameters)
        return judge(names, text, harmless=True) if harmless else judge(names, text)

    def keep(self, size: int) -> None:
        """So many bytes more are kept of what the client has prepared. When that is too much the oldest is forgotten: its rows are
        still counted, only without its text and columns."""
        self._prepared_bytes += size
        if self._prepared_bytes > MAX_PREPARED_BYTES:
            most = MAX_PREPARED_BYTES // 4
            self._prepared_bytes = sum([forget(table, most) for table in self._prepared()]) + self._replaced(most)

    def _prepared(self) -> tuple[dict[Any, Any], ...]:
        """What the client has prepared, by its names: one table or two."""
        raise NotImplementedError

    def _replaced(self, most: int) -> int:
        """Bytes of what had a name before it was prepared anew, kept for the server may refuse the new one: no more than `most`."""
        return 0

    # -- the statement whose result is flowing ----------------------------------------------------------------------

    def _statement(self, request: Any) -> Text | None:
        """None: it is not known, or this is no request for one."""
        raise NotImplementedError

    def _asked_ms(self, request: Any) -> int:
        raise NotImplementedError

    def _normalise(self, sql: bytes) -> tuple[str, str]:
        """Fingerprint and normalised text."""
        raise NotImplementedError

    def shape(self, request: Any) -> tuple[str, str, int]:
        if request is None:
            return "", "", 0
        statement = self._statement(request)
        asked_ms = self._asked_ms(request)
        if statement is None or not statement.sql:
            return "", "", asked_ms
        fingerprint, text = self._shape(statement)
        return fingerprint, text, asked_ms

    def statement_flags(self, request: Any, fingerprint: str) -> tuple[Flag, ...]:
        statement = self._statement(request) if fingerprint else None
        if statement is None:
            return ()
        classifier, mentioned = self._classifier, self._columns.mentioned_in
        if statement.template is not None:
            flags: tuple[Flag, ...] = classifier.flags(fingerprint, statement.template.example, mentioned)
            if classifier.lasting(fingerprint):
                return flags
        return classifier.flags(fingerprint, self._own(statement), mentioned)  # a string of it may be run

    def _own(self, statement: Text) -> bytes:
        """Its text without a signature, which makes every text another one."""
        script = statement.script
        return statement.sql[: script.shape_end] if script is not None and script.shape_end else statement.sql

    def _shape(self, statement: Text) -> tuple[str, str]:
        """Fingerprint and normalised text, without a final comment: it differs each time."""
        if statement.template is not None:
            return statement.template.shape
        return self._normalise(self._own(statement))

    def _asked_in(self, statement: Text) -> list[str]:
        """Digests of the patients its text asks for by itself."""
        if statement.template is not None:
            return [self.digester.digest(value) for value in statement.template.values(statement.literals)]
        if statement.plan is not None:
            return [self.digester.digest(value) for value in statement.plan.resolve()]
        return []
