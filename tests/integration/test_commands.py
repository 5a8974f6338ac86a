"""The commands as their users run them: `demo`, `up`, and what they leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from exfilguard.cli.installation import Installation
from exfilguard.config.load import load_config
from exfilguard.config.schema import Config, ExporterConfig
from exfilguard.embedded.child import free_port
from exfilguard.errors import ConfigError, EmbeddedError
from exfilguard.lab import attack
from exfilguard.runtime.kafka import count_events

from .conftest import PATIENTS, Hospital, enterable_directory
from .kept import holding, secrets_of, shown_by
from .stack import connect, listener, port_of, wait_for

CONTRACT = [
    "patients_total",
    "attack_started_ms",
    "rows_delivered_to_attacker",
    "patients_exposed",
    "limit_crossed_ms",
    "cut_ms",
    "locked_ms",
    "lock_effective",
    "normal_queries",
    "normal_queries_refused",
    "events_published",
    "events_counted",
    "events_lost",
]


def exfilguard(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "exfilguard", *arguments]


def processes_below(directory: Path) -> list[str]:
    """Command lines of processes that name this directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(directory) in line:
                found.append(line)
    return found


@pytest.fixture
def temporary() -> Iterator[Path]:
    with enterable_directory() as directory:
        yield directory


@pytest.mark.parametrize(("mode", "method"), [("observe", "pages"), ("enforce", "select")])
def test_demo_holds_and_leaves_nothing(tmp_path: Path, temporary: Path, mode: str, method: attack.Method) -> None:
    figures_path = tmp_path / "figures.json"
    began = time.monotonic()
    said = tmp_path / "said"
    with said.open("wb") as output:
        demo = subprocess.Popen(
            exfilguard("demo", "--json", str(figures_path), "--mode", mode, "--attack", method, "--patients", "20000"),
            stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(temporary)},
        )  # fmt: skip
    try:
        secrets = keeps_its_secrets(demo, temporary)
        assert demo.wait(10) == 0, said.read_text()
    finally:
        demo.kill()
    assert not holding([said, figures_path], secrets)
    assert time.monotonic() - began < 120
    figures: dict[str, Any] = json.loads(figures_path.read_text())
    assert [name for name in CONTRACT if name not in figures] == []
    assert figures["patients_total"] == 20_000
    assert figures["attack_started_ms"] < figures["limit_crossed_ms"] <= figures["cut_ms"]
    assert figures["lock_effective"] is True
    assert figures["locked_ms"] >= figures["limit_crossed_ms"]
    assert figures["normal_queries"] > 500
    assert figures["normal_queries_refused"] == 0
    assert figures["events_published"] == figures["events_counted"] == figures["events_on_topic"] > 500
    assert figures["events_lost"] == 0
    assert figures["rows_on_topic"] == figures["rows_received_by_clients"]
    if mode == "enforce":
        assert figures["rows_delivered_to_attacker"] <= 3_000
        assert figures["rows_past_local_limit"] == 0
    else:
        assert figures["limit_patients"] < figures["patients_exposed"] < 20_000
    assert len(said.read_text().rpartition("account   ")[2].splitlines()) == 10
    assert list(temporary.iterdir()) == []
    assert processes_below(temporary) == []


def keeps_its_secrets(demo: subprocess.Popen[bytes], directory: Path) -> set[bytes]:
    """Looks at the processes and the logs as long as the demo plays; the secrets it found to look for."""
    secrets: set[bytes] = set()
    most = logs = 0
    deadline = time.monotonic() + 150
    while demo.poll() is None and time.monotonic() < deadline:
        for path in directory.glob("**/resolved.toml"):
            with contextlib.suppress(ConfigError, FileNotFoundError):  # being written, or gone
                secrets |= secrets_of(load_config(path, {}))
        for path in directory.glob("**/digest.key"):
            with contextlib.suppress(FileNotFoundError):
                secrets |= {path.read_bytes().strip()} - {b""}
        looked, shown = shown_by(demo.pid, secrets)
        assert not shown
        written = list(directory.glob("**/*.log"))
        assert not holding(written, secrets)
        most, logs = max(most, looked if secrets else 0), max(logs, len(written))
        time.sleep(1.0)
    assert len(secrets) >= 4  # two connection strings, their password, the digest key
    assert most >= 8
    assert logs >= 6
    return secrets


def test_demo_keeps_its_directory_when_asked_and_refuses_one_in_use(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    done = subprocess.run(
        exfilguard("demo", "--keep", str(tmp_path)), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "is not empty" in done.stderr
    assert (tmp_path / "x").read_text() == "mine"


@pytest.fixture
def up(tmp_path: Path, hospital: Hospital) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    (tmp_path / "hook").write_text(hospital.dsn("exfilguard_hook"), encoding="utf-8")
    (tmp_path / "catalog").write_text(hospital.dsn("exfilguard_catalog"), encoding="utf-8")
    config = tmp_path / "exfilguard.toml"
    config.write_text(f'tenant = "clinic"\n[exporter]\nlisten = "127.0.0.1:{free_port()}"\n', encoding="utf-8")
    process = subprocess.Popen(
        exfilguard(
            "up", "--config", str(config), "--upstream", hospital.upstream, "--listen", f"127.0.0.1:{free_port()}",
            "--patient-column", "patient.id", "--hook-dsn-file", str(tmp_path / "hook"),
            "--catalog-dsn-file", str(tmp_path / "catalog"), "--data-dir", str(tmp_path / "data"), "--json",
        ),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0
        assert processes_below(tmp_path) == []
        with connect(hospital.admin_dsn) as admin:
            admin.execute("ALTER ROLE dpi_export LOGIN")


def test_up_guards_somebody_elses_database(
    up: tuple[subprocess.Popen[str], dict[str, Any]], hospital: Hospital
) -> None:
    _, addresses = up
    port = int(addresses["listeners"]["main"].rpartition(":")[2])
    loot = attack.dump(hospital.dsn("dpi_export", port), "pages", pause_s=0.05)
    assert "ExfilGuard" in loot.message or loot.sqlstate == "57P01", loot.message
    assert loot.rows < PATIENTS
    wait_for(lambda: attack.try_login(hospital.dsn("dpi_export")), 10, "suspended in the database")
    run = subprocess.run(
        exfilguard("status", "--json", "--config", addresses["config"]), capture_output=True, text=True, check=False
    )
    status = json.loads(run.stdout)
    assert run.returncode == 0
    assert status["healthy"] is True
    assert [v["principal"] for v in status["verdicts"]] == ["dpi_export"]
    # A part that dies is started again, and no password is anywhere on a command line.
    relay = next(s for n, s in status["processes"].items() if n == "relay-0")
    os.kill(relay["details"]["pid"], signal.SIGKILL)

    def back() -> bool:
        try:
            with connect(hospital.dsn("dr.martin", port)) as colleague:
                return colleague.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    wait_for(back, 10)
    assert attack.try_login(hospital.dsn("dpi_export", port)), "the verdict stands after the restart"
    lines = processes_below(Path(addresses["data_dir"]))
    assert len(lines) >= 5
    assert not [line for line in lines if "password" in line]


def test_up_without_a_listener_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        exfilguard("up", "--upstream", "db:5432"), capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert "give --upstream and --listen" in done.stderr


def test_up_reports_a_listen_address_in_use(tmp_path: Path, hospital: Hospital) -> None:
    done = subprocess.run(
        exfilguard("up", "--upstream", hospital.upstream, "--listen", hospital.upstream.replace("127.0.0.1", "0.0.0.0")),
        capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "sidecar does not start" in done.stderr
    assert "in use: choose another" in done.stderr
    assert processes_below(tmp_path) == []
    assert Path(tempfile.gettempdir()).is_dir()


def test_an_embedded_broker_that_grew_too_large_is_restarted_and_nothing_is_lost(
    tmp_path: Path, hospital: Hospital
) -> None:
    made = listener(hospital.upstream)
    config = Config(
        tenant="t", data_dir=str(tmp_path), listener=[made], exporter=ExporterConfig(listen=f"127.0.0.1:{free_port()}")
    )
    installation = Installation(config)
    installation.start()
    try:
        with pytest.raises(EmbeddedError, match="already runs"):
            Installation(config).start()

        def ask(times: int) -> None:
            with connect(hospital.dsn("dr.martin", port_of(made.listen))) as through:
                for _ in range(times):
                    through.execute("SELECT id FROM patient WHERE id < 10").fetchall()

        def settled() -> bool:
            names = ("events_spooled_total", "events_published_total", "events_processed_total")
            counts = {installation.total(name) for name in names}
            return len(counts) == 1 and counts != {0.0}

        ask(50)
        wait_for(settled)
        installation.broker_max_bytes = 1
        broker = installation.supervisor.parts[0]

        def restarted() -> bool:
            installation.check()
            return broker.restarts == 1

        wait_for(restarted)
        installation.broker_max_bytes = 1 << 30
        ask(50)
        wait_for(settled, 60)
        wait_for(lambda: count_events(installation.config).rows == 100 * 9, 20)
        assert installation.total("frames_gap_total") == 0
    finally:
        installation.stop()
