"""Snapshots of every version that was ever released are read, and checkpoints stay exact and bounded however they are interrupted.

`snapshots/versionN.json` was written by the release that introduced version N: records, and the totals they must give.
"""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from exfilguard.stream import checkpoint as module
from exfilguard.stream.checkpoint import Restore
from exfilguard.stream.engine import Engine

from .test_engine import NOW, deliver, event, frame, new, restored, snapshot

HERE = Path(__file__).parent / "snapshots"
WIDTHS_1 = (10_000, 60_000, 300_000, 3_600_000, 86_400_000)


def kept(version: int) -> tuple[dict[str, Any], Restore]:
    held = json.loads((HERE / f"version{version}.json").read_text(encoding="utf-8"))
    restore = Restore()
    for key, value in held["records"]:
        restore.add(base64.b64decode(key), base64.b64decode(value))
    assert restore.damaged == 0
    return held, restore


@pytest.mark.parametrize("version", [1, 2])
def test_every_version_is_read(version: int) -> None:
    held, restore = kept(version)
    engine = new()
    restore.fill(engine)
    assert restore.damaged == 0
    assert engine.next_offset == held["offset"]
    assert engine.sources[("t", "s", "e")].next == held["offset"]
    assert set(engine.store) == set(held["totals"])
    for account, expected in held["totals"].items():
        got = engine.store.totals(account)
        assert got[-1][:2] == tuple(expected[-1][:2])  # everything is inside the longest window of either
        for index, width in enumerate(engine.store.windows_ms):
            if version == 1 and width in WIDTHS_1:
                before = expected[WIDTHS_1.index(width)]
                assert all(a >= b for a, b in zip(got[index], before, strict=True)), "never too little"
            elif version == 2:
                assert list(got[index]) == expected[index]


def test_an_old_version_is_written_anew_and_deleted() -> None:
    held, restore = kept(1)
    engine = new()
    restore.fill(engine)
    topic: list[tuple[bytes, bytes | None]] = [
        (base64.b64decode(key), base64.b64decode(value)) for key, value in held["records"]
    ]
    snapshot(engine, topic)
    assert {key for key, value in topic if value is None} == {key for key, _ in topic if key.startswith(b"a\0")}
    again = restored(topic, compacted=True)
    assert {a: again.store.totals(a) for a in again.store} == {a: engine.store.totals(a) for a in engine.store}


def test_what_lies_on_the_topic_stays_below_a_small_multiple_of_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECORD_BYTES", 2_000)
    monkeypatch.setattr(module, "CLEAN_ABOVE_BYTES", 20_000)
    monkeypatch.setattr(module, "CLEAN_STEP_BYTES", 10_000)
    rng = random.Random(4)
    engine, topic = new(), []
    live: dict[bytes, int] = {}
    largest = 0
    for offset in range(300):
        deliver_one(engine, offset, rng)
        before = len(topic)
        snapshot(engine, topic)
        for key, value in topic[before:]:
            live[key] = len(value) if value is not None else 0
        largest = max(largest, sum(live.values()))
    whole: list[tuple[bytes, bytes | None]] = []
    engine.store.mark_all()
    for store in engine.dimensions.values():
        store.mark_all()
    snapshot(engine, whole)
    state = sum(len(value) for _, value in whole if value is not None)
    assert largest < 3 * state + 3 * 20_000
    assert {a: restored(topic, compacted=True).store.totals(a) for a in engine.store} == {
        a: engine.store.totals(a) for a in engine.store
    }


def deliver_one(engine: Engine, offset: int, rng: random.Random) -> None:
    events = [event(f"p{rng.randrange(400)}", 1, (rng.randrange(10**6),), NOW + offset * 1_000) for _ in range(4)]
    assert not engine.feed(offset, frame(offset, *events), NOW + offset * 1_000).reason


def test_frames_between_the_records_of_a_checkpoint_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The marker says where the checkpoint began; accounts written later are newer and say so themselves."""
    monkeypatch.setattr(module, "RECORD_BYTES", 300)
    rng = random.Random(8)
    log = [
        frame(n, *[event(f"p{rng.randrange(30)}", rng.randrange(9), (rng.randrange(500),)) for _ in range(3)])
        for n in range(60)
    ]
    engine, topic = new(), list[tuple[bytes, bytes | None]]()
    for offset in range(20):
        deliver(engine, log, offset)
    checkpoint = engine.begin_checkpoint()
    assert checkpoint is not None
    at = 20
    while records := engine.next_records(checkpoint):
        topic += records
        deliver(engine, log, at)
        at += 1
    assert at > 25
    topic.append(checkpoint.marker)
    again = restored(topic, compacted=False)
    assert again.next_offset == 20
    for offset in range(20, 60):
        deliver(again, log, offset)
    for offset in range(at, 60):
        deliver(engine, log, offset)
    for name in ("", "source", "shape", "tenant"):
        mine, theirs = (e.store if not name else e.dimensions[name] for e in (engine, again))
        assert {k: mine.totals(k) for k in mine} == {k: theirs.totals(k) for k in theirs}


def test_what_is_damaged_is_counted_and_the_rest_comes_back() -> None:
    engine, topic = new(), list[tuple[bytes, bytes | None]]()
    for offset in range(3):
        deliver(engine, [frame(n, event("p", 1, (n,))) for n in range(3)], offset)
    snapshot(engine, topic)
    restore, again = Restore(), new()
    for key, value in topic:
        restore.add(key, value)
    restore.add(b"s\x0099\x000\x000", b"\x02" + b"\xff" * 60)
    restore.add(b"s\x0099\x001\x000", b"\x09")
    restore.add(b"a\0t/x\x000\x000", b"\x01")
    restore.add(b"m", b"not json")
    restore.fill(again)
    assert restore.damaged >= 3
    assert again.store.totals("t/p")[-1].rows == 3


def test_profile_known_sources_and_contributors_survive() -> None:
    engine, topic = new(), list[tuple[bytes, bytes | None]]()
    value = frame(
        0, *[{**event("p", 5, (1, 2)), "source": f"10.0.0.{n}", "fingerprint": "00000000000000ff"} for n in range(3)]
    )
    engine.feed(0, value, NOW)
    engine.store.set_profile(engine.store.number("t/p"), b"habit")
    snapshot(engine, topic)
    again = restored(topic, compacted=False)
    assert again.store.profile(again.store.number("t/p")) == b"habit"
    for name, key in (("source", "t/10.0.0.1"), ("shape", "t/00000000000000ff")):
        mine, theirs = engine.dimensions[name], again.dimensions[name]
        assert theirs.totals(key) == mine.totals(key)
        assert theirs.contributors(theirs.number(key), again.store) == mine.contributors(mine.number(key), engine.store)
    known = orjson.loads(frame(1, {**event("p", 1), "source": "10.0.0.2"}))
    seen: list[str] = []
    again._judge_of("t").notable = lambda *a: seen.append(a[2])  # type: ignore[assignment,misc,return-value,method-assign]
    for seq, source in enumerate(("10.0.0.2", "10.0.0.9"), 1):
        known["seq"], known["events"][0]["source"] = seq, source
        again.feed(seq, orjson.dumps(known), NOW)
    assert len(seen) in (0, 1)
