"""`make bench-stream`: the windows core, and the detector from Apache Kafka through Faust to the verdict, each on one core.

    core       decoded arrays (account numbers, times, rows, bytes, and once more with a patient each) into five windows
    detector   one partition of a real Kafka -> Faust -> verdict: the process `exfilguard detector`, pinned to one core, the
               broker and the load on the other. It is stopped while the load is written, so that it then reads as fast as it can
    latency    events paced at half of what the detector did; from an account's crossing event to its verdict on the topic
    restore    a partition of 1,000,000 accounts: from the start of the process to all windows being there
    peers      the same topic read by plain Faust hopping tables, Quix Streams and Bytewax, each pinned to the same core
    scaling    1, 2 and 4 workers on four partitions (bench/scaling.py; only in full runs, and where asked for)

`ARGS="--part latency"` runs one (or several); what the others found before, in a run of the same size, stays in the results and in
docs/benchmarks/stream.md, which a full run writes. The load is bench/load.py: frames of 500 events, 100,000 accounts, Zipf. What is
compared, and that the peers do less, is said in bench/peers/__init__.py.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from exfilguard.embedded.kafka import ApacheKafka

from .load import ACCOUNTS, FRAME_EVENTS, templates
from .report import QUICK, Report
from .scaling import scaling
from .stream_core import core
from .stream_detector import Running, detector, latency
from .stream_page import write_pages
from .stream_peers import peers
from .stream_restore import restore
from .stream_worker import SERVER_CORE, pin

TEMPLATES = 120 if QUICK else 500
MEMORY_BYTES = 8 << 30
PARTS = ("core", "detector", "latency", "restore", "peers", "scaling")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.stream", description=__doc__.partition("\n")[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one; may be repeated")
    wanted = parser.parse_args().part or [part for part in PARTS if part != "scaling" or not QUICK]
    report = Report("stream")
    report.resume()
    report.facts["load"] = {"accounts": ACCOUNTS, "frame_events": FRAME_EVENTS, "distribution": "Zipf, s = 1"}
    bodies = list(templates(TEMPLATES))
    if "core" in wanted:
        core(report, bodies)
    with contextlib.ExitStack() as held:
        if set(wanted) - {"core"}:
            # In memory where there is enough: 200 MB/s to a disk are the kernel's work on the cores that are measured.
            memory = Path("/dev/shm")
            roomy = memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_BYTES
            directory = Path(
                held.enter_context(
                    tempfile.TemporaryDirectory(prefix="exfilguard-bench-", dir=memory if roomy else None)
                )
            )
            broker = held.enter_context(ApacheKafka(directory / "kafka"))
            if (os.cpu_count() or 1) > 1:
                pin(broker.pid, SERVER_CORE)
                os.sched_setaffinity(0, {SERVER_CORE})
            held.callback(broker.kill)  # its data is nobody's
            streams(report, wanted, directory, broker.bootstrap, broker.pid, bodies)
    status = report.finish()
    if not QUICK:
        write_pages(report)
    return status


def streams(
    report: Report, wanted: list[str], directory: Path, bootstrap: str, broker_pid: int, bodies: list[list[bytes]]
) -> None:
    if {"detector", "latency"} & set(wanted):
        running = Running(directory, bootstrap, bodies)
        try:
            if "detector" in wanted:
                detector(report, running)
                report.save()
            if "latency" in wanted:
                latency(report, running, known_rate(report) / 2, broker_pid)
                report.save()
        finally:
            running.end()
    if "restore" in wanted:
        restore(report, directory, bootstrap)
        report.save()
    if "peers" in wanted:
        peers(report, directory, bootstrap, bodies, known_rate(report))
        report.save()
    if "scaling" in wanted:
        scaling(report, directory, bootstrap, bodies)
        report.save()


def known_rate(report: Report) -> float:
    rate = report.value("detector_events_per_s")
    if rate is None:
        raise SystemExit("run the part `detector` first: the others are measured against what it did")
    return rate


if __name__ == "__main__":
    sys.exit(main())
