"""Checkpoints of a partition's windows, and their restore. Pure: records in and out.

A checkpoint is the accounts that changed since the last one, many in a record, then a marker with the offset and the sequences.

    s 7 0, s 7 1, ..   accounts as of some moment after the checkpoint began, each record with the offset it includes
    m                  offset and sequences as of the moment it began: written when all of the above is acknowledged
    (s 3 1) deleted    records in which no account is the newest any more

The marker may be older than the accounts, so frames go on being counted while a large checkpoint is being written: after a restore
the partition is read on from the marker, and an account drops what it includes already (`applied`). For the same reason a
checkpoint that was interrupted does no harm. Of each account the version with the highest checkpoint number counts; a new owner
continues far above the last number, so that a predecessor who does not know yet that it lost the partition is never the newest.

A record in which few accounts are the newest is cleaned: those are written again with the next checkpoint, so that what lies on the
topic stays below about twice the state.

Formats: accounts version 2 (below and windows/_snapshot.h) and 1 (windows/legacy.py); markers 2 and 1. Older ones are read for ever
(tests/stream/snapshots holds one of each), and written in the newest form with the next checkpoint.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from ..errors import SnapshotError
from ..windows import WindowStore
from ..windows.legacy import body_of_version_1

if TYPE_CHECKING:
    from .engine import Engine

PART_BYTES = 800_000
"""A record is split at this size: brokers refuse records beyond 1 MB by default."""
RECORD_BYTES = 200_000
MARKER_VERSION = 2
ACCOUNTS_VERSION = 2
CLEAN_ABOVE_BYTES = 32 << 20
"""Superseded accounts on the topic are not worth cleaning below this."""
CLEAN_STEP_BYTES = 8 << 20
OWNER_STEP = 1_000

_HEAD = struct.Struct("<BBBHQQHHI")
"""version, store, windows, slices, checkpoint, applied offset, part, parts, accounts; then each window's ms (uint64)"""
_HEAD_1 = struct.Struct("<BQQHH")
"""Version 1: version, checkpoint, applied offset, part, parts; one account a record, its name in the key."""


@dataclass(slots=True)
class Segment:
    """Some accounts that were written together: one record, or several parts of a large one."""

    keys: list[bytes]
    nbytes: int
    count: int
    live: int
    """Accounts whose newest version is here."""


@dataclass(slots=True)
class Checkpoint:
    """One being made: its records first, acknowledged, then `marker`."""

    number: int
    marker: tuple[bytes, bytes]
    pending: list[tuple[int, WindowStore, bytes]]
    """(store's number, store, numbers of its accounts that changed)"""
    at: int = 0
    """Position in the first of `pending`."""
    segments: list[int] = field(default_factory=list)
    nbytes: int = 0


class Checkpoints:
    """What of the stores lies on the snapshots topic. `stores`: by name, the accounts' own first."""

    def __init__(self, stores: Mapping[str, WindowStore]) -> None:
        self._stores = list(stores.values())
        self.number = 0
        self.moved = False
        """There is something to write though no account changed: the offset moved, or a record became needless."""
        self._segments: dict[int, Segment] = {}
        self._next_segment = 1
        self._unneeded: list[bytes] = []
        """Keys to delete once the next marker is written."""

    @property
    def due(self) -> bool:
        return self.moved or any(store.dirty for store in self._stores)

    def begin(self, offset: int, sources: list[Any]) -> Checkpoint | None:
        """`offset`, `sources`: what the marker says, as of now."""
        if not self.due:
            return None
        self._clean()
        self.number += 1
        self.moved = False
        marker = {"v": MARKER_VERSION, "checkpoint": self.number, "offset": offset, "sources": sources}
        pending = [(n, store, store.take_dirty()) for n, store in enumerate(self._stores)]
        return Checkpoint(self.number, (b"m", orjson.dumps(marker)), pending)

    def next_records(self, checkpoint: Checkpoint, applied: int) -> list[tuple[bytes, bytes]]:
        """About RECORD_BYTES of accounts as they are now, all frames below offset `applied` included; empty at the end."""
        while checkpoint.pending:
            n, store, numbers = checkpoint.pending[0]
            segment = self._next_segment
            entries, count, before, checkpoint.at = store.dump_some(
                numbers, checkpoint.at, segment, RECORD_BYTES, self._stores[0]
            )
            if checkpoint.at * 4 >= len(numbers):
                checkpoint.pending.pop(0)
                checkpoint.at = 0
            if not count:
                continue
            self._next_segment += 1
            widths = b"".join(width.to_bytes(8, "little") for width in store.windows_ms)
            parts = range(max(1, -(-len(entries) // PART_BYTES)))
            out = []
            for part in parts:
                head = _HEAD.pack(
                    ACCOUNTS_VERSION, n, len(store.windows_ms), store.slices, checkpoint.number, applied, part,
                    len(parts), count,
                )  # fmt: skip
                key = b"s\0%d\0%d\0%d" % (checkpoint.number, len(checkpoint.segments), part)
                out.append((key, head + widths + entries[part * PART_BYTES : (part + 1) * PART_BYTES]))
            self._segments[segment] = Segment([key for key, _ in out], len(entries), count, count)
            checkpoint.segments.append(segment)
            checkpoint.nbytes += len(entries)
            for old, moved in before.items():
                self._gone_from(old, moved)
            return out
        return []

    def _gone_from(self, segment: int, count: int) -> None:
        held = self._segments.get(segment)
        if held is not None:
            held.live -= count
            self.moved = self.moved or held.live <= 0

    def left(self, segments: Iterable[int]) -> None:
        """Accounts that were in these segments are no more."""
        for segment in segments:
            self._gone_from(segment, 1)

    def written(self, checkpoint: Checkpoint) -> list[tuple[bytes, None]]:
        """Call it when the marker is acknowledged. Returns the deletions that are due."""
        for segment in [n for n, held in self._segments.items() if held.live <= 0]:
            self._unneeded += self._segments.pop(segment).keys
        out: list[tuple[bytes, None]] = [(key, None) for key in self._unneeded]
        self._unneeded = []
        return out

    def unwritten(self, checkpoint: Checkpoint) -> None:
        """It could not be written: what it holds belongs to the next one."""
        for _, store, numbers in checkpoint.pending:
            store.put_back(numbers)
        for store in self._stores:
            store.mark_segments(checkpoint.segments)
        self.moved = True

    def forgotten(self) -> None:
        """The topic is empty again."""
        self._segments.clear()
        self._unneeded = []
        for store in self._stores:
            store.mark_all()
        self.moved = True

    def _clean(self) -> None:
        total = sum(held.nbytes for held in self._segments.values())
        live = sum(held.nbytes * held.live // held.count for held in self._segments.values())
        if total - live < max(live, CLEAN_ABOVE_BYTES):
            return
        chosen, size = [], 0
        for n in sorted(self._segments, key=lambda n: self._segments[n].live / self._segments[n].count):
            chosen.append(n)
            size += self._segments[n].nbytes * self._segments[n].live // self._segments[n].count
            if size > CLEAN_STEP_BYTES:
                break
        for store in self._stores:
            store.mark_segments(chosen)


@dataclass(slots=True)
class _Record:
    version: int
    checkpoint: int
    applied: int
    parts: int
    values: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    """part -> (key, value)"""


class Restore:
    """Collects a snapshots partition's records, in any order and with superseded ones, and fills an engine."""

    def __init__(self) -> None:
        self._marker: dict[str, Any] | None = None
        self._records: dict[tuple[bytes, int], _Record] = {}
        """(the key without its part, checkpoint) -> parts"""
        self._at: dict[bytes, tuple[bytes, int]] = {}
        self.damaged = 0

    @property
    def checkpoint(self) -> int:
        """Number of the newest whole checkpoint; 0 when there is none."""
        return int(self._marker["checkpoint"]) if self._marker is not None else 0

    @property
    def offset(self) -> int:
        """Where the marker stands."""
        return int(self._marker["offset"]) if self._marker is not None else 0

    def add(self, key: bytes, value: bytes | None) -> None:
        """One record, in the topic's order."""
        if key == b"m":
            if value is not None:
                self._add_marker(value)
            return
        found = self._parse(key, value) if value is not None else None
        if value is not None and found is None:
            self.damaged += 1
            return
        if key in self._at:  # superseded: deleted, or (version 1) written again
            before = self._at[key]
            if found is not None and found[1] < before[1]:
                return  # an older owner's late write
            held = self._records[before]
            for part in [p for p, (k, _) in held.values.items() if k == key]:
                del held.values[part]
            if not held.values:
                del self._records[before]
            del self._at[key]
        if found is None or value is None:
            return
        version, checkpoint, applied, part, parts = found
        name = (b"a" + key.split(b"\0")[1] if version == 1 else key.rpartition(b"\0")[0], checkpoint)
        self._records.setdefault(name, _Record(version, checkpoint, applied, parts)).values[part] = (key, value)
        self._at[key] = name

    @staticmethod
    def _parse(key: bytes, value: bytes) -> tuple[int, int, int, int, int] | None:
        try:
            if value[0] == 1 and key[:2] == b"a\0":
                return _HEAD_1.unpack_from(value)
            if value[0] == ACCOUNTS_VERSION and key[:2] == b"s\0":
                version, _, _, _, checkpoint, applied, part, parts, _ = _HEAD.unpack_from(value)
                return version, checkpoint, applied, part, parts
        except (struct.error, IndexError):
            pass
        return None

    def _add_marker(self, value: bytes) -> None:
        try:
            marker = orjson.loads(value)
            newer = marker["v"] in (1, MARKER_VERSION) and marker["checkpoint"] >= self.checkpoint
        except (orjson.JSONDecodeError, KeyError, TypeError):
            self.damaged += 1
            return
        if newer:
            self._marker = marker

    def fill(self, engine: Engine) -> None:
        """Without a marker the engine stays as it is, and the partition is read from its beginning."""
        from .engine import Source

        marker, checkpoints = self._marker, engine.checkpoints
        # Far ahead of any owner that does not know yet that it lost this partition, and of every key that is in use.
        checkpoints.number = OWNER_STEP + max([self.checkpoint, *(r.checkpoint for r in self._records.values())])
        if marker is None:
            checkpoints._unneeded += [key for r in self._records.values() for key, _ in r.values.values()]
            return
        engine.next_offset = marker["offset"]
        for tenant, sidecar, epoch, *rest in marker["sources"]:
            engine.sources[(tenant, sidecar, epoch)] = Source(*rest)
        # Newest first: an account that is there already is not replaced by an older version of itself. The accounts' own
        # records before those of the sums, whose contributors they are.
        whole = [r for r in self._records.values() if len(r.values) == r.parts]
        torn = [r for r in self._records.values() if len(r.values) != r.parts]
        whole.sort(key=lambda r: (_store_of(r), -r.version, -r.checkpoint))
        for record in whole:
            applied = record.applied if record.applied > engine.next_offset else 0
            if record.version == 1:
                self._fill_version_1(record, applied, engine)
            else:
                self._fill(record, applied, checkpoints)
        checkpoints._unneeded += [key for r in torn for key, _ in r.values.values()]
        self._records.clear()

    def _fill(self, record: _Record, applied: int, checkpoints: Checkpoints) -> None:
        keys = [record.values[p][0] for p in range(record.parts)]
        values = [record.values[p][1] for p in range(record.parts)]
        record.values.clear()  # the memory is wanted for the accounts
        try:
            _, n, windows, slices, _, _, _, _, count = _HEAD.unpack_from(values[0])
            start = _HEAD.size + 8 * windows
            widths = struct.unpack_from(f"<{windows}Q", values[0], _HEAD.size)
            data = values[0] if len(values) == 1 else values[0] + b"".join(value[start:] for value in values[1:])
            store, segment = checkpoints._stores[n], checkpoints._next_segment
            loaded, damaged = store.load_many(
                data, start, count, widths, slices, applied, segment, checkpoints._stores[0]
            )
        except (SnapshotError, struct.error, IndexError):
            self.damaged += 1
            return
        self.damaged += damaged
        checkpoints._next_segment += 1
        checkpoints._segments[segment] = Segment(keys, len(data) - start, count, loaded)

    def _fill_version_1(self, record: _Record, applied: int, engine: Engine) -> None:
        """As of now it is out of date on the topic: written anew, and deleted, with the next checkpoint."""
        account = record.values[0][0].split(b"\0")[1].decode()
        engine.checkpoints._unneeded += [key for key, _ in record.values.values()]
        if account in engine.store:
            return
        try:
            data = b"".join(record.values[p][1][_HEAD_1.size :] for p in range(record.parts))
            windows_ms, slices, body = body_of_version_1(data)
            engine.store.load(account, body, windows_ms, slices)
        except SnapshotError:
            self.damaged += 1
            return
        number = engine.store.number(account)
        engine.store.set_applied(number, applied)
        engine.store.mark(number)


def _store_of(record: _Record) -> int:
    return record.values[0][1][1] if record.version == ACCOUNTS_VERSION else 0
