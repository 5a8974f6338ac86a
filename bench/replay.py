"""`make bench-replay`: how long does `exfilguard replay` take over a million recorded events?

The events are exfilbench's clinic, day after day, with a thief of ten days in it, as frames of 100. They are replayed as the command does
it, from a file of frames, from the archive (written by the archive's own writer) and from Kafka (the embedded broker), under one
policy and under two. Compared with the exact same verdicts of the file. QUICK=1: a tenth of the events.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from kafka import KafkaProducer

from exfilguard.cli.recordings import ArchiveRecording, KafkaRecording
from exfilguard.config.schema import Config, KafkaConfig
from exfilguard.detect.policy import DEFAULT_POLICY, default_policy, load_policy
from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.events.codec import decode_frame, encode_frame, frame_head
from exfilguard.events.topics import Topics
from exfilguard.evidence.archive import ArchiveWriter
from exfilguard.runtime.kafka import admin_client, ensure_topics
from exfilguard.stream.recorded import FileRecording, Recording, in_order
from exfilguard.stream.replay import Replay, compare

from .exfilbench.attacks import Attack, steps
from .exfilbench.clinic import DAY_MS, MONDAY_MS, Clinic
from .report import QUICK, Report

EVENTS = 100_000 if QUICK else 1_000_000
MAX_DAYS = 120
FRAME_EVENTS = 100
THIEF_DAY = 3
PER_SECOND = 100_000
"""The bar: a million in ten seconds."""
TENANT = "clinic"
STRICTER = ("alert = 200, throttle = 300, cut = 400, lock = 800", "alert = 60, throttle = 80, cut = 100, lock = 800")
MAX_PATIENTS = Config().detector.max_patients


def days() -> Iterator[list[dict[str, Any]]]:
    """Whole days of events in order, EVENTS in all."""
    clinic, left = Clinic(1, MAX_DAYS), EVENTS
    theft = steps(Attack("paging", 2_000), MONDAY_MS + THIEF_DAY * DAY_MS, 1)
    ahead = next(theft)
    for number in range(MAX_DAYS):
        today = clinic.day(number)
        while ahead is not None and ahead[0] < MONDAY_MS + (number + 1) * DAY_MS:
            today.append(ahead[2])
            ahead = next(theft, None)
        today.sort(key=lambda event: event["time_ms"])
        yield today[:left]
        left -= len(today)
        if left <= 0:
            return


def record(root: Path) -> int:
    """Writes root/frames and root/archive; how many events."""
    head, seq, count = frame_head(TENANT, "dpi", "1"), 0, 0
    writer = ArchiveWriter(root / "archive", 3 * 365 * DAY_MS)
    writer.begin("bench")
    with (root / "frames").open("wb") as file:
        for today in days():
            for start in range(0, len(today), FRAME_EVENTS):
                frame = encode_frame(head, seq, [orjson.dumps(e) for e in today[start : start + FRAME_EVENTS]])
                file.write(b"0\t" + frame + b"\n")
                writer.add(0, seq, decode_frame(frame))
                seq += 1
            writer.commit(today[-1]["time_ms"])
            count += len(today)
    writer.close()
    return count


def publish(path: Path, config: Config) -> None:
    admin = admin_client(config)
    while not ensure_topics(admin, config):
        time.sleep(0.1)
    admin.close()
    producer = KafkaProducer(bootstrap_servers=config.kafka.bootstrap, acks=1, linger_ms=5, enable_idempotence=False)
    for _, frame in FileRecording(str(path)).frames():
        producer.send(Topics(config.kafka.prefix).queries, frame, partition=0)
    producer.flush()
    producer.close()


def timed(recording: Recording, policies: int = 1) -> tuple[float, Replay]:
    """Seconds, and what the built-in policy said."""
    stricter = load_policy(DEFAULT_POLICY.read_text(encoding="utf-8").replace(*STRICTER), "stricter")
    began = time.monotonic()
    results = compare(in_order(recording), [default_policy(), stricter][:policies], MAX_PATIENTS)
    return time.monotonic() - began, results[0]


def main() -> int:
    argparse.ArgumentParser(prog="bench.replay", description=__doc__).parse_args()
    report = Report("replay")
    with tempfile.TemporaryDirectory(prefix="exfilguard-bench-") as name:
        root = Path(name)
        began = time.monotonic()
        events = record(root)
        print(f"{events:,} events recorded in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        from_file, told = timed(FileRecording(str(root / "frames")))
        from_archive, archived = timed(ArchiveRecording(root / "archive", "", 0, 1 << 52))
        two_policies, _ = timed(ArchiveRecording(root / "archive", "", 0, 1 << 52), 2)
        with EmbeddedBroker() as broker:
            config = Config(tenant=TENANT, data_dir=name, kafka=KafkaConfig(bootstrap=broker.bootstrap, partitions=1))
            publish(root / "frames", config)
            from_kafka, streamed = timed(KafkaRecording(config))
    for kind, seconds in (("file", from_file), ("archive", from_archive), ("kafka", from_kafka)):
        report.bar(f"events_per_s_from_{kind}", round(events / seconds), PER_SECOND, at_most=False)
    report.bar("events_missed", sum(events - r.events for r in (told, archived, streamed)), 0)
    report.bar("kafka_says_otherwise", int(streamed.as_dict() != told.as_dict()), 0)
    reached = told.reached("cut")
    report.bar("archive_cuts_others", len(set(reached) ^ set(archived.reached("cut"))), 0)
    report.bar("accounts_cut_the_thief_among_them", f"{TENANT}/dpi_export" in reached, 1, at_most=False)
    report.facts |= {
        "events": events,
        "seconds": {
            "file": from_file, "archive": from_archive, "archive_two_policies": two_policies, "kafka": from_kafka,
        },
    }  # fmt: skip
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
