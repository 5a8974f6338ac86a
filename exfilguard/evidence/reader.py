"""Reading the archive, while it is written or without its writer. A file that is damaged is named, left out and counted.

Two ways, both of which look at every byte they use:
- `account(..)`: one account in a time span. The statistics of each file's row groups lead to the few that hold it; only those
  pages are read, their checksums verified. Fast however large the archive is.
- `scan(..)`: all accounts. Each file's SHA-256 is verified, then DuckDB reads it by itself, without holding it in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import EvidenceError
from . import manifest as manifests
from . import parquet
from .archive import reason_of
from .columns import EVENTS, SHAPES
from .manifest import FileEntry

AGAIN = 3
"""A file may have been merged away between the manifest and its opening: the manifest is read again."""


class ArchiveReader:
    """`skipped` fills while reading: path -> what is wrong with it."""

    def __init__(self, root: Path) -> None:
        """Raises EvidenceError."""
        if not root.is_dir():
            raise EvidenceError(f"{root}: there is no archive: is archive.dir right, and has `exfilguard archive` run?")
        self.root = root.resolve()
        self.skipped: dict[str, str] = {}
        self.manifest, trouble = manifests.load(root)
        if trouble:
            self.skipped[manifests.NAME] = trouble
        self.skipped |= self.manifest.damaged

    @property
    def tenants(self) -> list[str]:
        return sorted({entry.tenant for entry in self.manifest.files.values()})

    def span_ms(self, tenant: str) -> tuple[int, int]:
        """First and last event's time; (0, 0) when there is none."""
        found = [entry for entry in self.manifest.files.values() if entry.kind == "events" and entry.tenant == tenant]
        return min((e.min_ms for e in found), default=0), max((e.max_ms for e in found), default=0)

    def files(self, tenant: str, from_ms: int, to_ms: int) -> list[tuple[str, FileEntry]]:
        """Files of events that may hold some of [from, to)."""
        return [
            (name, entry)
            for name, entry in sorted(self.manifest.files.items())
            if entry.kind == "events"
            and entry.tenant == tenant
            and entry.min_ms < to_ms
            and entry.max_ms >= from_ms
            and name not in self.manifest.damaged
        ]

    def account(self, tenant: str, principal: str, from_ms: int, to_ms: int, columns: Sequence[str]) -> pa.Table:
        """Events of one account in [from, to), these columns of EVENTS, by time."""
        needed = list(dict.fromkeys([*columns, "principal", "time_ms"]))

        def wanted(group: Any) -> bool:
            low, high = _bounds(group, "principal")
            first, last = _bounds(group, "time_ms")
            named = low is None or low <= principal <= high
            return named and (first is None or (first < to_ms and last >= from_ms))

        tables = [EVENTS.empty_table().select(needed)]
        for table in self._each(tenant, from_ms, to_ms, lambda path, entry: parquet.read(path, entry, needed, wanted)):
            mask = pc.and_(
                pc.equal(table["principal"], principal),
                pc.and_(pc.greater_equal(table["time_ms"], from_ms), pc.less(table["time_ms"], to_ms)),
            )
            tables.append(table.filter(mask).select(needed).cast(tables[0].schema))
        return pa.concat_tables(tables).sort_by("time_ms")

    def _each(
        self, tenant: str, from_ms: int, to_ms: int, read: Callable[[Path, FileEntry], pa.Table]
    ) -> Iterator[pa.Table]:
        for attempt in range(AGAIN):
            tables, missing = [], False
            skipped: dict[str, str] = {}
            for name, entry in self.files(tenant, from_ms, to_ms):
                try:
                    tables.append(read(self.root / name, entry))
                except FileNotFoundError as error:
                    missing = True
                    skipped[name] = reason_of(error)
                except (OSError, ValueError) as error:
                    skipped[name] = reason_of(error)
            if not missing or attempt == AGAIN - 1 or not self._reloaded():
                break
        self.skipped |= skipped
        yield from tables

    def _reloaded(self) -> bool:
        """True when the writer has moved on since."""
        newer, _ = manifests.load(self.root)
        changed = newer.commit != self.manifest.commit
        self.manifest = newer
        return changed

    def scan(self, tenant: str, from_ms: int, to_ms: int) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with the view `events`: [from, to) of all accounts, and the table `shapes`."""
        connection = duckdb.connect(":memory:", config={"threads": 2})
        good = []
        for name, entry in self.files(tenant, from_ms, to_ms):
            if wrong := parquet.damage(self.root / name, entry):
                self.skipped[name] = wrong
            else:
                good.append(str(self.root / name))
        if good:
            listed = ", ".join("'" + path.replace("'", "''") + "'" for path in good)
            source = f"read_parquet([{listed}], hive_partitioning = false)"
        else:
            connection.register("nothing", EVENTS.empty_table())
            source = "nothing"
        connection.execute(
            f"CREATE VIEW events AS SELECT * FROM {source} WHERE time_ms >= {int(from_ms)} AND time_ms < {int(to_ms)}"  # noqa: S608
        )
        connection.register("shapes", self.shapes(tenant))
        return connection

    def shapes(self, tenant: str) -> pa.Table:
        """Every shape of a tenant's statements (SHAPES)."""
        tables = [SHAPES.empty_table()]
        for name, entry in sorted(self.manifest.files.items()):
            if entry.kind != "shapes" or entry.tenant != tenant or name in self.manifest.damaged:
                continue
            try:
                tables.append(parquet.read(self.root / name, entry, None).cast(SHAPES))
            except (OSError, ValueError) as error:
                self.skipped[name] = reason_of(error)
        return pa.concat_tables(tables)

    def check(self, tell: Callable[[int, int], None] = lambda done, of: None) -> int:
        """Every byte of every file; the number of files that are as they were written. `skipped` has the others."""
        good = 0
        for i, (name, entry) in enumerate(sorted(self.manifest.files.items()), 1):
            if wrong := parquet.damage(self.root / name, entry):
                self.skipped[name] = wrong
            else:
                good += 1
            tell(i, len(self.manifest.files))
        return good


def _bounds(group: Any, column: str) -> tuple[Any, Any]:
    for n in range(group.num_columns):
        found = group.column(n)
        if found.path_in_schema == column:
            statistics = found.statistics
            if statistics is None or not statistics.has_min_max:
                return None, None
            return statistics.min, statistics.max
    return None, None
