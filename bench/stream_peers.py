"""The peers' part of `make bench-stream`: the same topic read by plain Faust, Quix Streams and Bytewax on the same core."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from .load import Frames
from .producer import LoadProducer
from .report import QUICK, Report
from .stream_worker import WORKER_CORE, Worker, now_ms

PEER_S = 1.5 if QUICK else 5.0
FRAMES = 400
PEERS = {
    "faust": "bench.peers.faust_hopping",
    "quixstreams": "bench.peers.quix",
    "bytewax": "bench.peers.bytewax_sliding",
}


def peers(report: Report, directory: Path, bootstrap: str, bodies: list[list[bytes]], rate: float) -> None:
    worker = Worker(directory, bootstrap, "peers")
    frames, producer = Frames(bodies, "0"), LoadProducer(bootstrap, worker.topics.queries)
    for _ in range(FRAMES):
        producer.send(frames.next(now_ms()))
    producer.close()
    environment = os.environ | {"BENCH_BOOTSTRAP": bootstrap, "BENCH_TOPIC": worker.topics.queries}
    measured: dict[str, Any] = {}
    for name, module in PEERS.items():
        package = "faust" if name == "faust" else name
        if importlib.util.find_spec(package) is None:
            measured[name] = "not installed: pip install exfilguard[bench]"
            continue
        arguments = ["worker"] if name == "faust" else [f"{module}:flow"] if name == "bytewax" else []
        measured[name] = run_peer([sys.executable, "-m", module, *arguments], environment)
    report.facts["peers_events_per_s"] = measured
    for name, value in measured.items():
        if not isinstance(value, float):
            print(f"# {name}: {value}", file=sys.stderr)
    plain = measured.get("faust")
    report.bar("times_plain_faust", rate / plain if isinstance(plain, float) and plain else 0.0, 100, at_most=False)
    for name in ("quixstreams", "bytewax"):
        if isinstance(measured.get(name), float):
            report.bar(f"times_{name}", rate / measured[name], 1, at_most=False)


def run_peer(command: list[str], environment: dict[str, str]) -> float | str:
    """Events a second over PEER_S seconds, from the first figures it prints."""
    process = subprocess.Popen(
        ["taskset", "-c", str(WORKER_CORE), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    lines: list[tuple[int, float]] = []
    errors: list[str] = []

    def read(stream: Any, into: Any) -> None:
        for line in stream:
            into(line)

    def figure(line: str) -> None:
        with contextlib.suppress(ValueError):
            events, seconds = line.split()
            lines.append((int(events), float(seconds)))

    threads = [
        threading.Thread(target=read, args=(process.stdout, figure), daemon=True),
        threading.Thread(target=read, args=(process.stderr, errors.append), daemon=True),
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30.0
    while (
        time.monotonic() < deadline and process.poll() is None and not (lines and lines[-1][1] - lines[0][1] >= PEER_S)
    ):
        time.sleep(0.05)
    process.kill()
    process.wait()
    if len(lines) < 2:
        return "did not run: " + " ".join(errors)[-300:]
    return (lines[-1][0] - lines[0][0]) / (lines[-1][1] - lines[0][1])
