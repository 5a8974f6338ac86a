"""`python -m bench.scaling`: 1, 2 and 4 detectors on the partitions of one Apache Kafka. Results for docs/SCALING.md.

Cores are few here: beyond what is free the workers share, and so does the broker. The figure that carries over to larger machines
is therefore events per second of the detectors' own CPU time; the wall-clock rate is given beside it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from exfilguard.embedded.kafka import ApacheKafka
from exfilguard.runtime.stats import read_all

from .load import FRAME_EVENTS, Frames, templates
from .report import QUICK, Report
from .stream import Worker, cpu_s, now_ms, wait_counted

PARTITIONS = 4
WORKERS = (1, 2, 4)
FRAMES_EACH = 300 if QUICK else 500
"""Per partition, written while the workers are stopped: in less than the group's session lasts."""


def main() -> int:
    report = Report("scaling")
    found = {}
    with tempfile.TemporaryDirectory(prefix="exfilguard-bench-") as name, ApacheKafka(Path(name) / "kafka") as broker:
        bodies = list(templates(200))
        for count in WORKERS:
            found[str(count)] = measure(Path(name), broker.bootstrap, count, bodies)
            print(count, found[str(count)], flush=True)
    report.facts |= {"workers": found, "partitions": PARTITIONS, "cores": os.cpu_count()}
    single = found["1"]["events_per_cpu_s"]
    report.bar("events_per_cpu_s_of_4_workers_to_1", found["4"]["events_per_cpu_s"] / single, 0.5, at_most=False)
    return report.finish()


def measure(directory: Path, bootstrap: str, count: int, bodies: list[list[bytes]]) -> dict[str, float]:
    worker = Worker(directory, bootstrap, f"scale{count}", PARTITIONS)
    cores = os.cpu_count() or 1
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes += [worker.start(core=cores - 1 - n % cores, worker=str(n + 1)) for n in range(count)]
        deadline = time.monotonic() + 60
        while not shared(worker, count):
            if time.monotonic() > deadline:
                raise SystemExit("the partitions were not shared out: " + worker.log())
            time.sleep(0.2)
        frames, producer = [Frames(bodies, f"{p}") for p in range(PARTITIONS)], worker.producer()
        warm = 0
        for wanted in (50, FRAMES_EACH):
            if wanted == FRAMES_EACH:
                for process in processes:
                    process.send_signal(signal.SIGSTOP)
            for _ in range(wanted):
                for partition, source in enumerate(frames):
                    producer.send(worker.topics.queries, source.next(now_ms()), partition=partition)
            producer.flush()
            used, began = sum(cpu_s(p.pid) for p in processes), time.perf_counter()
            for process in processes:
                process.send_signal(signal.SIGCONT)
            total = wait_counted(worker, sum(f.seq for f in frames) * FRAME_EVENTS)
            took, cpu = time.perf_counter() - began, sum(cpu_s(p.pid) for p in processes) - used
            result = {"events_per_s": (total - warm) / took, "events_per_cpu_s": (total - warm) / cpu}
            warm = total
        return result
    finally:
        for process in processes:
            process.kill()
            process.wait()


def shared(worker: Worker, count: int) -> bool:
    held = [s for s in read_all(worker.data_dir).values() if s is not None and s.role == "detector"]
    partitions = [p for s in held for p in s.details["partitions"]]
    return (
        len(held) == count
        and all(s.details["ready"] and s.details["partitions"] for s in held)
        and sorted(partitions) == list(range(PARTITIONS))
    )


if __name__ == "__main__":
    sys.exit(main())
