"""What the detectors say through a real Apache Kafka and real Faust workers: sums over accounts that lie with two workers, one of
which is killed; honeytokens; drift over weeks; and more partitions with the operator's command."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from exfilguard.cli.main import main
from exfilguard.config.schema import Config, DetectorConfig
from exfilguard.embedded.kafka import ApacheKafka
from exfilguard.events.codec import decode_verdict, encode_event, encode_frame, frame_head
from exfilguard.events.query import QueryEvent
from exfilguard.events.topics import Topics, principal_hash
from exfilguard.events.verdict import Verdict
from exfilguard.runtime.clock import now_ms
from exfilguard.runtime.kafka import producer_of
from exfilguard.stream.app import read_partition

from .pipeline import PARTITIONS, TENANT, Load, installation
from .stack import Stack, kafka_config, settled_totals, wait_for

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
TOKEN = "00000000deadbeef"
POLICY = f"""
version = "detectors"
default_class = "anybody"
honeytokens = ["{TOKEN}"]

[class.anybody]
day = {{ typical = 20, spread = 10 }}
surplus = {{ alert = 100, cut = 400 }}
limits = [ {{ unit = "patients", window = "30d", alert = 100_000 }} ]

[cross.source]
min_accounts = 4
max_accounts = 25
share = 4
limits = [ {{ unit = "patients", window = "1h", alert = 300, cut = 600 }} ]
"""


class Clinic:
    """Frames onto the topic as one sidecar's shipper sends them, and what they add up to."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._seq = [0] * PARTITIONS
        self._patients = itertools.count(1)
        self.events = 0
        self.oracle: dict[str, tuple[int, int]] = {}
        """tenant/account -> (rows, distinct patients)"""

    def take(self, accounts: Sequence[str], count: int, **changes: Any) -> None:
        """Each account reads so many patients that nobody has read before."""
        with producer_of(self._stack.config) as producer:
            for account in accounts:
                digests = [f"{next(self._patients) * 0x9E3779B97F4A7C15 % (1 << 64):016x}" for _ in range(count)]
                event: dict[str, Any] = {
                    "time_ms": now_ms(), "kind": "query", "listener": "dpi", "session": "s", "principal": account,
                    "rows": count, "patients": tuple(digests), "patients_by": "origin",
                }  # fmt: skip
                partition = principal_hash(TENANT, account) % PARTITIONS
                value = encode_frame(
                    frame_head(TENANT, "host", "1"),
                    self._seq[partition],
                    [encode_event(QueryEvent(**(event | changes)))],
                )
                producer.send(Topics(self._stack.config.kafka.prefix).queries, value=value, partition=partition).get(20)
                self._seq[partition] += 1
                self.events += 1
                rows, patients = self.oracle.get(f"{TENANT}/{account}", (0, 0))
                self.oracle[f"{TENANT}/{account}"] = (rows + count, patients + count)

    def equals(self, totals: dict[str, Any]) -> bool:
        return {key: value[-1][:2] for key, value in totals.items()} == self.oracle

    async def _verdicts(self) -> dict[str, Verdict]:
        config = self._stack.config
        newest: dict[str, Verdict] = {}
        for partition in range(self._stack.config.kafka.partitions):
            async for record in read_partition(config, Topics(config.kafka.prefix).verdicts, partition, 0):
                verdict = decode_verdict(record.value)
                newest[verdict.principal] = verdict
        return newest

    def verdicts(self) -> dict[str, Verdict]:
        return asyncio.run(self._verdicts())


@pytest.fixture
def stack(tmp_path: Path, apache_kafka: ApacheKafka) -> Iterator[Stack]:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY, encoding="utf-8")
    made = Stack(
        Config(
            tenant=TENANT,
            data_dir=str(tmp_path),
            kafka=kafka_config(apache_kafka, prefix=f"d{time.time_ns()}", partitions=PARTITIONS),
            detector=DetectorConfig(policy=str(policy), snapshot_ms=200),
        )
    )
    yield made
    made.stop()


def accounts_of(partition: int, count: int) -> list[str]:
    names = (f"thief{n}" for n in itertools.count())
    return list(itertools.islice((n for n in names if principal_hash(TENANT, n) % PARTITIONS == partition), count))


def partitions_of(stack: Stack, worker: int) -> list[int]:
    found = stack.snapshot(f"detector-{worker}")
    return list(found.details["partitions"]) if found is not None and found.details["ready"] else []


def test_a_sum_over_two_workers_adds_up_and_survives_the_death_of_one(stack: Stack) -> None:
    clinic = Clinic(stack)
    stack.start("detector")
    stack.detector_ready()
    stack.start("detector", "--worker", "2", key="second")
    wait_for(lambda: [len(partitions_of(stack, n)) for n in (1, 2)] == [2, 2], 60, "two partitions each")
    thieves = [name for partition in range(PARTITIONS) for name in accounts_of(partition, 2)]
    clinic.take(thieves, 50, source="10.9.9.9")  # neither worker has seen 300: only both together

    def level(wanted: str) -> dict[str, Verdict]:
        found = clinic.verdicts()
        return found if {n for n, v in found.items() if v.level == wanted} == set(thieves) else {}

    found = wait_for(lambda: level("alert"), 30, "an alert for each")
    assert {v.issuer for v in found.values()} == {"detector:1", "detector:2"}, "each speaks of its own accounts"
    assert all(v.detector == "cross" and "together took" in v.reason for v in found.values())
    assert all(v.total == pytest.approx(400, rel=0.05) for v in found.values())
    stack.kill("second")
    clinic.take(thieves[:2], 1, source="10.9.9.9")  # of a living one's or not: it goes on either way
    wait_for(lambda: len(partitions_of(stack, 1)) == PARTITIONS, 60, "taken over")
    clinic.take(thieves, 40, source="10.9.9.9")
    found = wait_for(lambda: level("cut"), 30, "a cut for each")
    assert {v.issuer for v in found.values()} == {"detector:1"}
    assert all(600 < v.total < 1.05 * 722 for v in found.values()), "nobody's part was added twice"
    totals = settled_totals(stack.config, PARTITIONS, clinic.equals, made=True)
    assert clinic.equals(totals), "nothing was lost with the one that died, nothing was counted twice"


def test_a_honeytoken_and_a_slow_theft_are_found_through_kafka_and_faust(stack: Stack) -> None:
    clinic = Clinic(stack)
    stack.start("detector")
    stack.detector_ready()
    morning = now_ms() // DAY_MS * DAY_MS - 20 * DAY_MS + 8 * HOUR_MS
    for day in range(20):
        for hour in (0, 5):
            slow = 60 if day >= 12 else 10
            clinic.take(["dr.slow"], slow, time_ms=morning + day * DAY_MS + hour * HOUR_MS)
            clinic.take(["dr.steady"], 10, time_ms=morning + day * DAY_MS + hour * HOUR_MS)

    def drift() -> Verdict | None:  # its days are unusual first, and then go on
        found = clinic.verdicts().get("dr.slow")
        return found if found is not None and found.detector == "drift" else None

    assert "beyond its habit" in wait_for(drift, 20, "a verdict on the slow one").reason
    clinic.take(["dr.curious"], 1, patients=(TOKEN,))
    found = wait_for(lambda: clinic.verdicts().get("dr.curious"), 20, "a verdict on the honeytoken")
    assert (found.level, found.detector) == ("lock", "honeytoken")
    wait_for(lambda: stack.total("events_processed_total") == clinic.events, 20)
    assert set(clinic.verdicts()) == {"dr.curious", "dr.slow"}
    assert stack.total("frames_gap_total") == stack.total("events_late_total") == stack.total("clock_jumps_total") == 0


def test_more_partitions_and_every_total_stays(
    tmp_path: Path, apache_kafka: ApacheKafka, capsys: pytest.CaptureFixture[str]
) -> None:
    before, load = installation(tmp_path / "data", apache_kafka)
    try:
        before.start("shipper")
        before.start("detector")
        load.write(3_000)
        wait_for(lambda: before.total("events_processed_total") == load.events, 60)
        before.kill("detector")
        command = ["repartition", "--config", str(before.path), "--partitions", "7"]
        load.write(500)
        wait_for(lambda: before.total("events_published_total") == load.events, 30)
        assert main(command) != 0, "frames that nobody has counted"
        assert "records that no detector has counted" in capsys.readouterr().err
        before.start("detector")
        wait_for(lambda: settled(before, PARTITIONS, load), 60)
        before.kill("shipper")
        before.kill("detector")
        assert main(command) == 0
        assert "queries has 7 partitions" in capsys.readouterr().out
        assert main(command) == 0, "again: nothing is left to do, and nothing is harmed"
        assert settled(before, 7, load)
    finally:
        before.stop()
    after = Stack(dataclasses.replace(before.config, kafka=dataclasses.replace(before.config.kafka, partitions=7)))
    try:
        load.write(1_000)  # into the spool, while nothing ran
        after.start("detector", "--worker", "later")
        after.start("shipper")
        load.write(1_000)
        assert settled(after, 7, load)
        after.detector_ready("later")
        assert partitions_later(after) == list(range(7))
        assert after.total("frames_gap_total") == 0
    finally:
        after.stop()


def partitions_later(stack: Stack) -> list[int]:
    found = stack.snapshot("detector-later")
    return list(found.details["partitions"]) if found is not None else []


def settled(stack: Stack, partitions: int, load: Load) -> bool:
    return load.equals(settled_totals(stack.config, partitions, load.equals, 40.0))
