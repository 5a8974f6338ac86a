"""What passed a tap between a MySQL client and its server, read naively and whole: slow, obvious, and written without the
project's own readers."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

DEPRECATE_EOF, COMPRESS, ZSTD, MYSQL = 1 << 24, 1 << 5, 1 << 26, 1
CACHE_METADATA = 1 << 36
PROTOCOL = "the conversation does not follow the protocol"


@dataclass
class Seen:
    """Of one conversation."""

    rows: int = 0
    errors: list[str] = field(default_factory=list)
    results: int = 0
    """Answers to COM_QUERY, COM_STMT_EXECUTE, COM_STMT_FETCH and COM_STMT_BULK_EXECUTE that ended well."""
    commands: list[int] = field(default_factory=list)
    logged_in: bool = False


def packets(stream: bytes) -> list[tuple[int, bytes]]:
    """(sequence, payload), split payloads joined; what was cut off at the end is left out."""
    out: list[tuple[int, bytes]] = []
    pos, joined = 0, b""
    while pos + 4 <= len(stream):
        size = int.from_bytes(stream[pos : pos + 3], "little")
        if pos + 4 + size > len(stream):
            break
        joined += stream[pos + 4 : pos + 4 + size]
        if size < 0xFFFFFF:
            out.append((stream[pos + 3], joined))
            joined = b""
        pos += 4 + size
    return out


def unwrapped(stream: bytes, zstd: bool) -> bytes:
    out, pos = [], 0
    while pos + 7 <= len(stream):
        size, before = (
            int.from_bytes(stream[pos : pos + 3], "little"),
            int.from_bytes(stream[pos + 4 : pos + 7], "little"),
        )
        part = stream[pos + 7 : pos + 7 + size]
        if len(part) < size:
            break
        if before and zstd:
            import zstandard

            part = zstandard.ZstdDecompressor().decompress(part, before)
        elif before:
            part = zlib.decompress(part)
        out.append(part)
        pos += 7 + size
    return b"".join(out)


def seen(client: bytes, server: bytes) -> Seen:
    """Both directions of a conversation without TLS."""
    out = Seen()
    found = packets(server[: 1 << 20])
    if not found or found[0][1][:1] == b"\xff":
        return out
    # The login: up to the first OK or error behind the greeting.
    size = 0
    for number, (_, payload) in enumerate(found):
        size += 4 + len(payload)
        if number and payload[0] in (0, 0xFF):
            out.logged_in = payload[0] == 0
            break
    if not out.logged_in:
        return out
    answers = number
    first = packets(client)[0][1]
    flags = int.from_bytes(first[:4], "little")
    if not flags & MYSQL:
        flags |= int.from_bytes(first[28:32], "little") << 32
    pos = 0
    for _ in range((answers + 1) // 2 if answers > 1 else 1):  # one client packet a server packet before the OK
        pos += 4 + int.from_bytes(client[pos : pos + 3], "little")
    client, server = client[pos:], server[size:]
    if flags & (COMPRESS | ZSTD):
        zstd = not flags & COMPRESS
        client, server = unwrapped(client, zstd), unwrapped(server, zstd)
    _Reader(out, flags, packets(client), packets(server)).read()
    return out


KNOWN_ALREADY = b"\x01\x03"
"""What caching_sha2_password says where it asks for nothing more."""


class _Reader:
    def __init__(self, out: Seen, flags: int, client: list[tuple[int, bytes]], server: list[tuple[int, bytes]]) -> None:
        self.out, self.flags, self.client, self.server = out, flags, client, server
        self.at = 0

    def next(self) -> bytes | None:
        if self.at >= len(self.server):
            return None
        self.at += 1
        return self.server[self.at - 1][1]

    def answer(self) -> bytes | None:
        """The next packet that is no progress report."""
        p = self.next()
        while p is not None and p[:3] == b"\xff\xff\xff":
            p = self.next()
        return p

    def read(self) -> None:
        i = 0
        while i < len(self.client):
            command = self.client[i][1]
            i += 1
            if not command:
                continue  # the end of a file, for which a server that broke off no longer asks
            kind = command[0]
            self.out.commands.append(kind)
            if kind in (0x01, 0x18, 0x19):
                continue
            if kind in (0x03, 0x17, 0xFA):
                i = self.result_sets(i)
            elif kind == 0x1C:
                self.rows()
            elif kind == 0x16:
                self.prepared()
            elif kind == 0x04:
                while (p := self.next()) is not None and p[0] not in (0xFE, 0xFF):
                    pass
            elif kind == 0x11:
                while (p := self.next()) is not None and p[0] not in (0x00, 0xFF):
                    i += p != KNOWN_ALREADY  # the client's answer
            else:
                self.next()

    def result_sets(self, i: int) -> int:
        more = True
        while more:
            p = self.answer()
            if p is None:
                return i
            if p[0] == 0xFB:
                while self.client[i][1]:
                    i += 1
                i += 1
                p = self.answer() or b"\xff"
            if p[0] == 0xFF:
                self.out.errors.append(p[4:9].decode())
                return i
            if p[0] == 0:
                self.out.results += 1
                more = self.status(p) & 8 != 0
                continue
            columns = number(p)
            if not (self.flags & CACHE_METADATA and p[-1] == 0):
                for _ in range(columns):
                    self.next()
            outs = False
            if not self.flags & DEPRECATE_EOF:
                end = self.next() or b""
                status = int.from_bytes(end[3:5], "little")
                if status & 0x40:
                    self.out.results += 1
                    return i
                outs = status & 0x1008 == 0x1008  # OUT parameters: the EOF after them says nothing
            more = self.rows() or outs
        return i

    def rows(self) -> bool:
        while (p := self.next()) is not None:
            if p[0] == 0xFF:
                self.out.errors.append(p[4:9].decode())
                return False
            if p[0] == 0xFE and len(p) < (0xFFFFFF if self.flags & DEPRECATE_EOF else 9):
                self.out.results += 1
                status = self.status(p) if self.flags & DEPRECATE_EOF else int.from_bytes(p[3:5], "little")
                return status & 8 != 0
            self.out.rows += 1
        return False

    def prepared(self) -> None:
        p = self.next()
        if p is None or p[0] == 0xFF:
            if p is not None:
                self.out.errors.append(p[4:9].decode())
            return
        for count in (int.from_bytes(p[7:9], "little"), int.from_bytes(p[5:7], "little")):
            if count:
                for _ in range(count + (0 if self.flags & DEPRECATE_EOF else 1)):
                    self.next()

    @staticmethod
    def status(p: bytes) -> int:
        pos = 1
        for _ in range(2):
            pos += {0xFC: 3, 0xFD: 4, 0xFE: 9}.get(p[pos], 1)
        return int.from_bytes(p[pos : pos + 2], "little")


def number(p: bytes) -> int:
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(p[0], 0)
    return int.from_bytes(p[1 : 1 + size], "little") if size else p[0]
