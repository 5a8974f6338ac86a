"""Requests refused before the database sees them, with the session in step: the one statement fails, the connection goes on.

`RequestScreener` is what all engines share (mysql/screening.py), `Screener` PostgreSQL's.

Strategy: the request is replaced by one that the server itself must refuse (its text is no SQL), so that transaction, pipeline and
portals end up as after any other error; and the server's ErrorResponse to it is replaced by the guard's on its way back. That
works inside transactions and pipelines, and behind a pooler, where ending the connection would hit others.

Rules:
- A request is judged by whom it will be charged to if all goes well before it (Identity.expected); where that was wrong, the
  relay ends the session when the rows come.
- What only changes the identity or ends a transaction passes, whoever is locked: the next user of a pooled connection must get rid
  of the last one. What is denied is denied there too: a SET may read a file.
- What is judged is held until it is complete: a text up to MAX_HELD_BYTES, anything else up to what the reader keeps.
- A longer one is judged by that beginning. When it is refused the rest is dropped. Else the rest goes by, but is looked at for the
  words that lead to a denied flag, and the session ends before the last byte of a message with one is sent: the server never runs it.
- Nothing is let pass as harmless that is longer than what the reader keeps.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

from ..errors import ProtocolError
from ..wire.postgres.frontend import MAX_KEPT_BYTES
from ..wire.postgres.messages import FRONTEND_TYPES, MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from .requests import Requests

MAX_HELD_BYTES = 1 << 20
"""Of one request of a session, while somebody is screened."""
_TAIL_BYTES = 128
"""A word may begin in one piece and end in the next; none that is looked for is longer."""
MAX_AT_ONCE = 64 << 10
"""Requests of one read, which is of 256 kB at most: more there are only in what was compressed, where 16 kB hold three million, and
each is looked at before anybody else has a turn."""
TOO_MANY = "so much at once"
"""For Observer.forbidden."""
TOO_LONG = "what this statement of over 1 MiB holds"
"""For Observer.forbidden."""

SQLSTATE = "42501"  # insufficient_privilege

_SQL = b"exfilguard refused\0"
_QUERY = b"Q" + (4 + len(_SQL)).to_bytes(4, "big") + _SQL
_PARSE = b"P" + (4 + 11 + len(_SQL) + 2).to_bytes(4, "big") + b"exfilguard\0" + _SQL + b"\0\0"
_JUDGED = frozenset(b"QPBEF")
_TEXTS = frozenset(b"QP")


class Judge(Protocol):
    def __call__(self, principals: Collection[str], text: bytes, piece: bool = False, *, harmless: bool = False) -> str:
        """(whom a statement would be charged to, its text) -> the words of its refusal, empty to let it pass. `piece`: a part of a
        text, which only its words speak of; `harmless`: nothing comes of it that anybody may not have."""


class Screened(Protocol):
    """An observer, as its screener needs it."""

    forbidden: str

    @property
    def client_missing(self) -> int:
        """Bytes up to the end of the request that has begun, or of its header; 0 at a boundary."""

    def requests(self, data: bytes) -> None:
        """Bytes that are sent to the server as they are. Raises ProtocolError."""


class RequestScreener:
    """The client's side of one session, as long as somebody has to be refused."""

    __slots__ = ("_drops", "_names", "_screened", "_tail", "_wanted", "held", "left", "skips")

    def __init__(self, observer: Screened) -> None:
        self._screened = observer
        self.held = bytearray()
        self._wanted = 0  # bytes that `held` must have before it is looked at again
        self._drops = 0  # bytes still to come of a refused request
        self._names: Collection[str] = ()  # whom a text is charged to that goes by in pieces
        self._tail = b""  # of its last piece
        self.left = MAX_AT_ONCE
        """Requests that may still come in what was read last; whoever reads sets it anew."""
        self.skips = False
        """A refused request's batch: the server skips the rest of it up to Sync, which the observer may see while nobody is screened."""

    @property
    def holding(self) -> bool:
        """True while the next bytes must come here, whoever is screened: they belong to what is held, or to what was refused."""
        return bool(self.held) or self._drops > 0

    def release(self) -> bytes:
        """What is held, given back."""
        held, self.held = bytes(self.held), bytearray()
        return held

    def data(self, data: bytes, judge: Judge, out: bytearray) -> None:
        """Put into `out` what to send to the server instead of `data`. Raises ProtocolError, behind what cannot be read: that is
        the server's to refuse, and is in `out` as it came."""
        if self.held:
            self.held += data
            if len(self.held) < self._wanted:
                return
            data = self.release()
        screened = self._screened
        pos, end = 0, len(data)
        while pos < end:
            if self._drops:
                taken = min(self._drops, end - pos)
                self._drops -= taken
                pos += taken
                continue
            missing = screened.client_missing
            if missing:
                # The rest of a message whose beginning went by, and no byte more: what stands behind it is judged.
                part = data[pos : pos + missing]
                if self._names and self._speaks(part, judge):
                    screened.forbidden = TOO_LONG
                    return
                self._pass(part, data, pos, out)
                pos += len(part)
                continue
            self._names = ()
            self.left -= 1
            if self.left < 0:
                screened.forbidden = TOO_MANY
                return
            stop, most = self.extent(data, pos, end)
            kept = min(stop, pos + most) if most else min(stop, end)
            if stop < 0 or kept > end:
                self.held = bytearray(data[pos:])
                self._wanted = kept - pos if stop >= 0 else 0
                return
            part = data[pos:kept]
            words = ""
            if most:
                try:
                    by_words = kept < stop and most == MAX_HELD_BYTES
                    words = self._beginning(part, judge) if by_words else self.words(part, judge)
                except ProtocolError:
                    words = ""  # the reader will find the same
            if words:
                self._drops = stop - kept
                out += self.refuse(part, words)
            else:
                self._pass(part, data, pos, out)
            pos = kept

    def _pass(self, part: bytes, data: bytes, pos: int, out: bytearray) -> None:
        try:
            self._screened.requests(part)
        except ProtocolError:
            out += data[pos:]
            raise
        out += part

    def _beginning(self, part: bytes, judge: Judge) -> str:
        """`words` of a text whose rest is not held."""
        names: Collection[str] = ()

        def both(principals: Collection[str], text: bytes, piece: bool = False, *, harmless: bool = False) -> str:
            nonlocal names
            names = principals
            return judge(principals, text) or (judge(principals, text, True) if text else "")

        words = self.words(part, both)
        self._names, self._tail = names, part[-_TAIL_BYTES:]
        return words

    def _speaks(self, part: bytes, judge: Judge) -> bool:
        """True when this piece of a text that goes by has words for which it is refused."""
        if self.in_header:
            return False
        piece = self._tail + part
        self._tail = piece[-_TAIL_BYTES:]
        return bool(judge(self._names, piece, True))

    @property
    def in_header(self) -> bool:
        """True when the next byte is not of the text: of the header that the next part of it has."""
        return False

    def extent(self, data: bytes, pos: int, end: int) -> tuple[int, int]:
        """(where the request that begins at `pos` ends, -1 when that is not known yet; how much of it is held to be judged, 0 for none)."""
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

    def extent(self, data: bytes, pos: int, end: int) -> tuple[int, int]:
        kind = data[pos]
        if kind not in FRONTEND_TYPES:
            return end, 0
        if pos + 5 > end:
            return -1, 0
        length = int.from_bytes(data[pos + 1 : pos + 5], "big")
        if not 4 <= length <= MAX_MESSAGE_BYTES:
            return end, 0
        if kind not in _JUDGED:
            return pos + 1 + length, 0
        return pos + 1 + length, MAX_HELD_BYTES if kind in _TEXTS else MAX_KEPT_BYTES

    def words(self, request: bytes, judge: Judge) -> str:
        return "" if self.skips else self._observer.judge(chr(request[0]), request[5:], judge)

    def refuse(self, request: bytes, words: str) -> bytes:
        simple = request[0] in b"QF"
        self._observer.refused_request("Q" if simple else "P", words)
        self.skips = not simple
        return _QUERY if simple else _PARSE
