"""The restore's part of `make bench-stream`: a partition of a million accounts, from the start of the process."""

from __future__ import annotations

import array
import time
from pathlib import Path

from exfilguard.stream.engine import Engine

from .load import TENANT, account
from .report import Report
from .stream_worker import Worker, now_ms, resident

RESTORED = 1_000_000


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
