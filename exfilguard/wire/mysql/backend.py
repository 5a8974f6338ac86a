# cython: annotation_typing=False
"""The server's stream behind the login, cut into packets.

Strategy: one loop over the bytes at hand. The protocol does not say what a packet is; the sink does, by `in_rows`: while it is
set, packets are rows (passed over in bulk, their bodies shown only to a sink that wants them) up to the one that ends them. All
other packets are small; they are kept up to MAX_KEPT_BYTES and handed over (a longer one as its beginning).

A row is known, and counted, at its fifth byte: the header, and the first of the payload, which tells it from an error or the
end. With an allowance, fewer bytes than that are held back, so that the next row's first byte is already not forwarded. An error may
quote a record: it is shown to `aside` first, whole where there is an allowance.
"""

from __future__ import annotations

from ..sink import MAX_KEPT_BYTES as MAX_KEPT_BYTES
from ..sink import Sink
from ._scan import skip_rows
from .messages import EOF, ERR, MAX_PAYLOAD_BYTES

UNLIMITED = 1 << 62


class Scan:
    """Where the forwarding of the scanned bytes must stop. None: nowhere."""

    __slots__ = ("cut_at", "hold_at", "stop_at")

    def __init__(self, cut_at: int | None = None, hold_at: int | None = None, stop_at: int | None = None) -> None:
        self.cut_at = cut_at
        """The row that starts here exceeds the allowance."""
        self.hold_at = hold_at
        """The packet that starts here is not complete: show these bytes again, with more behind them."""
        self.stop_at = stop_at
        """The sink stopped before these bytes: show them again."""


NOWHERE = Scan()


class BackendReader:
    """Push parser: `feed` any portion of the stream."""

    __slots__ = ("_carry", "_continued", "_counted", "_is_row", "_skip", "sequence", "sink")

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._carry = bytearray()  # a packet whose beginning is here
        self._is_row = False  # it is one, as far as its header and the sink say
        self._counted = False  # and it was counted
        self._continued = False  # a full packet ended or is being read: the next one is its continuation
        self._skip = 0  # bytes of a payload that nobody wants
        self.sequence = 0
        """Of the last packet that was begun: an error of the guard's own has the next number."""

    @property
    def at_boundary(self) -> bool:
        """True when all bytes fed so far are whole packets."""
        return not self._skip and not self._carry and not self._continued

    def feed(self, data: bytes, allowed: int | None = None, hold: bool = False) -> Scan:
        """Read `data`. `allowed`: rows that may still pass; `hold`: an incomplete row that the sink wants is not read but
        left for the next call. Raises ProtocolError (from the sink)."""
        pos, end = 0, len(data)
        sink = self.sink
        limited = hold or allowed is not None
        left = UNLIMITED if allowed is None else allowed
        while pos < end:
            if sink.stop:
                return Scan(stop_at=pos)
            if self._skip:
                taken = min(self._skip, end - pos)
                self._skip -= taken
                pos += taken
                continue
            if self._carry or self._continued:
                pos = self._continue(data, pos, end)
                continue
            if pos + 5 > end:
                empty = pos + 4 == end and not (data[pos] or data[pos + 1] or data[pos + 2])
                if limited and (sink.in_rows or (sink.wants_asides and not empty)):
                    return Scan(hold_at=pos)
                pos = self._continue(data, pos, end)
                continue
            length = data[pos] | data[pos + 1] << 8 | data[pos + 2] << 16
            if not sink.in_rows or (data[pos + 4] >= EOF and length < MAX_PAYLOAD_BYTES) or not length:
                if data[pos + 4] == ERR and sink.wants_asides and 0 < length < MAX_PAYLOAD_BYTES:
                    if pos + 4 + length <= end:
                        told = sink.aside(ERR, data, pos + 4, pos + 4 + length, length, left > 0)
                        if told < 0:
                            return Scan(cut_at=pos)
                        left -= told
                    elif limited and length <= MAX_KEPT_BYTES:
                        return Scan(hold_at=pos)
                if length and length < MAX_PAYLOAD_BYTES and pos + 4 + length <= end:
                    self.sequence = data[pos + 3]
                    start = pos + 4
                    pos = start + length
                    sink.packet(data[start:pos])
                    continue
                pos = self._continue(data, pos, end)
                continue
            if left <= 0:
                return Scan(cut_at=pos)
            if not sink.wants_rows:
                after, count, size = skip_rows(data, pos, left)
                if count:
                    self.sequence = (data[pos + 3] + count - 1) & 0xFF
                    sink.rows(count, size)
                    left -= count
                    pos = after
                    continue
                left -= 1
                pos = self._continue(data, pos, end)
                continue
            if not hold:
                after, count, size = sink.scan(data, pos, left)
                if count:
                    self.sequence = (data[pos + 3] + count - 1) & 0xFF
                    sink.rows(count, size)
                    left -= count
                    pos = after
                    continue
            if length < MAX_PAYLOAD_BYTES and pos + 4 + length <= end:
                if not sink.row(data, pos + 4, pos + 4 + length, True):
                    return Scan(cut_at=pos)
                self.sequence = data[pos + 3]
                sink.rows(1, length)
                left -= 1
                pos += 4 + length
                continue
            if hold and length <= MAX_KEPT_BYTES:
                return Scan(hold_at=pos)
            if hold:  # too long to be held back: judged by its beginning
                if not sink.row(data, pos + 4, end, False):
                    return Scan(cut_at=pos)
                self.sequence = data[pos + 3]
                sink.rows(1, length)
                left -= 1
                self._skip = 4 + length
                self._is_row = True
                self._continued = length == MAX_PAYLOAD_BYTES
                continue
            left -= 1
            pos = self._continue(data, pos, end)
        return NOWHERE

    def _continue(self, data: bytes, pos: int, end: int) -> int:
        """Go on with the packet whose beginning is in _carry (or begins at `pos`)."""
        carry = self._carry
        sink = self.sink
        if not carry and not self._continued:
            self._is_row = sink.in_rows
            self._counted = False
        if len(carry) < 4:
            taken = min(4 - len(carry), end - pos)
            carry += data[pos : pos + taken]
            pos += taken
            if len(carry) < 4:
                return pos
            self.sequence = carry[3]
        length = carry[0] | carry[1] << 8 | carry[2] << 16
        if self._continued:
            self._continued = length == MAX_PAYLOAD_BYTES
            if self._is_row:
                sink.rows(0, length)
            self._drop(length)
            return pos
        if not length:
            self._drop(0)
            sink.packet(b"")
            return pos
        if len(carry) == 4:
            if pos >= end:
                return pos
            carry.append(data[pos])
            pos += 1
        if self._is_row and not self._counted:
            if carry[4] >= EOF and length < MAX_PAYLOAD_BYTES:
                self._is_row = False
            else:
                sink.rows(1, length)
                self._counted = True
                if not sink.wants_rows:
                    self._continued = length == MAX_PAYLOAD_BYTES
                    self._drop(length - 1)
                    return pos
        kept = 4 + min(length, MAX_KEPT_BYTES)
        taken = min(kept - len(carry), end - pos)
        carry += data[pos : pos + taken]
        pos += taken
        if len(carry) >= kept:
            begun = bytes(carry)
            self._continued = length == MAX_PAYLOAD_BYTES
            self._drop(4 + length - kept)
            if self._is_row:
                sink.row(begun, 4, kept, kept == 4 + length and not self._continued)
            else:
                if begun[4] == ERR and sink.wants_asides:
                    sink.aside(ERR, begun, 4, kept, length, True)
                sink.packet(begun[4:])
        return pos

    def _drop(self, skip: int) -> None:
        self._carry.clear()
        self._skip = skip
