"""Patient columns by origin. MySQL's column definitions name the table and the column themselves, whatever the alias, so no
catalog is asked; what they do not say is learned as it passes: which tables hold one row a patient (the identifier is a key
there), and which tables and views were made from patients' tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ...events.query import PatientsBy
from ...wire.mysql import messages
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
from .moved import AROUND

MAX_COPIES = 10_000
MAX_READINGS = 1_024
MAX_READING_BYTES = 32 << 10
"""Longer column definitions are read again each time."""
UUID_BYTES = 16

_WORDS = re.compile(rb"[\w$]+")
_LONGER_WORDS = re.compile(rb"[\w$\x80-\xff]+")
_SUBQUERY = re.compile(
    r"\) (?:as )?(?P<behind>`?[\w$?]++)|(?<![\w$?])(?P<before>`?[\w$?]++)`? (?:\( [^()]*+ \) )?as (?:materialized |not materialized )?\("
)
"""Of a shape: the name that a subquery has behind it, or before it in WITH."""
_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")


def subqueries(shape: str, tables: Iterable[str], *, certain: bool) -> frozenset[str]:
    """Those of these names, in lower case, that a statement may give to subqueries. `shape`: its normalised text; `certain`: False when
    the server may read it otherwise."""
    found = {match["behind"] or match["before"] for match in _SUBQUERY.finditer(AROUND.sub("", shape))}
    certain = certain and "?" not in found  # a string, or a name in double quotes
    named = {name.lstrip("`").lower() for name in found}
    return frozenset([t for t in tables if not certain or t in named or _PLAIN.fullmatch(t) is None])


def canonical(value: bytes, column: Column, binary: bool) -> bytes:
    """The same identifier in text and in binary form, and in PostgreSQL, gives the same bytes."""
    if column.type in INTEGERS:
        if binary:
            return b"%d" % int.from_bytes(value, "little", signed=not column.flags & UNSIGNED_FLAG)
        if value[:1] == b"\0" or value[-1:] == b"\0":  # UTF-16 or UTF-32
            value = value.replace(b"\0", b"")
        if value[:1] == b"0" and len(value) > 1:  # ZEROFILL
            return value.lstrip(b"0") or b"0"
        return value.strip()
    if column.charset == BINARY_CHARSET and len(value) == UUID_BYTES:
        return value.hex().encode("ascii")
    # A connection may ask for UTF-16 or UTF-32: identifiers are ASCII in any of them.
    return patients.canonical(value.replace(b"\0", b"") if b"\0" in value else value, 0, False)


class Reading:
    """How the rows of one result are read."""

    __slots__ = (
        "by",
        "computed",
        "expressions",
        "fields",
        "kinds",
        "last",
        "names",
        "of_known",
        "of_packed",
        "of_patients",
        "positions",
        "sizes",
        "tables",
        "version",
    )

    def __init__(
        self,
        fields: list[Column],
        positions: tuple[int, ...],
        by: PatientsBy,
        *,
        of_patients: bool,
        of_known: bool,
        of_packed: bool,
        version: int,
    ) -> None:
        self.fields = fields
        self.positions = positions
        """Of the identifier columns."""
        self.by = by
        """How they were found: `origin`, `name` or empty."""
        self.last = max(positions, default=0)
        self.of_patients = of_patients
        """A column comes from a table with a row for each patient."""
        self.of_packed = of_packed
        """A column comes from a table that may hold many patients in one value."""
        self.of_known = of_known
        """A column comes from a table of the configuration."""
        self.tables = frozenset([field.table.lower() for field in fields if field.table])
        self.expressions = bool(fields) and not self.tables
        """No column comes from a table."""
        self.computed = tuple([i for i, field in enumerate(fields) if not field.table and i not in positions])
        """Columns that come from none, and are no identifiers."""
        self.names = tuple([field.name for field in fields])
        self.sizes = bytes(map(_size, fields))
        """Of the binary form: see wire/mysql/_scan.py."""
        self.kinds = tuple([_kind(field) for field in fields])
        """For the loop in C: see _rows.pyx."""
        self.version = version
        """Of what was known of the tables."""


def _kind(column: Column) -> int:
    """What `canonical` makes of it: 0 text, 1 signed, 2 unsigned, 3 bytes, which may be a UUID."""
    if column.type in INTEGERS:
        return 2 if column.flags & UNSIGNED_FLAG else 1
    return 3 if column.charset == BINARY_CHARSET else 0


def _size(column: Column) -> int:
    fixed = messages.FIXED_BYTES.get(column.type)
    if fixed is not None:
        return fixed
    dated = (
        messages.MYSQL_TYPE_DATE,
        messages.MYSQL_TYPE_TIME,
        messages.MYSQL_TYPE_DATETIME,
        messages.MYSQL_TYPE_TIMESTAMP,
    )
    return 254 if column.type in dated else 255


class OriginColumns:
    """The configured identifier columns, `table.column` or `schema.table.column`; names without regard to case."""

    __slots__ = (
        "_copied", "_copies", "_identity", "_mentions", "_names", "_packed", "_qualified", "_readings", "_tables", "_version",
        "_without", "keyed",
    )  # fmt: skip

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
        self._copied: set[bytes] = set()
        self._packed: set[str] = set()
        self._mentions = self._mention(self._tables)
        self._readings: dict[tuple[tuple[bytes, ...], bool], Reading] = {}
        """By the column definitions, as they came, and whether those are extended."""
        self._without: dict[tuple[Reading, frozenset[str]], Reading] = {}
        self._version = 0

    @staticmethod
    def _mention(tables: Iterable[str]) -> re.Pattern[bytes] | None:
        names = sorted({re.escape(table.encode("utf-8")) for table in tables if table})
        return re.compile(rb"(?<![\w$])(?:" + b"|".join(names) + rb")(?![\w$])", re.IGNORECASE) if names else None

    def reading(self, definitions: tuple[bytes, ...], extended: bool) -> Reading:
        """How rows with these column definitions are read: the same few are sent again and again. Raises ProtocolError."""
        found = self._readings.get((definitions, extended))
        if found is not None:
            return self.current(found)
        found = self._made([messages.column(payload, extended) for payload in definitions])
        if sum(map(len, definitions)) <= MAX_READING_BYTES:
            if len(self._readings) >= MAX_READINGS:
                self._readings.clear()
            self._readings[definitions, extended] = found
        return found

    def current(self, reading: Reading) -> Reading:
        """The same, with what has been learned since."""
        if reading.version == self._version:
            return reading
        made = self._made(reading.fields)
        for key, known in self._readings.items():
            if known is reading:
                self._readings[key] = made
                break
        return made

    def _made(self, fields: list[Column]) -> Reading:
        positions, by = self.find(fields)
        return Reading(
            fields,
            positions,
            by,
            of_patients=self._of_patients(fields),
            of_packed=any(field.table.lower() in self._packed for field in fields),
            of_known=any(field.table.lower() in self._tables for field in fields if field.table),
            version=self._version,
        )

    def without(self, reading: Reading, tables: frozenset[str]) -> Reading:
        """The same for columns of these tables that are none: names of subqueries, whose columns say nothing of where they come from."""
        key = (reading, tables)
        found = self._without.get(key)
        if found is None or found.version != self._version:
            fields = [replace(f, table="") if f.table.lower() in tables else f for f in reading.fields]
            found = self._made(fields)
            if len(self._without) >= MAX_READINGS:
                self._without.clear()
            self._without[key] = found
        return found

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
        known = self._identity.get(table)
        if flags & (PRI_KEY_FLAG | UNIQUE_KEY_FLAG):
            self._identity[table] = True
        elif flags & MULTIPLE_KEY_FLAG and known is None:
            self._identity[table] = False
        if self._identity.get(table) is not known:
            self._version += 1

    def _of_patients(self, columns: Sequence[Column]) -> bool:
        tables = {column.table.lower() for column in columns if column.table}
        return any(
            table in self._copies or (table in self._tables and self._identity.get(table, True)) for table in tables
        )

    def mentioned_in(self, sql: bytes) -> bool:
        """True when a statement names a table that holds patients."""
        if self._mentions is not None and self._mentions.search(sql) is not None:
            return True
        return bool(self._copies) and self.copy_in(sql)

    def copy_in(self, sql: bytes) -> bool:
        """True when it names what was made of patients' tables."""
        low = sql.lower()
        if not self._copied.isdisjoint(_WORDS.findall(low)):
            return True
        return not low.isascii() and not self._copied.isdisjoint(_LONGER_WORDS.findall(low))

    def configured(self, table: str) -> bool:
        """True for a table, in lower case, that the configuration names."""
        return table in self._tables

    def note_copies(self, names: Iterable[str], *, packed: bool) -> None:
        """A statement was carried out that has put patients' rows there, or made what tells of them. `packed`: many into one."""
        for name in names:
            if not name or name in self._tables or len(self._copies) >= MAX_COPIES:
                continue
            if name not in self._copies or (packed and name not in self._packed):
                self._copies.add(name)
                self._copied.add(name.encode())
                if packed:
                    self._packed.add(name)
                self._version += 1
