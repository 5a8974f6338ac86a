"""Type bytes, and the bodies that are looked into.

Layout of every typed message: `byte type, int32 length (itself included), body`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ...errors import ProtocolError

MAX_MESSAGE_BYTES = (1 << 30) - 1
"""PostgreSQL's own bound for large messages (MaxAllocSize)."""

BACKEND_TYPES = frozenset(b"123ACDEGHIKNRSTVWZcdnstv")
FRONTEND_TYPES = frozenset(b"BCDEFHPQSXcdfp")

_FIELD = struct.Struct("!IhIhih")
"""RowDescription, after each name: table OID, column number, type OID, type size, type modifier, format."""


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a RowDescription."""

    name: str
    table_oid: int
    """0 for an expression."""
    column: int
    """attnum in that table; 0 for an expression."""
    type_oid: int
    format: int
    """0 text, 1 binary; always 0 in the answer to Describe(statement), where Bind decides."""


MAX_COUNT_DIGITS = 15
"""Of a row count; more are a lie, and would not fit into the sums."""
MAX_DESCRIPTIONS = 1_024
MAX_DESCRIPTION_BYTES = 16 << 10
_descriptions: dict[bytes, list[Field]] = {}


def row_description(body: bytes) -> list[Field]:
    """Fields of a RowDescription; the same list for the same bytes, so nobody changes it. Raises ProtocolError."""
    found = _descriptions.get(body)
    if found is None:
        found = _row_description(body)
        if len(body) <= MAX_DESCRIPTION_BYTES:
            if len(_descriptions) >= MAX_DESCRIPTIONS:
                _descriptions.clear()
            _descriptions[body] = found
    return found


def _row_description(body: bytes) -> list[Field]:
    fields = []
    pos = 2
    try:
        (count,) = struct.unpack_from("!H", body)
        for _ in range(count):
            end = body.index(0, pos)
            table, column, type_oid, _, _, format_ = _FIELD.unpack_from(body, end + 1)
            fields.append(Field(body[pos:end].decode("utf-8", "replace"), table, column, type_oid, format_))
            pos = end + 1 + _FIELD.size
    except (struct.error, ValueError):
        raise ProtocolError("RowDescription is malformed") from None
    return fields


def command_tag(body: bytes) -> str:
    """CommandComplete's tag: `SELECT 5`, `INSERT 0 1`, `COPY 7`."""
    return body.rstrip(b"\0").decode("ascii", "replace")


def tag_rows(tag: str) -> int:
    """The count at the end of a tag; 0 when it has none, or one that no database can reach."""
    last = tag.rpartition(" ")[2]
    return int(last) if len(last) <= MAX_COUNT_DIGITS and last.isdecimal() else 0


def sqlstate(body: bytes) -> str:
    """The SQLSTATE of an ErrorResponse; `XX000` when it has none. Nothing else of an error leaves this function, since
    its texts quote row values."""
    for part in body.split(b"\0"):
        if part[:1] == b"C" and len(part) == 6 and part[1:].isalnum():
            return part[1:].decode("ascii")
    return "XX000"


def parameter_status(body: bytes) -> tuple[str, str]:
    """Name and value of a ParameterStatus."""
    name, _, rest = body.partition(b"\0")
    return name.decode("utf-8", "replace"), rest.partition(b"\0")[0].decode("utf-8", "replace")


def cstring(body: bytes, pos: int) -> tuple[bytes, int]:
    """The zero-terminated string at `pos`, and the position behind it. Raises ProtocolError."""
    end = body.find(0, pos)
    if end < 0:
        raise ProtocolError("a string is not terminated")
    return body[pos:end], end + 1


def bind_result_formats(body: bytes, pos: int) -> tuple[int, ...] | None:
    """Result format codes of a Bind, `pos` behind its two names; None when the body was cut before them."""
    try:
        (formats,) = struct.unpack_from("!H", body, pos)
        pos += 2 + 2 * formats
        (values,) = struct.unpack_from("!H", body, pos)
        pos += 2
        for _ in range(values):
            (size,) = struct.unpack_from("!i", body, pos)
            pos += 4 + max(0, size)
        (count,) = struct.unpack_from("!H", body, pos)
        return struct.unpack_from(f"!{count}h", body, pos + 2)
    except struct.error:
        return None


def parameter_types(body: bytes) -> tuple[int, ...]:
    """Type OIDs of a ParameterDescription, or of the end of a Parse; empty when it is malformed."""
    try:
        (count,) = struct.unpack_from("!H", body)
        return struct.unpack_from(f"!{count}I", body, 2)
    except struct.error:
        return ()


def bind_values(body: bytes, pos: int) -> list[tuple[int, bytes | None]] | None:
    """(format, value) of each parameter of a Bind, `pos` behind its two names; None when the body was cut among them."""
    try:
        (count,) = struct.unpack_from("!H", body, pos)
        formats = struct.unpack_from(f"!{count}h", body, pos + 2)
        pos += 2 + 2 * count
        (values,) = struct.unpack_from("!H", body, pos)
        pos += 2
        out: list[tuple[int, bytes | None]] = []
        for i in range(values):
            (size,) = struct.unpack_from("!i", body, pos)
            pos += 4
            format_ = formats[0] if count == 1 else formats[i] if i < count else 0
            if size >= 0 and pos + size > len(body):
                return None
            out.append((format_, body[pos : pos + size] if size >= 0 else None))
            pos += max(0, size)
    except struct.error:
        return None
    return out


def bind_texts(body: bytes, pos: int) -> list[str | None] | None:
    """Parameters of a Bind as text, for settings: text is the same in both formats, a binary boolean is one byte."""
    values = bind_values(body, pos)
    if values is None:
        return None
    booleans = {b"\0": "f", b"\1": "t"}
    return [
        None
        if value is None
        else booleans[value]
        if format_ and value in booleans
        else value.decode("utf-8", "replace")
        for format_, value in values
    ]
