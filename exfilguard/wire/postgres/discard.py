"""After a cut inside a session that goes on: drop what the backend still sends of the statement, until it is in step again.

The client has had an ErrorResponse of the guard's. What it may still see, in the protocol's words
(https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-ASYNC): NotificationResponse, whose payload is too short
for a record, and ParameterStatus, which come at any time, and the ReadyForQuery that ends the statement (a Query's own, or that of the next Sync), which carries the
true transaction status. Rows, CommandComplete, notices and the backend's own error about the cancel are dropped.
"""

from __future__ import annotations

from ...errors import ProtocolError
from .asides import discloses
from .messages import BACKEND_TYPES, MAX_MESSAGE_BYTES, command_tag

_READY, _ERROR, _COMPLETE = b"ZEC"
_WANTED = b"ASC"
MAX_KEPT_BYTES = 64 << 10
"""A longer notification is dropped too: PostgreSQL's own bound is 8,000 bytes."""


_READS = frozenset({"SELECT", "FETCH", "MOVE", "COPY", "SHOW", "EXPLAIN"})


class Discard:
    """Push parser: `feed` the backend's bytes from a message boundary on, until `done`."""

    __slots__ = ("_carry", "_failed", "_skip", "_wrote", "done")

    def __init__(self) -> None:
        self.done = False
        self._failed = False
        self._wrote = False
        self._carry = b""
        self._skip = 0

    @property
    def stands(self) -> bool:
        """True when the backend was done before the cancel reached it, and not with reading alone: what it did is not undone,
        although the client has been told of an error. (CommandComplete's tag tells; `INSERT .. RETURNING` and whatever
        followed in the same pipeline or Query.)"""
        return self._wrote and not self._failed

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """(what the client may see before it is in step, what follows once `done`, ReadyForQuery included).

        Raises ProtocolError.
        """
        data, self._carry = self._carry + data, b""
        pos, end = 0, len(data)
        passing = bytearray()
        if self._skip:
            pos = min(self._skip, end)
            self._skip -= pos
        while pos < end:
            kind = data[pos]
            if kind == _READY:
                self.done = True
                return bytes(passing), data[pos:]
            if kind not in BACKEND_TYPES:
                raise ProtocolError("unknown backend message type")
            if pos + 5 > end:
                self._carry = data[pos:]
                break
            length = int.from_bytes(data[pos + 1 : pos + 5], "big")
            if not 4 <= length <= MAX_MESSAGE_BYTES:
                raise ProtocolError("backend message length is out of bounds")
            after = pos + 1 + length
            self._failed = self._failed or kind == _ERROR
            if kind in _WANTED and length <= MAX_KEPT_BYTES:
                if after > end:
                    self._carry = data[pos:]
                    break
                if kind == _COMPLETE:
                    verb = command_tag(data[pos + 5 : after]).partition(" ")[0]
                    self._wrote = self._wrote or verb not in _READS
                elif not discloses(kind, data[pos + 5 : after], b""):
                    passing += data[pos:after]
            elif after > end:
                self._skip = after - end
            pos = after
        return bytes(passing), b""
