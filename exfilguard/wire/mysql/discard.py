"""After a cut inside a session that goes on: drop what the server still sends of the command, until the next one can be answered.

The client has had an ERR packet of the guard's, which ends the command for it. The server goes on with rows, to their end or to the
error that KILL QUERY makes, and with the results that may follow.
"""

from __future__ import annotations

from ...errors import ProtocolError
from ..sink import Sink
from . import messages
from .backend import BackendReader
from .messages import CLIENT_DEPRECATE_EOF, MARIADB_CLIENT_CACHE_METADATA, SERVER_MORE_RESULTS_EXISTS

ROWS, FIRST, COLUMNS, MIDDLE = range(4)


class Discard(Sink):
    """Push parser: `feed` the server's bytes from a row's beginning on, until `done`. It is the backend reader's sink."""

    def __init__(self, capabilities: int, *, only_reads: bool) -> None:
        """`only_reads`: the statement that was cut changes nothing, as far as its first word tells."""
        self.done = self.stop = False
        self.in_rows, self.wants_rows = True, False
        self._capabilities = capabilities
        self._failed = False
        self._wrote = not only_reads
        self._phase = ROWS
        self._left = 0
        self._announced = 0
        self._reader = BackendReader(self)

    @property
    def stands(self) -> bool:
        """True when the server was done before it could be stopped, and not with reading alone: what it did is not undone,
        although the client has been told of an error."""
        return self._wrote and not self._failed

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """(nothing: MySQL has no messages beside an answer, what follows once `done`). Raises ProtocolError."""
        scan = self._reader.feed(data)
        return b"", data[scan.stop_at :] if self.done and scan.stop_at is not None else b""

    def rows(self, count: int, size: int) -> None:
        return

    def row(self, data: bytes, start: int, end: int, whole: bool) -> bool:
        return True

    def scan(self, data: bytes, pos: int, most: int) -> tuple[int, int, int]:
        return pos, 0, 0

    def packet(self, payload: bytes) -> None:
        if not payload:
            raise ProtocolError("an empty reply")
        first = payload[0]
        deprecate = bool(self._capabilities & CLIENT_DEPRECATE_EOF)
        if first == messages.ERR:
            if not messages.is_progress(payload):
                self._failed = True
                self._end()
        elif self._phase == ROWS:
            self._over(messages.ok(payload) if deprecate else messages.eof(payload))
        elif self._phase == FIRST and first == messages.OK:
            found = messages.ok(payload)
            self._wrote = self._wrote or found.affected_rows > 0
            self._over(found)
        elif self._phase == FIRST:
            self._left, pos = messages.lenenc(payload, 0)
            if first == messages.LOCAL_INFILE:
                raise ProtocolError("a file is asked for by what was cut")
            known = self._capabilities & MARIADB_CLIENT_CACHE_METADATA and payload[pos : pos + 1] == b"\0"
            self._phase = COLUMNS
            if known:
                self._columns_over(deprecate)
        elif self._phase == COLUMNS:
            self._left -= 1
            if self._left <= 0:
                self._columns_over(deprecate)
        else:
            self._announced = messages.announced(messages.eof(payload).status)
            self._phase, self.in_rows = ROWS, True

    def _columns_over(self, deprecate: bool) -> None:
        self._phase = ROWS if deprecate else MIDDLE
        self.in_rows = deprecate

    def _over(self, found: messages.Ok) -> None:
        self.in_rows = False
        more, self._announced = (found.status | self._announced) & SERVER_MORE_RESULTS_EXISTS, 0
        if more:
            self._phase = FIRST
        else:
            self._end()

    def _end(self) -> None:
        self.done = self.stop = True
