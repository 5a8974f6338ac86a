"""Messages written by hand, for tests that read like transcripts."""

from __future__ import annotations

import struct


def message(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + struct.pack("!I", len(body) + 4) + body


def startup(**params: str) -> bytes:
    body = b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in params.items()) + b"\0"
    return struct.pack("!II", len(body) + 8, 196608) + body


def query(sql: str) -> bytes:
    return message("Q", sql.encode() + b"\0")


def parse(name: str, sql: str) -> bytes:
    return message("P", name.encode() + b"\0" + sql.encode() + b"\0\0\0")


def bind(portal: str, statement: str, values: tuple[bytes, ...] = (), formats: tuple[int, ...] = ()) -> bytes:
    body = portal.encode() + b"\0" + statement.encode() + b"\0" + struct.pack("!H", 0)
    body += struct.pack("!H", len(values)) + b"".join(struct.pack("!I", len(v)) + v for v in values)
    body += struct.pack(f"!H{len(formats)}h", len(formats), *formats)
    return message("B", body)


def describe(kind: str, name: str) -> bytes:
    return message("D", kind.encode() + name.encode() + b"\0")


def execute(portal: str, most: int = 0) -> bytes:
    return message("E", portal.encode() + b"\0" + struct.pack("!I", most))


def close(kind: str, name: str) -> bytes:
    return message("C", kind.encode() + name.encode() + b"\0")


SYNC = message("S")
FLUSH = message("H")

AUTH_OK = message("R", b"\0\0\0\0")
KEY = message("K", b"\0\0\0\7secr")
READY = message("Z", b"I")
PARSED, BOUND, CLOSED = message("1"), message("2"), message("3")
NO_DATA, EMPTY, SUSPENDED = message("n"), message("I"), message("s")
LOGIN = AUTH_OK + message("S", b"server_version\x0018\0") + KEY + READY


def description(*columns: tuple[str, int, int, int], fmt: int = 0) -> bytes:
    """(name, table oid, attnum, type oid) each."""
    body = struct.pack("!H", len(columns))
    for name, table, column, type_oid in columns:
        body += name.encode() + b"\0" + struct.pack("!IhIhih", table, column, type_oid, -1, -1, fmt)
    return message("T", body)


def row(*values: bytes | None) -> bytes:
    body = struct.pack("!H", len(values))
    for value in values:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return message("D", body)


def complete(tag: str) -> bytes:
    return message("C", tag.encode() + b"\0")


def error(state: str = "42P01") -> bytes:
    return message("E", b"SERROR\0C" + state.encode() + b"\0Mvalue 'Dupont' is bad\0\0")


def copy_data(data: bytes) -> bytes:
    return message("d", data)


def copy_out(binary: bool = False) -> bytes:
    return message("H", struct.pack("!bHh", int(binary), 1, int(binary)))


COPY_IN = message("G", struct.pack("!bHh", 0, 1, 0))
COPY_DONE = message("c")
