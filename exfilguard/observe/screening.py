"""Requests refused before the database sees them, with the session in step: the one statement fails, the connection goes on.

`RequestScreener` is what all engines share (mysql/screening.py), `Screener` PostgreSQL's.

Strategy: the request is replaced by one that the server itself must refuse (its text is no SQL), so that transaction, pipeline and
portals end up as after any other error; and the server's ErrorResponse to it is replaced by the guard's on its way back. That
works inside transactions and pipelines, and behind a pooler, where ending the connection would hit others.

Rules:
- A request is judged by whom it will be charged to if all goes well before it (Identity.expected); where that was wrong, the
  relay ends the session when the rows come.
- What only changes the identity or ends a transaction passes: the next user of a pooled connection must get rid of the last one.
- Of a Query, Parse or Bind that is not complete the beginning is held, up to the bound of what the reader keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Protocol

from ..wire.postgres.frontend import MAX_KEPT_BYTES
from ..wire.postgres.messages import FRONTEND_TYPES

if TYPE_CHECKING:
    from .requests import Requests

Judge = Callable[[Collection[str], bytes], str]
"""(whom a statement would be charged to, its text) -> the words of its refusal, empty to let it pass."""

SQLSTATE = "42501"  # insufficient_privilege

_SQL = b"exfilguard refused\0"
_QUERY = b"Q" + (4 + len(_SQL)).to_bytes(4, "big") + _SQL
_PARSE = b"P" + (4 + 11 + len(_SQL) + 2).to_bytes(4, "big") + b"exfilguard\0" + _SQL + b"\0\0"
_JUDGED = frozenset(b"QPBEF")
_HELD = frozenset(b"QPBF")


class Screened(Protocol):
    """An observer, as its screener needs it."""

    @property
    def client_missing(self) -> int:
        """Bytes up to the end of the request that has begun, or of its header; 0 at a boundary."""

    def requests(self, data: bytes) -> None:
        """Bytes that are sent to the server as they are. Raises ProtocolError."""


class RequestScreener:
    """The client's side of one session, as long as somebody has to be refused."""

    __slots__ = ("_screened", "held", "skips")

    def __init__(self, observer: Screened) -> None:
        self._screened = observer
        self.held = b""
        self.skips = False
        """A refused request's batch: the server skips the rest of it up to Sync, which the observer may see while nobody is screened."""

    def release(self) -> bytes:
        """What is held, given back."""
        held, self.held = self.held, b""
        return held

    def data(self, data: bytes, judge: Judge) -> bytes:
        """What to send to the server instead of `data`. Raises ProtocolError."""
        screened = self._screened
        out = bytearray()
        pos, end = 0, len(data)
        while pos < end and (missing := screened.client_missing):
            # The rest of a message whose beginning went by, and no byte more: what stands behind it is judged.
            part = data[pos : pos + missing]
            screened.requests(part)
            out += part
            pos += len(part)
        while pos < end:
            stop, judged = self.extent(data, pos, end)
            if stop < 0:
                self.held = data[pos:]
                break
            part = data[pos:stop]
            words = self.words(part, judge) if judged else ""
            if words:
                part = self.refuse(part, words)
            else:
                screened.requests(part)
            out += part
            pos = stop
        return bytes(out)

    def extent(self, data: bytes, pos: int, end: int) -> tuple[int, bool]:
        """(where the request that begins at `pos` ends in data[:end], or -1 to hold its beginning; True when it is to be judged)."""
        raise NotImplementedError

    def words(self, request: bytes, judge: Judge) -> str:
        """Why this request must be refused; empty when it may pass."""
        raise NotImplementedError

    def refuse(self, request: bytes, words: str) -> bytes:
        """What is sent instead, of which the observer has been told."""
        raise NotImplementedError


class Screener(RequestScreener):
    """PostgreSQL's."""

    __slots__ = ("_observer",)

    def __init__(self, observer: Requests) -> None:
        super().__init__(observer)
        self._observer = observer

    def extent(self, data: bytes, pos: int, end: int) -> tuple[int, bool]:
        kind = data[pos]
        length = int.from_bytes(data[pos + 1 : pos + 5], "big") if pos + 5 <= end else -1
        partly = length < 0 or (pos + 1 + length > end and kind in _HELD and length < MAX_KEPT_BYTES)
        if partly and kind in FRONTEND_TYPES:
            return -1, False
        if length < 4 or pos + 1 + length > end or kind not in _JUDGED:
            return (end if length < 4 else min(end, pos + 1 + length)), False
        return pos + 1 + length, True

    def words(self, request: bytes, judge: Judge) -> str:
        return "" if self.skips else self._observer.judge(chr(request[0]), request[5:], judge)

    def refuse(self, request: bytes, words: str) -> bytes:
        simple = request[0] in b"QF"
        self._observer.refused_request("Q" if simple else "P", words)
        self.skips = not simple
        return _QUERY if simple else _PARSE
