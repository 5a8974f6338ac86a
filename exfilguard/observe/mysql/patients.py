"""Patient columns by origin. MySQL's column definitions name the table and the column themselves, whatever the alias, so no
catalog is asked; what they do not say is learned as it passes: which tables hold one row a patient (the identifier is a key
there), and which tables and views were made from patients' tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ...events.query import PatientsBy
from ...wire.mysql.messages import (
    BINARY_CHARSET,
    INTEGERS,
    MULTIPLE_KEY_FLAG,
    PRI_KEY_FLAG,
    UNIQUE_KEY_FLAG,
    UNSIGNED_FLAG,
    Column,
)
from .. import patients
from ..estimate import keyed_pattern

MAX_COPIES = 10_000
UUID_BYTES = 16

_COPY = re.compile(
    rb"""(?: \bcreate\b [^'"]*? \b(?:table|view)\b (?:\s+if\s+not\s+exists)?
           | \b(?:insert|replace)\b [^'"]*? \binto\b )
         \s+ (?:[`"]?\w+[`"]? \s*\.\s*)? [`"]?(?P<name>[\w$\x80-\xff]+)""",
    re.IGNORECASE | re.VERBOSE,
)


def canonical(value: bytes, column: Column, binary: bool) -> bytes:
    """The same identifier in text and in binary form, and in PostgreSQL, gives the same bytes."""
    if column.type in INTEGERS:
        if binary:
            return b"%d" % int.from_bytes(value, "little", signed=not column.flags & UNSIGNED_FLAG)
        if value[:1] == b"0" and len(value) > 1:  # ZEROFILL
            return value.lstrip(b"0") or b"0"
        return value.strip()
    if column.charset == BINARY_CHARSET and len(value) == UUID_BYTES:
        return value.hex().encode("ascii")
    # A connection may ask for UTF-16 or UTF-32: identifiers are ASCII in any of them.
    return patients.canonical(value.replace(b"\0", b"") if b"\0" in value else value, 0, False)


class OriginColumns:
    """The configured identifier columns, `table.column` or `schema.table.column`; names without regard to case."""

    __slots__ = ("_copies", "_identity", "_mentions", "_names", "_qualified", "_tables", "keyed")

    def __init__(self, columns: Iterable[str]) -> None:
        self._qualified: set[tuple[str, ...]] = set()
        self._names: set[str] = set()
        self._tables: set[str] = set()
        for column in columns:
            parts = tuple(column.lower().split("."))
            self._qualified.add(parts)
            self._names.add(parts[-1])
            self._tables.add(parts[-2] if len(parts) > 1 else "")
        self.keyed = keyed_pattern(self._names)
        """Finds identifiers in packed cells."""
        self._identity: dict[str, bool] = {}
        """Tables of the configuration: True when each patient has one row there, as far as is known."""
        self._copies: set[str] = set()
        self._mentions = self._mention(self._tables)

    @staticmethod
    def _mention(tables: Iterable[str]) -> re.Pattern[bytes] | None:
        names = sorted({re.escape(table.encode("utf-8")) for table in tables if table})
        return re.compile(rb"(?<![\w$])(?:" + b"|".join(names) + rb")(?![\w$])", re.IGNORECASE) if names else None

    def find(self, columns: Sequence[Column]) -> tuple[tuple[int, ...], PatientsBy]:
        """Positions of the identifier columns of a result, and how they were found: `origin`, `name` or empty.

        An expression, and a column of a table or view made from patients' tables, counts by its name.
        """
        positions: list[int] = []
        how: PatientsBy = ""
        for i, column in enumerate(columns):
            table, name = column.table.lower(), column.column.lower()
            if (table, name) in self._qualified or (column.schema.lower(), table, name) in self._qualified:
                positions.append(i)
                how = "origin"
                self._learn(table, column.flags)
            elif (not table or table in self._copies) and (name or column.name.lower()) in self._names:
                positions.append(i)
                how = how or "name"
        return tuple(positions), how

    def _learn(self, table: str, flags: int) -> None:
        if flags & (PRI_KEY_FLAG | UNIQUE_KEY_FLAG):
            self._identity[table] = True
        elif flags & MULTIPLE_KEY_FLAG and table not in self._identity:
            self._identity[table] = False

    def estimates(self, columns: Sequence[Column], sql: bytes) -> bool:
        """True when a result without an identifier column stands for patients all the same: it comes from a table with a row
        for each patient, or it is all expressions and the statement names a table that holds them."""
        tables = {column.table.lower() for column in columns if column.table}
        if any(
            table in self._copies or (table in self._tables and self._identity.get(table, True)) for table in tables
        ):
            return True
        return not tables and self.mentioned_in(sql)

    def mentioned_in(self, sql: bytes) -> bool:
        """True when a statement names a table that holds patients."""
        return self._mentions is not None and self._mentions.search(sql) is not None

    def note_copy(self, sql: bytes) -> None:
        """A statement that may have made a table or view out of patients' tables was carried out."""
        if not self.mentioned_in(sql) or len(self._copies) >= MAX_COPIES:
            return
        found = _COPY.search(sql)
        name = found["name"].decode("utf-8", "replace").lower() if found else ""
        if name and name not in self._copies and name not in self._tables:
            self._copies.add(name)
            self._mentions = self._mention(self._tables | self._copies)
