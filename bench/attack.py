"""`make bench-attack`: the same attack again and again, each time by another account, against one running installation.

Measured from the thief's own connection (when it held more patients than the limit, when its connection ended) and from the
database (when the account was NOLOGIN without a session), through the verdict over Kafka alone (`observe`). While it runs, the
clinic works.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path

from exfilguard.cli.demo import LockWatch
from exfilguard.cli.installation import Installation
from exfilguard.config.schema import KafkaConfig
from exfilguard.embedded.kafka import ApacheKafka
from exfilguard.embedded.postgres import EmbeddedPostgres
from exfilguard.lab import attack, clinic, patients

from .clinic import PASSWORD, database_dsn, guarded, port_of
from .report import QUICK, Report, percentile

RUNS = 20 if QUICK else 200
PATIENTS = 20_000
LIMIT = 2_000
POLICY = f"""
version = "bench"
default_class = "anybody"
[class.anybody]
limits = [ {{ unit = "patients", window = "1m", lock = {LIMIT} }} ]
"""


def main() -> int:
    report = Report("attack")
    kafka = "--kafka" in sys.argv
    with tempfile.TemporaryDirectory(prefix="exfilguard-bench-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        broker = ApacheKafka(directory / "kafka") if kafka else None
        if broker is not None:
            broker.start()
        try:
            _run(directory, broker.bootstrap if broker is not None else "embedded", report)
        finally:
            if broker is not None:
                broker.stop()
    return report.finish()


def _run(directory: Path, bootstrap: str, report: Report) -> None:
    thieves = [f"thief_{n:03d}" for n in range(RUNS)]
    with EmbeddedPostgres(directory / "postgres") as database:
        installation = guarded(directory, database, thieves, POLICY, PATIENTS, kafka=KafkaConfig(bootstrap=bootstrap))
        admin_dsn, port = database_dsn(database), port_of(installation)
        installation.start()
        people = patients.staff()
        ward = clinic.Clinic(
            {login: database.dsn(login, PASSWORD, "dpi", port=port) for login in people.all},
            people,
            PATIENTS,
            1,
            think_s=2.0,
        )
        ward.start()
        try:
            time.sleep(3.0)
            _attack_all(thieves, database, port, admin_dsn, report)
        finally:
            ward.stop()
            report.bar("normal_queries_refused", ward.tally.refused, 0)
            report.facts |= {
                "normal_queries": ward.tally.queries,
                "broker": "kafka" if bootstrap != "embedded" else "embedded",
            }
            deadline = time.monotonic() + 10.0
            while (lost := _uncounted(installation)) and time.monotonic() < deadline:
                time.sleep(0.1)
            installation.stop()
            report.bar("events_lost", lost, 0)


def _uncounted(installation: Installation) -> float:
    return installation.total("events_spooled_total") - installation.total("events_processed_total")


def _attack_all(thieves: list[str], database: EmbeddedPostgres, port: int, admin_dsn: str, report: Report) -> None:
    cut_ms: list[float] = []
    lock_ms: list[float] = []
    beyond: list[float] = []
    for thief in thieves:
        watch = LockWatch(admin_dsn, thief)
        watching = threading.Thread(target=watch.run, daemon=True)
        watching.start()
        loot = attack.dump(database.dsn(thief, PASSWORD, "dpi", port=port), "pages", pause_s=0.02)
        watching.join(10.0)
        watch.stop.set()
        crossed = loot.crossed_ms(LIMIT)
        if not (loot.sqlstate and watch.locked_ms and crossed):
            raise SystemExit(f"{thief} was not stopped: {len(loot.patients)} patients, {loot.message or 'no error'}")
        cut_ms.append(loot.ended_ms - crossed)
        lock_ms.append(watch.locked_ms - crossed)
        beyond.append(len(loot.patients) - LIMIT)
    report.bar("runs", len(cut_ms), RUNS, at_most=False)
    report.bar("crossing_to_cut_p99_ms", percentile(cut_ms, 0.99), 100)
    report.bar("crossing_to_suspended_p99_ms", percentile(lock_ms, 0.99), 1_000)
    report.facts |= {
        "crossing_to_cut_p50_ms": percentile(cut_ms, 0.5),
        "crossing_to_cut_max_ms": max(cut_ms),
        "crossing_to_suspended_p50_ms": percentile(lock_ms, 0.5),
        "patients_past_limit_p50": percentile(beyond, 0.5),
        "patients_past_limit_p99": percentile(beyond, 0.99),
    }
    print(report.facts, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
