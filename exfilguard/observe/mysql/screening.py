"""Commands refused before the database sees them, with the session in step: see observe/screening.py.

MySQL raises an error on request: the command is replaced by a SIGNAL with the guard's words, whose answer is one ERR packet, as the
client expects it of the command it sent. What is in the envelopes of a compressed session is screened and put into others: see
session.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ProtocolError
from ...wire.mysql import messages
from ...wire.mysql.frontend import MAX_KEPT_BYTES
from ..screening import MAX_HELD_BYTES, TOO_LONG, Judge, RequestScreener

if TYPE_CHECKING:
    from .commands import Commands

SQLSTATE = "45000"
MAX_WORDS = 128
"""MESSAGE_TEXT holds no more characters."""

_JUDGED = frozenset(
    (messages.COM_QUERY, messages.COM_STMT_PREPARE, messages.COM_STMT_EXECUTE, messages.COM_STMT_BULK_EXECUTE, messages.COM_STMT_FETCH)
)  # fmt: skip
_TEXTS = frozenset((messages.COM_QUERY, messages.COM_STMT_PREPARE))


class Screener(RequestScreener):
    """MySQL's."""

    __slots__ = ("_observer",)

    def __init__(self, observer: Commands) -> None:
        super().__init__(observer)
        self._observer = observer

    def extent(self, data: bytes, pos: int, end: int) -> tuple[int, int]:
        if pos + 5 > end and (pos + 4 > end or data[pos : pos + 3] != b"\0\0\0"):
            return -1, 0
        length = int.from_bytes(data[pos : pos + 3], "little")
        answer = data[pos + 3] and self._observer.client_answers
        if not length or answer or data[pos + 4] not in _JUDGED:
            return pos + 4 + length, 0
        return pos + 4 + length, MAX_HELD_BYTES if data[pos + 4] in _TEXTS else MAX_KEPT_BYTES

    @property
    def in_header(self) -> bool:
        return self._observer.client_in_header

    def words(self, request: bytes, judge: Judge) -> str:
        try:
            return self._observer.judge(request[4], request[5:], judge)
        except ProtocolError:
            self._observer.forbidden = "what cannot be read"
            return ""

    def refuse(self, request: bytes, words: str) -> bytes:
        if request[:3] == b"\xff\xff\xff":
            # Further packets follow, of 16 MiB each.
            self._observer.forbidden = TOO_LONG
            return b""
        text = words[:MAX_WORDS].replace("\\", "").replace("'", "")
        body = f"SIGNAL SQLSTATE '{SQLSTATE}' SET MESSAGE_TEXT = '{text}'".encode()
        if self._observer.capabilities & messages.CLIENT_QUERY_ATTRIBUTES:
            body = b"\x00\x01" + body
        signal = (len(body) + 1).to_bytes(3, "little") + b"\0" + bytes([messages.COM_QUERY]) + body
        self._observer.requests(signal)
        return signal
