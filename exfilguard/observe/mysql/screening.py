"""Commands refused before the database sees them, with the session in step: see observe/screening.py.

MySQL raises an error on request: the command is replaced by a SIGNAL with the guard's words, whose answer is one ERR packet, as the
client expects it of the command it sent. A compressed session cannot be screened; there the relay ends the session instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...wire.mysql import messages
from ...wire.mysql.frontend import MAX_KEPT_BYTES
from ..screening import Judge

if TYPE_CHECKING:
    from .session import MysqlObserver

SQLSTATE = "45000"
MAX_WORDS = 128
"""MESSAGE_TEXT holds no more characters."""

_JUDGED = frozenset((messages.COM_QUERY, messages.COM_STMT_PREPARE, messages.COM_STMT_EXECUTE))


class Screener:
    """The client's side of one session, as long as somebody has to be refused."""

    __slots__ = ("_observer", "held")

    def __init__(self, observer: MysqlObserver) -> None:
        self._observer = observer
        self.held = b""

    def release(self) -> bytes:
        """What is held, given back."""
        held, self.held = self.held, b""
        return held

    def data(self, data: bytes, judge: Judge) -> bytes:
        """What to send to the server instead of `data`."""
        observer = self._observer
        if not observer.client_at_boundary:
            observer.commands(data)
            return data
        out = bytearray()
        pos, end = 0, len(data)
        while pos < end:
            length = int.from_bytes(data[pos : pos + 3], "little") if pos + 5 <= end else -1
            judged = length > 0 and data[pos + 3] == 0 and data[pos + 4] in _JUDGED and length < MAX_KEPT_BYTES
            if length < 0 or (judged and pos + 4 + length > end):
                self.held = data[pos:]
                break
            stop = min(end, pos + 4 + length)
            words = observer.judge(data[pos + 4], data[pos + 5 : stop], judge) if judged else ""
            part = self._signal(words) if words else data[pos:stop]
            observer.commands(part)
            out += part
            pos = stop
        return bytes(out)

    def _signal(self, words: str) -> bytes:
        text = words[:MAX_WORDS].replace("\\", "").replace("'", "")
        body = f"SIGNAL SQLSTATE '{SQLSTATE}' SET MESSAGE_TEXT = '{text}'".encode()
        if self._observer.capabilities & messages.CLIENT_QUERY_ATTRIBUTES:
            body = b"\x00\x01" + body
        return (len(body) + 1).to_bytes(3, "little") + b"\0" + bytes([messages.COM_QUERY]) + body
