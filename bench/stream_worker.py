"""One `exfilguard detector` as a process of its own, pinned to one core, for the stream benches."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from kafka import KafkaProducer

from exfilguard.cli.common import write_resolved
from exfilguard.config.schema import Config, DetectorConfig, KafkaConfig
from exfilguard.events.topics import Topics
from exfilguard.runtime.kafka import admin_client, ensure_topics
from exfilguard.runtime.process import own_command
from exfilguard.runtime.stats import Snapshot, read_all, total

from .load import TENANT

SERVER_CORE, WORKER_CORE = 0, (os.cpu_count() or 1) - 1
POLICY = """
version = "bench"
default_class = "anybody"
[class.anybody]
limits = [
  { unit = "patients", window = "10s", lock = 100_000 },
  { unit = "patients", window = "24h", alert = 1_000_000, lock = 2_000_000 },
  { unit = "rows", window = "1m", lock = 10_000_000 },
]
"""


class Worker:
    """One `exfilguard detector` of its own installation, pinned to one core."""

    def __init__(self, directory: Path, bootstrap: str, name: str, partitions: int = 1) -> None:
        self.data_dir = directory / name
        self.data_dir.mkdir()
        policy = self.data_dir / "policy.toml"
        policy.write_text(POLICY, encoding="utf-8")
        self.config = Config(
            tenant=TENANT,
            data_dir=str(self.data_dir),
            kafka=KafkaConfig(bootstrap=bootstrap, prefix=f"{name}{time.time_ns()}", partitions=partitions),
            detector=DetectorConfig(policy=str(policy)),
        )
        self.topics = Topics(self.config.kafka.prefix)
        write_resolved(self.config, self.data_dir / "resolved.toml")
        admin = admin_client(self.config)
        while not ensure_topics(admin, self.config):
            time.sleep(0.1)
        admin.close()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, core: int = WORKER_CORE, worker: str = "1") -> subprocess.Popen[bytes]:
        command = own_command("detector", "--config", str(self.data_dir / "resolved.toml"), "--worker", worker)
        log = open(self.data_dir / f"detector-{worker}.log", "wb")  # noqa: SIM115 -- the child's
        self.process = subprocess.Popen(
            ["taskset", "-c", str(core), *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        log.close()
        return self.process

    def snapshot(self, worker: str = "1") -> Snapshot | None:
        return read_all(self.data_dir).get(f"detector-{worker}")

    def total(self, metric: str) -> float:
        return total(self.data_dir, metric)

    def counted(self) -> float:
        return self.total("events_processed_total")

    def wait_ready(self, seconds: float = 60.0, worker: str = "1") -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (self.process is None or self.process.poll() is None):
            found = self.snapshot(worker)
            if found is not None and found.details["ready"]:
                return
            time.sleep(0.05)
        raise SystemExit(f"the detector did not get ready: {self.log(worker)}")

    def log(self, worker: str = "1") -> str:
        return (self.data_dir / f"detector-{worker}.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def producer(self) -> KafkaProducer:
        return KafkaProducer(
            bootstrap_servers=self.config.kafka.bootstrap, acks=1, linger_ms=5, batch_size=900_000,
            max_request_size=1 << 20, enable_idempotence=False,
        )  # fmt: skip


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def wait_counted(worker: Worker, events: int, seconds: float = 120.0) -> int:
    deadline = time.monotonic() + seconds
    while worker.counted() < events:
        if time.monotonic() > deadline:
            raise SystemExit(f"counted {worker.counted():.0f} of {events}: {worker.log()}")
        time.sleep(0.04)
    return events


def resident(pid: int | str = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pin(pid: int, core: int) -> None:
    """A process and all its threads."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})
