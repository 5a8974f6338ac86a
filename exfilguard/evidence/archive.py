"""The archive's one writer: frames in, Parquet files out, partitioned by day and tenant, each frame exactly once.

    archive/manifest.json
    archive/events/day=2026-11-24/tenant=clinic/0000000042.parquet      number of the commit that made it
    archive/shapes/tenant=clinic/0000000042.parquet                     fingerprint -> text and columns

Small files are merged: those of a day that goes on once there are MERGE_FILES of them, those of a day that is over whenever
there are two. How a commit survives `kill -9`: manifest.py.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import EvidenceError
from ..events.codec import Frame
from . import manifest as manifests
from . import parquet
from .columns import EVENTS, SORT, Frames, shapes_table, table_of
from .ledger import sync_directory
from .manifest import GARBAGE_MS, FileEntry
from .sequences import Sequences

DAY_MS = 86_400_000
MERGE_FILES = 16
FILE_ROWS = 1_000_000
"""A merged file holds about this many rows: what a compaction keeps in memory."""
CLOSED_AFTER_MS = 3_600_000
"""A day is over this long after its end: late events have come by then."""
MAX_SHAPES = 500_000

Shape = tuple[str, str, str, tuple[str, ...]]
"""(tenant, fingerprint, engine, columns)"""


def day_of(time_ms: int) -> str:
    """`2026-11-24` (UTC)."""
    return dt.datetime.fromtimestamp(time_ms // 1000, dt.UTC).date().isoformat()


def day_start_ms(day: str) -> int:
    """Raises ValueError."""
    return int(dt.datetime.combine(dt.date.fromisoformat(day), dt.time(), dt.UTC).timestamp()) * 1000


_PLAIN_TENANT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def folder_of(tenant: str) -> str:
    """The tenant's name in a path. A frame may hold any text there; only a plain one becomes a directory."""
    if _PLAIN_TENANT.fullmatch(tenant):
        return tenant
    return "~" + hashlib.sha256(tenant.encode("utf-8", "replace")).hexdigest()[:16]


class ArchiveWriter:
    """Opened by one process at a time. Not thread-safe."""

    def __init__(self, root: Path, retention_ms: int, file_rows: int = FILE_ROWS) -> None:
        """Deletes what an interrupted commit left. Raises EvidenceError."""
        self.root = root
        self.retention_ms = retention_ms
        self.file_rows = file_rows
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _locked(root)
        self.manifest, self.trouble = manifests.load(root)
        self._sequences = Sequences(self.manifest.sources)
        self.offsets = dict(self.manifest.offsets)
        """partition -> next offset, what is not committed yet included."""
        self._pending: dict[str, tuple[list[Mapping[str, Any]], Frames]] = {}
        self.buffered = 0
        self.duplicates = 0
        self._shapes: set[Shape] = set()
        self._new_shapes: dict[Shape, tuple[str, int]] = {}
        self._delete_orphans()
        self._load_shapes()

    def close(self) -> None:
        os.close(self._lock)

    def _delete_orphans(self) -> None:
        known = self.manifest.files.keys() | self.manifest.garbage.keys() | self.manifest.damaged.keys()
        for path in [*self.root.glob("events/*/*/*.parquet"), *self.root.glob("shapes/*/*.parquet")]:
            if str(path.relative_to(self.root)) not in known:
                path.unlink()

    def _load_shapes(self) -> None:
        for name, entry in self.manifest.files.items():
            if entry.kind != "shapes":
                continue
            with contextlib.suppress(OSError, ValueError):
                table = parquet.read(self.root / name, entry, ["fingerprint", "engine", "columns"])
                for row in table.to_pylist():
                    self._shapes.add((entry.tenant, row["fingerprint"], row["engine"], tuple(row["columns"])))

    # -- in ---------------------------------------------------------------------------------------------------------

    def begin(self, topic_id: str) -> None:
        """The topic as it is now: another id than the one before means that its offsets count anew."""
        if self.manifest.topic_id != topic_id:
            self.manifest.topic_id = topic_id
            self.offsets = {}

    def add(self, partition: int, offset: int, frame: Frame) -> bool:
        """A frame of the queries topic. False when it is in already."""
        self.offsets[partition] = offset + 1
        if not self._sequences.accept(partition, frame.sidecar, frame.epoch, frame.seq):
            self.duplicates += 1
            return False
        events, frames = self._pending.setdefault(frame.tenant, ([], Frames()))
        events += frame.events
        frames.add(frame.sidecar, frame.epoch, frame.seq, len(frame.events))
        self.buffered += len(frame.events)
        for event in frame.events:
            if event.get("query"):
                self._note_shape(frame.tenant, event)
        return True

    def skip(self, partition: int, offset: int) -> None:
        """A record that could not be read."""
        self.offsets[partition] = offset + 1

    def _note_shape(self, tenant: str, event: Mapping[str, Any]) -> None:
        engine = event.get("engine", "postgresql")
        shape = (tenant, event.get("fingerprint", ""), engine, tuple(event.get("columns", ())))
        if shape not in self._shapes and len(self._shapes) < MAX_SHAPES:
            self._shapes.add(shape)
            self._new_shapes[shape] = (event["query"], event["time_ms"])

    # -- to disk ----------------------------------------------------------------------------------------------------

    def commit(self, now_ms: int) -> int:
        """Everything added so far is in the archive when this returns; the number of events. Raises OSError, and then the
        same may be tried again."""
        tables = [(tenant, table_of(events, frames)) for tenant, (events, frames) in self._pending.items() if events]
        return self.commit_tables(tables, now_ms)

    def commit_tables(self, tables: Iterable[tuple[str, pa.Table]], now_ms: int) -> int:
        """`commit` of columns made elsewhere (EVENTS), beside what was added."""
        new = self.manifest.commit + 1
        files: dict[str, FileEntry] = {}
        count = 0
        for tenant, table in tables:
            for day, part in self._by_day(table, now_ms):
                name = f"events/day={day}/tenant={folder_of(tenant)}/{new:010d}.parquet"
                files[name] = self._write(name, "events", tenant, day, part)
                count += part.num_rows
        for tenant in {shape[0] for shape in self._new_shapes}:
            rows = [
                (fingerprint, engine, query, columns, first_ms)
                for (of, fingerprint, engine, columns), (query, first_ms) in self._new_shapes.items()
                if of == tenant
            ]
            name = f"shapes/tenant={folder_of(tenant)}/{new:010d}.parquet"
            files[name] = self._write(name, "shapes", tenant, "", shapes_table(rows))
        if files or self.offsets != self.manifest.offsets:
            self._save(files, (), now_ms, count)
        self._pending.clear()
        self._new_shapes.clear()
        self.buffered = 0
        return count

    def _by_day(self, table: pa.Table, now_ms: int) -> list[tuple[str, pa.Table]]:
        """Parts by the day of their events. A time that cannot be (a clock that jumped) goes to the day of its arrival: its
        directory would be deleted, or never."""
        times = table["time_ms"]
        possible = pc.and_(
            pc.greater(times, pa.scalar(now_ms - self.retention_ms)), pc.less(times, pa.scalar(now_ms + DAY_MS))
        )
        days = pc.if_else(possible, pc.divide(times, pa.scalar(DAY_MS)), pa.scalar(now_ms // DAY_MS))
        found = pc.unique(days).to_pylist()
        if len(found) == 1:
            return [(day_of(found[0] * DAY_MS), table)]
        return [(day_of(n * DAY_MS), table.filter(pc.equal(days, pa.scalar(n)))) for n in sorted(found)]

    def _write(
        self, name: str, kind: str, tenant: str, day: str, table: pa.Table, *, merged: bool = False
    ) -> FileEntry:
        time_column = "time_ms" if kind == "events" else "first_ms"
        if kind == "events":
            table = table.sort_by(SORT)
        bounds = pc.min_max(table[time_column]).as_py()
        size, whole, footer = parquet.write(self.root / name, table)
        sync_directory((self.root / name).parent)
        return FileEntry(kind, tenant, day, table.num_rows, size, bounds["min"], bounds["max"], whole, footer, merged)

    def _save(self, new: dict[str, FileEntry], gone: Iterable[str], now_ms: int, events: int = 0) -> None:
        """Replace the manifest. Raises OSError; then nothing has changed."""
        before = self.manifest
        files = {**before.files, **new}
        garbage = dict(before.garbage)
        for name in gone:
            del files[name]
            garbage[name] = now_ms
        old = [name for name, since in garbage.items() if now_ms - since > GARBAGE_MS]
        made = manifests.Manifest(
            commit=before.commit + 1,
            topic_id=before.topic_id,
            offsets=dict(self.offsets),
            sources=self._sequences.saved(),
            files=files,
            garbage={name: since for name, since in garbage.items() if name not in old},
            damaged=dict(before.damaged),
            events=before.events + events,
            duplicates=before.duplicates + self.duplicates,
        )
        manifests.save(self.root, made)
        self.manifest = made
        self.duplicates = 0
        for name in old:
            (self.root / name).unlink(missing_ok=True)

    # -- upkeep -----------------------------------------------------------------------------------------------------

    def compact(self, now_ms: int) -> str:
        """Merge the small files of one day of one tenant; what was done, or empty when nothing is due. Raises OSError.

        Call it right after a commit, one at a time: it takes up to a few seconds.
        """
        groups: dict[tuple[str, str, str], list[str]] = {}
        for name, entry in self.manifest.files.items():
            over = entry.kind == "events" and day_start_ms(entry.day) + DAY_MS + CLOSED_AFTER_MS < now_ms
            if name not in self.manifest.damaged and entry.rows <= self.file_rows // 2 and (over or not entry.merged):
                groups.setdefault((entry.kind, entry.tenant, entry.day), []).append(name)
        for (kind, tenant, day), names in sorted(groups.items()):
            over = kind == "events" and day_start_ms(day) + DAY_MS + CLOSED_AFTER_MS < now_ms
            if len(names) >= (2 if over else MERGE_FILES):
                return self._merge(kind, tenant, day, sorted(names), now_ms)
        return ""

    def _merge(self, kind: str, tenant: str, day: str, names: list[str], now_ms: int) -> str:
        tables, merged, rows = [], [], 0
        for name in names:
            entry = self.manifest.files[name]
            if rows and rows + entry.rows > self.file_rows:
                break
            try:
                tables.append(parquet.read(self.root / name, entry, None))
            except (OSError, ValueError) as error:
                self.manifest.damaged[name] = reason_of(error)
                continue
            merged.append(name)
            rows += entry.rows
        if len(merged) < 2:
            if self.manifest.damaged:
                self._save({}, (), now_ms)
            return ""
        new = self.manifest.commit + 1
        folder = folder_of(tenant)
        where = f"events/day={day}/tenant={folder}" if kind == "events" else f"shapes/tenant={folder}"
        name = f"{where}/{new:010d}.parquet"
        table = pa.concat_tables(tables)
        if kind == "events":
            table = table.cast(EVENTS)
        self._save({name: self._write(name, kind, tenant, day, table, merged=True)}, merged, now_ms)
        return f"{where}: {len(merged)} files became one of {rows:,} rows"

    def expire(self, now_ms: int) -> list[str]:
        """Take the days that are older than the retention off the list; their names. Raises OSError."""
        gone = [
            name
            for name, entry in self.manifest.files.items()
            if entry.kind == "events" and day_start_ms(entry.day) + DAY_MS + self.retention_ms < now_ms
        ]
        if gone:
            self._save({}, gone, now_ms)
        return gone

    @property
    def missing_frames(self) -> int:
        """Frames that a sidecar sent and that never came."""
        return self._sequences.missing()


def reason_of(error: BaseException) -> str:
    """For people; what a library says of a damaged file may be long."""
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be read: {error.strerror}"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _locked(root: Path) -> int:
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise EvidenceError(f"{root}: another process is writing to this archive: stop it first") from None
    return descriptor
