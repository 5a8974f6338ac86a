"""One partition's windows and where they stand in the stream. Pure: bytes and offsets in, verdicts out.

Exactness rests on three marks, each carried inside the state it describes:
- `(sidecar, epoch, seq)` says which frames are in: a frame that comes twice is dropped, one that is missing is remembered and
  counted as a gap when it has not come after `GAP_GRACE_MS`.
- `next_offset` says how far the partition was read: a jump means that records were skipped, and the shell reads them itself.
- each account's `applied` offset, after a restore: a checkpoint that was interrupted leaves some accounts newer than the
  marker, and their events must not be added again.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..detect.judge import Judge
from ..detect.policy import WINDOWS_MS
from ..errors import CodecError, SnapshotError
from ..events.codec import decode_frame
from ..events.verdict import Verdict
from ..windows import Totals, WindowStore

GAP_GRACE_MS = 10_000
"""Frames may be out of order after a broker that forgot; what is missing longer is a gap."""
SOURCE_KEPT_MS = 26 * 3_600_000
"""A sidecar's epoch that was silent for longer than every window is forgotten."""
MAX_MISSING = 1_000
PART_BYTES = 800_000
"""An account's snapshot is split at this size: brokers refuse records beyond 1 MB by default."""
MARKER_VERSION = 1

_ACCOUNT = struct.Struct("<BQQHH")  # version, checkpoint, applied offset, part, parts
_COUNTED = frozenset(("query", "progress"))


@dataclass(slots=True)
class Source:
    """One sidecar's one epoch in this partition."""

    next: int = 0
    missing: list[list[int]] = field(default_factory=list)
    """[first, behind the last, noticed ms, counted as gap 0/1], oldest first; bounded."""
    seen_ms: int = 0

    def accept(self, seq: int, now_ms: int, *, known: bool) -> bool:
        """True when this frame was not counted before."""
        self.seen_ms = now_ms
        if seq >= self.next:
            if seq > self.next:
                # What came before an epoch was first met here is no gap: it may simply be older than the topic.
                self.missing.append([self.next, seq, now_ms, 0 if known else 1])
                del self.missing[:-MAX_MISSING]
            self.next = seq + 1
            return True
        for i, (low, high, noticed, counted) in enumerate(self.missing):
            if low <= seq < high:
                rest = [[low, seq, noticed, counted], [seq + 1, high, noticed, counted]]
                self.missing[i : i + 1] = [r for r in rest if r[0] < r[1]]
                return True
        return False


@dataclass(slots=True)
class Fed:
    """What one record led to."""

    verdicts: list[Verdict] = field(default_factory=list)
    reason: str = ""
    """Why the record is for the dead letters; empty when it was read."""
    read_first: int | None = None
    """Nothing was done: the records from this offset up to this one must be fed first."""
    duplicate: bool = False


@dataclass(slots=True)
class Checkpoint:
    """Records for the snapshots topic: all of `accounts` acknowledged before `marker` is written."""

    number: int
    accounts: list[tuple[bytes, bytes | None]]
    marker: tuple[bytes, bytes]

    @property
    def nbytes(self) -> int:
        return sum(len(value) for _, value in self.accounts if value is not None)


class Engine:
    """Windows of the accounts of one partition. `standing` gives the newest verdict of a key, whoever issued it."""

    def __init__(
        self,
        judge_of: Callable[[str], Judge],
        standing: Mapping[str, Verdict],
        max_patients: int,
        slices: int = 60,
    ) -> None:
        self._judge_of = judge_of
        self._standing = standing
        self.store = WindowStore(WINDOWS_MS, slices, max_patients)
        self.sources: dict[tuple[str, str, str], Source] = {}
        self.next_offset = 0
        self.checkpoint = 0
        """Number of the last checkpoint that was begun."""
        self.events = 0
        self.frames = 0
        self.duplicates = 0
        self.gaps = 0
        self.recent: deque[str] = deque(maxlen=2_000)
        """Accounts judged lately: the candidates for the largest."""
        self._applied: dict[str, int] = {}
        self._dirty: set[str] = set()
        self._gone: list[str] = []
        self._parts: dict[str, int] = {}
        self._moved = False

    # -- frames -----------------------------------------------------------------------------------------------------

    def feed(self, offset: int, value: bytes, now_ms: int, *, skip_gap: bool = False) -> Fed:
        """One record of the partition. `skip_gap`: the records before it were asked for, and are no more."""
        if offset > self.next_offset and not skip_gap:
            return Fed(read_first=self.next_offset)
        try:
            frame = decode_frame(value)
        except CodecError as error:
            self._passed(offset)
            return Fed(reason=str(error))
        key = (frame.tenant, frame.sidecar, frame.epoch)
        known = key in self.sources
        source = self.sources.setdefault(key, Source())
        fresh = source.accept(frame.seq, now_ms, known=known)
        if fresh and offset < self.next_offset:
            # A new frame at an old offset: the broker has forgotten its log and begun a new one.
            self.forgotten()
            self.next_offset = offset
        self._passed(offset)
        if not fresh:
            self.duplicates += 1
            return Fed(duplicate=True)
        self.frames += 1
        return Fed(self._count(frame.tenant, frame.events, offset, now_ms))

    def _passed(self, offset: int) -> None:
        self._moved = True
        if offset >= self.next_offset:
            self.next_offset = offset + 1

    def _count(self, tenant: str, events: list[dict[str, Any]], offset: int, now_ms: int) -> list[Verdict]:
        store, applied = self.store, self._applied
        touched: dict[str, int] = {}
        for event in events:
            if event["kind"] not in _COUNTED:
                continue
            account = f"{tenant}/{event['principal']}"
            if applied and offset < applied.get(account, 0):
                continue
            time_ms = event["time_ms"]
            store.add(
                account,
                time_ms,
                event.get("rows", 0) + event.get("hidden_rows", 0),
                event.get("bytes", 0),
                1 if event["kind"] == "query" else 0,
                event.get("patients", ()),
                event.get("patients_estimated", 0),
            )
            touched.setdefault(account, time_ms)
        self.events += len(events)
        verdicts = []
        judge = self._judge_of(tenant)
        for account, crossed_ms in touched.items():
            self._dirty.add(account)
            self.recent.append(account)
            verdict = judge.judge(
                account.partition("/")[2], store.totals(account), now_ms, self._standing.get(account), crossed_ms
            )
            if verdict is not None:
                verdicts.append(verdict)
        return verdicts

    def forgotten(self) -> None:
        """The broker lost its topics: offsets begin anew, and every account must be checkpointed again."""
        self.next_offset = 0
        self._applied.clear()
        self._dirty.update(self.store)
        self._moved = True

    # -- upkeep -----------------------------------------------------------------------------------------------------

    def keep(self, now_ms: int) -> None:
        """Every second or so: overdue gaps are counted, what no window reaches is forgotten."""
        for source in self.sources.values():
            for entry in source.missing:
                if not entry[3] and now_ms - entry[2] > GAP_GRACE_MS:
                    entry[3] = 1
                    self.gaps += entry[1] - entry[0]
        for key in [k for k, s in self.sources.items() if now_ms - s.seen_ms > SOURCE_KEPT_MS]:
            del self.sources[key]

    def evict(self, now_ms: int) -> None:
        """Every minute or so: accounts that no window reaches any more."""
        gone = self.store.evict(now_ms)
        self._gone += gone
        self._dirty.difference_update(gone)
        for account in gone:
            self._applied.pop(account, None)

    def largest(self, count: int, now_ms: int) -> list[tuple[str, list[Totals]]]:
        """The accounts with most records in the hour, among those seen lately."""
        ranked = [
            (account, self.store.totals(account, now_ms)) for account in set(self.recent) if account in self.store
        ]
        ranked.sort(key=lambda item: -item[1][3].rows)
        return ranked[:count]

    # -- snapshots --------------------------------------------------------------------------------------------------

    def make_checkpoint(self) -> Checkpoint | None:
        """Everything that changed since the last one, as of now; None when nothing did."""
        if not (self._dirty or self._gone or self._moved):
            return None
        self.checkpoint += 1
        records: list[tuple[bytes, bytes | None]] = []
        for account in self._dirty:
            records += self._account_records(account)
        for account in self._gone:
            records += [(key, None) for key in _account_keys(account, self._parts.pop(account, 1))]
        self._dirty.clear()
        self._gone.clear()
        self._moved = False
        sources = [
            [tenant, sidecar, epoch, s.next, s.missing, s.seen_ms]
            for (tenant, sidecar, epoch), s in self.sources.items()
        ]
        marker = {"v": MARKER_VERSION, "checkpoint": self.checkpoint, "offset": self.next_offset, "sources": sources}
        return Checkpoint(self.checkpoint, records, (b"m", orjson.dumps(marker)))

    def unwritten(self, checkpoint: Checkpoint) -> None:
        """A checkpoint could not be written: its accounts belong to the next one."""
        for key, value in checkpoint.accounts:
            account = _account_of(key)
            if value is not None and account in self.store:
                self._dirty.add(account)
        self._moved = True

    def _account_records(self, account: str) -> list[tuple[bytes, bytes | None]]:
        data = self.store.dump(account)
        parts = max(1, -(-len(data) // PART_BYTES))
        self._parts[account] = max(parts, self._parts.get(account, 1))
        out: list[tuple[bytes, bytes | None]] = []
        for part in range(parts):
            head = _ACCOUNT.pack(MARKER_VERSION, self.checkpoint, self.next_offset, part, parts)
            # Several parts alternate between two sets of keys: an interrupted write leaves the set before it whole.
            slot = 0 if parts == 1 else 1 + self.checkpoint % 2
            out.append((_account_key(account, slot, part), head + data[part * PART_BYTES : (part + 1) * PART_BYTES]))
        return out


def _account_key(account: str, slot: int, part: int) -> bytes:
    return f"a\0{account}\0{slot}\0{part}".encode()


def _account_keys(account: str, parts: int) -> list[bytes]:
    single = [_account_key(account, 0, 0)]
    return single if parts == 1 else single + [_account_key(account, s, p) for s in (1, 2) for p in range(parts)]


def _account_of(key: bytes) -> str:
    return key.split(b"\0")[1].decode()


class Restore:
    """Collects a snapshots partition's records, in any order and with superseded ones, and fills an engine."""

    def __init__(self) -> None:
        self._marker: dict[str, Any] | None = None
        self._accounts: dict[str, dict[int, tuple[int, dict[int, bytes]]]] = {}
        """account -> checkpoint -> (parts, part -> record)"""
        self._at: dict[bytes, tuple[str, int, int]] = {}
        self.damaged = 0

    @property
    def checkpoint(self) -> int:
        """Number of the newest whole checkpoint; 0 when there is none."""
        return int(self._marker["checkpoint"]) if self._marker is not None else 0

    def add(self, key: bytes, value: bytes | None) -> None:
        """One record, in the topic's order."""
        if key == b"m":
            if value is not None:
                self._add_marker(value)
            return
        if key in self._at:  # superseded
            account, number, part = self._at.pop(key)
            held = self._accounts.get(account, {}).get(number)
            if value is None or (held is not None and _ACCOUNT.unpack_from(value)[1] >= number):
                if held is not None:
                    held[1].pop(part, None)
                    if not held[1]:
                        del self._accounts[account][number]
            else:
                self._at[key] = (account, number, part)
                return  # an older owner's late write
        if value is None:
            return
        try:
            version, number, _, part, parts = _ACCOUNT.unpack_from(value)
        except struct.error:
            version = 0
        if version != MARKER_VERSION:
            self.damaged += 1
            return
        account = _account_of(key)
        self._accounts.setdefault(account, {}).setdefault(number, (parts, {}))[1][part] = value
        self._at[key] = (account, number, part)

    def _add_marker(self, value: bytes) -> None:
        try:
            marker = orjson.loads(value)
            newer = marker["v"] == MARKER_VERSION and marker["checkpoint"] >= self.checkpoint
        except (orjson.JSONDecodeError, KeyError, TypeError):
            self.damaged += 1
            return
        if newer:
            self._marker = marker

    def fill(self, engine: Engine) -> None:
        """Without a marker the engine stays as it is, and the partition is read from its beginning."""
        marker = self._marker
        if marker is None:
            return
        engine.next_offset = marker["offset"]
        highest = engine.checkpoint = marker["checkpoint"]
        for tenant, sidecar, epoch, following, missing, seen_ms in marker["sources"]:
            engine.sources[(tenant, sidecar, epoch)] = Source(following, missing, seen_ms)
        for account, versions in self._accounts.items():
            for number in sorted(versions, reverse=True):
                parts, held = versions[number]
                if len(held) != parts:
                    continue
                try:
                    engine.store.load(account, b"".join(held[p][_ACCOUNT.size :] for p in range(parts)))
                except SnapshotError:
                    self.damaged += 1
                    continue
                applied = _ACCOUNT.unpack_from(held[0])[2]
                if applied > engine.next_offset:
                    engine._applied[account] = applied
                if parts > 1:
                    engine._parts[account] = parts
                highest = max(highest, number)
                break
        # Far ahead of any owner that does not know yet that it lost this partition.
        engine.checkpoint = highest + 1_000
