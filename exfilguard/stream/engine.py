"""One partition's windows and where they stand in the stream. Pure: bytes and offsets in, verdicts out.

The events of a frame go from its bytes into the compiled windows without becoming Python objects; what comes back is short: new
accounts (whose limits are asked of the judge), hours that closed, accounts over a limit, single events that matter by themselves.
A frame of an unusual form is decoded by events/codec.py and counted by the same loop.

Exactness rests on three marks, each carried inside the state it describes:
- `(sidecar, epoch, seq)` says which frames are in: a frame that comes twice is dropped, one that is missing is remembered and
  counted as a gap when it has not come after `GAP_GRACE_MS`.
- `next_offset` says how far the partition was read: a jump means that records were skipped, and the shell reads them itself.
- each account's `applied` offset, after a restore: an account may be newer than the checkpoint's marker (checkpoint.py), and its
  events must not be added again.

Time. An event belongs to the slice of its own time, however late it comes; what is older than the longest window is counted in
`late_events`. An event dated more than `AHEAD_MS` ahead of now counts as of now, and in `future_events`: it would else push every
window of its account into the future. A sidecar's clock that is set back by more than `BACK_MS` goes on from where it stood, and
`clock_jumps` says so: its events would else be in no short window.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..detect.judge import Judge
from ..detect.policy import WINDOWS_MS
from ..errors import CodecError
from ..events.codec import decode_frame
from ..events.verdict import Verdict
from ..windows import SLICES, WHY, FrameCounter, Totals, WindowStore
from .checkpoint import Checkpoint, Checkpoints

GAP_GRACE_MS = 10_000
"""Frames may be out of order after a broker that forgot; what is missing longer is a gap."""
SOURCE_KEPT_MS = 32 * 86_400_000
"""A sidecar's epoch that was silent for longer than every window is forgotten."""
MAX_SOURCES = 20_000
MAX_MISSING = 1_000
SOURCES_BYTES = 700_000
"""Of a checkpoint's marker: brokers refuse records beyond 1 MB by default."""
AHEAD_MS = 300_000
BACK_MS = 60_000
MAX_ACCOUNTS = 2_000_000
"""Accounts of one partition; further names are counted together, and `accounts_refused_total` rises."""
MAX_VALUES = 100_000
"""Sources, and query shapes, of one partition."""
DIMENSION_EXACT = 2_048
DIMENSION_PRECISION = 12
"""Sums over accounts: distinct patients exact up to so many, then HyperLogLog with a standard error of 1.6 %."""
DIMENSIONS = ("source", "shape", "tenant")
FIBONACCI = 2_654_435_761
"""2**32 divided by the golden ratio: its multiples are spread evenly."""
PORTION = 200
EVICT_ACCOUNTS = 50_000
"""Accounts looked at in one call of `evict`."""


@dataclass(slots=True)
class Source:
    """One sidecar's one epoch in this partition."""

    next: int = 0
    missing: list[list[int]] = field(default_factory=list)
    """[first, behind the last, noticed ms, counted as gap 0/1], oldest first; bounded."""
    seen_ms: int = 0
    newest_ms: int = 0
    """Time of its newest event, as counted."""
    shift_ms: int = 0
    """Added to its times since its clock was set back."""

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
class Step:
    """What some frames of a block led to: the detector's clock behind the last of them, how many frames and events there were."""

    now_ms: int
    frames: int
    events: int
    verdicts: Sequence[Verdict] = ()


_NOTHING = Fed()
_DUPLICATE = Fed(duplicate=True)


class Engine:
    """Windows of the accounts of one partition. `standing` gives the newest verdict of a key, whoever issued it."""

    def __init__(
        self,
        judge_of: Callable[[str], Judge],
        standing: Mapping[str, Verdict],
        max_patients: int,
        slices: int = SLICES,
        *,
        windows_ms: tuple[int, ...] = WINDOWS_MS,
        max_accounts: int = MAX_ACCOUNTS,
        seed: int = 0,
        refusal: Callable[[str, str, bytes, bytes], str] | None = None,
    ) -> None:
        """`refusal`: why a frame (tenant, sidecar, value, signature) is not its sidecar's; empty when it is. None: not asked."""
        self._judge_of = judge_of
        self._refusal = refusal
        self._standing = standing
        self.store = WindowStore(windows_ms, slices, max_patients, max_accounts=max_accounts, seed=seed)
        self.dimensions = {
            name: WindowStore(
                windows_ms, slices, min(max_patients, DIMENSION_EXACT), DIMENSION_PRECISION, MAX_VALUES, seed
            )
            for name in DIMENSIONS
        }
        source, shape, tenant = self.dimensions.values()
        self._counter = FrameCounter(self.store, source, shape, tenant, AHEAD_MS, BACK_MS)
        self._tokens: frozenset[str] = frozenset()
        self.checkpoints = Checkpoints({"": self.store, **self.dimensions})
        self.sources: dict[tuple[str, str, str], Source] = {}
        self.next_offset = 0
        self.events = 0
        self.frames = 0
        self.unusual_frames = 0
        """Frames that only the decoder could read: right, and several times slower."""
        self.duplicates = 0
        self.gaps = 0
        self.recent: deque[str] = deque(maxlen=2_000)
        """Accounts seen lately: the candidates for the largest."""
        self._evict_at = 0
        self._at = 0
        """Of an open block: its next event."""

    # -- frames -----------------------------------------------------------------------------------------------------

    def feed(self, offset: int, value: bytes, now_ms: int, *, signature: bytes = b"", skip_gap: bool = False) -> Fed:
        """One record of the partition. `skip_gap`: the records before it were asked for, and are no more."""
        if offset > self.next_offset and not skip_gap:
            return Fed(read_first=self.next_offset)
        if reason := self._read(value):
            self._passed(offset)
            return Fed(reason=reason)
        counter = self._counter
        tenant = counter.tenant
        # Before its number is noted: a forged frame must not take the place of the one that is to come.
        if self._refusal is not None and (reason := self._refusal(tenant, counter.sidecar, value, signature)):
            self._passed(offset)
            return Fed(reason=reason)
        key = (tenant, counter.sidecar, counter.epoch)
        source = self.sources.get(key)
        known = source is not None
        if source is None:
            source = self.sources[key] = Source()
        in_order = counter.seq >= source.next
        fresh = source.accept(counter.seq, now_ms, known=known)
        if fresh and offset < self.next_offset:
            # A new frame at an old offset: the broker has forgotten its log and begun a new one.
            self.forgotten()
            self.next_offset = offset
        self._passed(offset)
        if not fresh:
            self.duplicates += 1
            return _DUPLICATE
        self.frames += 1
        verdicts = self._count(tenant, source, offset, now_ms, in_order=in_order)
        return Fed(verdicts) if verdicts else _NOTHING

    def _read(self, value: bytes) -> str:
        """Why it is for the dead letters; empty when it was read."""
        if self._counter.read(value):
            return ""
        try:
            frame = decode_frame(value)
        except CodecError as error:
            return str(error)
        self._counter.take(frame.tenant, frame.sidecar, frame.epoch, frame.seq, frame.events)
        self.unusual_frames += 1
        return ""

    def _passed(self, offset: int) -> None:
        self.checkpoints.moved = True
        if offset >= self.next_offset:
            self.next_offset = offset + 1

    def _count(self, tenant: str, source: Source, offset: int, now_ms: int, *, in_order: bool) -> list[Verdict]:
        counter = self._counter
        judge = self._judged(tenant)
        # A frame out of order is old by nature: its times say nothing of the sidecar's clock.
        newest_ms, source.shift_ms, fresh, hours, over, single = counter.count(
            offset, now_ms, source.newest_ms if in_order else 0, source.shift_ms
        )
        source.newest_ms = max(source.newest_ms, newest_ms)
        self.events += counter.events
        if counter.events:
            # Two of a frame's events, elsewhere in each frame: whoever works is met in proportion to what it does.
            at = self.frames * FIBONACCI % counter.events
            self.recent.append(f"{tenant}/{counter.principal(at)}")
            self.recent.append(f"{tenant}/{counter.principal((at + counter.events // 2) % counter.events)}")
        if not (fresh or hours or over or single):
            return []
        return self._surfaced(judge, tenant, now_ms, fresh, hours, over, single)

    def _judged(self, tenant: str) -> Judge:
        judge = self._judge_of(tenant)
        if judge.honeytokens != self._tokens:
            # Tokens of every tenant of this partition: digests of one key, so none is another's patient.
            self._tokens |= judge.honeytokens
            self._counter.set_honeytokens(self._tokens)
        return judge

    # -- recorded events --------------------------------------------------------------------------------------------

    def open_block(self, value: bytes) -> str:
        """A frame of recorded events, in the order of their times and each there once, which `step` counts as frames of their own.
        Returns why it cannot be read, or nothing."""
        reason = self._read(value)
        self._at = self._counter.events if reason else 0
        return reason

    def step(self, span_ms: int, most: int, until_ms: int) -> Step | None:
        """The next frames of the block, of at most `most` events and less than `span_ms` each, where the detector's clock is the time
        of a frame's last event: up to the one in which something came up, or that reached `until_ms`. None at the block's end."""
        counter, began = self._counter, self._at
        if began >= counter.events:
            return None
        tenant = counter.tenant
        judge = self._judged(tenant)
        source = self.sources.setdefault((tenant, counter.sidecar, counter.epoch), Source())
        self._at, frames, now_ms, outcome = counter.run(
            0, began, span_ms, most, until_ms, source.newest_ms, source.shift_ms
        )
        newest_ms, source.shift_ms, fresh, hours, over, single = outcome
        source.newest_ms = max(source.newest_ms, newest_ms)
        self.frames += frames
        self.events += self._at - began
        step = Step(now_ms, frames, self._at - began)
        if fresh or hours or over or single:
            step.verdicts = self._surfaced(judge, tenant, now_ms, fresh, hours, over, single)
        return step

    def _surfaced(
        self,
        judge: Judge,
        tenant: str,
        now_ms: int,
        fresh: Any,
        hours: Any,
        over: Any,
        single: Any,
    ) -> list[Verdict]:
        """What the core did not settle by itself."""
        store, counter = self.store, self._counter
        verdicts: list[Verdict] = []
        newest: dict[str, Verdict] = {}

        def previous(account: str) -> Verdict | None:
            return newest.get(account) or self._standing.get(account)

        def say(verdict: Verdict | None) -> None:
            if verdict is not None:
                verdicts.append(verdict)
                newest[verdict.key] = verdict

        crossed = {number: counter.time_ms(event) for number, event in over}
        for number, hour, totals in hours:
            account = store.key(number)
            profile, verdict = judge.hour(
                account.partition("/")[2], store.profile(number), hour, totals, now_ms, previous(account)
            )
            store.set_profile(number, profile)
            say(verdict)
        for number in {*fresh, *(number for number, _, _ in hours)}:
            account = store.key(number)
            ladders = judge.thresholds(account.partition("/")[2], now_ms, store.profile(number))
            if store.set_limits(number, ladders, now_ms):
                crossed.setdefault(number, store.newest_ms(account))
        for number, event, bits in single:
            account = store.key(number) if number is not None else f"{tenant}/{counter.principal(event)}"
            found = counter.event(event)
            found = orjson.loads(found) if isinstance(found, bytes) else found
            for why in dict.fromkeys(name for bit, name in WHY.items() if bits & bit):
                say(judge.notable(account.partition("/")[2], found, why, now_ms, previous(account)))
        for number, crossed_ms in crossed.items():
            account = store.key(number)
            say(judge.judge(account.partition("/")[2], store.totals_of(number), now_ms, previous(account), crossed_ms))
        return verdicts

    def follow_sums(
        self, patients: int, least_ms: int, look_ms: int, rules: Sequence[tuple[tuple[int, ...], int, int] | None]
    ) -> None:
        """From now on `due_sums` says which sums over accounts are to be looked at, where there is no topic of sums: see
        `FrameCounter.follow_sums`."""
        self._counter.follow_sums(patients, least_ms, look_ms, rules)

    def look(self, now_ms: int) -> bool:
        """After a frame: whether a sum is to be looked at."""
        return self._counter.look(now_ms)

    def due_sums(self, dimension: str) -> Sequence[int]:
        """The numbers of those in this dimension, each once."""
        return self._counter.due(DIMENSIONS.index(dimension))

    def all_sums(self, dimension: str, now_ms: int) -> Sequence[int]:
        """The same of all that patients came to since their last look."""
        return self._counter.all_due(DIMENSIONS.index(dimension), now_ms)

    def refresh(self) -> None:
        """The policy changed: limits and honeytokens are asked for again."""
        self.store.forget_limits()
        self._tokens = frozenset()

    def forgotten(self) -> None:
        """The broker lost its topics: offsets begin anew, and every account must be checkpointed again."""
        self.next_offset = 0
        for store in (self.store, *self.dimensions.values()):
            store.forget_applied()
        self.checkpoints.forgotten()

    # -- figures ----------------------------------------------------------------------------------------------------

    def last_frame(self) -> tuple[str, int]:
        """(sidecar, time of its last event by the sidecar's own clock, 0 without events) of the frame that was read last."""
        counter = self._counter
        return counter.sidecar, counter.time_ms(counter.events - 1) if counter.events else 0

    @property
    def late_events(self) -> int:
        return self.store.late_events

    @property
    def future_events(self) -> int:
        return self._counter.future_events

    @property
    def clock_jumps(self) -> int:
        return self._counter.clock_jumps

    @property
    def refused_accounts(self) -> int:
        """Events of accounts beyond the bound."""
        return self.store.refused_accounts

    def active(self, now_ms: int) -> Iterator[list[tuple[str, list[Totals]]]]:
        """The accounts seen lately, with their windows, in portions of about a millisecond: frames wait meanwhile."""
        accounts = list(set(self.recent))
        for start in range(0, len(accounts), PORTION):
            portion = accounts[start : start + PORTION]
            yield [(account, self.store.totals(account, now_ms)) for account in portion if account in self.store]

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
        if len(self.sources) > MAX_SOURCES:
            self._forget_sources(len(self.sources) - MAX_SOURCES)

    def evict(self, now_ms: int) -> bool:
        """Accounts that no window reaches any more, a part of them in each call. True when all were looked at."""
        gone, segments, self._evict_at = self.store.evict(now_ms, self._evict_at, EVICT_ACCOUNTS)
        if gone:
            self.checkpoints.left(segments)
        if not self._evict_at:
            for store in self.dimensions.values():
                self.checkpoints.left(store.evict(now_ms)[1])
        return not self._evict_at

    # -- snapshots --------------------------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> int:
        """Number of the last checkpoint that was begun."""
        return self.checkpoints.number

    def begin_checkpoint(self) -> Checkpoint | None:
        """Everything that changed since the last one; None when nothing did. Its records are made one by one, while frames go on
        being fed in between: see checkpoint.py."""
        if not self.checkpoints.due:
            return None
        while len(orjson.dumps(sources := self._noted())) > SOURCES_BYTES:
            self._forget_sources(len(self.sources) // 8 + 1)
        return self.checkpoints.begin(self.next_offset, sources)

    def _noted(self) -> list[Any]:
        return [
            [tenant, sidecar, epoch, s.next, [list(m) for m in s.missing], s.seen_ms, s.newest_ms, s.shift_ms]
            for (tenant, sidecar, epoch), s in self.sources.items()
        ]

    def _forget_sources(self, count: int) -> None:
        """So many, of those sidecars' that have most of them to remember, the oldest of each first: epochs cost who writes frames
        nothing, and must not drive out other sidecars' ones."""
        held: Counter[tuple[str, str]] = Counter()
        rank = {}
        for key in sorted(self.sources, key=lambda k: -self.sources[k].seen_ms):
            owner = (key[0], key[1].rpartition("-")[0])
            held[owner] += 1 + len(self.sources[key].missing)
            rank[key] = held[owner]
        for key in sorted(rank, key=lambda k: -rank[k])[:count]:
            del self.sources[key]

    def next_records(self, checkpoint: Checkpoint) -> list[tuple[bytes, bytes]]:
        """The next records of a checkpoint, to be written before its marker; empty when there are no more."""
        return self.checkpoints.next_records(checkpoint, self.next_offset)

    def written(self, checkpoint: Checkpoint) -> list[tuple[bytes, None]]:
        """The marker is acknowledged: keys that nothing needs any more, to be deleted (whenever; a loss does no harm)."""
        return self.checkpoints.written(checkpoint)

    def unwritten(self, checkpoint: Checkpoint) -> None:
        """A checkpoint could not be written: its accounts belong to the next one."""
        self.checkpoints.unwritten(checkpoint)
