# cython: annotation_typing=False
"""The server's part of a PostgreSQL session: pairs its messages with what the client asked, and says what left the database.

Strategy: one queue of pending requests (requests.py), whose head the server's messages work on:

    Query           rows.. CommandComplete, more of them for several statements .. until ReadyForQuery
    Parse Bind ..   one answer each; Execute: rows.. then CommandComplete, EmptyQueryResponse or PortalSuspended
    Sync            ReadyForQuery
    ErrorResponse   ends a Query's statement; in the extended protocol everything up to the next Sync is skipped

When replies and requests no longer match, the session is `desynced`: its rows are still charged to its principal, without a
statement.
"""

from __future__ import annotations

from typing import Any

from ..wire.postgres import messages
from ..wire.postgres.startup import error_response
from .columns import Columns
from .completed import ENDS, MAKES, SHADOWS, hidden_rows, names
from .pending import COLUMN_BYTES, Pending
from .requests import lookup
from .screening import SQLSTATE

_OF_PORTALS = ("DECLARE CURSOR", "CLOSE CURSOR")
_OF_NAMES = ("PREPARE", "DO", "CALL")
"""Tags of what makes statements by SQL, or may: in a block, nobody sees it."""
_READY_FOR_QUERY, _COMMAND_COMPLETE, _ROW_DESCRIPTION, _BIND_COMPLETE = b"ZCT2"


class Answers(Columns):
    """What was answered."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.backend_key: bytes | None = None
        """Body of BackendKeyData, for a CancelRequest."""
        self._patches: list[tuple[int, int, bytes]] = []

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
        if self._pending:
            head: Pending = self._pending[0]
            if head.kind in kinds:
                return head
        self._desync("a reply without its request")
        return None

    # -- the session ------------------------------------------------------------------------------------------------

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
            self.application = value
        elif name == "client_encoding":
            self._encoding = value
        if self._identity.reported(name, value):
            self._recharge()

    def _recharge(self) -> None:
        """The session's settings have changed."""
        self._charge(self._pending[0].script if self._pending else None)

    def _on_ready(self, body: bytes) -> None:
        head = self._head("QSF*")
        if head is None:
            return
        self.in_transaction = body[:1] != b"I"
        if body[:1] == b"I" and self._identity.sticky:
            self._identity.idle()
            self._charged = True
        self._pending.popleft()
        if not self._pending and self.untold():
            self.report("progress")  # of what was said beside a statement, behind its end
        if self._charged:
            self._charge(None)
        if head.kind == "*":
            self.logged_in = self.wants_asides = True
            self.events.append(self.event("login"))
        self.delivered = 0
        self._forget_columns()
        self._next_head()

    # -- statements and their results -------------------------------------------------------------------------------

    def _on_answered(self, kinds: str) -> None:
        if self._head(kinds) is not None:
            self._pending.popleft()
            self._next_head()

    def _on_no_data(self, body: bytes) -> None:
        self._on_answered("D")

    def _on_parameter_description(self, body: bytes) -> None:
        head: Pending | None = self._pending[0] if self._pending else None
        if head is not None and head.kind == "D" and head.statement is not None and head.statement.plan is not None:
            head.statement.types = messages.parameter_types(body)

    def _on_description(self, body: bytes) -> None:
        head = self._head("QD")
        if head is None:
            return
        fields = messages.row_description(body)
        if head.kind == "Q":
            self._begin_columns(fields, None, head.statement)
            return
        described = head.portal.statement if head.portal is not None else head.statement
        if described is not None and described.fields is not fields:
            self.keep(COLUMN_BYTES * len(fields))
        if head.portal is not None:
            head.portal.fields = fields
            head.portal.formats = self._columns.reading(fields).formats
            if head.portal.statement.fields is None:
                # pgjdbc has a portal described once, and executes the others without.
                head.portal.statement.fields = fields
        elif head.statement is not None:
            head.statement.fields = fields
        self._pending.popleft()
        self._next_head()

    def _on_command_complete(self, body: bytes) -> None:
        head = self._head("QE")
        tag = messages.command_tag(body)
        hidden = 0
        if self._copying is not None:
            # Where the server has sent more rows than were made out, the others are somebody too.
            told = messages.tag_rows(tag)
            self.estimate(max(0, told - self._copying.total))
            if told > self.delivered:
                self._recount(told - self.delivered + 1)
                self.free = False
        if head is not None and head.statement is not None and not self.delivered and not self._copied_in:
            hidden = hidden_rows(tag, head.statement.bare)
            if hidden and self._of_patients(head.statement):
                self.patients_by = "estimate"
                self.estimate(hidden)
                self._note_copy(head.statement)
        keeps = self._expressions or hidden or tag in _OF_NAMES or tag in MAKES
        if keeps and head is not None and head.statement is not None:
            self._note_kept(head.statement.sql)
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
        self.report("query", hidden_rows, error)
        self.delivered = 0
        self._forget_columns()
        if error:
            self._identity.failed()
            self._recharge()
        elif head is not None and tag is not None:
            self._completed(head, tag)
        if head is not None and head.kind == "E":
            self._pending.popleft()
            self._next_head()

    def _completed(self, head: Pending, tag: str) -> None:
        if head.script is not None:
            portal = head.portal
            values = portal.parameters if portal is not None else None
            self._identity.completed(head.script, head.done, lookup(values), rolled_back=tag == "ROLLBACK")
            self._recharge()
        if tag in MAKES and head.statement is not None:
            self._note_made(head.statement.sql)
        elif tag in SHADOWS and head.statement is not None:
            self._note_shadow(head.statement.sql)
        elif tag in ENDS and head.statement is not None:
            self._note_ended(head.statement.sql)
        if tag in _OF_PORTALS and head.statement is not None:
            # The protocol's portals have these names, too: what was known of one by such a name is another's.
            for name in names(head.statement.sql):
                self._portals.pop(name, None)
        if tag in _OF_NAMES:
            # A statement or cursor made by SQL has its name in common with those of the protocol: whose description it was is not known.
            for statement in self._statements.values():
                statement.fields = None
            for name, portal in self._portals.items():
                if name:  # no cursor is without one
                    portal.fields = portal.statement.fields = None
        head.done += 1

    def _on_function_result(self, body: bytes) -> None:
        if self._head("F") is not None:
            self.report("query")  # its value was counted as a row
            self.delivered = 0
            self._forget_columns()

    # -- errors -----------------------------------------------------------------------------------------------------

    def _on_error(self, body: bytes) -> None:
        state = messages.sqlstate(body)
        if not self._pending:
            return  # not an answer: the server is going away
        head: Pending = self._pending[0]
        if head.kind == "*":
            self._pending.popleft()
            self.events.append(self.event("login_failed", error=state))
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
        refused: list[Pending] = []
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

    # -- COPY -------------------------------------------------------------------------------------------------------

    def _on_copy_out(self, body: bytes) -> None:
        head: Pending | None = self._pending[0] if self._pending else None
        if head is not None:
            self._begin_copy(head.statement, head.done, body)
        else:
            self._begin_copy(None, 0, body)

    def _on_copy_in(self, body: bytes) -> None:
        self._copy = "in"
        self._copied_in = True
        if len(self._pending) > 1 and self._pending[0].kind in "EQ":
            # Syncs that were sent before the copy's end are ignored by the server.
            while len(self._pending) > 1 and self._pending[1].kind == "S":
                del self._pending[1]

    def _on_copy_both(self, body: bytes) -> None:
        """START_REPLICATION was granted: whatever comes counts as a row, keepalives as none."""
        self._copy = "both"
        self._forget_columns()
        self.wants_rows = True


_HANDLERS = {  # of the messages that `message` does not know by itself
    ord("R"): Answers._on_authentication,
    ord("K"): Answers._on_key,
    ord("S"): Answers._on_parameter,
    ord("t"): Answers._on_parameter_description,
    ord("n"): Answers._on_no_data,
    ord("1"): lambda observer, body: observer._on_answered("P"),
    ord("3"): lambda observer, body: observer._on_answered("C"),
    ord("I"): Answers._on_statement_over,
    ord("s"): Answers._on_statement_over,
    ord("E"): Answers._on_error,
    ord("H"): Answers._on_copy_out,
    ord("G"): Answers._on_copy_in,
    ord("W"): Answers._on_copy_both,
    ord("V"): Answers._on_function_result,
}
