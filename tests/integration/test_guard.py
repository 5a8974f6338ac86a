"""The whole guard, its parts as real processes: a dump is cut and the account suspended, by the verdict through Kafka."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from exfilguard.cli.main import main
from exfilguard.config.schema import (
    Config,
    DetectorConfig,
    ExporterConfig,
    PostgresHookConfig,
    ResponderConfig,
)
from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.embedded.child import Child, free_port
from exfilguard.embedded.kafka import ApacheKafka
from exfilguard.exporter.catalogue import METRICS, PREFIX
from exfilguard.lab import attack
from exfilguard.runtime.clock import now_ms
from exfilguard.runtime.kafka import count_events

from .conftest import PATIENTS, Hospital
from .stack import Stack, connect, kafka_config, listener, port_of, wait_for

LIMIT = 1_000
POLICY = """
version = "test"
default_class = "anybody"
shared = ["dr.bernard"]
session_share = 500
break_glass = ["dr.petit"]
[class.anybody]
limits = [ { unit = "patients", window = "1m", alert = 500, lock = 1_000 } ]
"""


class Guard:
    """A complete installation in front of the lab's hospital."""

    def __init__(
        self, directory: Path, hospital: Hospital, broker: EmbeddedBroker | ApacheKafka | str, **sections: Any
    ) -> None:
        directory.mkdir()
        policy = directory / "policy.toml"
        policy.write_text(POLICY, encoding="utf-8")
        self.hospital = hospital
        self.config = Config(
            tenant="clinic",
            data_dir=str(directory),
            kafka=kafka_config(broker, prefix=f"g{time.time_ns()}"),
            listener=[listener(hospital.upstream, catalog_dsn=hospital.dsn("exfilguard_catalog"))],
            detector=DetectorConfig(policy=str(policy)),
            responder=ResponderConfig(postgres=PostgresHookConfig(dsn=hospital.dsn("exfilguard_hook"))),
            exporter=ExporterConfig(listen=f"127.0.0.1:{free_port()}"),
            **sections,
        )
        self.stack = Stack(self.config)
        self.port = port_of(self.config.listener[0].listen)

    def start(self) -> None:
        for part in ("shipper", "relay", "detector", "responder", "exporter"):
            self.stack.start(part)
        self.stack.relay_ready()
        self.stack.detector_ready()
        self.stack.responder_ready()
        wait_for(lambda: (self.stack.data_dir / "columns.json").is_file())

    def dsn(self, user: str) -> str:
        return self.hospital.dsn(user, self.port)

    def may_login(self, user: str) -> bool:
        with connect(self.hospital.admin_dsn) as admin:
            row = admin.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", (user,)).fetchone()
        assert row is not None
        return bool(row[0])


@pytest.fixture
def guard(tmp_path: Path, hospital: Hospital, broker: EmbeddedBroker | ApacheKafka) -> Iterator[Guard]:
    made = Guard(tmp_path / "data", hospital, broker)
    made.start()
    yield made
    made.stack.stop()
    with connect(hospital.admin_dsn) as admin:
        for user in ("dpi_export", "dr.bernard", "dr.petit"):
            admin.execute(f'ALTER ROLE "{user}" LOGIN')


def patiently(dsn: str, pause_s: float = 0.03, page: int = 50) -> attack.Loot:
    """A thief who takes small pages, so that the reaction shows before the end."""
    loot = attack.Loot(started_ms=now_ms())
    try:
        with connect(dsn) as connection:
            for start in range(0, PATIENTS, page):
                query = "SELECT id FROM patient WHERE id > %s AND id <= %s"
                for row in connection.cursor().stream(query, (start, start + page)):
                    loot.took(row[0])
                time.sleep(pause_s)
    except psycopg.Error as error:
        loot.message, loot.sqlstate = str(error), error.sqlstate or "08006"
    loot.ended_ms = now_ms()
    return loot


def test_a_dump_is_cut_and_the_account_suspended_then_given_back(
    guard: Guard, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(guard.dsn("dr.martin")) as colleague:
        loot = patiently(guard.dsn("dpi_export"))
        assert loot.message, "the thief was not stopped"
        assert LIMIT < len(loot.patients) < LIMIT + 1_000
        wait_for(lambda: not guard.may_login("dpi_export"), 10)
        with pytest.raises(psycopg.OperationalError, match="account is locked"):
            connect(guard.dsn("dpi_export"))
        assert attack.try_login(guard.hospital.dsn("dpi_export"))
        assert colleague.execute("SELECT 1").fetchone() == (1,)
    # `observe` forwards first and counts second: killed in between, a relay has not counted its last few milliseconds.
    wait_for(lambda: count_events(guard.config).rows == loot.rows + 1)
    # The sidecar and the responder start again: what stood still stands.
    for part in ("relay", "responder"):
        guard.stack.kill(part)
        guard.stack.start(part)
    guard.stack.relay_ready()
    assert attack.try_login(guard.dsn("dpi_export"))
    config = ["--config", str(guard.stack.path)]
    wait_for(lambda: guard.stack.total("locked_accounts") == 1, 20)
    capsys.readouterr()
    main(["status", *config])
    assert "LOCK     dpi_export: dpi_export took" in capsys.readouterr().out
    assert main(["unlock", "dpi_export", "--reason", "it was the yearly export", *config]) == 0
    wait_for(lambda: guard.may_login("dpi_export"), 10)
    wait_for(lambda: not attack.try_login(guard.dsn("dpi_export")), 5)
    received = loot.rows + 2  # SELECT 1 of the colleague, and of the login that worked
    wait_for(lambda: count_events(guard.config).rows == received)


def test_an_alias_does_not_hide_the_identifier(guard: Guard) -> None:
    wait_for(lambda: (guard.stack.data_dir / "columns.json").is_file())
    with pytest.raises(psycopg.OperationalError), connect(guard.dsn("dpi_export")) as thief:
        for start in range(0, PATIENTS, 100):
            query = "SELECT p.id AS nothing_to_see FROM patient AS p WHERE p.id > %s AND p.id <= %s"
            thief.execute(query, (start, start + 100)).fetchall()
            time.sleep(0.02)


def test_a_shared_account_is_cut_by_session_and_never_suspended(guard: Guard) -> None:
    with connect(guard.dsn("dr.bernard")) as innocent:
        innocent.execute("SELECT id FROM patient WHERE id < 10").fetchall()
        loot = patiently(guard.dsn("dr.bernard"))
        assert loot.message
        assert len(loot.patients) < LIMIT + 1_000
        assert innocent.execute("SELECT 1").fetchone() == (1,)
    time.sleep(1.0)
    assert guard.may_login("dr.bernard")


def test_a_break_glass_account_is_only_told_of(guard: Guard) -> None:
    loot = patiently(guard.dsn("dr.petit"), pause_s=0.0, page=500)
    assert (len(loot.patients), loot.message) == (PATIENTS, "")
    wait_for(lambda: guard.stack.total("verdicts_total", level="alert") >= 1)
    assert guard.may_login("dr.petit")


def test_a_lock_expires(tmp_path: Path, hospital: Hospital, tansu: EmbeddedBroker) -> None:
    made = Guard(tmp_path / "data", hospital, tansu)
    made.start()
    try:
        config = ["--config", str(made.stack.path)]
        assert main(["lock", "dpi_export", "--reason", "test", "--for", "3s", *config]) == 0
        wait_for(lambda: not made.may_login("dpi_export"), 5)
        assert attack.try_login(made.dsn("dpi_export"))
        wait_for(lambda: made.may_login("dpi_export"), 10)
        assert not attack.try_login(made.dsn("dpi_export"))
    finally:
        made.stack.stop()


def test_the_responder_dies_half_way_and_the_account_can_still_be_given_back(
    tmp_path: Path, hospital: Hospital, tansu: EmbeddedBroker
) -> None:
    made = Guard(tmp_path / "data", hospital, tansu)
    made.start()
    try:
        config = ["--config", str(made.stack.path)]
        killer = threading.Thread(
            target=lambda: (wait_for(lambda: not made.may_login("dpi_export")), made.stack.kill("responder"))
        )
        killer.start()
        assert main(["lock", "dpi_export", "--reason", "test", *config]) == 0
        killer.join(20)
        made.stack.start("responder")
        made.stack.responder_ready()
        assert main(["unlock", "dpi_export", "--reason", "test", *config]) == 0
        wait_for(lambda: made.may_login("dpi_export"), 20)
    finally:
        made.stack.stop()


# -- the exporter -----------------------------------------------------------------------------------------------------


def scrape(config: Config) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{config.exporter.listen}/metrics", timeout=5) as answer:
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


CONTRACT = [
    "queries_total",
    "rows_total",
    "patients_total",
    "result_bytes_total",
    "relay_added_seconds",
    "sessions",
    "spool_bytes",
    "spool_oldest_seconds",
    "frames_published_total",
    "frames_gap_total",
    "events_processed_total",
    "consumer_lag_records",
    "event_to_verdict_seconds",
    "verdicts_total",
    "lockouts_total",
    "lockout_seconds",
    "locked_accounts",
    "records_past_limit_total",
    "desynced_total",
    "account_window_records",
]


def test_a_real_prometheus_scrapes_every_metric_of_the_contract(
    tmp_path: Path, hospital: Hospital, tansu: EmbeddedBroker
) -> None:
    import json
    import shutil

    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not installed: apt install prometheus")
    made = Guard(tmp_path / "data", hospital, tansu)
    made.start()
    port = free_port()
    (tmp_path / "prometheus.yml").write_text(
        "scrape_configs:\n- job_name: exfilguard\n  scrape_interval: 1s\n  static_configs:\n"
        f"  - targets: ['{made.config.exporter.listen}']\n",
        encoding="utf-8",
    )
    server = Child("Prometheus", tmp_path / "prometheus.log")
    server.start(
        [program, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
         f"--web.listen-address=127.0.0.1:{port}"]
    )  # fmt: skip
    try:
        assert patiently(made.dsn("dpi_export")).message
        wait_for(lambda: not made.may_login("dpi_export"), 10)

        def query(expression: str) -> list[Any]:
            url = f"http://127.0.0.1:{port}/api/v1/query?query={expression}"
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    return list(json.load(answer)["data"]["result"])
            except OSError:
                return []

        wait_for(lambda: query("exfilguard_locked_accounts>0"), 30)
        for name in CONTRACT:
            suffix = "_count" if METRICS[name].kind == "histogram" else ""
            found = wait_for(lambda e=PREFIX + name + suffix: query(e), 15, name)
            for series in found:
                labels = set(series["metric"]) - {"__name__", "instance", "job"}
                assert labels == set(METRICS[name].labels), name
        assert query("up")[0]["value"][1] == "1"
        families = scrape(made.config)
        text = " ".join(str(sample) for family in families.values() for sample in family.samples)
        assert "IPP0" not in text
        assert families["exfilguard_account_window_records"].samples
    finally:
        server.stop()
        made.stack.stop()
        with connect(hospital.admin_dsn) as admin:
            admin.execute("ALTER ROLE dpi_export LOGIN")


def test_a_process_that_is_down_is_shown_as_down(tmp_path: Path, hospital: Hospital) -> None:
    made = Guard(tmp_path / "data", hospital, "127.0.0.1:9")
    made.stack.start("relay")
    made.stack.start("exporter")
    made.stack.relay_ready()
    try:
        wait_for(lambda: _up(made.config) == {"relay-0": 1.0})
        made.stack.kill("relay")
        assert _up(made.config) == {"relay-0": 0.0}
    finally:
        made.stack.stop()


def _up(config: Config) -> dict[str, float]:
    try:
        families = scrape(config)
    except OSError:
        return {}
    return {s.labels["process"]: s.value for s in families["exfilguard_process_up"].samples}


def test_an_exporter_port_in_use_is_a_clear_error(tmp_path: Path, hospital: Hospital) -> None:
    made = Guard(tmp_path / "data", hospital, "127.0.0.1:9")
    taken = replace(made.config, exporter=ExporterConfig(listen=hospital.upstream))
    stack = Stack(taken)
    part = stack.start("exporter")
    assert part.process is not None
    assert part.process.wait(10) == 1
    assert "choose another port" in stack.log("exporter")
