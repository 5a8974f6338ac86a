"""`make bench-replay`: how long does `exfilguard replay` take over a million recorded events?

The events are exfilbench's clinic, day after day, with a thief of ten days in it, as frames of 100. They are replayed as the command does
it, from a file of frames, from the archive (written by the archive's own writer) and from Kafka (the embedded broker), under one
policy and under two. The file and Kafka must say the same to the letter; the archive, whose frames are other ones, must cut the same
accounts. QUICK=1: a tenth of the events.

The recording is kept under bench/results/replay.recording/, and each part's result in bench/results/replay.json: a run that was stopped
goes on where it was. `--part NAME` does one part only; `--fresh` begins anew. A full run writes docs/benchmarks/replay.md and its plot.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
from kafka import KafkaProducer

from exfilguard.cli.recordings import ArchiveRecording, KafkaRecording
from exfilguard.cli.replay import plot
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
from .report import QUICK, RESULTS, Report

EVENTS = 100_000 if QUICK else 1_000_000
MAX_DAYS = 120
FRAME_EVENTS = 100
THIEF_DAY = 3
PER_SECOND = 100_000
"""The bar: a million in ten seconds."""
SECOND_POLICY = 2.2
"""The bar: two policies in so many times the time of one."""
RECORDING = RESULTS / f"replay.recording{'.quick' if QUICK else ''}"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "replay.md"
PARTS = ("file", "file, two policies", "archive", "archive, two policies", "kafka")
TENANT = "clinic"
STRICTER = {
    "alert = 200, throttle = 300, cut = 400, lock = 800": "alert = 60, throttle = 80, cut = 100, lock = 800",
    'version = "default-2"': 'version = "stricter"',
}
"""The second policy: the built-in one with these lines changed."""
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


def timed(recording: Recording, policies: int = 1) -> tuple[float, list[Replay]]:
    """Seconds, and what the policies said."""
    text = DEFAULT_POLICY.read_text(encoding="utf-8")
    for line, stricter in STRICTER.items():
        if line not in text:
            raise SystemExit(f"the built-in policy has no line with {line!r} any more: what is stricter?")
        text = text.replace(line, stricter)
    began = time.monotonic()
    results = compare(in_order(recording), [default_policy(), load_policy(text, "stricter")][:policies], MAX_PATIENTS)
    return time.monotonic() - began, results


def recorded() -> int:
    """The recording, made unless it is there; how many events."""
    done = RECORDING / "events"
    if not done.is_file():
        shutil.rmtree(RECORDING, ignore_errors=True)
        RECORDING.mkdir(parents=True)
        began = time.monotonic()
        done.write_text(str(record(RECORDING)), encoding="utf-8")
        print(f"{done.read_text()} events recorded in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return int(done.read_text(encoding="utf-8"))


def from_file(policies: int) -> tuple[float, list[Replay]]:
    return timed(FileRecording(str(RECORDING / "frames")), policies)


def from_archive(policies: int) -> tuple[float, list[Replay]]:
    seconds, results = timed(ArchiveRecording(RECORDING / "archive", "", 0, 1 << 52), policies)
    if policies == 2 and not QUICK:
        PAGE.with_suffix(".svg").write_text(plot(results), encoding="utf-8")
    return seconds, results


def from_kafka() -> tuple[float, list[Replay]]:
    with tempfile.TemporaryDirectory(prefix="exfilguard-bench-") as name, EmbeddedBroker() as broker:
        config = Config(tenant=TENANT, data_dir=name, kafka=KafkaConfig(bootstrap=broker.bootstrap, partitions=1))
        publish(RECORDING / "frames", config)
        return timed(KafkaRecording(config))


MEASURED: dict[str, Callable[[], tuple[float, list[Replay]]]] = {
    "file": lambda: from_file(1),
    "file, two policies": lambda: from_file(2),
    "archive": lambda: from_archive(1),
    "archive, two policies": lambda: from_archive(2),
    "kafka": from_kafka,
}


def found(seconds: float, results: list[Replay]) -> dict[str, Any]:
    """What is kept of one part: of the built-in policy's sentences their digest."""
    said = results[0].as_dict()
    return {
        "seconds": round(seconds, 2),
        "events": results[0].events,
        "verdicts": said["verdicts"],
        "days": round((results[0].last_ms - results[0].first_ms) / DAY_MS),
        "cut": results[0].reached("cut"),
        "said": hashlib.sha256(json.dumps(said).encode()).hexdigest(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.replay", description=__doc__)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--fresh", action="store_true")
    args = parser.parse_args()
    report = Report("replay")
    if args.fresh:
        shutil.rmtree(RECORDING, ignore_errors=True)
    else:
        report.resume()
    if args.part is None and len(report.facts.get("parts", {})) == len(PARTS):
        report.facts["parts"] = {}  # the last run was a whole one: measured again
    parts: dict[str, Any] = report.facts.setdefault("parts", {})
    events = report.facts["events"] = recorded()
    for part in PARTS:
        if part == args.part or (args.part is None and part not in parts):
            parts[part] = found(*MEASURED[part]())
            report.save()
    bars(report, parts, events)
    if len(parts) == len(PARTS) and not QUICK:
        write_page(parts, events)
    return report.finish()


def bars(report: Report, parts: dict[str, Any], events: int) -> None:
    """Of the parts that were measured."""
    for part in ("file", "archive", "kafka"):
        if part in parts:
            report.bar(f"events_per_s_from_{part}", round(events / parts[part]["seconds"]), PER_SECOND, at_most=False)
    for part in ("file", "archive"):
        if part in parts and (two := parts.get(f"{part}, two policies")):
            ratio = round(two["seconds"] / parts[part]["seconds"], 2)
            report.bar(f"two_policies_for_one_from_{part}", ratio, SECOND_POLICY)
    report.bar("events_missed", sum(events - part["events"] for part in parts.values()), 0)
    if {"file", "kafka"} <= parts.keys():
        report.bar("kafka_says_otherwise", int(parts["kafka"]["said"] != parts["file"]["said"]), 0)
    if {"file", "archive"} <= parts.keys():
        report.bar("archive_cuts_others", len(set(parts["file"]["cut"]) ^ set(parts["archive"]["cut"])), 0)
    if "file" in parts:
        thief = f"{TENANT}/dpi_export" in parts["file"]["cut"]
        report.bar("accounts_cut_the_thief_among_them", int(thief), 1, at_most=False)


def write_page(parts: dict[str, Any], events: int) -> None:
    """docs/benchmarks/replay.md, of the last full run; the plot is already there."""
    rows = "\n".join(
        f"| {name} | {parts[name]['seconds']:.1f} | {events / parts[name]['seconds']:,.0f} |" for name in PARTS
    )
    verdicts = ", ".join(f"{count} {level}" for level, count in parts["file"]["verdicts"].items())
    PAGE.write_text(
        f"""# Replay: a million recorded events against one policy or two

Made by `make bench-replay` ({time.strftime("%Y-%m-%d")}, Python {platform.python_version()}, {os.cpu_count()} cores, of which it uses one); do not edit.

{events:,} events of exfilbench's clinic over {parts["file"]["days"]} days with a thief of ten days among them, in frames of {FRAME_EVENTS};
from reading to the last sentence, as `exfilguard replay` does it.

| source | seconds | events a second |
| --- | ---: | ---: |
{rows}

The built-in policy says {verdicts}; cut or locked: {", ".join(f"`{name.partition('/')[2]}`" for name in parts["file"]["cut"])}. A file of
frames and the topic give the same sentences and totals to the letter (their digests are compared in each run); the archive keeps
events, not frames, so a step is said at the end of another frame, and cuts the same accounts (compared too).

![both policies over time](replay.svg)

The plot is what `--plot` draws: the built-in policy above, a stricter one for clinicians below; each dot a verdict, each bar events.
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    raise SystemExit(main())
