"""Recorded events against a policy: the real engine and the real judge, and what they would have said."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..detect.judge import Judge
from ..detect.policy import Policy
from ..detect.profile import Profiles
from ..events.verdict import LEVELS, Verdict, severity
from .alone import Alone
from .engine import Engine
from .recorded import EVENTS_PER_FRAME, FRAME_MS, Block, last_time

MAX_VERDICTS = 100_000
MAX_BINS = 4_096


@dataclass(slots=True)
class Rate:
    """Events by time, however long the recording is: at most MAX_BINS, which become twice as wide when they are too many."""

    step_ms: int = 100
    bins: dict[int, int] = field(default_factory=dict)
    """time // step_ms -> events."""

    def until_ms(self, time_ms: int) -> int:
        """End of the bin that holds this time."""
        return (time_ms // self.step_ms + 1) * self.step_ms

    def add(self, time_ms: int, count: int) -> None:
        at = time_ms // self.step_ms
        self.bins[at] = self.bins.get(at, 0) + count
        while len(self.bins) > MAX_BINS:
            self.step_ms *= 2
            wider: dict[int, int] = {}
            for place, events in self.bins.items():
                wider[place // 2] = wider.get(place // 2, 0) + events
            self.bins = wider


@dataclass(slots=True)
class Account:
    """What one account would have met."""

    tenant: str
    principal: str
    level: str = "none"
    first_ms: int = 0
    cut_ms: int = 0
    """When its sessions would have ended; 0: never."""
    verdicts: int = 0
    reasons: list[str] = field(default_factory=list)
    """One sentence for each step it reached."""


@dataclass(slots=True)
class Replay:
    """One policy's outcome."""

    policy: str
    events: int = 0
    frames: int = 0
    unread: int = 0
    first_ms: int = 0
    last_ms: int = 0
    levels: Counter[str] = field(default_factory=Counter)
    detectors: Counter[str] = field(default_factory=Counter)
    accounts: dict[str, Account] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    """The first MAX_VERDICTS of them."""
    rate: Rate = field(default_factory=lambda: Rate())
    """Events over time, for the plot."""

    def reached(self, level: str) -> list[str]:
        """Accounts that reached this step or a higher one."""
        return sorted(k for k, a in self.accounts.items() if LEVELS.index(a.level) >= LEVELS.index(level))

    def as_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "events": self.events,
            "frames": self.frames,
            "unread_frames": self.unread,
            "from_ms": self.first_ms,
            "to_ms": self.last_ms,
            "verdicts": {level: self.levels[level] for level in LEVELS if self.levels[level]},
            "detectors": dict(sorted(self.detectors.items())),
            "accounts": [
                {
                    "tenant": a.tenant, "principal": a.principal, "level": a.level, "first_ms": a.first_ms, "cut_ms": a.cut_ms,
                    "verdicts": a.verdicts, "reasons": a.reasons,
                }
                for a in sorted(self.accounts.values(), key=lambda a: (-LEVELS.index(a.level), a.first_ms))
            ],
        }  # fmt: skip


def replay(frames: Iterable[bytes | Block], policy: Policy, max_patients: int) -> Replay:
    """Feed all frames, in order, to a new engine under this policy. Nothing is stopped: the recorded traffic goes on after a cut."""
    return compare(frames, [policy], max_patients)[0]


def compare(frames: Iterable[bytes | Block], policies: Sequence[Policy], max_patients: int) -> list[Replay]:
    """The same for several policies, each with an engine of its own; the frames are read once and none is kept."""
    players = [_Player(policy, max_patients) for policy in policies]
    with _uncollected():
        for offset, frame in enumerate(frames):
            if isinstance(frame, Block):
                for player in players:
                    player.feed_block(frame)
            else:
                now = last_time(frame)
                for player in players:
                    player.feed(offset, frame, now)
        return [player.end() for player in players]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles: nothing here makes any, and it would look at every profile again and
    again, for a fifth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@dataclass(slots=True)
class _Seat:
    """An engine and the sums beside it, and the time of its last frame."""

    engine: Engine
    sums: Alone
    now_ms: int = 0


class _Player:
    """One policy's detector, in the recording's time. Blocks come one tenant after the other: each tenant has an engine of its own."""

    def __init__(self, policy: Policy, max_patients: int) -> None:
        self.policy = policy
        self.max_patients = max_patients
        self.out = Replay(policy.version)
        self.standing: dict[str, Verdict] = {}
        self.judges: dict[str, Judge] = {}
        self.profiles = Profiles()
        self.seats: dict[str, _Seat] = {}

    def judge_of(self, tenant: str) -> Judge:
        found = self.judges.get(tenant)
        if found is None:
            found = self.judges[tenant] = Judge(self.policy, tenant, "replay", self.profiles)
        return found

    def seat(self, tenant: str = "") -> _Seat:
        """Of the blocks of one tenant; or of all frames."""
        found = self.seats.get(tenant)
        if found is None:
            engine = Engine(self.judge_of, self.standing, self.max_patients)
            found = self.seats[tenant] = _Seat(engine, Alone(engine, self.policy, self.judge_of, self.standing))
        return found

    def take(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            self.standing[verdict.key] = verdict
            _note(self.out, verdict)

    def feed(self, offset: int, frame: bytes, now: int) -> None:
        """`now`: the newest event's time; 0: there is none."""
        seat = self.seat()
        before = seat.engine.events
        fed = seat.engine.feed(offset, frame, now)
        self.out.frames += 1
        if fed.reason:
            self.out.unread += 1
            return
        if now:
            self.passed(seat, now, seat.engine.events - before)
        self.take(fed.verdicts)
        self.take(seat.sums.moved(now))

    def feed_block(self, block: Block) -> None:
        """Its frames, up to the end of an hour or of a bin of the plot at once."""
        seat = self.seat(block.tenant)
        if seat.engine.open_block(block.frame):
            self.out.unread += 1
            return
        engine, sums, out = seat.engine, seat.sums, self.out
        now = before = until_ms = events = 0
        while (step := engine.step(FRAME_MS, EVENTS_PER_FRAME, until_ms)) is not None:
            now = step.now_ms
            out.frames += step.frames
            if now >= until_ms and before:
                self.passed(seat, before, events)
                events = 0
            events += step.events
            before = now
            if step.verdicts:
                self.take(step.verdicts)
            if found := sums.moved(now):
                self.take(found)
            if now >= until_ms:
                until_ms = min(sums.until_ms, out.rate.until_ms(now))
        if now:
            self.passed(seat, now, events)

    def passed(self, seat: _Seat, now: int, events: int) -> None:
        """So many events were counted up to now."""
        out, seat.now_ms = self.out, now
        out.first_ms = min(out.first_ms or now, now)
        out.last_ms = max(out.last_ms, now)
        out.rate.add(now, events)

    def end(self) -> Replay:
        """What is left, and all that was said in the order of time."""
        for tenant, seat in self.seats.items():
            self.take(seat.sums.look(seat.now_ms if tenant else self.out.last_ms))
            self.out.events += seat.engine.events
        self.out.verdicts.sort(key=lambda verdict: verdict.issued_ms)
        return self.out


def _note(out: Replay, verdict: Verdict) -> None:
    out.levels[verdict.level] += 1
    out.detectors[verdict.detector] += 1
    if len(out.verdicts) < MAX_VERDICTS:
        out.verdicts.append(verdict)
    if verdict.level == "none":
        return
    account = out.accounts.setdefault(
        verdict.key, Account(verdict.tenant, verdict.principal, first_ms=verdict.issued_ms)
    )
    account.verdicts += 1
    if severity(verdict.level) >= severity("cut") and not account.cut_ms:
        account.cut_ms = verdict.issued_ms
    if LEVELS.index(account.level) < severity(verdict.level):
        account.level = verdict.level
        account.reasons.append(verdict.reason)
