"""Sums over accounts in one engine: what the core leaves out and when it looks, against a plain loop over every event; and a recorded
stream, as frames, as blocks of an archive and before the live engine: the same verdicts to the letter."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.exfilbench.attacks import Attack, steps
from bench.exfilbench.clinic import DAY_MS, MONDAY_MS, SMALL, Clinic
from exfilguard.detect.judge import Judge
from exfilguard.detect.policy import HOUR_MS, Policy, default_policy, load_policy
from exfilguard.events.codec import encode_frame, frame_head
from exfilguard.events.verdict import Verdict
from exfilguard.stream.alone import LEAST_MS, LOOK_MS, LOOK_PATIENTS, Alone
from exfilguard.stream.engine import Engine
from exfilguard.stream.recorded import EVENTS_PER_FRAME, Block, Framer
from exfilguard.stream.replay import compare, replay

NOW = 1_795_000_000_000
VALUES = {"source": "source", "shape": "fingerprint"}
POLICY = load_policy(
    """
version = "small"
default_class = "c"
[class.c]
limits = [ { unit = "rows", window = "24h", alert = 1_000_000_000 } ]
[cross.source]
min_accounts = 2
max_accounts = 4
limits = [
  { unit = "patients", window = "1h", alert = 90, cut = 150 },
  { unit = "patients", window = "24h", alert = 300, cut = 900 },
  { unit = "rows", window = "5m", alert = 1_000 },
]
[cross.shape]
min_accounts = 2
max_accounts = 4
limits = [ { unit = "patients", window = "1h", alert = 120, cut = 400, lock = 700 } ]
""",
    "p",
)


class Plain:
    """What `Alone` says, event by event and with every window of every sum."""

    def __init__(self, engine: Engine, judge: Judge, standing: MutableMapping[str, Verdict]) -> None:
        self.engine, self.judge, self.standing = engine, judge, standing
        self.looked: dict[tuple[str, str], tuple[int, int]] = {}
        self.hour = 0

    def moved(self, events: Sequence[dict[str, Any]], now: int) -> list[Verdict]:
        out: list[Verdict] = []
        for dimension, name in VALUES.items():
            moved: dict[str, int] = {}
            for event in events:
                count = len(event.get("patients", ())) + event.get("patients_estimated", 0)
                if count and event.get(name):
                    moved[event[name]] = moved.get(event[name], 0) + count
            for value, count in moved.items():
                last, pending = self.looked.get((dimension, value), (0, 0))
                pending += count
                if now - last < LEAST_MS or (pending < LOOK_PATIENTS and now - last < LOOK_MS):
                    self.looked[dimension, value] = (last, pending)
                else:
                    self.looked[dimension, value] = (now, 0)
                    out += self.look(dimension, value, now)
        hour = now // HOUR_MS
        if hour > self.hour:
            store = self.engine.dimensions["tenant"]
            for number in store.numbers() if self.hour else ():
                for closed in range(self.hour, hour):
                    totals = store.totals_of(number, (closed + 1) * HOUR_MS - 1)
                    if any(total.queries for total in totals[3:5]):
                        profile, _ = self.judge.hour("tenant:t", store.profile(number), closed, totals, now, None)
                        store.set_profile(number, profile)
            self.hour = hour
        return out

    def look(self, dimension: str, value: str, now: int) -> list[Verdict]:
        store = self.engine.dimensions[dimension]
        number = store.number(f"t/{value}")
        people = store.contributors(number, self.engine.store)
        whole = sum(count for _, count in people) or 1
        shares = [(account.partition("/")[2], count / whole) for account, count in people]
        found = self.judge.cross(dimension, value, store.totals_of(number), shares, now, self.standing)
        self.standing.update((verdict.key, verdict) for verdict in found)
        return found

    def end(self, now: int) -> list[Verdict]:
        return [
            verdict
            for dimension in VALUES
            for (kind, value), (_, pending) in self.looked.items()
            if kind == dimension and pending
            for verdict in self.look(dimension, value, now)
        ]


def seat(policy: Policy, max_patients: int) -> tuple[Judge, Engine, dict[str, Verdict]]:
    judge, standing = Judge(policy, "t", "replay"), {}  # type: ignore[var-annotated]
    return judge, Engine(lambda tenant: judge, standing, max_patients), standing


WORK = st.lists(
    st.tuples(
        st.integers(0, 5), st.integers(0, 2), st.integers(0, 3), st.integers(0, 400), st.integers(0, 60), st.integers(0, 900_000)
    ),
    min_size=1,
    max_size=80,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(WORK, st.sampled_from([40, 65_536]))
def test_what_is_left_out_would_have_said_nothing(
    work: list[tuple[int, int, int, int, int, int]], max_patients: int
) -> None:
    judge, engine, standing = seat(POLICY, max_patients)
    other, oracle, said = seat(POLICY, max_patients)
    alone, plain = Alone(engine, POLICY, lambda tenant: judge, standing), Plain(oracle, other, said)
    now = NOW
    for n, (who, source, shape, first, count, pause) in enumerate(work):
        now += pause
        event = {
            "time_ms": now, "kind": "query", "listener": "l", "session": "x", "principal": f"dr.{who}", "rows": 7 * count,
            "source": f"10.0.0.{source}", "fingerprint": f"{shape:016x}" if shape else "", "patients_by": "origin",
            "patients": [f"{(first + p + 1) * 0x9E3779B97F4A7C15 % (1 << 64):016x}" for p in range(count)],
        }  # fmt: skip
        frame = encode_frame(frame_head("t", "s", "1"), n, [orjson.dumps(event)])
        for one in (engine, oracle):
            assert not one.feed(n, frame, now).reason
        assert alone.moved(now) == plain.moved([event], now)
    assert {(v.key, v.level) for v in alone.look(now)} == {(v.key, v.level) for v in plain.end(now)}


def days() -> Iterator[dict[str, Any]]:
    """Nine days of a small clinic; thieves on the eighth: one account, and six that share an address."""
    clinic = Clinic(7, 9, SMALL)
    names = [person.login for person in clinic.people if person.login.startswith("dr.")][:6]
    thieves = [
        event
        for attack in (Attack("paging", 4_000), Attack("split", 6_000, tuple(names), sources=("10.66.0.14",)))
        for at, _, event, _ in steps(attack, MONDAY_MS + 7 * DAY_MS + 10 * HOUR_MS, 1)
        if at < MONDAY_MS + 8 * DAY_MS
    ]
    for day in range(9):
        today = clinic.day(day)
        if day == 7:
            today = sorted([*today, *thieves], key=lambda event: event["time_ms"])
        yield from today


@pytest.fixture(scope="module")
def recorded() -> tuple[list[dict[str, Any]], list[bytes]]:
    """Events, and the frames that the archive makes of them."""
    events = list(days())
    framer = Framer(frame_head("t", "archive", "1"))
    made = [frame for event in events if (frame := framer.add(event["time_ms"], orjson.dumps(event)))]
    rest = framer.rest()
    assert rest is not None
    return events, [*made, rest]


def test_a_recording_is_judged_as_the_live_engine_judged_it(
    recorded: tuple[list[dict[str, Any]], list[bytes]],
) -> None:
    events, frames = recorded
    policy = default_policy()
    judge, engine, standing = seat(policy, 65_536)
    plain, live = Plain(engine, judge, standing), []
    at = 0
    for offset, frame in enumerate(frames):
        part = orjson.loads(frame)["events"]
        now = part[-1]["time_ms"]
        found = list(engine.feed(offset, frame, now).verdicts)
        standing.update((verdict.key, verdict) for verdict in found)
        live += found + plain.moved(events[at : at + len(part)], now)
        at += len(part)
    live += plain.end(events[-1]["time_ms"])
    out = replay(frames, policy, 65_536)
    assert [asdict(v) for v in out.verdicts] == [asdict(v) for v in live]
    assert (out.events, out.frames, out.unread) == (len(events), len(frames), 0)
    assert {"budget", "cross"} <= set(out.detectors)
    assert {a.level for a in out.accounts.values()} >= {"cut", "lock"}


@pytest.mark.parametrize("size", [1, 7, 4_096])
def test_blocks_are_judged_as_the_frames_that_they_stand_for(
    recorded: tuple[list[dict[str, Any]], list[bytes]], size: int
) -> None:
    _, frames = recorded
    frames = frames[: len(frames) if size > 1 else 3_000]
    blocks = []
    for start in range(0, len(frames), size):
        inside = [
            orjson.dumps(event) for frame in frames[start : start + size] for event in orjson.loads(frame)["events"]
        ]
        blocks.append(Block("t", encode_frame(frame_head("t", "archive", "1"), 0, inside)))
    assert size == 1 or len(blocks) < len(frames)
    for one, other in zip(
        compare(frames, [default_policy(), POLICY], 2_000),
        compare(blocks, [default_policy(), POLICY], 2_000),
        strict=True,
    ):
        assert one.as_dict() == other.as_dict()
        assert one.verdicts == other.verdicts


def test_a_block_may_hold_what_only_the_decoder_reads() -> None:
    events = [
        {"time_ms": NOW + n * 400, "kind": "query", "listener": "l", "session": "s", "principal": 'o"quote', "rows": 1,
         "patients": [f"{n:016x}"]}
        for n in range(3 * EVENTS_PER_FRAME)
    ]  # fmt: skip
    block = Block("t", encode_frame(frame_head("t", "archive", "1"), 0, [orjson.dumps(e) for e in events]))
    out = replay([block, Block("t", b"rubbish")], default_policy(), 1_000)
    assert (out.events, out.unread) == (len(events), 1)
    assert out.frames > 3


def test_tenants_of_an_archive_are_told_in_the_order_of_time() -> None:
    policy = load_policy(
        'version = "p"\ndefault_class = "c"\n[class.c]\nlimits = [ { unit = "patients", window = "1h", alert = 5, cut = 9 } ]',
        "p",
    )
    blocks = [
        Block(tenant, encode_frame(frame_head(tenant, "archive", "1"), 0, [
            orjson.dumps({"time_ms": NOW + n * 60_000 + shift, "kind": "query", "listener": "l", "session": "s",
                          "principal": "thief", "rows": 1, "patients": [f"{n:016x}"]})
            for n in range(12)
        ]))
        for tenant, shift in (("a", 30_000), ("b", 0))
    ]  # fmt: skip
    out = replay(blocks, policy, 1_000)
    assert [(v.tenant, v.level) for v in out.verdicts] == [("b", "alert"), ("a", "alert"), ("b", "cut"), ("a", "cut")]
    assert (out.first_ms, out.last_ms, out.events) == (NOW, NOW + 11 * 60_000 + 30_000, 24)
