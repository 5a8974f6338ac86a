# cython: annotation_typing=False
"""The server's stream, cut into messages.

Strategy: one loop over the bytes at hand. Rows (DataRow, CopyData) are by far the most and the largest messages: complete
ones are passed over in bulk, and their bodies are shown only to a sink that wants them. All other messages are small; they
are kept up to MAX_KEPT_BYTES and handed over whole (a longer one is handed over as its beginning).

A row is counted at its type byte: when the allowance is spent, the next row's first byte is already not forwarded. What a
function called by the protocol returns is a row like any other, and a message as well: the answer. What the server says beside
its rows (notices, notifications, errors, settings) can hold records too: the sink is asked, and where rows or patients are
allowed by number such a message is held until it is whole.
"""

from __future__ import annotations

from ...errors import ProtocolError
from ..sink import MAX_KEPT_BYTES as MAX_KEPT_BYTES
from ..sink import Sink
from ._scan import skip_rows
from .messages import BACKEND_TYPES, MAX_MESSAGE_BYTES

_DATA_ROW, _COPY_DATA, _ERROR, _FUNCTION_RESULT = b"DdEV"
_ASIDES = frozenset(b"NAES")
_NO_VALUE = 8
"""Length of a FunctionCallResponse that holds none, or an empty one."""
_COPY_TRAILER = b"d\0\0\0\6\xff\xff"
"""The end of a binary COPY, in a message of its own."""


class Scan:
    """Where the forwarding of the scanned bytes must stop. None: nowhere."""

    __slots__ = ("cut_at", "hold_at", "stop_at")

    def __init__(self, cut_at: int | None = None, hold_at: int | None = None, stop_at: int | None = None) -> None:
        self.cut_at = cut_at
        """The row that starts here exceeds the allowance."""
        self.hold_at = hold_at
        """The row that starts here is not complete: show these bytes again, with more behind them."""
        self.stop_at = stop_at
        """The sink stopped before these bytes: show them again."""


NOWHERE = Scan()


def length_at(data: bytes, at: int) -> int:
    """The int32 there, unsigned."""
    length = data[at]
    length = length * 256 + data[at + 1]
    length = length * 256 + data[at + 2]
    return length * 256 + data[at + 3]


class BackendReader:
    """Push parser: `feed` any portion of the stream."""

    __slots__ = ("_carry", "_counted", "_skip", "message_at", "message_end", "sink")

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._carry = bytearray()  # a message whose beginning is here
        self._counted = False  # the row in _carry was counted at its type byte
        self._skip = 0  # bytes of a body that nobody wants
        self.message_at = -1
        """Where the message that is being shown starts in the bytes being fed; -1: before them."""
        self.message_end = -1

    @property
    def at_boundary(self) -> bool:
        """True when all bytes fed so far are whole messages."""
        return not self._skip and not self._carry

    def feed(self, data: bytes, allowed: int | None = None, hold: bool = False) -> Scan:
        """Read `data`. `allowed`: rows that may still pass; `hold`: an incomplete row that the sink wants is not read
        but left for the next call. Raises ProtocolError."""
        pos, end = 0, len(data)
        sink = self.sink
        left = MAX_MESSAGE_BYTES if allowed is None else allowed
        while pos < end:
            if sink.stop:
                return Scan(stop_at=pos)
            if self._skip:
                taken = min(self._skip, end - pos)
                self._skip -= taken
                pos += taken
                continue
            if self._carry:
                pos = self._continue(data, pos, end)
                continue
            kind = data[pos]
            if kind in (_DATA_ROW, _COPY_DATA):
                if left <= 0 and not (kind == _COPY_DATA and sink.wants_rows and data.startswith(_COPY_TRAILER, pos)):
                    return Scan(cut_at=pos)
                if not sink.wants_rows:
                    pos_after, count, size = skip_rows(data, pos, kind, left)
                    if count:
                        sink.rows(count, size)
                        left -= count
                        pos = pos_after
                        continue
                    sink.rows(1, 0)
                    left -= 1
                    self._counted = True
                else:
                    if not hold:
                        pos_after, count, size = sink.scan(data, pos, left)
                        if count:
                            sink.rows(count, size)
                            left -= count
                            pos = pos_after
                            continue
                    length = 0  # not known yet
                    if pos + 5 <= end:
                        length = length_at(data, pos + 1)
                        _check(kind, length)
                    if length and pos + 1 + length <= end:
                        sink.free = False  # a row that came in pieces may have left it
                        if not sink.row(data, pos + 5, pos + 1 + length, True):
                            return Scan(cut_at=pos)
                        sink.rows(1, length - 4)
                        left -= 0 if sink.free else 1
                        pos += 1 + length
                        continue
                    if hold and length <= MAX_KEPT_BYTES:
                        return Scan(hold_at=pos)
                    if hold:  # too long to be held back: judged by its beginning
                        if not sink.fits(length - 4) or not sink.row(data, pos + 5, end, False):
                            return Scan(cut_at=pos)
                        sink.rows(1, length - 4)
                        left -= 1
                        self._skip = 1 + length
                        continue
                    sink.rows(1, 0)
                    left -= 1
                    self._counted = True
            elif pos + 5 <= end:
                length = length_at(data, pos + 1)
                _check(kind, length)
                if sink.wants_asides and kind in _ASIDES:
                    whole = pos + 1 + length <= end
                    if whole or length > MAX_KEPT_BYTES:
                        told = sink.aside(kind, data, pos + 5, pos + 1 + length if whole else end, length - 4, left > 0)
                        if told < 0:
                            return Scan(cut_at=pos)
                        left -= told
                        self._counted = not whole
                    elif hold or allowed is not None:
                        return Scan(hold_at=pos)
                if kind == _FUNCTION_RESULT and length > _NO_VALUE:
                    if left <= 0:
                        return Scan(cut_at=pos)
                    if hold and pos + 1 + length > end and length <= MAX_KEPT_BYTES:
                        return Scan(hold_at=pos)
                    if hold and length > MAX_KEPT_BYTES and not sink.fits(length - _NO_VALUE):
                        return Scan(cut_at=pos)
                    if pos + 1 + length <= end:
                        if sink.wants_rows and not sink.row(data, pos + 9, pos + 1 + length, True):
                            return Scan(cut_at=pos)
                        sink.rows(1, length - _NO_VALUE)
                    left -= 1
                if pos + 1 + length <= end:
                    self.message_at, self.message_end = pos, pos + 1 + length
                    sink.message(kind, data[pos + 5 : pos + 1 + length])
                    pos += 1 + length
                    continue
                if kind == _ERROR and sink.holds_errors and length <= MAX_KEPT_BYTES:
                    return Scan(hold_at=pos)
            elif kind not in BACKEND_TYPES:
                raise ProtocolError("unknown backend message type")
            elif (kind == _ERROR and sink.holds_errors) or (
                sink.wants_asides and kind in _ASIDES and (hold or allowed is not None)
            ):
                return Scan(hold_at=pos)
            elif kind == _FUNCTION_RESULT and (hold or left <= 0):
                return Scan(hold_at=pos)  # whether it holds a value is not known yet
            pos = self._continue(data, pos, end)
        return NOWHERE

    def _continue(self, data: bytes, pos: int, end: int) -> int:
        """Go on with the message whose beginning is in _carry (or begins at `pos`)."""
        carry = self._carry
        if len(carry) < 5:
            taken = min(5 - len(carry), end - pos)
            carry += data[pos : pos + taken]
            pos += taken
            if len(carry) < 5:
                return pos
            length = int.from_bytes(carry[1:5], "big")
            _check(carry[0], length)
            if carry[0] in (_DATA_ROW, _COPY_DATA):
                self.sink.rows(0 if self._counted else 1, length - 4)
                self._counted = True
                if not self.sink.wants_rows:
                    self._drop(length - 4)
                    return pos
            elif carry[0] == _FUNCTION_RESULT and length > _NO_VALUE:
                self.sink.rows(1, length - _NO_VALUE)
        length = int.from_bytes(carry[1:5], "big")
        kept = min(1 + length, MAX_KEPT_BYTES)
        taken = min(kept - len(carry), end - pos)
        carry += data[pos : pos + taken]
        pos += taken
        if len(carry) >= kept:
            kind, begun, counted = carry[0], bytes(carry), self._counted
            self._drop(1 + length - kept)
            if kind in (_DATA_ROW, _COPY_DATA):
                self.sink.row(begun, 5, len(begun), kept == 1 + length)
            else:
                body = begun[5:]
                self.message_at = -1
                if self.sink.wants_asides and kind in _ASIDES and not counted:
                    self.sink.aside(kind, body, 0, len(body), length - 4, True)
                if kind == _FUNCTION_RESULT and len(body) > 4 and self.sink.wants_rows:
                    self.sink.row(body, 4, len(body), kept == 1 + length)
                self.sink.message(kind, body)
        return pos

    def _drop(self, skip: int) -> None:
        self._carry.clear()
        self._counted = False
        self._skip = skip


def _check(kind: int, length: int) -> None:
    if kind not in BACKEND_TYPES:
        raise ProtocolError("unknown backend message type")
    if not 4 <= length <= MAX_MESSAGE_BYTES:
        raise ProtocolError("backend message length is out of bounds")
