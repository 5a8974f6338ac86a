# cython: annotation_typing=False
"""One MySQL session: pairs what the server answers with what the client asked, and says what left the database.

The rooms: commands.py (what was asked, and whose it is), answers.py (what the server's packets are), and here what the relay calls.
Everything that grows is bounded: pending commands, statements, kept bytes.
"""

from __future__ import annotations

import re
from typing import Any

from ...errors import ProtocolError
from ...events.query import QueryEvent
from ...wire.mysql import messages
from ...wire.mysql.compression import Algorithm, Envelopes, Inflater, envelope
from ...wire.mysql.startup import Login
from ..estimate import PATIENT_BYTES
from ..portion import Result
from ..screening import MAX_AT_ONCE, Judge
from .answers import Answers
from .commands import MAX_PENDING, MAX_STATEMENTS

__all__ = ["MAX_PENDING", "MAX_STATEMENTS", "MysqlObserver"]


class MysqlObserver(Answers):
    """Feed it both directions' bytes from the end of the login on; it returns QueryEvents."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """See Commands."""
        super().__init__(*args, **options)
        self._inflate_client: Inflater | None = None
        self._envelopes: Envelopes | None = None
        self._begun_passed = False
        """The beginning of the client's envelope, whose end has not come, was sent before anybody was screened."""
        self._numbers = bytearray()
        """Of the client's envelopes whose contents are held back."""

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
        self.authenticated = self.logged_in = self.wants_asides = True
        self.capabilities = capabilities
        if compression:
            self._inflate_client = Inflater(compression)
            self._envelopes = envelopes
            self._inflate_server = Inflater(compression) if envelopes is None else None
            self._wrapped = envelopes is None
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
    def only_reads(self) -> bool:
        """True when the statement whose result is flowing begins as one that changes nothing."""
        self.settle()  # what is held gives no event by itself
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
    def inflater(self) -> Inflater | None:
        """What opens the server's envelopes here; None without compression, and where the relay does."""
        return self._inflate_server

    @property
    def client_envelope(self) -> int | None:
        """The number of the client's last envelope; None without compression."""
        return None if self._inflate_client is None else self._inflate_client.sequence

    def passes_first(self, data: bytes) -> bool:
        return (
            self._inflate_client is None
            and len(data) > 4
            and not data[3]
            and data[4] not in _READ_FIRST
            and data[0] | data[1] << 8 | data[2] << 16 == len(data) - 4
            and self.client_at_boundary
        )

    def _read_client(self, data: bytes) -> None:
        inflate = self._inflate_client
        if inflate is None:
            self._frontend.feed(data)
            return
        try:
            for content, _ in inflate.feed(data):
                try:
                    self._frontend.feed(content)
                except ProtocolError as error:
                    self._misread(str(error))
            self._begun_passed = not inflate.at_boundary
            if self._envelopes is not None:
                self._envelopes.next = (inflate.sequence + 1) & 0xFF
        except ProtocolError as error:
            self._lose(str(error))

    @property
    def holding(self) -> bool:
        inflate = self._inflate_client
        return self._screener.holding or (
            inflate is not None and not self._lost and not self._begun_passed and not inflate.at_boundary
        )

    def screen(self, data: bytes, now_ms: int, judge: Judge) -> tuple[bytes, list[QueryEvent]]:
        inflate = self._inflate_client
        if inflate is None or self._lost:
            return super().screen(data, now_ms, judge)
        events: list[QueryEvent] = []
        self.events = events
        self.now = now_ms
        self._screener.left = MAX_AT_ONCE
        out = bytearray()
        try:
            for content, behind in inflate.feed(data):
                if self.forbidden:
                    break
                if self._begun_passed:
                    self._begun_passed = False
                    out += data[:behind]
                    self._frontend.feed(content)
                else:
                    out += self._screened(content, inflate.sequence, judge)
        except ProtocolError as error:
            self._lose(str(error))
            self.forbidden = "what cannot be read"
        if self._begun_passed:
            out += data
        if self._envelopes is not None:
            self._envelopes.next = (inflate.sequence + 1) & 0xFF
        return bytes(out), events

    def _screened(self, content: bytes, number: int, judge: Judge) -> bytes:
        """What is sent instead of a client's envelope. As many envelopes go to the server as came: its answer has the next number."""
        if not number and not self._screener.held:
            self._numbers.clear()
        self._numbers.append(number)
        passing = bytearray()
        try:
            self._screener.data(content, judge, passing)
        except ProtocolError as error:
            self._misread(str(error))
        if not passing:
            return b""
        numbers, self._numbers = self._numbers, bytearray()
        last = len(numbers) - 1
        parts = [passing[at : at + 1] for at in range(last)] + [passing[last:]]
        return b"".join([envelope(number, bytes(part)) for number, part in zip(numbers, parts, strict=True)])

    def _misread(self, detail: str) -> None:
        self._desync(detail)

    def _screens(self) -> bool:
        return self._inflate_client is None

    def _read_server(self, data: bytes, allowed_rows: int | None, hold: bool, found: Result) -> None:
        if self.desynced and self._allowed_patients is not None:
            # Each packet is a patient, too.
            patients = self._allowed_patients
            allowed_rows = patients if allowed_rows is None else min(patients, allowed_rows)
        if self._inflate_server is None:
            scan = self._backend.feed(data, allowed_rows, hold=hold)
            found.cut_at, found.hold_at, found.stop_at = scan.cut_at, scan.hold_at, scan.stop_at
        else:
            found.cut_at, found.hold_at, found.tail = self._inflated(self._inflate_server, data, allowed_rows)

    def _read_passed(self, data: bytes) -> None:
        self._backend.feed(data)

    def _unread(self, data: bytes, allowed_rows: int | None, found: Result) -> None:
        """Nothing can be told apart: charged by its length, too many rather than too few."""
        self.count(len(data) // PATIENT_BYTES, len(data))
        self.estimate(len(data) // PATIENT_BYTES)
        found.cut_at = 0 if allowed_rows == 0 or self._allowed_patients == 0 else None

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


_READ_FIRST = messages.REPLICATION | {messages.COM_CHANGE_USER}
_READS = re.compile(
    rb"[\s(]*+(?:/\*.*?\*/[\s(]*+)*+(?:select|show|describe|desc|explain|with|table|values)\b",
    re.IGNORECASE | re.DOTALL,
)
