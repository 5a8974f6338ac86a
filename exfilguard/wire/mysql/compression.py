"""The envelope of a compressed session: `int3 length, int1 sequence, int3 length before compression, payload`.

A length before compression of 0 means that the payload is as it was. What is inside is the packet stream, cut anywhere. zlib
(CLIENT_COMPRESS) or one zstd frame a packet (CLIENT_ZSTD_COMPRESSION_ALGORITHM).
https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_compression.html
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Literal

from ...errors import ProtocolError

Algorithm = Literal["", "zlib", "zstd"]
HEADER_BYTES = 7
TURN_CONTENT = 256 << 10
"""Envelopes that hold so much are opened in one go: 64 kB of them may hold 60 MB."""
SEALED_BYTES = 1 << 20
"""Most content of an envelope of the guard's own."""

try:
    import zstandard
except ImportError:  # the capability is then not offered: see startup.Offer
    HAS_ZSTD = False
else:
    HAS_ZSTD = True


def _inflate_zlib(payload: bytes, size: int) -> bytes:
    try:
        inflater = zlib.decompressobj()
        out = inflater.decompress(payload, size + 1)
    except zlib.error:
        raise ProtocolError("a compressed packet cannot be read") from None
    if len(out) != size or not inflater.eof:
        raise ProtocolError("a compressed packet has another size than it says")
    return out


def _inflate_zstd(payload: bytes, size: int) -> bytes:
    try:
        with zstandard.ZstdDecompressor().stream_reader(payload, read_across_frames=True) as reader:
            out = reader.read(size + 1)
    except zstandard.ZstdError:
        raise ProtocolError("a compressed packet cannot be read") from None
    if len(out) != size:
        raise ProtocolError("a compressed packet has another size than it says")
    return out


class Envelopes:
    """A compressed session whose server's bytes are counted before they are forwarded: opened, cut where a row ends, and sealed
    anew. Numbers go on from the client's last envelope, as the protocol has it."""

    __slots__ = ("_inflater", "_zstd", "next")

    MIN_BYTES = 50
    """Shorter contents are not compressed, as the servers do."""

    def __init__(self, algorithm: Algorithm) -> None:
        self._inflater = Inflater(algorithm)
        self._zstd = algorithm == "zstd"
        self.next = 1
        """The number of the next envelope to the client."""

    def turn(self, data: bytes, at: int, most: int) -> int:
        """See Inflater."""
        return self._inflater.turn(data, at, most)

    def open(self, data: bytes) -> bytes:
        """The packets in the server's envelopes. Raises ProtocolError."""
        return b"".join([content for content, _ in self._inflater.feed(data)])

    def seal(self, content: bytes) -> bytes:
        """Envelopes for the client; nothing for nothing."""
        out = bytearray()
        for at in range(0, len(content), SEALED_BYTES):
            part = content[at : at + SEALED_BYTES]
            squeezed = part
            if len(part) >= self.MIN_BYTES:
                squeezed = zstandard.ZstdCompressor(1).compress(part) if self._zstd else zlib.compress(part, 1)
            before = len(part)
            if len(squeezed) >= len(part):
                squeezed, before = part, 0
            out += len(squeezed).to_bytes(3, "little") + bytes((self.next,)) + before.to_bytes(3, "little") + squeezed
            self.next = (self.next + 1) & 0xFF
        return bytes(out)


class Inflater:
    """One direction's envelope reader. Holds at most one packet (16 MB) whose end has not come, and no more than its bytes."""

    __slots__ = ("_buffer", "_inflate", "sequence")

    def __init__(self, algorithm: Algorithm) -> None:
        self._inflate: Callable[[bytes, int], bytes] = _inflate_zstd if algorithm == "zstd" else _inflate_zlib
        self._buffer = bytearray()
        self.sequence = 0
        """Of the envelope that was read last."""

    @property
    def at_boundary(self) -> bool:
        """True when all bytes fed so far are whole envelopes."""
        return not self._buffer

    @property
    def begun(self) -> bytes:
        """The beginning of an envelope whose end has not come."""
        return bytes(self._buffer)

    def turn(self, data: bytes, at: int, most: int) -> int:
        """How many bytes from `at` on, which are fed next, are opened in one go: at least 1, and at most `most`."""
        pos, end, content = at, min(len(data), at + most), 0
        passed = len(self._buffer)
        header = bytes(self._buffer[:HEADER_BYTES])
        while pos < end and content < TURN_CONTENT:
            header += data[pos : pos + HEADER_BYTES - len(header)]
            if len(header) < HEADER_BYTES:
                break
            length = int.from_bytes(header[:3], "little")
            content += int.from_bytes(header[4:], "little") or length
            pos += HEADER_BYTES + length - passed
            passed, header = 0, b""
        return (end if header else min(pos, end)) - at

    def forget(self) -> None:
        """Drop the beginning of an envelope: it will be fed again."""
        self._buffer.clear()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """Contents of the envelopes that `data` completes: (content, offset in `data` behind the envelope).

        Raises ProtocolError.
        """
        before = len(self._buffer)
        self._buffer += data
        buffer = self._buffer
        pos = 0
        try:
            while pos + HEADER_BYTES <= len(buffer):
                length = int.from_bytes(buffer[pos : pos + 3], "little")
                after = pos + HEADER_BYTES + length
                if after > len(buffer):
                    break
                self.sequence = buffer[pos + 3]
                size = int.from_bytes(buffer[pos + 4 : pos + 7], "little")
                payload = bytes(buffer[pos + HEADER_BYTES : after])
                pos = after
                yield self._inflate(payload, size) if size else payload, pos - before
        finally:
            del buffer[:pos]


class Wrapping:
    """One side of a compressed session while the guard itself speaks to it: the authentication of a COM_CHANGE_USER. Numbers go on
    from that side's last envelope, whoever sent it."""

    __slots__ = ("_inflater", "next")

    def __init__(self, algorithm: Algorithm, number: int) -> None:
        self._inflater = Inflater(algorithm)
        self.next = number & 0xFF
        """The number of the next envelope, from either end."""

    def open(self, data: bytes, most: int) -> bytes:
        """The packets in the envelopes that `data` completes. Raises ProtocolError, also for more than `most` bytes without an end."""
        out = b""
        for content, _ in self._inflater.feed(data):
            out += content
            self.next = (self._inflater.sequence + 1) & 0xFF
        if len(self._inflater.begun) > most + HEADER_BYTES:
            raise ProtocolError("a compressed packet is longer than it may be here")
        return out

    def seal(self, content: bytes) -> bytes:
        """`content` in an envelope; nothing for nothing."""
        if not content:
            return b""
        out = envelope(self.next, content)
        self.next = (self.next + 1) & 0xFF
        return out

    @property
    def rest(self) -> bytes:
        """The beginning of an envelope whose end has not come."""
        return self._inflater.begun


def envelope(sequence: int, content: bytes) -> bytes:
    """`content` in envelopes of its own, not compressed; sequence numbers from `sequence` on."""
    out = bytearray()
    for at in range(0, len(content), 0xFFFFFF):
        part = content[at : at + 0xFFFFFF]
        out += len(part).to_bytes(3, "little") + bytes((sequence & 0xFF,)) + b"\0\0\0" + part
        sequence += 1
    return bytes(out)
