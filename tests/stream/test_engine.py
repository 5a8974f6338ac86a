"""The engine against a naive oracle: any redelivery, loss, reordering, restore or forgetting leaves the totals exact."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilguard.detect.judge import Judge
from exfilguard.detect.policy import WINDOWS_MS, default_policy
from exfilguard.events.verdict import Verdict
from exfilguard.stream import checkpoint as module
from exfilguard.stream.checkpoint import Restore
from exfilguard.stream.engine import GAP_GRACE_MS, Engine

NOW = 1_795_000_000_000
POLICY = default_policy()


def frame(seq: int, *events: dict[str, Any], sidecar: str = "s", epoch: str = "e", tenant: str = "t") -> bytes:
    return orjson.dumps(
        {"v": 1, "tenant": tenant, "sidecar": sidecar, "epoch": epoch, "seq": seq, "events": list(events)}
    )


def event(
    principal: str, rows: int, patients: tuple[int, ...] = (), time_ms: int = NOW, kind: str = "query"
) -> dict[str, Any]:
    return {
        "time_ms": time_ms, "kind": kind, "listener": "l", "session": "x", "principal": principal, "rows": rows,
        "bytes": rows * 10, "patients": [f"{p:016x}" for p in patients],
    }  # fmt: skip


def new(standing: dict[str, Verdict] | None = None) -> Engine:
    return Engine(
        lambda tenant: Judge(POLICY, tenant, "detector:test"), standing if standing is not None else {}, 1_000_000
    )


def totals(engine: Engine) -> dict[str, list[tuple[int, ...]]]:
    return {key: [tuple(t) for t in engine.store.totals(key)] for key in engine.store}


def oracle(frames: list[bytes]) -> dict[str, tuple[int, int]]:
    """account -> (rows, distinct patients), naively: everything is inside the longest window."""
    rows: dict[str, int] = defaultdict(int)
    seen: dict[str, set[str]] = defaultdict(set)
    for value in frames:
        for e in orjson.loads(value)["events"]:
            rows[f"t/{e['principal']}"] += e["rows"]
            seen[f"t/{e['principal']}"] |= set(e["patients"])
    return {key: (rows[key], len(seen[key])) for key in rows}


def checked(engine: Engine, frames: list[bytes]) -> None:
    assert {k: (v[-1][0], v[-1][1]) for k, v in totals(engine).items()} == oracle(frames)


def some_frames(count: int, rng: random.Random, accounts: int = 4) -> list[bytes]:
    return [
        frame(
            seq,
            *[
                event(f"p{rng.randrange(accounts)}", rng.randrange(50), tuple(rng.sample(range(300), rng.randrange(6))))
                for _ in range(rng.randrange(1, 5))
            ],
        )
        for seq in range(count)
    ]


def deliver(engine: Engine, log: list[bytes], offset: int) -> None:
    """As the detector does: what was skipped is read first."""
    fed = engine.feed(offset, log[offset], NOW)
    if fed.read_first is not None:
        for missing in range(fed.read_first, offset):
            engine.feed(missing, log[missing], NOW, skip_gap=True)
        engine.feed(offset, log[offset], NOW, skip_gap=True)


def snapshot(engine: Engine, topic: list[tuple[bytes, bytes | None]], keep: int | None = None) -> None:
    """Write a checkpoint; `keep`: only so many of its records, as when the process dies in between."""
    checkpoint = engine.begin_checkpoint()
    if checkpoint is None:
        return
    written = 0
    while records := engine.next_records(checkpoint):
        for record in records:
            if keep is not None and written == keep:
                return
            topic.append(record)
            written += 1
    if keep is None:
        topic.append(checkpoint.marker)
        topic += engine.written(checkpoint)


def restored(topic: list[tuple[bytes, bytes | None]], *, compacted: bool) -> Engine:
    records = topic
    if compacted:
        last = {key: i for i, (key, _) in enumerate(topic)}
        records = [(key, value) for i, (key, value) in enumerate(topic) if last[key] == i]
    restore, engine = Restore(), new()
    for key, value in records:
        restore.add(key, value)
    assert restore.damaged == 0
    restore.fill(engine)
    return engine


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(["next", "back", "skip", "save", "torn", "crash"]), max_size=60))
def test_redelivery_skipped_offsets_and_crashes_leave_the_totals_exact(seed: int, steps: list[str]) -> None:
    rng = random.Random(seed)
    log = some_frames(40, rng)
    engine, position, committed = new(), 0, 0
    topic: list[tuple[bytes, bytes | None]] = []
    for step in steps:
        if step == "next" and position < len(log):
            deliver(engine, log, position)
            position += 1
        elif step == "skip" and position + 2 < len(log):
            position += rng.randrange(1, 3)
            deliver(engine, log, position)
            position += 1
        elif step == "back":
            position = rng.randrange(position + 1)
        elif step == "save":
            snapshot(engine, topic)
            committed = position
        elif step == "torn":
            snapshot(engine, topic, keep=rng.randrange(4))
            engine = restored(topic, compacted=rng.random() < 0.5)
            position = committed
        elif step == "crash":
            engine = restored(topic, compacted=rng.random() < 0.5)
            position = rng.randrange(committed + 1)
    for offset in range(position, len(log)):
        deliver(engine, log, offset)
    checked(engine, log)
    assert engine.gaps == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 39))
def test_a_broker_that_forgot_and_got_everything_again(seed: int, until: int) -> None:
    rng = random.Random(seed)
    log = some_frames(40, rng)
    engine = new()
    for offset in range(until):
        deliver(engine, log, offset)
    # The new log: a few new frames arrive before the old ones are published again.
    early = log[until : until + 2]
    reborn = early + log
    for offset in range(len(reborn)):
        deliver(engine, reborn, offset)
    engine.keep(NOW + GAP_GRACE_MS + 1)
    checked(engine, log)
    assert engine.gaps == 0


def test_an_account_larger_than_a_record_is_split_and_survives_a_torn_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 2_000)
    engine, topic = new(), []
    frames = [frame(n, event("big", 10, tuple(range(n * 40, n * 40 + 40)))) for n in range(20)]
    for offset in range(10):
        deliver(engine, frames, offset)
    snapshot(engine, topic)
    deliver(engine, frames, 10)
    snapshot(engine, topic, keep=2)
    for compacted in (False, True):
        again = restored(topic, compacted=compacted)
        assert again.next_offset == 10
        for offset in range(10, 20):
            deliver(again, frames, offset)
        checked(again, frames)


def test_a_late_owner_cannot_overwrite_its_successor() -> None:
    frames = [frame(n, event("p", 1, (n,))) for n in range(6)]
    topic: list[tuple[bytes, bytes | None]] = []
    old = new()
    for offset in range(3):
        deliver(old, frames, offset)
    snapshot(old, topic)
    successor = restored(topic, compacted=False)
    for offset in range(3, 6):
        deliver(successor, frames, offset)
    snapshot(successor, topic)
    old.feed(3, frames[3], NOW)
    snapshot(old, topic)  # it does not know yet that the partition was taken away
    final = restored(topic, compacted=False)
    for offset in range(final.next_offset, 6):
        deliver(final, frames, offset)
    checked(final, frames)


def test_a_frame_that_never_comes_is_a_gap_and_heals_when_it_does() -> None:
    engine = new()
    log = [frame(0, event("p", 1)), frame(3, event("p", 1)), frame(2, event("p", 1))]
    for offset in range(2):
        deliver(engine, log, offset)
    engine.keep(NOW + 1)
    assert engine.gaps == 0
    deliver(engine, log, 2)
    engine.keep(NOW + GAP_GRACE_MS + 1)
    assert engine.gaps == 1
    assert engine.store.totals("t/p")[-1].rows == 3


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"not json", "not JSON"),
        (b"[]", "not an object"),
        (b'{"v":9}', "version 9"),
        (b'{"v":1,"tenant":"t","sidecar":"s","epoch":"e","seq":-1,"events":[]}', "seq"),
        (b'{"v":1,"tenant":"t","sidecar":"s","epoch":"e","seq":0,"events":[{"kind":"query"}]}', "time_ms"),
        (b'{"v":1,"tenant":"t","sidecar":"s","epoch":"e","seq":0,"events":[{"kind":"SECRET","time_ms":1}]}', "kind"),
    ],
)
def test_what_cannot_be_read_is_named_never_quoted_and_does_not_stop_the_stream(value: bytes, reason: str) -> None:
    engine = new()
    fed = engine.feed(0, value, NOW)
    assert reason in fed.reason
    assert "SECRET" not in fed.reason
    deliver(engine, [value, frame(0, event("p", 2))], 1)
    assert engine.store.totals("t/p")[-1].rows == 2


def test_crossing_a_limit_is_one_verdict_and_names_the_event() -> None:
    standing: dict[str, Verdict] = {}
    engine = new(standing)
    times = [NOW + n * 61_000 for n in range(12)]
    log = [frame(n, event("app", 500, tuple(range(n * 500, n * 500 + 500)), at)) for n, at in enumerate(times)]
    issued = []
    for offset, value in enumerate(log):
        for verdict in engine.feed(offset, value, times[offset] + 50).verdicts:
            standing[verdict.key] = verdict
            issued.append(verdict)
    assert [v.level for v in issued] == ["alert", "cut", "lock"]
    assert issued[-1].crossed_ms == times[6]
    assert issued[-1].reason == "app took 3,500 patients in 1h; the lock limit of class application is 3,000"


def test_a_fast_thief_is_locked_and_not_only_cut() -> None:
    standing: dict[str, Verdict] = {}
    engine = new(standing)
    issued = []
    for n in range(5):
        record = frame(n, event("app", 500, tuple(range(n * 500, n * 500 + 500)), NOW + n))
        for verdict in engine.feed(n, record, NOW + 50).verdicts:
            standing[verdict.key] = verdict
            issued.append(verdict)
    assert [v.level for v in issued] == ["alert", "lock"]
    assert issued[-1].reason == "app took 2,500 patients in 10s; the lock limit of class application is 2,000"


def test_logins_and_refusals_are_no_records() -> None:
    engine = new()
    engine.feed(0, frame(0, event("p", 5, kind="refused"), event("p", 5, kind="login")), NOW)
    assert "t/p" not in engine.store
    assert engine.events == 2


def test_evicted_accounts_leave_the_snapshots_too() -> None:
    engine, topic = new(), []
    deliver(engine, [frame(0, event("p", 1))], 0)
    snapshot(engine, topic)
    engine.evict(NOW + 2 * WINDOWS_MS[-1])
    snapshot(engine, topic)
    assert len(restored(topic, compacted=True).store) == 0
