# cython: annotation_typing=False
"""The client's stream behind the login, cut into commands.

A packet is a command, whose beginning is kept up to MAX_KEPT_BYTES, unless it is what a command needs further: a part of a long one,
the contents of a LOCAL INFILE that the server asked for, an answer of an authentication, whose numbers are not 0; these are skipped, so
that no password and no file is ever kept. In a compressed session the servers do not look at a command's number, so neither does this.
"""

from __future__ import annotations

from ...errors import ProtocolError
from ..sink import Sink
from .messages import COM_SLEEP, COM_STMT_SEND_LONG_DATA, MAX_LOGICAL_BYTES, MAX_PAYLOAD_BYTES

MAX_KEPT_BYTES = 64 << 10
_SHORT = frozenset({COM_STMT_SEND_LONG_DATA})
_SHORT_BYTES = 7 + 65
"""Statement, parameter, and a value as long as an identifier may be; one byte more tells that it is longer."""


class FrontendReader:
    """Push parser: `feed` any portion of the stream."""

    __slots__ = ("_carry", "_continued", "_logical", "_skip", "answers", "infile", "sequence", "sink")

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._carry = bytearray()
        self._skip = 0
        self._continued = False  # the packet that ended was a full one: the next is its continuation
        self._logical = 0  # bytes of the logical packet so far
        self.sequence = 0
        """Of the packet that was read last."""
        self.infile = False
        """The server asked for a file: packets are its contents, up to an empty one."""
        self.answers = False
        """An authentication asked for something: the next packet is the answer, when its number is not 0."""

    @property
    def at_boundary(self) -> bool:
        """True when all bytes fed so far are whole packets."""
        return not self._skip and not self._carry and not self._continued

    @property
    def in_header(self) -> bool:
        """Behind a command's beginning: True when the next byte is of the header that its next packet has."""
        return not self._skip

    @property
    def missing(self) -> int:
        """Bytes up to the end of the packet that has begun, or of its header; 0 between commands."""
        if self._skip:
            return self._skip
        if not self._carry and not self._continued and not self.infile:
            return 0
        length = int.from_bytes(self._carry[:3], "little") if len(self._carry) >= 4 else 0
        return 4 + length - len(self._carry)

    def feed(self, data: bytes) -> None:
        """The sink's `command` is told of each that `data` completes, or begins with enough of.

        A command longer than MAX_KEPT_BYTES is given when that much of it is here. Raises ProtocolError.
        """
        pos, end = 0, len(data)
        while pos < end:
            if self._skip:
                taken = min(self._skip, end - pos)
                self._skip -= taken
                pos += taken
                continue
            carry = self._carry
            if not carry and pos + 4 <= end:
                length = data[pos] | data[pos + 1] << 8 | data[pos + 2] << 16
                if (
                    0 < length < MAX_KEPT_BYTES
                    and pos + 4 + length <= end
                    and not (data[pos + 3] and self.answers)
                    and not self._continued
                    and not self.infile
                ):
                    self.sequence = data[pos + 3]
                    self._logical = 0
                    start = pos + 5
                    pos += 4 + length
                    self.sink.request(data[start - 1], data[start:pos], True)
                    continue
            if len(carry) < 4:
                taken = min(4 - len(carry), end - pos)
                carry += data[pos : pos + taken]
                pos += taken
                if len(carry) < 4:
                    return
                if self._header(carry):
                    continue
            length = carry[0] | carry[1] << 8 | carry[2] << 16
            if len(carry) == 4:
                if pos >= end:
                    return
                carry.append(data[pos])
                pos += 1
            kept = 4 + min(length, _SHORT_BYTES if carry[4] in _SHORT else MAX_KEPT_BYTES)
            taken = min(kept - len(carry), end - pos)
            carry += data[pos : pos + taken]
            pos += taken
            if len(carry) >= kept:
                command, body = carry[4], bytes(carry[5:])
                carry.clear()
                self._skip = 4 + length - kept
                self.sink.request(command, body, not self._skip and not self._continued)

    def _header(self, carry: bytearray) -> bool:
        """A header is complete. True when its packet is no command and is skipped."""
        length, self.sequence = carry[0] | carry[1] << 8 | carry[2] << 16, carry[3]
        continued, self._continued = self._continued, length == MAX_PAYLOAD_BYTES
        if self.infile:
            if not length and not continued:
                self.infile = False
        elif not continued and not (self.sequence and self.answers):
            self._logical = length
            if length:
                return False
            self.sink.request(COM_SLEEP, b"", True)  # that is what the servers make of it
        else:
            self.answers = False
            self._logical += length
            if self._logical > MAX_LOGICAL_BYTES:
                raise ProtocolError("a command is longer than any server takes")
        carry.clear()
        self._skip = length
        return True
