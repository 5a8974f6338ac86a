# cython: annotation_typing=False
"""The client's part of a PostgreSQL session: the queue of requests that await their answers, statements and portals.

The server's messages work on the queue's head (answers.py). Everything that grows is bounded.
"""

from __future__ import annotations

from typing import Any

from ..errors import ProtocolError
from ..wire.postgres import messages
from ..wire.postgres.backend import BackendReader
from ..wire.postgres.frontend import MAX_KEPT_BYTES, FrontendReader
from .asked import AskedColumns, Plan
from .classify import BY_NUMBER, Classifier
from .identity import Identity, Parameters, Script
from .observer import Observer
from .patients import PatientColumns
from .pending import Pending, Portal, Statement
from .screening import Judge, Screener
from .statement import normalise_bytes
from .tally import Setting
from .templates import Templates

MAX_PENDING = 100_000
MAX_STATEMENTS = 10_000


class Requests(Observer):
    """Who asks for what."""

    def __init__(
        self,
        setting: Setting,
        session_id: str,
        source: str,
        columns: PatientColumns,
        identity: Identity | None = None,
        *,
        classifier: Classifier | None = None,
        asked: AskedColumns | None = None,
        templates: Templates | None = None,
    ) -> None:
        super().__init__(
            "postgresql",
            setting,
            session_id,
            source,
            columns,
            identity,
            classifier,
            asked,
            templates or Templates(asked),
        )
        self._pending.append(Pending("*"))
        self._screener = Screener(self)
        self._frontend = FrontendReader(self)
        self._backend = BackendReader(self)
        self._skip_to_sync = False
        self._statements: dict[bytes, Statement] = {}
        self._portals: dict[bytes, Portal] = {}
        self._copy = ""
        """`in`, `out` or `both` while COPY data flows."""

    def requests(self, data: bytes) -> None:
        self._frontend.feed(data)

    @property
    def client_missing(self) -> int:
        """Bytes up to the end of the message that has begun, or of its header; 0 at a boundary."""
        return self._frontend.missing

    def request(self, kind: int, body: bytes, whole: bool) -> None:
        letter = chr(kind)
        if letter in "dHXp":
            return
        if letter == "S":
            self._screener.skips = False
        if letter in "cf":
            if self._copy == "in":
                self._copy = ""
            return
        if self._copy == "in" and letter == "S":
            return  # the server ignores Sync until the copy ends
        if self._skip_to_sync:
            if letter != "S":
                return
            self._skip_to_sync = False
        if len(self._pending) >= MAX_PENDING:
            raise ProtocolError("too many requests without an answer")
        pending = Pending(letter, self.now)
        if letter == "Q":
            pending.statement = self._read(body.rstrip(b"\0"), whole, True)
            pending.script = pending.statement.script
        elif letter == "P":
            name, pos = messages.cstring(body, 0)
            end = body.find(0, pos)
            statement = self._read(body[pos : end if end >= 0 else len(body)], whole, False)
            if statement.plan is not None and whole:
                statement.types = messages.parameter_types(body[end + 1 :])
            pending.script = statement.script
            self._remember(pending, self._statements, name, statement)
        elif letter == "B":
            portal, pos = messages.cstring(body, 0)
            name, pos = messages.cstring(body, pos)
            statement = self._statements.get(name) or Statement(b"")
            formats = messages.bind_result_formats(body, pos) if whole else None
            made = Portal(statement, formats)
            if statement.plan is not None and whole:
                self._bind_asked(made, statement.plan, body, pos)
            if statement.script is not None:
                made.script = pending.script = self._sent_again(statement, statement.script)
                if made.script.effects:
                    made.parameters = messages.bind_texts(body, pos)
            self._remember(pending, self._portals, portal, made)
        elif letter == "D":
            name, _ = messages.cstring(body, 1)
            if body[:1] == b"S":
                pending.statement = self._statements.get(name)
            else:
                pending.portal = self._portals.get(name)
        elif letter == "E":
            name, _ = messages.cstring(body, 0)
            pending.portal = self._portals.get(name)
            pending.statement = pending.portal.statement if pending.portal is not None else Statement(b"")
            pending.script = pending.portal.script if pending.portal is not None else None
        elif letter == "F":
            pending.function = int.from_bytes(body[:4], "big")
            pending.statement = Statement(BY_NUMBER.get(pending.function, b""))
        elif letter == "C":
            name, _ = messages.cstring(body, 1)
            table: dict[bytes, Any] = self._statements if body[:1] == b"S" else self._portals
            pending.undo = (table, name, table.pop(name, None))
        if letter in "DCS" and self._pending:
            # Beside a statement: what is said then, at its commit too, is that one's.
            pending.script = self._pending[-1].script
        self._pending.append(pending)
        if len(self._pending) == 1:
            self._next_head()

    def _next_head(self) -> None:
        """A request became the head of the queue."""
        if not self._pending:
            return
        head = self._pending[0]
        if head.kind == "E":
            self._show_portal(head)
        elif head.kind == "F":
            self._show_function(head)
        if head.script is not None or self._charged:
            self._charge(head.script)

    def _show_portal(self, head: Pending) -> None:
        """An Execute became the head: the columns' part."""
        raise NotImplementedError

    def _show_function(self, head: Pending) -> None:
        """A FunctionCall became the head: the same."""
        raise NotImplementedError

    def _remember(self, pending: Pending, table: dict[bytes, Any], name: bytes, what: Statement | Portal) -> None:
        if name not in table and len(table) >= MAX_STATEMENTS:
            # The oldest is forgotten: its rows are still counted, only without its text and columns.
            del table[next(iter(table))]
        pending.undo = (table, name, table.get(name))
        table[name] = what
        self.keep(what.weight())

    def _prepared(self) -> tuple[dict[Any, Any], ...]:
        return self._portals, self._statements

    def _replaced(self, most: int) -> int:
        kept = 0
        for pending in self._pending:  # the oldest is what a name would have again after an error
            if pending.undo is None or pending.undo[2] is None:
                continue
            table, name, before = pending.undo
            size = before.weight()
            if kept + size > most:
                pending.undo = (table, name, None)
            else:
                kept += size
        return kept

    def _read(self, sql: bytes, whole: bool, simple: bool) -> Statement:
        """A text the client sent. `simple`: in a Query."""
        statement = Statement(sql)
        if not (whole and self._recognise(statement, asks=simple)):
            self._understand(statement, whole)
        return statement

    # -- refused requests -------------------------------------------------------------------------------------------

    def judge(self, kind: str, body: bytes, judge: Judge) -> str:
        """Why this request, or the beginning of it, must be refused; empty when it may pass. The signature of a text is
        used up here already: what the screener lets pass is read once more, as the retry that it then is."""
        if not self._pending:
            self._identity.settled()
        statement: Statement | None = None
        parameters = None
        script: Script | None = None
        text = b""
        whole = len(body) + 4 < MAX_KEPT_BYTES
        if kind == "Q":
            text = body.rstrip(b"\0")
            script = self._read(text, True, True).script if whole else self._long_script(text)
        elif kind == "P":
            _, pos = messages.cstring(body, 0)
            end = body.find(0, pos)
            text = body[pos : end if end >= 0 else len(body)]
            script = self._read(text, True, False).script if whole else self._long_script(text)
        elif kind == "B":
            _, pos = messages.cstring(body, 0)
            name, pos = messages.cstring(body, pos)
            statement = self._statements.get(name)
            script = statement.script if statement is not None else None
            if script is not None:
                script = self._identity.again(script, self.now)
                values = messages.bind_texts(body, pos) if script.effects else None
                parameters = lookup(values)
        elif kind == "F":
            text = BY_NUMBER.get(int.from_bytes(body[:4], "big"), b"")
        elif kind == "E":
            portal = self._portals.get(messages.cstring(body, 0)[0])
            if portal is not None:
                statement, script, parameters = portal.statement, portal.script, lookup(portal.parameters)
        if not text and statement is not None:
            text = statement.sql
        return self._words(judge, text, script, kind in "QE", parameters, whole)

    def refused_request(self, kind: str, refusal: str) -> None:
        """A request that is sent as one which the server must refuse (screening.py)."""
        if len(self._pending) >= MAX_PENDING:
            raise ProtocolError("too many requests without an answer")
        if self._skip_to_sync:
            return
        pending = Pending(kind, self.now)
        pending.refusal = refusal
        self._pending.append(pending)
        self.refusals += 1
        self.holds_errors = True
        if len(self._pending) == 1:
            self._next_head()

    # -- what the head asks for -------------------------------------------------------------------------------------

    def current(self) -> Pending | None:
        head: Pending | None = self._pending[0] if self._pending else None
        return head if head is not None and head.kind in "QEF" else None

    def _statement(self, request: Pending) -> Statement | None:
        head = request
        return head.statement

    def _asked_ms(self, request: Pending) -> int:
        head = request
        return head.asked_ms

    def _normalise(self, sql: bytes) -> tuple[str, str]:
        return normalise_bytes(sql, self._backslashes)

    def statement_asked(self, request: Pending | None) -> list[str]:
        """Once for each execution."""
        head = request
        if head is None or self._asked is None:
            return []
        portal = head.portal
        if portal is not None:
            found, portal.asked = portal.asked, None
            return found or []
        return self._asked_in(head.statement) if head.statement is not None and not head.done else []

    def _bind_asked(self, portal: Portal, plan: Plan, body: bytes, pos: int) -> None:
        values = messages.bind_values(body, pos)
        types = portal.statement.types
        if values is None:
            return

        def parameter(number: int) -> tuple[int, bytes | None, int] | None:
            if not 0 < number <= len(values):
                return None
            return (*values[number - 1], types[number - 1] if number <= len(types) else 0)

        portal.asked = [self.digester.digest(value) for value in plan.resolve(parameter)]


def lookup(values: list[str | None] | None) -> Parameters | None:
    """Parameters of a Bind, by their number."""
    if values is None:
        return None
    return lambda number: values[number - 1] if 0 < number <= len(values) else None
