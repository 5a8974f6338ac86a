"""Which columns hold patient identifiers, and what their values become: keyed digests."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..events.query import PatientsBy
from ..wire.postgres.messages import Field
from .digests import Hmac
from .estimate import keyed_pattern

if TYPE_CHECKING:
    from .copy_tables import CopyTables

DIGEST_BYTES = 8
SERVERS_VIEWS = range(10_000, 16_384)
"""OIDs of what initdb makes besides the catalog itself (FirstGenbkiObjectId, FirstNormalObjectId of access/transam.h)."""
MAX_CACHED = 100_000
MAX_READINGS = 1_024
MAX_READING_COLUMNS = 400
"""Wider descriptions are looked through again each time."""

_INT2, _INT4, _INT8, _UUID = 21, 23, 20, 2950
_INTEGERS = {_INT2: 2, _INT4: 4, _INT8: 8}


class Digester:
    """HMAC-SHA-256 under the installation's key, truncated to 64 bits, 16 hex digits.

    Without the key a digest cannot be turned back, not even by trying all identifiers (RFC 2104). The cache is bounded and
    never leaves the process; it is not used where the compiled HMAC is quicker than a look into it.
    """

    __slots__ = ("_cache", "_hex", "_key", "compiled")

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise ValueError("the digest key is shorter than 16 bytes")
        self._key = key
        self._cache: dict[bytes, str] = {}
        compiled = Hmac(key) if Hmac is not None else None
        self.compiled: Hmac | None = compiled if compiled is not None and compiled.usable else None
        """For loops in C (_digests.pxd)."""
        self._hex: Callable[[bytes], str] | None = self.compiled.hex if self.compiled is not None else None

    def digest(self, value: bytes) -> str:
        """Digest of an identifier's canonical text."""
        if self._hex is not None:
            return self._hex(value)
        found = self._cache.get(value)
        if found is None:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            found = hmac.digest(self._key, value, "sha256")[:DIGEST_BYTES].hex()
            self._cache[value] = found
        return found

    def digest_row(self, value: bytes) -> str:
        """Digest of a whole row, told from any identifier's; not remembered."""
        if self._hex is not None:
            return self._hex(b"row\0" + value)
        return hmac.digest(self._key, b"row\0" + value, "sha256")[:DIGEST_BYTES].hex()


def canonical(value: bytes, type_oid: int, binary: bool) -> bytes:
    """The same identifier in text and in binary form gives the same bytes; padding of char(n) and case of a UUID do not
    matter. A binary value of another type stays as it is: still distinct, though not equal to its text form."""
    if binary:
        size = _INTEGERS.get(type_oid)
        if size is not None and len(value) == size:
            return b"%d" % int.from_bytes(value, "big", signed=True)
        if type_oid == _UUID and len(value) == 16:
            return value.hex().encode("ascii")
    if type_oid == _UUID:
        return value.replace(b"-", b"").lower()
    return value.strip()


def looks_binary(value: bytes, type_oid: int) -> bool:
    """True for an identifier in binary form, where its format is not known: it has its type's length, and is no number in digits."""
    size = 16 if type_oid == _UUID else _INTEGERS.get(type_oid)
    return len(value) == size and not value.removeprefix(b"-").isdigit()


class Reading:
    """How the rows of one description are read."""

    __slots__ = (
        "by", "computed", "expressions", "fields", "formats", "identity", "known", "last", "names", "plain", "positions",
    )  # fmt: skip

    def __init__(
        self, fields: list[Field], positions: tuple[int, ...], by: PatientsBy, identity: bool, known: bool = False
    ) -> None:
        self.fields = fields
        self.positions = positions
        """Of the identifier columns."""
        self.by = by
        self.last = max(positions, default=0)
        self.identity = identity
        """A column comes from a table in which each patient has one row."""
        self.known = known
        """A column comes from a table with a configured column."""
        computed = [i for i, field in enumerate(fields) if not field.table_oid or field.table_oid in SERVERS_VIEWS]
        self.expressions = len(computed) == len(fields)
        """No column comes from a table: the server's views tell of others' values, too (pg_stats)."""
        self.computed = tuple([i for i in computed if i not in positions])
        """Columns that come from none, and are no identifiers."""
        self.formats = tuple([field.format for field in fields])
        self.names = tuple([field.name for field in fields])
        self.plain: tuple[str, ...] | None = None
        """The names as an event tells them, once somebody has asked."""


class PatientColumns:
    """The configured identifier columns, `table.column` or `schema.table.column`.

    Found by origin (table OID and column number, which an alias does not change) once the catalog was asked. A column that the
    catalog knows as another table's is none; whatever it does not know (a view's column, a temporary table's, a computed
    one's) counts by its name.
    """

    __slots__ = (
        "_identity_tables", "_known_tables", "_mentions", "_names", "_origins", "_others", "_readings", "copies", "generation", "keyed",
    )  # fmt: skip

    def __init__(self, columns: Iterable[str]) -> None:
        columns = [column.lower() for column in columns]
        self._names = {column.rpartition(".")[2] for column in columns}
        tables = sorted({re.escape(column.split(".")[-2]) for column in columns if "." in column})
        self.keyed = keyed_pattern(self._names)
        """Finds identifiers in packed cells."""
        self._mentions = re.compile(rf"\b(?:{'|'.join(tables)})\b".encode(), re.IGNORECASE) if tables else None
        self._identity_tables: set[int] = set()
        self._known_tables: set[int] = set()
        self._origins: set[tuple[int, int]] = set()
        self._others: set[tuple[int, int]] = set()
        self.generation = 0
        """Counts the times that readings became others."""
        self.copies: CopyTables | None = None
        """The tables as COPY sends them; None until the catalog was asked."""
        self._readings: dict[int, Reading] = {}
        """By the identity of a description's fields; each holds them, so that it stays theirs."""

    def set_origins(
        self, origins: set[tuple[int, int]], others: set[tuple[int, int]], identity_tables: set[int] | None = None
    ) -> None:
        """(table OID, attnum) from the catalog: the configured columns, and other tables' columns of the same name;
        OIDs of the tables in which each patient has one row."""
        self._origins = origins
        self._others = others
        self._known_tables = {table for table, _ in origins}
        self._identity_tables = identity_tables or set()
        self._readings.clear()
        self.generation += 1

    def reading(self, fields: list[Field]) -> Reading:
        """How rows with these fields are read."""
        found = self._readings.get(id(fields))
        if found is None:
            positions, by = self.find(fields)
            known = not self._known_tables.isdisjoint([field.table_oid for field in fields])
            found = Reading(fields, positions, by, self._has_identity(fields), known)
            if len(fields) <= MAX_READING_COLUMNS:
                if len(self._readings) >= MAX_READINGS:
                    self._readings.clear()
                self._readings[id(fields)] = found
        return found

    def _has_identity(self, fields: list[Field]) -> bool:
        return any(field.table_oid in self._identity_tables for field in fields if field.table_oid)

    def mentioned_in(self, sql: bytes) -> bool:
        """True when a statement names a table that holds patients."""
        return self._mentions is not None and self._mentions.search(sql) is not None

    def find(self, fields: list[Field]) -> tuple[tuple[int, ...], PatientsBy]:
        """Positions of the identifier columns of a result, and how they were found: `origin`, `name` or empty."""
        positions: list[int] = []
        how: PatientsBy = ""
        for i, field in enumerate(fields):
            origin = (field.table_oid, field.column)
            if origin in self._origins:
                positions.append(i)
                how = "origin"
            elif origin in self._others:
                continue
            elif field.name.lower() in self._names:
                positions.append(i)
                how = how or "name"
        return tuple(positions), how
