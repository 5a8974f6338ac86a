"""Sums over accounts that lie in different partitions: added up once, by everybody, whoever publishes what how often."""

from __future__ import annotations

import random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilguard.detect.judge import Judge
from exfilguard.detect.policy import default_policy
from exfilguard.errors import CodecError
from exfilguard.events.topics import principal_hash
from exfilguard.events.verdict import Verdict
from exfilguard.stream.alone import Alone
from exfilguard.stream.engine import Engine
from exfilguard.stream.sums import Publisher, Sums

NOW = 1_795_000_000_000
PARTITIONS = 4
POLICY = default_policy()


class Installation:
    """Engines of all partitions, and what they publish."""

    def __init__(self) -> None:
        self.judge = Judge(POLICY, "t", "detector:test")
        self.engines = [Engine(lambda tenant: self.judge, {}, 65_536) for _ in range(PARTITIONS)]
        self.publishers = [Publisher(n) for n in range(PARTITIONS)]
        self.offsets = [0] * PARTITIONS
        self.patients: set[str] = set()
        self.rows = 0

    def take(self, principal: str, patients: list[int], source: str = "10.9.9.9", time_ms: int = NOW) -> None:
        partition = principal_hash("t", principal) % PARTITIONS
        digests = [f"{mixed(p):016x}" for p in patients]
        event = {
            "time_ms": time_ms, "kind": "query", "listener": "l", "session": "x", "principal": principal, "source": source,
            "fingerprint": "00000000000000aa", "rows": len(patients), "patients": digests,
        }  # fmt: skip
        frame = orjson.dumps(
            {"v": 1, "tenant": "t", "sidecar": "s", "epoch": "e", "seq": self.offsets[partition], "events": [event]}
        )
        assert not self.engines[partition].feed(self.offsets[partition], frame, time_ms).reason
        self.offsets[partition] += 1
        self.patients |= set(digests)
        self.rows += len(patients)

    def publish(self, now_ms: int = NOW) -> list[tuple[bytes, bytes | None]]:
        return [
            record
            for publisher, engine in zip(self.publishers, self.engines, strict=True)
            for record in publisher.records(engine, lambda tenant: self.judge, now_ms)
        ]


def mixed(n: int) -> int:
    return n * 0x9E3779B97F4A7C15 % (1 << 64)


@pytest.mark.parametrize("each", [30, 700, 4_000])
def test_parts_add_up_whatever_comes_twice_or_late(each: int) -> None:
    made, sums, rng = Installation(), Sums(), random.Random(each)
    published = []
    for n in range(20):
        start = n * each * 3 // 4  # every account shares a quarter of its patients with the next
        made.take(f"thief{n}", list(range(start, start + each)))
        published += made.publish(NOW + n)
    for key, value in published + rng.sample(published, len(published) // 2) + published[-40:]:
        sums.add(key, value)
    for dimension, value in (("source", "10.9.9.9"), ("shape", "00000000000000aa"), ("tenant", "")):
        for total in sums.totals(dimension, "t", value, NOW + 100):
            assert total.patients == pytest.approx(len(made.patients), rel=0.05)
            assert total.rows == made.rows
    people = sums.contributors("source", "t", "10.9.9.9")
    assert {name for name, _ in people} == {f"thief{n}" for n in range(20)}
    assert sum(share for _, share in people) == pytest.approx(1)


def test_a_split_over_accounts_is_judged_once_by_the_owners() -> None:
    made = Installation()
    for n in range(12):
        made.take(f"thief{n:02d}", list(range(n * 900, n * 900 + 900)))
    published = made.publish()
    workers = [Sums(), Sums()]
    said: list[list[Verdict]] = []
    for worker, sums in enumerate(workers):
        for key, value in published:
            sums.add(key, value)
        judge = Judge(POLICY, "t", f"detector:{worker}")
        said.append(
            sums.judge(lambda _, j=judge: j, lambda t, p, w=worker: principal_hash(t, p) % 2 == w, {}, NOW)  # type: ignore[misc]
        )
        assert sums.judge(lambda _, j=judge: j, lambda t, p: True, {}, NOW) == []  # type: ignore[misc]  # nothing moved
    for worker, verdicts in enumerate(said):
        assert {v.principal for v in verdicts} == {
            f"thief{n:02d}" for n in range(12) if principal_hash("t", f"thief{n:02d}") % 2 == worker
        }
        assert all("accounts together took" in v.reason for v in verdicts)


def test_what_stopped_moving_leaves_the_short_windows_and_a_deletion_everything() -> None:
    made, sums = Installation(), Sums()
    for n in range(8):
        made.take(f"thief{n}", list(range(n * 500, n * 500 + 500)))
    published = made.publish()
    for key, value in published:
        sums.add(key, value)
    now = NOW + 120_000
    assert [t.rows for t in sums.totals("source", "t", "10.9.9.9", now)] == [0, 0, *[4_000] * 5]
    for key, _ in published:
        sums.add(key, None)
    assert sums.totals("source", "t", "10.9.9.9", now)[-1].rows == 0
    assert made.publish(NOW + 1) == []  # nothing moved
    gone = made.publish(NOW + 40 * 86_400_000)  # out of every window
    assert {key for key, _ in gone} == {key for key, _ in published}
    assert all(value is None for _, value in gone)


@pytest.mark.parametrize(
    "value",
    [
        b"", b"[]", b"null", b'{"v":2}', b'{"v":1,"dimension":"source"}',
        b'{"v":1,"partition":0,"dimension":"source","tenant":"t","value":"x","at_ms":1,"windows":{"a":[1]},"contributors":[]}',
        b'{"v":1,"partition":0,"dimension":"source","tenant":"t","value":"x","at_ms":1,"windows":[],"contributors":[]}',
    ],
)  # fmt: skip
def test_rubbish_is_refused(value: bytes) -> None:
    with pytest.raises(CodecError, match="sum:"):
        Sums().add(b"0/source/t/x", value)


def test_a_damaged_sketch_is_left_out_not_fatal() -> None:
    made, sums = Installation(), Sums()
    for partition in range(2):
        record = {
            "v": 1, "partition": partition, "dimension": "source", "tenant": "t", "value": "x", "at_ms": NOW,
            "windows": {"3600000": [9, 9, 9, 9, "AAAA"]}, "contributors": [],
        }  # fmt: skip
        sums.add(b"%d/source/t/x" % partition, orjson.dumps(record))
    assert sums.judge(lambda tenant: made.judge, lambda tenant, principal: True, {}, NOW) == []
    assert sums.totals("source", "t", "x", NOW)[3].rows == 0


def test_an_hour_of_the_tenant_becomes_part_of_its_past() -> None:
    made, sums = Installation(), Sums()
    for n in range(4):
        made.take(f"nurse{n}", list(range(n * 10, n * 10 + 10)))
    for key, value in made.publish():
        sums.add(key, value)
    sums.close_hour(lambda tenant: made.judge, made.engines, NOW // 3_600_000, NOW + 3_600_000)
    profiles = {
        engine.dimensions["tenant"].profile(engine.dimensions["tenant"].number("t/"))
        for engine in made.engines
        if "t/" in engine.dimensions["tenant"]
    }
    assert len(profiles) == 1
    assert profiles.pop()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 3), st.integers(1, 400)), min_size=1, max_size=30))
def test_one_engine_alone_is_judged_as_its_published_parts(work: list[tuple[int, int, int]]) -> None:
    """The replay's way against the detector's: the same accounts reach the same steps, look by look."""
    judges = [Judge(POLICY, "t", "detector:test") for _ in range(2)]
    engines = [Engine(lambda tenant, j=judge: j, {}, 65_536) for judge in judges]  # type: ignore[misc]
    standing: dict[str, Verdict] = {}
    published: dict[str, Verdict] = {}
    alone = Alone(engines[0], POLICY, lambda tenant: judges[0], standing)
    publisher, sums = Publisher(0), Sums()
    for n, (who, source, count) in enumerate(work):
        now = NOW + n * 61_000  # so that every part is due to be published again
        event = {
            "time_ms": now, "kind": "query", "listener": "l", "session": "x", "principal": f"dr.{who}", "rows": count,
            "source": f"10.0.0.{source}", "fingerprint": "00000000000000aa",
            "patients": [f"{mixed(n * 1_000 + p):016x}" for p in range(count)],
        }  # fmt: skip
        frame = orjson.dumps({"v": 1, "tenant": "t", "sidecar": "s", "epoch": "e", "seq": n, "events": [event]})
        for engine in engines:
            assert not engine.feed(n, frame, now).reason
        alone.look(now)
        for _ in range(2):  # a call publishes a bounded part
            for key, value in publisher.records(engines[1], lambda tenant: judges[1], now):
                sums.add(key, value)
        for verdict in sums.judge(lambda tenant: judges[1], lambda tenant, principal: True, published, now):
            published[verdict.key] = verdict
        assert {k: v.level for k, v in standing.items()} == {k: v.level for k, v in published.items()}
