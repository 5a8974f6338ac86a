"""1, 2 and 4 detectors on the four partitions of one Apache Kafka: `make bench-stream ARGS="--part scaling"`.

Cores are few here: beyond what is free the workers share, and so does the broker. The figure that carries over to larger machines
is therefore events per second of the detectors' own CPU time; the wall-clock rate is given beside it. Results go into
docs/SCALING.md.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from exfilguard.runtime.stats import read_all

from .load import Frames
from .producer import LoadProducer
from .report import QUICK, Report
from .stream_worker import Worker, cpu_s, now_ms, wait_counted

PARTITIONS = 4
WORKERS = (1, 2, 4)
WARM_FRAMES, FRAMES_EACH = 100, 300 if QUICK else 400
"""Per partition, written while the workers are stopped: in less than the group's session lasts."""
ROUNDS = 3


def scaling(report: Report, directory: Path, bootstrap: str, bodies: list[list[bytes]]) -> None:
    found = {str(count): measure(directory, bootstrap, count, bodies) for count in WORKERS}
    report.facts |= {"scaling_workers": found, "scaling_partitions": PARTITIONS, "scaling_cores": os.cpu_count()}
    share = found["4"]["events_per_cpu_s"] / found["1"]["events_per_cpu_s"]
    report.bar("events_per_cpu_s_of_4_workers_to_1", share, 0.5, at_most=False)


def measure(directory: Path, bootstrap: str, count: int, bodies: list[list[bytes]]) -> dict[str, Any]:
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
        frames = [Frames(bodies, f"{partition}") for partition in range(PARTITIONS)]
        producer = LoadProducer(bootstrap, worker.topics.queries)
        rounds, done = [], 0
        for wanted in (WARM_FRAMES, *[FRAMES_EACH] * ROUNDS):
            for process in processes:
                process.send_signal(signal.SIGSTOP)
            for _ in range(wanted):
                for partition, source in enumerate(frames):
                    producer.send(source.next(now_ms()), partition)
            producer.flush()
            used, began = sum(cpu_s(p.pid) for p in processes), time.perf_counter()
            for process in processes:
                process.send_signal(signal.SIGCONT)
            counted = wait_counted(worker, sum(f.events for f in frames)) - done
            took, cpu = time.perf_counter() - began, sum(cpu_s(p.pid) for p in processes) - used
            rounds.append((counted / took, counted / cpu))
            done += counted
        rounds.pop(0)
        wall, own = sorted(r[0] for r in rounds), sorted(r[1] for r in rounds)
        return {
            "events_per_s": wall[len(wall) // 2],
            "events_per_cpu_s": own[len(own) // 2],
            "partitions_each": sorted(len(s.details["partitions"]) for s in held(worker)),
        }
    finally:
        for process in processes:
            process.kill()
            process.wait()


def held(worker: Worker) -> list[Any]:
    return [s for s in read_all(worker.data_dir).values() if s is not None and s.role == "detector"]


def shared(worker: Worker, count: int) -> bool:
    found = held(worker)
    partitions = [p for s in found for p in s.details["partitions"]]
    return (
        len(found) == count
        and all(s.details["ready"] and s.details["partitions"] for s in found)
        and sorted(partitions) == list(range(PARTITIONS))
    )
