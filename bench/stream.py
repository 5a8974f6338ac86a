"""`make bench-stream`: the windows core, and the detector from Apache Kafka through Faust to the verdict, each on one core.

    core       decoded arrays (account numbers, times, rows, bytes, and once more with a patient each) into five windows
    detector   one partition of a real Kafka -> Faust -> verdict: the process `exfilguard detector`, pinned to one core, the
               broker and the load on the other. It is stopped while the load is written, so that it then reads as fast as it can
    peers      the same topic read by plain Faust hopping tables, Quix Streams and Bytewax, each pinned to the same core
    latency    events paced at half of what the detector did; from an account's crossing event to its verdict on the topic
    restore    a partition of 1,000,000 accounts: from the start of the process to all windows being there

The load is bench/load.py: frames of 500 events, 100,000 accounts, Zipf. What is compared, and that the peers do less, is said in
bench/peers/__init__.py.
"""

from __future__ import annotations

import array
import contextlib
import importlib.util
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from exfilguard.cli.common import write_resolved
from exfilguard.config.schema import Config, DetectorConfig, KafkaConfig
from exfilguard.embedded.kafka import ApacheKafka
from exfilguard.events.codec import decode_verdict
from exfilguard.events.query import QueryEvent
from exfilguard.events.topics import Topics
from exfilguard.runtime.kafka import admin_client, ensure_topics
from exfilguard.runtime.process import own_command
from exfilguard.runtime.stats import Snapshot, read_all, total
from exfilguard.stream.engine import Engine
from exfilguard.windows import WindowStore

from .load import ACCOUNTS, FRAME_EVENTS, TENANT, Frames, account, templates
from .report import QUICK, Report, percentile

FIVE_WINDOWS_MS = (10_000, 60_000, 300_000, 3_600_000, 86_400_000)
CORE_EVENTS = 2_000_000 if QUICK else 10_000_000
TEMPLATES = 400 if QUICK else 1_000
BACKLOG_FRAMES = 1_600
"""Read in about a second, and written in less than the group's session lasts."""
ROUNDS = 2 if QUICK else 9
PEER_S = 4.0 if QUICK else 20.0
LATENCY_S = 5.0 if QUICK else 30.0
RESTORED = 1_000_000
KEPT: list[Any] = []
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
THIEF_PATIENTS = 200_000
PEERS = {
    "faust": "bench.peers.faust_hopping",
    "quixstreams": "bench.peers.quix",
    "bytewax": "bench.peers.bytewax_sliding",
}


def main() -> int:
    report = Report("stream")
    report.facts |= {"load": {"accounts": ACCOUNTS, "frame_events": FRAME_EVENTS, "distribution": "Zipf, s = 1"}}
    core(report)
    with tempfile.TemporaryDirectory(prefix="exfilguard-bench-") as name:
        directory = Path(name)
        with ApacheKafka(directory / "kafka") as broker:
            os.sched_setaffinity(broker.pid, {SERVER_CORE})
            for thread in Path(f"/proc/{broker.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {SERVER_CORE})
            os.sched_setaffinity(0, {SERVER_CORE})
            bodies = list(templates(TEMPLATES))
            rate = detector(report, directory, broker.bootstrap, bodies)
            restore(report, directory, broker.bootstrap)
            peers(report, directory, broker.bootstrap, bodies, rate)
    return report.finish()


# -- the core ---------------------------------------------------------------------------------------------------------


def core(report: Report) -> None:
    rng = random.Random(1)
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(ACCOUNTS)))
    names = list(range(ACCOUNTS))
    rng.shuffle(names)
    numbers = array.array("I", rng.choices(names, cum_weights=weights, k=CORE_EVENTS))
    start_ms = time.time_ns() // 1_000_000
    times = array.array("q", (start_ms + n // 1_000 for n in range(CORE_EVENTS)))  # a million events a second
    rows = array.array("q", (n % 50 for n in range(CORE_EVENTS)))
    size = array.array("q", (n % 50 * 180 for n in range(CORE_EVENTS)))
    patients = array.array("Q", ((n * 31 + i % 20) * 0x9E3779B97F4A7C15 % (1 << 64) for i, n in enumerate(numbers)))
    rates: dict[str, float] = {}
    for label, digests in (("core", None), ("core_with_patients", patients)):
        store = WindowStore(FIVE_WINDOWS_MS)
        for n in range(ACCOUNTS):
            store.number(f"{TENANT}/{account(n)}")
        began = time.process_time()  # one thread that only computes: its CPU time, whoever else is on the machine
        store.add_many(numbers, times, rows, size, digests)
        rates[label] = CORE_EVENTS / (time.process_time() - began)
        del store
    report.bar("core_events_per_s", rates["core"], 5_000_000, at_most=False)
    report.facts["core_with_one_patient_an_event_per_s"] = rates["core_with_patients"]
    # In a process of its own: what Python gave back before would be taken again.
    command = [sys.executable, "-c", "from bench.stream import memory; memory()"]
    full, busy = map(float, subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split())
    report.bar("bytes_per_account_every_slice_full", full, 4_096)
    report.facts["bytes_per_account_active_every_15_minutes"] = busy


def memory() -> None:
    """Prints resident bytes per account: active in every slice of every window (the most it can be), and every 15 minutes."""
    every_slice = sorted({n for width in FIVE_WINDOWS_MS for n in range(0, width, max(1, width // 32))}, reverse=True)
    for moments in (every_slice, list(range(26 * 3_600_000, 0, -900_000))):
        accounts = 20_000
        store = WindowStore(FIVE_WINDOWS_MS)
        ones = array.array("q", [1]) * accounts
        before = resident()
        numbers = array.array("I", (store.number(f"{TENANT}/{account(n)}") for n in range(accounts)))
        for back in moments:
            store.add_many(numbers, array.array("q", [1_800_000_000_000 - back]) * accounts, ones, ones)
        print((resident() - before) / accounts, flush=True)
        KEPT.append(store)  # the next one must not move into its memory


def resident(pid: int | str = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- the detector -----------------------------------------------------------------------------------------------------


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
        while time.monotonic() < deadline:
            found = self.snapshot(worker)
            if found is not None and found.details["ready"]:
                return
            time.sleep(0.05)
        raise SystemExit(f"the detector did not get ready: {self.log(worker)}")

    def log(self, worker: str = "1") -> str:
        return (self.data_dir / f"detector-{worker}.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

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


def detector(report: Report, directory: Path, bootstrap: str, bodies: list[list[bytes]]) -> float:
    """Events a second, and the latency at half of that."""
    worker = Worker(directory, bootstrap, "worker")
    process = worker.start()
    rates, cpu = [], []
    try:
        worker.wait_ready()
        frames, producer = Frames(bodies, "0"), worker.producer()
        for _ in range(len(bodies) // 4):  # accounts and code are there before anything is measured
            producer.send(worker.topics.queries, frames.next(now_ms()), partition=0)
        producer.flush()
        warm = wait_counted(worker, frames.seq * FRAME_EVENTS)
        for _ in range(ROUNDS):
            process.send_signal(signal.SIGSTOP)
            for _ in range(BACKLOG_FRAMES):
                producer.send(worker.topics.queries, frames.next(now_ms()), partition=0)
            producer.flush()
            used = cpu_s(process.pid)
            began = time.perf_counter()
            process.send_signal(signal.SIGCONT)
            done = wait_counted(worker, frames.seq * FRAME_EVENTS)
            rates.append((done - warm) / (time.perf_counter() - began))
            cpu.append((done - warm) / (cpu_s(process.pid) - used))
            warm = done
        rate = sorted(rates)[len(rates) // 2]
        report.facts["detector_events_per_s_rounds"] = rates
        report.bar("detector_events_per_s", rate, 1_000_000, at_most=False)
        report.facts |= {
            "detector_events_per_cpu_s": sorted(cpu)[len(cpu) // 2],
            "detector_rss_bytes": resident(process.pid),
        }
        latency(report, worker, frames, producer, rate / 2)
        report.bar("detector_gaps", worker.total("frames_gap_total"), 0)
    finally:
        worker.stop()
    return rate


def wait_counted(worker: Worker, events: int, seconds: float = 120.0) -> int:
    deadline = time.monotonic() + seconds
    while worker.counted() < events:
        if time.monotonic() > deadline:
            raise SystemExit(f"counted {worker.counted():.0f} of {events}: {worker.log()}")
        time.sleep(0.04)
    return events


def latency(report: Report, worker: Worker, frames: Frames, producer: KafkaProducer, rate: float) -> None:
    """Paced frames at `rate` events a second, and every 20 ms an account that takes too much at once."""
    seen: dict[str, int] = {}
    sent: dict[str, int] = {}
    stop = threading.Event()

    def watch() -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=worker.config.kafka.bootstrap, fetch_max_wait_ms=500, auto_offset_reset="earliest",
            enable_auto_commit=False,
        )  # fmt: skip
        consumer.assign([TopicPartition(worker.topics.verdicts, 0)])
        consumer.seek_to_beginning()
        while not stop.is_set():
            for records in consumer.poll(timeout_ms=50).values():
                for record in records:
                    if record.value is not None:
                        seen.setdefault(decode_verdict(record.value).principal, time.time_ns())
        consumer.close()

    watcher = threading.Thread(target=watch)
    watcher.start()
    time.sleep(0.5)
    began, due, thief = time.perf_counter(), 0.0, 0
    pause = FRAME_EVENTS / rate
    late = 0.0
    while (now := time.perf_counter() - began) < LATENCY_S:
        if now < due:
            time.sleep(min(0.001, due - now))
            continue
        late = max(late, now - due)
        producer.send(worker.topics.queries, frames.next(now_ms()), partition=0)
        due += pause
        if now > thief * 0.02 + 0.5:
            name = f"thief{thief:05d}"
            event = QueryEvent(
                time_ms=now_ms(), kind="query", listener="dpi", session="x", principal=name, rows=THIEF_PATIENTS,
                patients_estimated=THIEF_PATIENTS,
            )  # fmt: skip
            sent[name] = time.time_ns()
            producer.send(worker.topics.queries, frames.special(event), partition=0)
            thief += 1
    producer.flush()
    time.sleep(1.0)
    stop.set()
    watcher.join()
    values = [(seen[name] - at) / 1e6 for name, at in sent.items() if name in seen]
    report.bar("event_to_verdict_p99_ms_at_half_load", percentile(values, 0.99) if values else 1e9, 20)
    report.facts |= {
        "event_to_verdict_p50_ms": percentile(values, 0.5) if values else None,
        "event_to_verdict_verdicts": len(values),
        "event_to_verdict_missing": len(sent) - len(values),
        "half_load_events_per_s": rate,
        "half_load_late_s": late,
    }


# -- the peers --------------------------------------------------------------------------------------------------------


def peers(report: Report, directory: Path, bootstrap: str, bodies: list[list[bytes]], rate: float) -> None:
    worker = Worker(directory, bootstrap, "peers")
    frames, producer = Frames(bodies, "0"), worker.producer()
    for _ in range(BACKLOG_FRAMES // 4):
        producer.send(worker.topics.queries, frames.next(now_ms()), partition=0)
    producer.flush()
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


# -- restore ----------------------------------------------------------------------------------------------------------


def restore(report: Report, directory: Path, bootstrap: str) -> None:
    """From the start of the process to a million accounts in its windows."""
    worker = Worker(directory, bootstrap, "restored")
    written = write_snapshots(worker)
    began = time.perf_counter()
    process = worker.start()
    try:
        worker.wait_ready()
        took = time.perf_counter() - began
        found = worker.snapshot()
        accounts = found.details["accounts"] if found is not None else 0
        if accounts != RESTORED:
            raise SystemExit(f"{accounts} of {RESTORED} accounts came back: {worker.log()}")
        report.bar("restore_1m_accounts_s", took, 10)
        report.facts |= {
            "restore_snapshot_bytes": written,
            "restore_rss_bytes_per_account": resident(process.pid) / RESTORED,
        }
    finally:
        process.kill()
        process.wait()


def write_snapshots(worker: Worker) -> int:
    """Accounts with some hours behind them: three events, four patients each."""
    engine = Engine(lambda tenant: None, {}, 65_536)  # type: ignore[arg-type,return-value]
    numbers = array.array("I", (engine.store.number(f"{TENANT}/{account(n)}") for n in range(RESTORED)))
    now = now_ms()
    for k in range(4):
        times = array.array("q", [now - (4 - k) * 1_800_000]) * RESTORED
        ones = array.array("q", [k + 1]) * RESTORED
        digests = array.array("Q", (n * 4 + k + 1 for n in range(RESTORED)))
        engine.store.add_many(numbers, times, ones, ones, digests)
    engine.store.mark_all()
    checkpoint = engine.begin_checkpoint()
    assert checkpoint is not None
    producer, size = worker.producer(), 0
    while records := engine.next_records(checkpoint):
        for key, value in records:
            producer.send(worker.topics.snapshots, key=key, value=value, partition=0)
            size += len(value)
    producer.flush()
    producer.send(worker.topics.snapshots, key=checkpoint.marker[0], value=checkpoint.marker[1], partition=0).get(30)
    producer.close()
    return size


if __name__ == "__main__":
    sys.exit(main())
