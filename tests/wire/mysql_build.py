"""MySQL packets written by hand, for tests that read like transcripts."""

from __future__ import annotations

from exfilguard.wire.mysql.messages import lenenc_pack, packet

NATIVE = 0x0FFFFFFF & ~(1 << 11 | 1 << 5 | 1 << 26 | 1 << 25 | 1 << 24 | 1 << 27)
"""Capabilities: everything usual, without TLS, compression, query attributes and CLIENT_DEPRECATE_EOF."""
DEPRECATE = NATIVE | 1 << 24


def text(value: bytes | str | None) -> bytes:
    if value is None:
        return b"\xfb"
    raw = value.encode() if isinstance(value, str) else value
    return lenenc_pack(len(raw)) + raw


def command(kind: int, body: bytes = b"") -> bytes:
    return packet(0, bytes((kind,)) + body)


def query(sql: str) -> bytes:
    return command(0x03, sql.encode())


def ok(affected: int = 0, status: int = 2, header: int = 0) -> bytes:
    return bytes((header,)) + lenenc_pack(affected) + b"\0" + status.to_bytes(2, "little") + b"\0\0"


def eof(status: int = 2) -> bytes:
    return b"\xfe\0\0" + status.to_bytes(2, "little")


def err(state: str = "42S02") -> bytes:
    return b"\xff\x7a\x04#" + state.encode() + b"Table 'Dupont' doesn't exist"


def column(name: str, table: str = "", org: str = "", kind: int = 3, charset: int = 63, flags: int = 0) -> bytes:
    parts = ("def", "clinic" if table else "", table, table, name, org or (name if table else ""))
    tail = charset.to_bytes(2, "little") + (11).to_bytes(4, "little") + bytes((kind,)) + flags.to_bytes(2, "little")
    return b"".join(text(part) for part in parts) + b"\x0c" + tail + b"\0\0\0"


def binary(*values: bytes | None) -> bytes:
    bitmap = bytearray((len(values) + 9) // 8)
    for i, value in enumerate(values):
        if value is None:
            bitmap[(i + 2) // 8] |= 1 << (i + 2) % 8
    return b"\0" + bytes(bitmap) + b"".join(value for value in values if value is not None)


def numbered(*payloads: bytes, first: int = 1) -> bytes:
    """Packets of one answer."""
    return b"".join(packet(first + i, payload) for i, payload in enumerate(payloads))


def result(
    columns: list[bytes], rows: list[bytes], *, deprecate: bool = False, status: int = 2, first: int = 1
) -> bytes:
    """A whole result set."""
    middle = [] if deprecate else [eof()]
    end = ok(status=status, header=0xFE) if deprecate else eof(status)
    return numbered(lenenc_pack(len(columns)), *columns, *middle, *rows, end, first=first)


def row(*values: bytes | str | None) -> bytes:
    return b"".join(text(value) for value in values)


def greeting(capabilities: int = 0xFFFFFFFF, plugin: str = "mysql_native_password", version: str = "8.4.0") -> bytes:
    low, high = (capabilities & 0xFFFF).to_bytes(2, "little"), (capabilities >> 16 & 0xFFFF).to_bytes(2, "little")
    upper = (capabilities >> 32).to_bytes(4, "little") if not capabilities & 1 else b"\0\0\0\0"
    head = b"\x0a" + version.encode() + b"\0" + (77).to_bytes(4, "little") + b"12345678\0" + low + b"\x2d\2\0" + high
    return head + b"\x15" + b"\0" * 6 + upper + b"abcdefghijkl\0" + plugin.encode() + b"\0"


def login(
    user: str = "app", capabilities: int = NATIVE, plugin: str = "mysql_native_password", **attributes: str
) -> bytes:
    pairs = b"".join(text(key) + text(value) for key, value in attributes.items())
    head = (capabilities & 0xFFFFFFFF).to_bytes(4, "little") + b"\0\0\0\1\x2d" + b"\0" * 19 + b"\0\0\0\0"
    return (
        head
        + user.encode()
        + b"\0"
        + text(b"x" * 20)
        + (b"clinic\0" if capabilities & 8 else b"")
        + plugin.encode()
        + b"\0"
        + text(pairs)
    )
