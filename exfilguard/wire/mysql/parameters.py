"""Bind parameters of COM_STMT_EXECUTE and COM_STMT_BULK_EXECUTE, as text.

    COM_STMT_EXECUTE        int4 statement, int1 flags, int4 1, [lenenc count], NULL bitmap, int1 new types?, [types], values
    COM_STMT_BULK_EXECUTE   int4 statement, int2 flags, [types], rows of (int1 indicator, [value])

A type is an int2, its upper bit says unsigned. Where query attributes were agreed on, the count is there for any statement with
parameters, a lenenc name follows each type, and attributes come behind the parameters. Types are sent once and hold for later executions. A value sent by COM_STMT_SEND_LONG_DATA is not among them.
https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_stmt_execute.html
https://mariadb.com/kb/en/com_stmt_bulk_execute/
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from ...errors import ProtocolError
from .messages import (
    FIXED_BYTES,
    INTEGERS,
    MYSQL_TYPE_DATE,
    MYSQL_TYPE_DATETIME,
    MYSQL_TYPE_DOUBLE,
    MYSQL_TYPE_FLOAT,
    MYSQL_TYPE_NULL,
    MYSQL_TYPE_TIME,
    MYSQL_TYPE_TIMESTAMP,
    lenenc,
    lenenc_bytes,
    skip_value,
)

MAX_PARAMETERS = 65_535
PARAMETER_COUNT_AVAILABLE = 0x08
SEND_TYPES = 0x40
UNSIGNED = 0x8000
INDICATOR_NONE = 0

Types = tuple[int, ...]
_DATED = frozenset({MYSQL_TYPE_DATE, MYSQL_TYPE_TIME, MYSQL_TYPE_DATETIME, MYSQL_TYPE_TIMESTAMP})


try:
    from ._parameters import executed as _compiled
except ImportError:  # no C compiler at installation
    _compiled = None  # type: ignore[assignment]


def executed(
    body: bytes, count: int, known: Types, long_data: Mapping[int, bytes | None], *, attributes: bool
) -> tuple[list[bytes | None], Types]:
    """`plain_executed`, compiled where it can be."""
    if _compiled is not None and not long_data:
        found = _compiled(body, count, known, attributes)
        if found is not None:
            return found
    return plain_executed(body, count, known, long_data, attributes=attributes)


def plain_executed(
    body: bytes, count: int, known: Types, long_data: Mapping[int, bytes | None], *, attributes: bool
) -> tuple[list[bytes | None], Types]:
    """(values of the statement's `count` parameters, their types). Raises ProtocolError.

    `body`: behind the command byte; `known`: the types of the last execution; `long_data`: values sent before, by number from 0.
    """
    if len(body) < 9:
        raise ProtocolError("COM_STMT_EXECUTE is too short")
    pos, given = 9, count
    if attributes and (count or body[4] & PARAMETER_COUNT_AVAILABLE):
        given, pos = lenenc(body, pos)
    if not count <= given <= MAX_PARAMETERS:
        raise ProtocolError("COM_STMT_EXECUTE has another number of parameters than its statement")
    if not count:
        return [], ()
    bitmap = body[pos : pos + (given + 7) // 8]
    pos += len(bitmap) + 1
    if pos > len(body):
        raise ProtocolError("COM_STMT_EXECUTE is cut off")
    types = known
    if body[pos - 1]:
        types, pos = _types(body, pos, given, named=attributes)
    if len(types) < count:
        raise ProtocolError("COM_STMT_EXECUTE has no types")
    values: list[bytes | None] = []
    for number in range(count):
        if number in long_data:
            values.append(long_data[number])
        elif bitmap[number // 8] & (1 << number % 8):
            values.append(None)
        else:
            value, pos = _value(types[number], body, pos)
            values.append(value)
    return values, types[:count]


def executed_in_bulk(body: bytes, count: int, known: Types, most: int) -> tuple[list[list[bytes | None]], Types]:
    """(at most `most` rows of values, the types); rows behind the end of a `body` that is not whole are left out."""
    if len(body) < 6 or not 0 < count <= MAX_PARAMETERS:
        raise ProtocolError("COM_STMT_BULK_EXECUTE is malformed")
    types, pos = known, 6
    if int.from_bytes(body[4:6], "little") & SEND_TYPES:
        types, pos = _types(body, pos, count, named=False)
    if len(types) < count:
        raise ProtocolError("COM_STMT_BULK_EXECUTE has no types")
    rows: list[list[bytes | None]] = []
    while pos < len(body) and len(rows) < most:
        row: list[bytes | None] = []
        try:
            for kind in types[:count]:
                indicator, pos = body[pos], pos + 1
                value = None
                if indicator == INDICATOR_NONE:
                    value, pos = _value(kind, body, pos)
                row.append(value)
        except (ProtocolError, IndexError):
            break
        rows.append(row)
    return rows, types[:count]


def _types(body: bytes, pos: int, count: int, *, named: bool) -> tuple[Types, int]:
    types = []
    for _ in range(count):
        if pos + 2 > len(body):
            raise ProtocolError("the types of an execution are cut off")
        types.append(int.from_bytes(body[pos : pos + 2], "little"))
        pos += 2
        if named:
            _, pos = lenenc_bytes(body, pos)
    return tuple(types), pos


def _value(kind: int, body: bytes, pos: int) -> tuple[bytes | None, int]:
    """One value as text, None where it is no identifier (a date, a fraction), and the position behind it."""
    base = kind & 0xFF
    end = skip_value(base, body, pos)
    if end > len(body):
        raise ProtocolError("a parameter is cut off")
    if base in INTEGERS:
        return b"%d" % int.from_bytes(body[pos:end], "little", signed=not kind & UNSIGNED), end
    if base in (MYSQL_TYPE_FLOAT, MYSQL_TYPE_DOUBLE):
        # A driver of a language whose numbers are all floating-point sends identifiers so.
        (number,) = struct.unpack("<f" if base == MYSQL_TYPE_FLOAT else "<d", body[pos:end])
        return (b"%d" % int(number) if number.is_integer() else None), end
    if base == MYSQL_TYPE_NULL or base in _DATED or FIXED_BYTES.get(base) is not None:
        return None, end
    return lenenc_bytes(body, pos)[0], end
