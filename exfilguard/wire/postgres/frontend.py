# cython: annotation_typing=False
"""The client's stream, cut into messages.

Bodies are kept up to MAX_KEPT_BYTES: enough for a statement's shape and a Bind's names. The rest of a longer one, and the
bodies of CopyData and of password messages, are skipped: no secret is ever kept.
"""

from __future__ import annotations

from ...errors import ProtocolError
from ..sink import Sink
from .backend import length_at
from .messages import FRONTEND_TYPES, MAX_MESSAGE_BYTES

MAX_KEPT_BYTES = 64 << 10

_NOT_KEPT = frozenset(b"dpfX")


class FrontendReader:
    """Push parser: `feed` any portion of the stream, after the start-up packet."""

    __slots__ = ("_carry", "_skip", "sink")

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._carry = bytearray()
        self._skip = 0

    @property
    def missing(self) -> int:
        """Bytes up to the end of the message that has begun, or of its header; 0 at a boundary."""
        if not self._carry:
            return self._skip
        length = int.from_bytes(self._carry[1:5], "big") if len(self._carry) >= 5 else 4
        return 1 + length - len(self._carry)

    def feed(self, data: bytes) -> None:
        """The sink's `request` is told of each message that `data` completes. Raises ProtocolError."""
        sink = self.sink
        pos, end = 0, len(data)
        while pos < end:
            if self._skip:
                taken = min(self._skip, end - pos)
                self._skip -= taken
                pos += taken
                continue
            carry = self._carry
            if not carry and pos + 5 <= end:
                kind, length = data[pos], length_at(data, pos + 1)
                _check(kind, length)
                if pos + 1 + length <= end and length < MAX_KEPT_BYTES:
                    body = data[pos + 5 : pos + 1 + length] if kind not in _NOT_KEPT else b""
                    pos += 1 + length
                    sink.request(kind, body, True)
                    continue
            if len(carry) < 5:
                taken = min(5 - len(carry), end - pos)
                carry += data[pos : pos + taken]
                pos += taken
                if carry[0] not in FRONTEND_TYPES:
                    raise ProtocolError("unknown frontend message type")
                if len(carry) < 5:
                    return
            kind, length = carry[0], int.from_bytes(carry[1:5], "big")
            _check(kind, length)
            kept = 5 if kind in _NOT_KEPT else min(1 + length, MAX_KEPT_BYTES)
            taken = min(kept - len(carry), end - pos)
            carry += data[pos : pos + taken]
            pos += taken
            if len(carry) >= kept:
                body = bytes(carry[5:])
                carry.clear()
                self._skip = 1 + length - kept
                sink.request(kind, body, self._skip == 0 or kind in _NOT_KEPT)


def _check(kind: int, length: int) -> None:
    if kind not in FRONTEND_TYPES:
        raise ProtocolError("unknown frontend message type")
    if not 4 <= length <= MAX_MESSAGE_BYTES:
        raise ProtocolError("frontend message length is out of bounds")
