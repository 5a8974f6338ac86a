"""Which column of a COPY TO STDOUT holds patients' identifiers: its text, held against what the catalog knows of the tables.

CopyData has no description of its columns, so this must be certain or it is left: the table is one that the catalog knows (without
its schema: all tables of that name must give the same answer), the server's CopyOutResponse has the expected form and number of
columns, and the identifier's place among them follows from the text or from the table's live columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .copy_rows import BINARY, CSV, TEXT, CopyForm
from .copy_statement import Copies, Copy, byte_by_byte

_KINDS = {"text": TEXT, "csv": CSV, "binary": BINARY}


@dataclass(frozen=True, slots=True)
class PatientColumn:
    name: str
    type_oid: int
    """Of a domain: what it stands for, as in a RowDescription."""
    copied_at: int
    """Its place, from 0, where all columns are copied; -1: a generated column, which COPY leaves out."""
    shown_at: int
    """Its place in `SELECT *`."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a configured column, or one of the same name without."""

    schema: str
    name: str
    copied: int
    """Columns that COPY sends when none are named."""
    shown: int
    """Columns of `SELECT *`."""
    patients: tuple[PatientColumn, ...]


def table_of(found: Sequence[Any]) -> Table:
    """From JSON (catalog.py): [schema, name, copied, shown, [[column, type, copied at, shown at], ..]]. Raises ValueError, TypeError."""
    schema, name, copied, shown, patients = found
    columns = tuple(PatientColumn(str(column), int(oid), int(at), int(shown)) for column, oid, at, shown in patients)
    return Table(str(schema), str(name), int(copied), int(shown), columns)


class CopyTables:
    """What the catalog says now of a listener's tables; shared by its sessions."""

    def __init__(self, tables: Iterable[Table]) -> None:
        self._copies = Copies()
        self._tables: dict[str, list[Table]] = {}
        for table in tables:
            self._tables.setdefault(table.name, []).append(table)

    def form(self, sql: bytes, which: int, encoding: str, *, backslashes: bool, answer: bytes) -> CopyForm | None:
        """How the rows of a text's `which`-th statement are read; None: they cannot be, or hold no identifier. `answer`: body of
        its CopyOutResponse; `encoding`: the session's client_encoding."""
        if not self._tables or len(answer) < 3 or not byte_by_byte(encoding):
            return None
        copy = self._copies.find(sql, which, backslashes=backslashes)
        if copy is None or (answer[0] == 1) != (copy.format == "binary"):
            return None
        columns = answer[1] << 8 | answer[2]
        found = {
            _places(table, copy, columns)
            for table in self._tables.get(copy.table, ())
            if copy.schema in ("", table.schema)
        }
        places = found.pop() if len(found) == 1 else ()
        if not places:
            return None
        return CopyForm(
            _KINDS[copy.format],
            columns,
            tuple(place for place, _ in places),
            tuple(type_oid for _, type_oid in places),
            delimiter=copy.delimiter,
            null=copy.null,
            header=copy.header,
            quote=copy.quote,
            escape=copy.escape,
        )


def _places(table: Table, copy: Copy, columns: int) -> tuple[tuple[int, int], ...]:
    """(place among so many columns, type OID) of each identifier, by place; empty when there is none, or the number is another."""
    if copy.columns is not None:
        if len(copy.columns) != columns:
            return ()
        types = {column.name: column.type_oid for column in table.patients}
        return tuple((place, types[name]) for place, name in enumerate(copy.columns) if name in types)
    if columns != (table.shown if copy.query else table.copied):
        return ()
    places = [(column.shown_at if copy.query else column.copied_at, column.type_oid) for column in table.patients]
    return tuple(sorted(place for place in places if place[0] >= 0))
