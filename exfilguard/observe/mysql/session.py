# cython: annotation_typing=False
"""One MySQL session: pairs what the server answers with what the client asked, and says what left the database.

The rooms: commands.py (what was asked, and whose it is), answers.py (what the server's packets are), and here what the relay calls.
Everything that grows is bounded: pending commands, statements, kept bytes.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

from ...errors import ProtocolError
from ...events.query import QueryEvent
from ...wire.mysql import messages
from ...wire.mysql.compression import Algorithm, Envelopes, Inflater, envelope
from ...wire.mysql.startup import Login
from ..estimate import PATIENT_BYTES
from ..portion import QUERY_CANCELED, Result
from ..screening import Judge
from .answers import Answers
from .commands import MAX_PENDING, MAX_STATEMENTS
from .screening import Screener

__all__ = ["MAX_PENDING", "MAX_STATEMENTS", "MysqlObserver"]


class MysqlObserver(Answers):
    """Feed it both directions' bytes from the end of the login on; it returns QueryEvents."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """See Commands."""
        super().__init__(*args, **options)
        self.authenticated = False
        """The server's OK to the login was seen: from here on bytes are this observer's."""
        self.refusals = 0
        self._screener = Screener(self)
        self._lost = False  # packets can no longer be told apart
        self._inflate_client: Inflater | None = None
        self._envelopes: Envelopes | None = None

    def startup(self, login: Login) -> None:
        """The client's login packet: establishes who is charged."""
        self._identify(login)

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

    @property
    def client_envelope(self) -> int | None:
        """The number of the client's last envelope; None without compression."""
        return None if self._inflate_client is None else self._inflate_client.sequence

    def passes_first(self, data: bytes) -> bool:
        """True when these client bytes are one whole command that is never forbidden: they may be forwarded before they are read."""
        return (
            self._inflate_client is None
            and len(data) > 4
            and not data[3]
            and data[4] not in _READ_FIRST
            and data[0] | data[1] << 8 | data[2] << 16 == len(data) - 4
            and self.client_at_boundary
        )

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
            self.requests(data)
        except ProtocolError as error:
            self._desync(str(error))

    def requests(self, data: bytes) -> None:
        """Bytes that are sent to the server as they are. Raises ProtocolError."""
        self._frontend.feed(data)

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

    def observed(self, data: bytes, now_ms: int) -> list[QueryEvent]:
        """`server_data` for bytes that have passed already: nothing is allowed or held back, and nobody asks whose patients they held.
        `portion_rows` has the rows."""
        if self._lost or self._inflate_server is not None:
            return self.server_data(data, now_ms).events
        self.events = []
        self.portion_rows = 0
        self.now = now_ms
        self._keeps_portion = self.stop = self._follow = False
        self._allowed_patients = None
        self._backend.feed(data)
        if self._rows or self._estimated or self._patients:
            self.tick(now_ms, self.events)
        return self.events

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
        out: list[QueryEvent] = []
        self.events = out
        if self.unreported:
            self.report("query", 0, "" if self._lost else QUERY_CANCELED)
        if self.logged_in:
            out.append(self.event("logout"))
            self.logged_in = False
        return out

    def give_up(self, now_ms: int) -> list[QueryEvent]:
        """See engine.Observer."""
        self.events = []
        self._lose("the guard failed at it")
        return self.events

    def _lose(self, detail: str) -> None:
        self._desync(detail)
        if self.unreported:
            self.report("progress")
        self._lost = True


_READ_FIRST = messages.REPLICATION | {messages.COM_CHANGE_USER}
_READS = re.compile(
    rb"[\s(]*(?:/\*.*?\*/[\s(]*)*(?:select|show|describe|desc|explain|with|table|values)\b", re.IGNORECASE | re.DOTALL
)
