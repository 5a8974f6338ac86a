"""Spool to windows through a real broker, with the parts killed at random points: totals equal the oracle's exactly.

The load is written into a spool by the test itself, as a relay does; the oracle adds up what was written. What the detector
has is read from its snapshots topic, as a new owner of the partition would read it.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from kafka import KafkaProducer

from exfilguard.cli.main import main
from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.embedded.kafka import ApacheKafka
from exfilguard.embedded.maven import missing_programs
from exfilguard.events.codec import decode_frame
from exfilguard.events.topics import Topics
from exfilguard.runtime.kafka import admin_client, count_events, producer_of, read_verdicts, whole_topic
from exfilguard.sidecar.verdict_table import VerdictTable
from exfilguard.stream.app import CheckedRecords, read_partition
from exfilguard.stream.detector import DEAD_LETTER_BYTES

from .pipeline import PARTITIONS, Load, installation
from .stack import Stack, settled_totals, wait_for


@pytest.fixture
def made(tmp_path: Path, broker: EmbeddedBroker | ApacheKafka) -> Iterator[tuple[Stack, Load]]:
    stack, load = installation(tmp_path / "data", broker)
    yield stack, load
    stack.stop()


def exact(stack: Stack, load: Load, seconds: float = 60.0) -> None:
    found = settled_totals(stack.config, PARTITIONS, load.equals, seconds)
    assert {key: value[-1][:2] for key, value in found.items()} == load.oracle(), "\n".join(
        f"{key}: {stack.log(key)[-1500:]}" for key in ("shipper", "detector", "second")
    )


def test_every_event_is_counted_once(made: tuple[Stack, Load]) -> None:
    stack, load = made
    stack.start("shipper")
    stack.start("detector")
    for _ in range(20):
        load.write(500)
        time.sleep(0.05)
    exact(stack, load)
    assert count_events(stack.config).events == load.events
    wait_for(lambda: stack.total("events_processed_total") == load.events)
    assert stack.total("events_published_total") == load.events
    assert stack.total("frames_gap_total") == 0
    assert wait_for(lambda: stack.total("spool_bytes") == 0 or None) is True
    assert stack.snapshot("detector-1").details["compiled"] is True  # type: ignore[union-attr]


@pytest.mark.parametrize(("compression", "codec"), [("lz4", 3), ("none", 0)])
def test_frames_are_published_as_configured_and_read_back(
    tmp_path: Path, broker: EmbeddedBroker | ApacheKafka, monkeypatch: pytest.MonkeyPatch, compression: str, codec: int
) -> None:
    """Small events, and some full of digests, which no compression makes small."""
    stack, load = installation(tmp_path / "data", broker, compression=compression)
    codecs = set()

    class Watched(CheckedRecords):
        def next_batch(self) -> Any:
            batch = super().next_batch()
            codecs.add(batch.compression_type)
            return batch

    try:
        load.write(3_000)
        load.write(40, patients=4_000)
        stack.start("shipper")
        wait_for(lambda: stack.total("events_published_total") == load.events)
        monkeypatch.setattr(fetcher, "MemoryRecords", Watched)
        assert asyncio.run(_events_read(stack)) == load.events
    finally:
        stack.stop()
    assert codecs == {codec}


async def _events_read(stack: Stack) -> int:
    topic, count = Topics(stack.config.kafka.prefix).queries, 0
    for partition in range(PARTITIONS):
        async for record in read_partition(stack.config, topic, partition, 0):
            count += len(decode_frame(record.value).events)
    return count


def test_the_shipper_is_killed_again_and_again(made: tuple[Stack, Load]) -> None:
    stack, load = made
    rng = random.Random(2)
    stack.start("shipper")
    stack.start("detector")
    stack.detector_ready()
    for _ in range(8):
        for _ in range(rng.randrange(2, 10)):
            load.write(rng.randrange(400))
            time.sleep(rng.random() * 0.05)
        stack.kill("shipper")
        load.write(300)
        stack.start("shipper")
        time.sleep(rng.random() * 0.8)
    exact(stack, load)
    assert count_events(stack.config).events == load.events


def test_the_detector_is_killed_again_and_again(made: tuple[Stack, Load]) -> None:
    stack, load = made
    rng = random.Random(3)
    stack.start("shipper")
    stack.start("detector")
    stack.detector_ready()
    for round_ in range(3):
        for _ in range(12):
            load.write(rng.randrange(400))
            time.sleep(rng.random() * 0.1)
        stack.kill("detector")
        load.write(500)
        stack.start("detector", "--worker", f"1{round_}", key="detector")
        if round_ == 1:
            continue  # killed again while it restores
        stack.detector_ready(f"1{round_}")
    exact(stack, load)


def test_two_workers_share_and_take_over(made: tuple[Stack, Load]) -> None:
    stack, load = made
    stack.start("shipper")
    stack.start("detector")
    stack.detector_ready()
    load.write(2_000)
    stack.start("detector", "--worker", "2", key="second")

    def shared() -> bool:
        held = [stack.snapshot(f"detector-{n}") for n in (1, 2)]
        return all(s is not None and s.details["ready"] and len(s.details["partitions"]) == 2 for s in held)

    deadline = time.monotonic() + 60
    while not shared():
        load.write(100)
        time.sleep(0.1)
        assert time.monotonic() < deadline, stack.log("second")[-2000:]
    load.write(2_000)
    stack.kill("second")
    load.write(2_000)
    wait_for(lambda: len(stack.snapshot("detector-1").details["partitions"]) == PARTITIONS, 60)  # type: ignore[union-attr]
    load.write(2_000)
    exact(stack, load)


def test_rubbish_on_the_topic_goes_to_the_dead_letters(made: tuple[Stack, Load]) -> None:
    stack, load = made
    stack.start("shipper")
    stack.start("detector")
    load.write(100)
    exact(stack, load)
    with producer_of(stack.config) as producer:
        topic = Topics(stack.config.kafka.prefix).queries
        for n, value in enumerate((b"not json", b'{"v":1}', b"\xff\xfe", b"")):
            producer.send(topic, value=value, partition=n).get(10)
    load.write(100)
    exact(stack, load)
    assert wait_for(lambda: stack.total("deadletters_total") == 4) is True
    assert "not JSON" in stack.log("detector")


def test_a_record_without_a_value_or_larger_than_a_broker_takes_uncompressed_stops_nothing(
    made: tuple[Stack, Load],
) -> None:
    """Compressed it is small. As a dead letter it was refused for ever, and its partition was read no further; so it was at the other."""
    stack, load = made
    stack.start("shipper")
    stack.start("detector")
    load.write(100)
    exact(stack, load)
    topics = Topics(stack.config.kafka.prefix)
    producer = KafkaProducer(
        bootstrap_servers=stack.config.kafka.bootstrap, compression_type="gzip", max_request_size=64 << 20
    )
    for partition in range(PARTITIONS):
        for size in (3 << 20, 50 << 20):  # the second is more than is unpacked
            producer.send(topics.queries, value=b"x" * size, partition=partition).get(10)
        producer.send(topics.queries, value=None, key=b"x", partition=partition).get(10)
    producer.close()
    load.write(100)
    exact(stack, load)
    wait_for(lambda: stack.total("deadletters_total") == 3 * PARTITIONS)
    letters = list(whole_topic(stack.config, topics.deadletter, 1.0))
    assert max(len(value) for _, value in letters) == DEAD_LETTER_BYTES


def test_an_operators_word_reaches_the_sidecar_and_is_kept(
    made: tuple[Stack, Load], capsys: pytest.CaptureFixture[str]
) -> None:
    stack, _ = made
    stack.start("shipper")
    table = stack.data_dir / "verdicts.json"
    wait_for(lambda: stack.snapshot("shipper"))

    def level() -> str:
        return next((v.level for v in VerdictTable(table).verdicts() if v.principal == "dpi_export"), "")

    config = ["--config", str(stack.path)]
    wait_for(lambda: "topics.json" in {p.name for p in stack.data_dir.iterdir()})
    assert main(["lock", "dpi_export", "--reason", "seen at night", "--by", "alice", *config]) == 0
    wait_for(lambda: level() == "lock")
    stack.kill("shipper")
    stack.start("shipper")
    capsys.readouterr()
    assert main(["verdicts", "--json", *config]) == 0
    assert '"issuer":"operator:alice"' in capsys.readouterr().out
    assert main(["status", *config]) in (0, 1)
    assert "seen at night" in capsys.readouterr().out
    assert main(["unlock", "dpi_export", "--reason", "was the nightly export", *config]) == 0
    wait_for(lambda: level() == "none")


# -- the broker itself ------------------------------------------------------------------------------------------------


def test_a_broker_that_is_away_costs_nothing(tmp_path: Path) -> None:
    if missing := missing_programs():
        pytest.skip(f"Apache Kafka needs {missing}")
    broker = ApacheKafka(tmp_path / "kafka")
    broker.start()
    stack, load = installation(tmp_path / "data", broker)
    try:
        stack.start("shipper")
        stack.start("detector")
        stack.detector_ready()
        load.write(3_000)
        broker.kill()
        for _ in range(10):
            load.write(300)
            time.sleep(0.3)
        assert stack.total("spool_bytes") > 0
        assert stack.total("spool_oldest_seconds") > 1
        broker.start()
        load.write(1_000)
        exact(stack, load, 90)
        assert count_events(stack.config).events == load.events
    finally:
        stack.stop()
        broker.stop()


def test_a_broker_that_forgot_is_told_again(tmp_path: Path) -> None:
    """The embedded broker loses everything when it dies; the detector's windows and the spool do not."""
    broker = EmbeddedBroker(log_path=tmp_path / "broker.log")
    broker.start()
    stack, load = installation(tmp_path / "data", broker)
    try:
        stack.start("shipper")
        stack.start("detector")
        stack.detector_ready()
        for _ in range(2):
            load.write(3_000)
            time.sleep(1.0)
            broker.kill()
            load.write(1_000)
            time.sleep(0.5)
            broker.start()
            load.write(1_000)
            exact(stack, load, 90)
        assert stack.total("frames_resent_total") > 0
        stack.kill("detector")
        broker.kill()
        broker.start()
        stack.start("detector", "--worker", "2")
        load.write(500)
        exact(stack, load, 90)
    finally:
        stack.stop()
        broker.stop()


def test_a_topic_that_was_deleted_alone_is_told_again(made: tuple[Stack, Load]) -> None:
    """The queries stayed, so nobody saw that a lock had gone with the verdicts, and the windows with their snapshots."""
    stack, load = made
    stack.start("shipper")
    stack.start("detector")
    stack.detector_ready()
    load.write(500)
    assert main(["lock", "dpi_export", "--reason", "a test", "--config", str(stack.path)]) == 0
    exact(stack, load)
    wait_for(lambda: stack.data_dir / "verdicts.json" in stack.data_dir.iterdir())
    topics = Topics(stack.config.kafka.prefix)
    admin = admin_client(stack.config)
    admin.delete_topics([topics.verdicts, topics.snapshots])
    admin.close()
    wait_for(lambda: "clinic/dpi_export" in read_verdicts(stack.config), 30.0)
    load.write(500)
    exact(stack, load)


def test_an_address_that_answers_nothing_is_said(tmp_path: Path) -> None:
    stack, load = installation(tmp_path / "data", "127.0.0.1:9")
    try:
        stack.start("shipper")
        load.write(10)
        wait_for(lambda: "nothing answers at 127.0.0.1:9" in stack.log("shipper"))
        wait_for(lambda: stack.total("spool_bytes") > 0)
        assert main(["lock", "x", "--reason", "y", "--config", str(stack.path)]) == 1
        stack.kill("shipper", signal.SIGTERM)
    finally:
        stack.stop()
