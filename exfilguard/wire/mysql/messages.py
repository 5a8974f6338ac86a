"""Commands, capability and status bits, and the packets that are looked into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ...errors import ProtocolError

MAX_PAYLOAD_BYTES = 0xFFFFFF
"""A payload of this size goes on in the next packet."""
MAX_LOGICAL_BYTES = 1 << 30
"""The largest max_allowed_packet there is: a longer logical packet is not the protocol."""

# Capabilities. The upper 32 bits are MariaDB's own, in bytes MySQL leaves zero.
CLIENT_MYSQL = 1
CLIENT_CONNECT_WITH_DB = 1 << 3
CLIENT_COMPRESS = 1 << 5
CLIENT_PROTOCOL_41 = 1 << 9
CLIENT_SSL = 1 << 11
CLIENT_SECURE_CONNECTION = 1 << 15
CLIENT_PLUGIN_AUTH = 1 << 19
CLIENT_CONNECT_ATTRS = 1 << 20
CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA = 1 << 21
CLIENT_SESSION_TRACK = 1 << 23
CLIENT_DEPRECATE_EOF = 1 << 24
CLIENT_OPTIONAL_RESULTSET_METADATA = 1 << 25
CLIENT_ZSTD_COMPRESSION_ALGORITHM = 1 << 26
CLIENT_QUERY_ATTRIBUTES = 1 << 27
MARIADB_CLIENT_COM_MULTI = 1 << 33
MARIADB_CLIENT_EXTENDED_METADATA = 1 << 35
MARIADB_CLIENT_CACHE_METADATA = 1 << 36

# Server status, in OK and EOF.
SERVER_STATUS_IN_TRANS = 0x0001
SERVER_MORE_RESULTS_EXISTS = 0x0008
SERVER_STATUS_CURSOR_EXISTS = 0x0040
SERVER_STATUS_NO_BACKSLASH_ESCAPES = 0x0200
SERVER_PS_OUT_PARAMS = 0x1000

COM_SLEEP, COM_QUIT, COM_INIT_DB, COM_QUERY, COM_FIELD_LIST = 0x00, 0x01, 0x02, 0x03, 0x04
COM_STATISTICS, COM_PROCESS_INFO, COM_PROCESS_KILL = 0x09, 0x0A, 0x0C
COM_CHANGE_USER, COM_BINLOG_DUMP, COM_TABLE_DUMP = 0x11, 0x12, 0x13
COM_REGISTER_SLAVE, COM_STMT_PREPARE, COM_STMT_EXECUTE = 0x15, 0x16, 0x17
COM_STMT_SEND_LONG_DATA, COM_STMT_CLOSE, COM_STMT_RESET = 0x18, 0x19, 0x1A
COM_STMT_FETCH, COM_BINLOG_DUMP_GTID, COM_RESET_CONNECTION, COM_CLONE = 0x1C, 0x1E, 0x1F, 0x20
COM_STMT_BULK_EXECUTE = 0xFA

REPLICATION = frozenset({COM_BINLOG_DUMP, COM_TABLE_DUMP, COM_REGISTER_SLAVE, COM_BINLOG_DUMP_GTID, COM_CLONE})
"""Commands that hand over everything without a result: refused unless allowed."""
UNANSWERED = frozenset({COM_QUIT, COM_STMT_SEND_LONG_DATA, COM_STMT_CLOSE})
LAST_PREPARED = 0xFFFFFFFF
"""MariaDB: the statement that was prepared last, whose id the client does not know yet."""

FAST_AUTHENTICATION = b"\x01\x03"
"""caching_sha2_password knew the password: an OK follows, and no answer."""
OK, AUTH_MORE_DATA, AUTH_NEXT_FACTOR, LOCAL_INFILE, EOF, ERR = 0x00, 0x01, 0x02, 0xFB, 0xFE, 0xFF

MYSQL_TYPE_TINY, MYSQL_TYPE_SHORT, MYSQL_TYPE_LONG, MYSQL_TYPE_FLOAT, MYSQL_TYPE_DOUBLE = 1, 2, 3, 4, 5
MYSQL_TYPE_NULL, MYSQL_TYPE_TIMESTAMP, MYSQL_TYPE_LONGLONG, MYSQL_TYPE_INT24 = 6, 7, 8, 9
MYSQL_TYPE_DATE, MYSQL_TYPE_TIME, MYSQL_TYPE_DATETIME, MYSQL_TYPE_YEAR = 10, 11, 12, 13

FIXED_BYTES = {
    MYSQL_TYPE_TINY: 1,
    MYSQL_TYPE_SHORT: 2,
    MYSQL_TYPE_LONG: 4,
    MYSQL_TYPE_FLOAT: 4,
    MYSQL_TYPE_DOUBLE: 8,
    MYSQL_TYPE_NULL: 0,
    MYSQL_TYPE_LONGLONG: 8,
    MYSQL_TYPE_INT24: 4,
    MYSQL_TYPE_YEAR: 2,
}
"""Sizes of values in the binary protocol; every other type has a length before it, which for dates and times is one byte."""
INTEGERS = frozenset(
    {MYSQL_TYPE_TINY, MYSQL_TYPE_SHORT, MYSQL_TYPE_LONG, MYSQL_TYPE_LONGLONG, MYSQL_TYPE_INT24, MYSQL_TYPE_YEAR}
)

PRI_KEY_FLAG, UNIQUE_KEY_FLAG, MULTIPLE_KEY_FLAG, UNSIGNED_FLAG = 0x2, 0x4, 0x8, 0x20
BINARY_CHARSET = 63


@dataclass(frozen=True, slots=True)
class Column:
    """What of a column definition is looked at. Names as the server sends them; empty for an expression."""

    schema: str
    table: str
    """org_table: the table itself, not its alias."""
    column: str
    """org_name."""
    name: str
    """The alias, or the name."""
    type: int
    charset: int
    flags: int


class Ok(NamedTuple):
    """An OK packet, or an EOF packet (then `affected_rows` is 0)."""

    affected_rows: int
    status: int


def lenenc(data: bytes, pos: int) -> tuple[int, int]:
    """Length-encoded integer at `pos`, and the position behind it; NULL (0xFB) gives -1. Raises ProtocolError."""
    try:
        first = data[pos]
    except IndexError:
        raise ProtocolError("a packet ends inside a number") from None
    if first < 0xFB:
        return first, pos + 1
    if first == 0xFB:
        return -1, pos + 1
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    if not size or pos + 1 + size > len(data):
        raise ProtocolError("a length-encoded number is malformed")
    return int.from_bytes(data[pos + 1 : pos + 1 + size], "little"), pos + 1 + size


def lenenc_bytes(data: bytes, pos: int) -> tuple[bytes, int]:
    """Length-encoded string. Raises ProtocolError."""
    size, pos = lenenc(data, pos)
    if size < 0 or pos + size > len(data):
        raise ProtocolError("a length-encoded string is malformed")
    return data[pos : pos + size], pos + size


def lenenc_pack(number: int) -> bytes:
    """`number` as a length-encoded integer."""
    if number < 0xFB:
        return bytes((number,))
    for mark, size in ((b"\xfc", 2), (b"\xfd", 3), (b"\xfe", 8)):
        if number < 1 << 8 * size:
            return mark + number.to_bytes(size, "little")
    raise ValueError("number is larger than 64 bits")


def packet(sequence: int, payload: bytes) -> bytes:
    """One packet; the payload must be shorter than MAX_PAYLOAD_BYTES."""
    return len(payload).to_bytes(3, "little") + bytes((sequence & 0xFF,)) + payload


def err(code: int, sqlstate: str, message: str) -> bytes:
    """Payload of an ERR packet."""
    return b"\xff" + code.to_bytes(2, "little") + b"#" + sqlstate.encode("ascii") + message.encode("utf-8")


def sqlstate(payload: bytes) -> str:
    """The SQLSTATE of an ERR packet; `HY000` when it has none. Nothing else of an error leaves this function, since its
    text quotes row values."""
    if payload[3:4] == b"#" and len(payload) >= 9:
        found = payload[4:9].decode("ascii", "replace")
        if found.isalnum() and found.isascii():
            return found
    return "HY000"


def is_progress(payload: bytes) -> bool:
    """MariaDB's progress report: an ERR packet with the error code 0xFFFF, followed by the real answer."""
    return payload[:3] == b"\xff\xff\xff"


def ok(payload: bytes) -> Ok:
    """An OK packet (header 0x00, or 0xFE where it stands for EOF). Raises ProtocolError."""
    affected, pos = lenenc(payload, 1)
    _, pos = lenenc(payload, pos)
    if pos + 2 > len(payload):
        raise ProtocolError("an OK packet is too short")
    return Ok(affected, int.from_bytes(payload[pos : pos + 2], "little"))


def eof(payload: bytes) -> Ok:
    """An EOF packet of the old form: 0xFE, warnings, status."""
    return Ok(0, int.from_bytes(payload[3:5], "little"))


def announced(status: int) -> int:
    """Of the EOF between columns and rows: that another result follows, where only this EOF says so.

    That is the case with a procedure's OUT parameters, as Oracle's server sends them; the EOF after their row does not say it.
    https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_stmt_execute_response.html
    """
    return status & SERVER_MORE_RESULTS_EXISTS if status & SERVER_PS_OUT_PARAMS else 0


def column(payload: bytes, extended: bool) -> Column:
    """A column definition. `extended`: MariaDB's extended metadata was agreed. Raises ProtocolError."""
    _, pos = lenenc_bytes(payload, 0)
    schema, pos = lenenc_bytes(payload, pos)
    _, pos = lenenc_bytes(payload, pos)
    table, pos = lenenc_bytes(payload, pos)
    name, pos = lenenc_bytes(payload, pos)
    org_name, pos = lenenc_bytes(payload, pos)
    if extended:
        _, pos = lenenc_bytes(payload, pos)
    size, pos = lenenc(payload, pos)
    if size < 0x0A or pos + size > len(payload):
        raise ProtocolError("a column definition is malformed")
    if schema in (b"", b"*any*"):
        table = b""  # an expression's: JSON_TABLE
    return Column(
        _text(schema),
        _text(table),
        _text(org_name),
        _text(name),
        payload[pos + 6],
        int.from_bytes(payload[pos : pos + 2], "little"),
        int.from_bytes(payload[pos + 7 : pos + 9], "little"),
    )


def _text(name: bytes) -> str:
    """A name; character_set_results may ask for UTF-16 or UTF-32, where ASCII has zeros between."""
    return name.replace(b"\0", b"").decode("utf-8", "replace")


def skip_value(kind: int, data: bytes, pos: int) -> int:
    """The position behind a binary value of this type. Raises ProtocolError."""
    fixed = FIXED_BYTES.get(kind)
    if fixed is not None:
        return pos + fixed
    if kind in (MYSQL_TYPE_DATE, MYSQL_TYPE_TIME, MYSQL_TYPE_DATETIME, MYSQL_TYPE_TIMESTAMP):
        if pos >= len(data):
            raise ProtocolError("a binary value is cut off")
        return pos + 1 + data[pos]
    size, pos = lenenc(data, pos)
    return pos + max(0, size)


def query_text(body: bytes, attributes: bool) -> bytes:
    """The statement of a COM_QUERY body (behind the command byte), whose attributes come first when they were agreed on.

    Raises ProtocolError.
    """
    if not attributes:
        return body
    count, pos = lenenc(body, 0)
    _, pos = lenenc(body, pos)
    if count <= 0:
        return body[pos:]
    return body[_skip_attributes(body, pos, count) :]


def _skip_attributes(body: bytes, pos: int, count: int) -> int:
    if count > 0xFFFF:
        raise ProtocolError("too many query attributes")
    bitmap = body[pos : pos + (count + 7) // 8]
    pos += len(bitmap)
    if body[pos : pos + 1] != b"\1":
        raise ProtocolError("query attributes have no types")
    pos += 1
    kinds = []
    for _ in range(count):
        kinds.append(body[pos] if pos < len(body) else 0)
        _, pos = lenenc_bytes(body, pos + 2)
    for i, kind in enumerate(kinds):
        if not bitmap[i // 8] & (1 << i % 8):
            pos = skip_value(kind, body, pos)
    return pos
