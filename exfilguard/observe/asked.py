"""Patients that a statement asks for: values compared with an identifier column, as literals or as bind parameters.

An application that shows one file at a time often returns no identifier at all (it knows it already), and an EAV schema has none to
return. Found by pattern in the text: `column = value`, `column IN (values)`, `column = ANY (values)`, the column with or without its
table or the table's alias. Rather one too many than one too few: what looks like a comparison inside a literal counts too.

Columns are written `table.column` or `schema.table.column`; with conditions for an EAV table:
`DicomIdentifiers.value[tagGroup=16,tagElement=32]`, where each condition must be found in the same statement.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..events.query import Engine
from .patients import canonical

MAX_ASKED = 1_000
"""Values of one statement; the rest is left out."""
MAX_NAME_BYTES = 140
"""How far before a column its table's name is looked for."""
MAX_CACHED = 4_096
MAX_CACHED_BYTES = 2_000

Parameter = tuple[int, bytes | None, int]
"""Format (1: binary), value, type OID (0: not known)."""
Parameters = Callable[[int], Parameter | None]
"""The n-th bind parameter, from 1."""

Value = bytes | int
"""A literal's canonical text, or the number of a parameter."""

_COLUMN = re.compile(r"(?:(?P<table>[\w.$]+)\.)?(?P<column>[\w$]+)(?:\[(?P<where>[^\]]*)\])?")
_VALUE = rb"(?:'(?:[^'\\]|''|\\.)*'|-?\d+|\$\d+|\?)(?:\s*+::\s*+[\w.\"\[\]]+)?"
_MYSQL_VALUE = rb"(?:" + _VALUE + rb"|\"(?:[^\"\\]|\"\"|\\.)*\")"
"""There double quotes hold text, unless the session says otherwise."""
_ONE_VALUE = re.compile(rb"'((?:[^'\\]|''|\\.)*)'|(-?\d+)|\$(\d+)|(\?)|\"((?:[^\"\\]|\"\"|\\.)*)\"")
_MARKS = re.compile(
    rb"'(?:[^'\\]|''|\\.)*+(?:'|\Z)|\"(?:[^\"\\]|\"\"|\\.)*+(?:\"|\Z)|`[^`]*+(?:`|\Z)|/\*.*?(?:\*/|\Z)|#[^\n]*|--\s[^\n]*|(\?)",
    re.DOTALL,
)
_NUMBER = re.compile(rb"\b\d+\b")
_FIRST_MARK = 1_000_000_007
_QUALIFIER = re.compile(rb"([\w$]+|\"[^\"]*\"|`[^`]*`)\s*\.\s*[\"`]?\Z")
_UUID = re.compile(rb"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_KEYWORDS = frozenset(
    b"where on join inner left right full cross natural set group order limit using values for having union and or as select "
    b"returning window offset fetch tablesample straight_join force use ignore".split()
)
_UUID_OID, _TEXT_OID = 2950, 25


@dataclass(frozen=True, slots=True)
class Column:
    """One identifier column. `where`: other columns of its table and what they must be compared with."""

    table: str
    name: str
    where: tuple[tuple[str, bytes], ...] = ()


def parse_column(text: str) -> Column:
    """Raises ValueError."""
    found = _COLUMN.fullmatch(text.strip())
    if found is None or not found["table"]:
        raise ValueError("write each column as table.column, with conditions as table.column[other=value,..]")
    where = []
    for part in (found["where"] or "").split(","):
        name, equals, value = part.partition("=")
        if not equals and part.strip():
            raise ValueError("write a condition as column=value")
        if equals:
            where.append((name.strip().lower(), value.strip().strip("'").encode()))
    return Column(found["table"].rpartition(".")[2].lower(), found["column"].lower(), tuple(where))


@dataclass(frozen=True, slots=True)
class Plan:
    """What to look at in each execution of a text."""

    values: tuple[Value, ...]
    guarded: tuple[tuple[tuple[Value, ...], tuple[tuple[tuple[Value, ...], bytes], ...]], ...] = ()
    """(values, conditions): they count when each condition, (values, expected), holds."""

    def resolve(self, parameters: Parameters | None = None) -> list[bytes]:
        """The canonical identifiers asked for, each once, at most MAX_ASKED."""
        out: dict[bytes, None] = {}
        _collect(out, self.values, parameters)
        for values, conditions in self.guarded:
            if all(expected in _known(found, parameters) for found, expected in conditions):
                _collect(out, values, parameters)
        return list(out)[:MAX_ASKED]


def _collect(out: dict[bytes, None], values: Iterable[Value], parameters: Parameters | None) -> None:
    for value in values:
        for item in _items(value, parameters):
            out[item] = None


def _known(values: Iterable[Value], parameters: Parameters | None) -> set[bytes]:
    return {item for value in values for item in _items(value, parameters)}


def _items(value: Value, parameters: Parameters | None) -> list[bytes]:
    if isinstance(value, bytes):
        return [value]
    found = parameters(value) if parameters is not None else None
    if found is None or found[1] is None:
        return []
    return _elements(*found)


def _elements(format_: int, value: bytes | None, type_oid: int) -> list[bytes]:
    """One identifier, or those of an array."""
    if value is None:
        return []
    if format_ == 0:
        if value[:1] == b"{" and value[-1:] == b"}":
            return [_text(item.strip(b'"')) for item in value[1:-1].split(b",")[:MAX_ASKED] if item]
        return [_text(value)]
    array = _array(value)
    if array is not None:
        return [_binary(item, oid) for item, oid in array]
    return [_binary(value, type_oid)]


def literal(text: bytes) -> list[bytes]:
    """What a string asks for, given with its quotes: one identifier, or those of an array."""
    quote = text[:1]
    return _elements(0, text[1:-1].replace(quote + quote, quote), 0)


def _text(value: bytes) -> bytes:
    return canonical(value, _UUID_OID if _UUID.fullmatch(value) else _TEXT_OID, False)


def _binary(value: bytes, type_oid: int) -> bytes:
    if type_oid == 0 and len(value) in (2, 4, 8) and not value.isalnum():
        return b"%d" % int.from_bytes(value, "big", signed=True)
    if type_oid == 0 and len(value) == 16 and not value.isascii():
        type_oid = _UUID_OID
    return canonical(value, type_oid, True)


def _array(value: bytes) -> list[tuple[bytes, int]] | None:
    """(element, type OID) of a one-dimensional array in binary form; None when it is none."""
    if len(value) < 20:
        return None
    dimensions, nulls, oid, count, _ = struct.unpack_from("!iiIii", value)
    if dimensions != 1 or nulls not in (0, 1) or not 0 < count <= len(value):
        return None
    out, pos = [], 20
    for _ in range(min(count, MAX_ASKED)):
        if pos + 4 > len(value):
            return None
        (size,) = struct.unpack_from("!i", value, pos)
        pos += 4
        if size >= 0:
            out.append((value[pos : pos + size], oid))
            pos += size
    return out


class AskedColumns:
    """The identifier columns of a listener, looked for in its statements. Shared by its sessions."""

    def __init__(self, columns: Iterable[str], engine: Engine = "postgresql") -> None:
        self._engine: Engine = engine
        self._columns = [parse_column(text) for text in columns]
        self._names = tuple(sorted({column.name.encode() for column in self._columns}))
        self.words = {column.table for column in self._columns} | {column.name for column in self._columns}
        """A text without any of them asks for nobody, and names no table of patients."""
        self._cache: dict[bytes, Plan | None] = {}
        self._shapes: dict[bytes, tuple[tuple[bytes, int], ...] | None] = {}
        """Text with its numbers taken out -> which of them are asked for, each with its sign; None: to be read each time."""
        value = _MYSQL_VALUE if engine == "mysql" else _VALUE
        self._comparison = _comparison({column.name for column in self._columns}, value) if self._columns else None
        tables = b"|".join(sorted({re.escape(column.table.encode()) for column in self._columns}))
        self._tables = re.compile(rb"\b(" + tables + rb")\b[\"`]?(?:\s+(?:as\s+)?[\"`]?([\w$]+))?") if tables else None
        others = {name for column in self._columns for name, _ in column.where}
        self._conditions = _comparison(others, value) if others else None

    def plan(self, sql: bytes) -> Plan | None:
        """What this text asks for; None for most."""
        if self._comparison is None or self._tables is None:
            return None
        low = sql.lower()
        for name in self._names:
            if name in low:
                break
        else:
            return None
        if len(sql) > MAX_CACHED_BYTES:
            return self._read(sql)
        if b"'" not in sql and b'"' not in sql and b"$" not in sql and b"?" not in sql:
            return self._of_numbers(sql)
        if sql in self._cache:
            return self._cache[sql]
        found = self._read(sql)
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[sql] = found
        return found

    def _of_numbers(self, sql: bytes) -> Plan | None:
        """`_read` of a text whose literals are all numbers: the same but for them is read only once."""
        shape = _NUMBER.sub(b"0", sql)
        numbers: list[bytes] = _NUMBER.findall(sql)
        if shape not in self._shapes:
            if len(self._shapes) >= MAX_CACHED:
                self._shapes.clear()
            self._shapes[shape] = self._places(sql)
        places = self._shapes[shape]
        if places is None:
            return self._read(sql)
        return Plan(tuple([sign + numbers[at] for sign, at in places])) if places else None

    def _places(self, sql: bytes) -> tuple[tuple[bytes, int], ...] | None:
        """Which of the numbers are values: each is replaced by one that tells its place."""
        marks = {b"%d" % (_FIRST_MARK + at): at for at in range(len(_NUMBER.findall(sql)))}
        following = iter(marks)
        plan = self._read(_NUMBER.sub(lambda _: next(following), sql))
        if plan is None:
            return ()
        places = []
        for value in plan.values:
            if not isinstance(value, bytes) or (at := marks.get(value.lstrip(b"-"))) is None:
                return None  # a parameter, or part of something else: 1e5, 12abc
            places.append((b"-" if value[:1] == b"-" else b"", at))
        return None if plan.guarded else tuple(places)

    def _read(self, sql: bytes) -> Plan | None:
        if self._tables is None or self._comparison is None:
            return None
        low = sql.lower()  # the same offsets
        aliases: dict[bytes, str] = {}
        for match in self._tables.finditer(low):
            table = match[1].decode()
            aliases[match[1]] = table
            if match[2] and match[2] not in _KEYWORDS:
                aliases[match[2]] = table
        if not aliases:
            return None
        marks: dict[int, int] = {}
        if self._engine == "mysql" and b"?" in sql:
            marks = {at: number for number, at in enumerate([m.start(1) for m in _MARKS.finditer(sql) if m[1]], 1)}
        anybodys = set(aliases.values())
        values: list[Value] = []
        guarded = []
        conditions: dict[Column, tuple[tuple[tuple[Value, ...], bytes], ...]] = {}
        for match in self._comparison.finditer(low):
            name = match["column"].decode()
            before = _QUALIFIER.search(low, max(0, match.start() - MAX_NAME_BYTES), match.start())
            qualifier = before[1].strip(b'"`') if before is not None else b""
            tables = {aliases[qualifier]} if qualifier in aliases else set() if qualifier else anybodys
            for column in self._columns:
                if column.name != name or column.table not in tables:
                    continue
                found = _values(sql[match.start("values") : match.end("values")], match.start("values"), marks)
                if column.where:
                    if column not in conditions:
                        conditions[column] = self._where(sql, low, column, marks)
                    guarded.append((tuple(found), conditions[column]))
                else:
                    values += found
        return Plan(tuple(values), tuple(guarded)) if values or guarded else None

    def _where(
        self, sql: bytes, low: bytes, column: Column, marks: dict[int, int]
    ) -> tuple[tuple[tuple[Value, ...], bytes], ...]:
        out = []
        for name, expected in column.where:
            found: list[Value] = []
            for match in self._conditions.finditer(low) if self._conditions is not None else ():
                if match["column"].decode() == name:
                    found += _values(sql[match.start("values") : match.end("values")], match.start("values"), marks)
            out.append((tuple(found), expected))
        return tuple(out)


def _comparison(names: Iterable[str], value: bytes) -> re.Pattern[bytes]:
    """`column = value`, `IN (values)`, `= ANY (values)`, in lower case."""
    known = b"|".join(sorted(re.escape(name.encode()) for name in names))
    return re.compile(
        rb"\b(?P<column>" + known + rb")\b[\"`]?\s*+(?:=\s*+(?:any\s*+\(\s*+(?:array\s*+\[)?\s*+)?|in\s*+\(\s*+)\(?\s*+"
        rb"(?P<values>" + value + rb"(?:\s*+,\s*+" + value + rb")*+)",
        re.DOTALL,
    )


def _values(text: bytes, start: int, marks: dict[int, int]) -> list[Value]:
    """`marks`: where a parameter's mark stands -> its number."""
    out: list[Value] = []
    for match in _ONE_VALUE.finditer(text):
        if len(out) >= MAX_ASKED:
            break
        if match[1] is not None:
            out += literal(match[0])
        elif match[2] is not None:
            out.append(match[2])
        elif match[3] is not None:
            out.append(int(match[3]))
        elif match[5] is not None:
            out += literal(match[0])
        else:
            number = marks.get(start + match.start())
            if number is not None:
                out.append(number)
    return out
