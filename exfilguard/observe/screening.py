"""Requests refused before the database sees them, with the session in step: the one statement fails, the connection goes on.

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
from typing import TYPE_CHECKING

from ..wire.postgres.frontend import MAX_KEPT_BYTES
from ..wire.postgres.messages import FRONTEND_TYPES

if TYPE_CHECKING:
    from .session import SessionObserver

Judge = Callable[[Collection[str], bytes], str]
"""(whom a statement would be charged to, its text) -> the words of its refusal, empty to let it pass."""

SQLSTATE = "42501"  # insufficient_privilege

_SQL = b"exfilguard refused\0"
_QUERY = b"Q" + (4 + len(_SQL)).to_bytes(4, "big") + _SQL
_PARSE = b"P" + (4 + 11 + len(_SQL) + 2).to_bytes(4, "big") + b"exfilguard\0" + _SQL + b"\0\0"
_JUDGED = frozenset(b"QPBEF")
_HELD = frozenset(b"QPBF")


class Screener:
    """The client's side of one session, as long as somebody has to be refused."""

    __slots__ = ("_observer", "_skip", "held")

    def __init__(self, observer: SessionObserver) -> None:
        self._observer = observer
        self._skip = False
        """A refused request's batch: the server skips the rest of it up to Sync."""
        self.held = b""

    def release(self) -> bytes:
        """What is held, given back."""
        held, self.held = self.held, b""
        return held

    def data(self, data: bytes, judge: Judge) -> bytes:
        """What to send to the server instead of `data`. Raises ProtocolError."""
        observer = self._observer
        if not observer.client_at_boundary:
            # The screening began in the middle of a message: the rest of this portion goes by as it is.
            observer.requests(data)
            return data
        out = bytearray()
        pos, end = 0, len(data)
        while pos < end:
            kind = data[pos]
            length = int.from_bytes(data[pos + 1 : pos + 5], "big") if pos + 5 <= end else -1
            partly = length < 0 or (pos + 1 + length > end and kind in _HELD and length < MAX_KEPT_BYTES)
            if partly and kind in FRONTEND_TYPES:
                self.held = data[pos:]
                break
            if length < 4 or pos + 1 + length > end or kind not in _JUDGED:
                stop = end if length < 4 else min(end, pos + 1 + length)
                observer.requests(data[pos:stop])
                self._skip = self._skip and kind != ord("S")
                out += data[pos:stop]
                pos = stop
                continue
            body = data[pos + 5 : pos + 1 + length]
            refusal = "" if self._skip else observer.judge(chr(kind), body, judge)
            if refusal:
                simple = kind in b"QF"
                observer.refused_request("Q" if simple else "P", refusal)
                self._skip = not simple
                out += _QUERY if simple else _PARSE
            else:
                observer.requests(data[pos : pos + 1 + length])
                out += data[pos : pos + 1 + length]
            pos += 1 + length
        return bytes(out)
