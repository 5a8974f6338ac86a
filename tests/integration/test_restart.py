"""`exfilguard restart`: a new generation of processes under load, and no query fails."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from exfilguard.cli.main import main
from exfilguard.cli.sidecar import CONTROL, RestartFailed, Sidecar
from exfilguard.config.schema import Config, KafkaConfig, SidecarConfig
from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.embedded.mariadb import EmbeddedMariadb, missing_programs
from exfilguard.errors import ConfigError
from exfilguard.runtime.kafka import count_events
from exfilguard.runtime.stats import short_path
from exfilguard.sidecar.shipper import relay_numbers

from . import mysql
from .conftest import Hospital, enterable_directory
from .stack import DATABASE, PASSWORD, Stack, connect, kafka_config, listener, port_of, wait_for

RUNS_S = 120
"""At most: a load is stopped when its test has seen enough."""
QUERY = "SELECT id, nom_naissance FROM patient WHERE id = :n"


class Running:
    """`exfilguard sidecar`, as it is installed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stack = Stack(config)
        self.stack.start("sidecar")
        self.port = port_of(config.listener[0].listen)
        wait_for(lambda: len(self.relays()) == config.sidecar.workers and self.stack.snapshot("shipper"))

    def relays(self) -> dict[str, int]:
        """Name and process id of those that answer."""
        numbers = range(8)
        found = {f"relay-{n}": self.stack.snapshot(f"relay-{n}") for n in numbers}
        return {name: one.details["pid"] for name, one in found.items() if one is not None}

    def restart(self) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "exfilguard", "restart", "--json", "--config", str(self.stack.path)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return {"status": done.returncode, **json.loads(done.stdout or "{}"), "stderr": done.stderr}


def config(directory: Path, one: Any, kafka: KafkaConfig | None = None, **sidecar: Any) -> Config:
    return Config(
        tenant="clinic", data_dir=str(directory / "data"), kafka=kafka or KafkaConfig(bootstrap="127.0.0.1:9"),
        sidecar=SidecarConfig(**sidecar), listener=[one],
    )  # fmt: skip


@pytest.fixture
def started() -> Iterator[list[Running]]:
    out: list[Running] = []
    yield out
    for running in out:
        running.stack.stop()


def pgbench(hospital: Hospital, port: int, script: Path, *options: str) -> subprocess.Popen[str]:
    dsn = hospital.dsn("dpi_export", port)
    return subprocess.Popen(
        [hospital.server.bin / "pgbench", "-n", "-f", script, "-T", str(RUNS_S), *options, dsn],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_a_restart_under_pgbench_fails_nothing_and_loses_nothing(
    started: list[Running], hospital: Hospital, tansu: EmbeddedBroker, tmp_path: Path
) -> None:
    """Sessions that stay, and sessions of one transaction each; every event of both generations reaches Kafka."""
    kafka = kafka_config(tansu, prefix="restart")
    running = Running(config(tmp_path, listener(hospital.upstream), kafka, workers=2))
    started.append(running)
    script = tmp_path / "one.sql"
    script.write_text(f"\\set n random(1, 8000)\n{QUERY}\n", encoding="utf-8")
    loads = [
        pgbench(hospital, running.port, script, "-c", "4", "-M", "prepared"),
        pgbench(hospital, running.port, script, "-c", "2", "-C", "--rate", "150"),
    ]
    first = running.relays()
    wait_for(lambda: running.stack.total("queries_total") > 500)
    done = running.restart()
    assert done["status"] == 0, done
    assert set(done["replaced"]) == set(first.values())
    assert not set(done["relays"]) & set(first.values())
    assert all(load.poll() is None for load in loads), "the load goes on"
    seen = count_events(running.config).rows
    wait_for(lambda: count_events(running.config).rows > seen + 300, message="the new relays serve")
    transactions = 0
    for load in loads:
        load.send_signal(signal.SIGALRM)  # pgbench's own timer: it finishes what it does, and tells
        said = load.communicate(timeout=60)[0]
        assert load.returncode == 0, said
        transactions += int(said.partition("actually processed: ")[2].split()[0])
        assert "number of failed transactions: 0 (0.000%)" in said
        assert "aborted" not in said
    newest = set(done["relays"])
    wait_for(lambda: set(running.relays().values()) == newest, message="the old ones end with their sessions")
    assert relay_numbers(running.config) == [0, 1, 2, 3]
    # The counters of the old ones have ended with them: Kafka is asked. One row a transaction.
    wait_for(lambda: count_events(running.config).rows >= transactions, 40.0, f"{transactions} rows are published")
    time.sleep(0.5)
    assert count_events(running.config).rows == transactions


def test_sessions_of_the_old_relays_are_guarded_still(
    started: list[Running], hospital: Hospital, tansu: EmbeddedBroker, tmp_path: Path
) -> None:
    running = Running(config(tmp_path, listener(hospital.upstream), kafka_config(tansu, prefix="restart2")))
    started.append(running)
    with connect(hospital.dsn("dpi_export", running.port)) as before:
        assert running.restart()["status"] == 0
        assert before.execute("SELECT count(*) FROM patient").fetchone() == (8_000,)
        assert len(running.relays()) == 2
        with connect(hospital.dsn("dpi_export", running.port)) as after:
            assert main(["lock", "dpi_export", "--reason", "a test", "--config", str(running.stack.path)]) == 0
            for session in (before, after):

                def refused(session: psycopg.Connection[Any] = session) -> bool:
                    try:
                        session.execute("SELECT 1")
                    except psycopg.OperationalError as error:
                        return "locked" in str(error) or session.closed
                    return False

                wait_for(refused)
    wait_for(lambda: list(running.relays()) == ["relay-1"])


def test_the_handover_ends_and_a_fourth_generation_ends_the_first(
    started: list[Running], hospital: Hospital, tmp_path: Path
) -> None:
    running = Running(config(tmp_path, listener(hospital.upstream), drain_ms=500, handover_ms=3_600_000))
    started.append(running)
    with connect(hospital.dsn("dpi_export", running.port)) as first:
        assert running.restart()["status"] == 0
        assert first.execute("SELECT 1").fetchone() == (1,)
        with connect(hospital.dsn("dpi_export", running.port)) as second:
            assert running.restart()["status"] == 0
            assert first.execute("SELECT 1").fetchone() == (1,)
            assert running.restart()["status"] == 0
            with pytest.raises(psycopg.errors.AdminShutdown):
                first.execute("SELECT 1")
            assert second.execute("SELECT 1").fetchone() == (1,)
    ended = Running(config(tmp_path / "short", listener(hospital.upstream), drain_ms=500, handover_ms=500))
    started.append(ended)
    with connect(hospital.dsn("dpi_export", ended.port)) as told:
        assert ended.restart()["status"] == 0
        wait_for(lambda: len(ended.relays()) == 1)
        with pytest.raises(psycopg.errors.AdminShutdown):
            told.execute("SELECT 1")


def test_a_mistake_changes_nothing(started: list[Running], hospital: Hospital, tmp_path: Path) -> None:
    running = Running(config(tmp_path, listener(hospital.upstream)))
    started.append(running)
    before = running.relays()
    good = running.stack.path.read_text(encoding="utf-8")
    with connect(hospital.dsn("dpi_export", running.port)) as session:
        running.stack.path.write_text(good.replace('mode = "observe"', 'mode = "guess"'), encoding="utf-8")
        assert "guess" not in good
        assert running.stack.path.read_text(encoding="utf-8") != good
        assert running.restart()["status"] == 2
        (listen,) = [one.listen for one in running.config.listener]
        running.stack.path.write_text(good.replace(listen, "db..clinic:5432"), encoding="utf-8")
        done = running.restart()  # it ended the sidecar
        assert (done["status"], "no host can have such a name" in done["errors"][0]) == (1, True)
        running.stack.path.write_text(good, encoding="utf-8")
        (running.stack.data_dir / "spool" / "1").write_text("in the way", encoding="utf-8")
        done = running.restart()
        assert (done["status"], done["ok"]) == (1, False)
        assert "the old ones go on" in done["errors"][0]
        assert running.relays() == before
        assert session.execute("SELECT 1").fetchone() == (1,)
    with connect(hospital.dsn("dpi_export", running.port)) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_without_a_sidecar_it_says_so(hospital: Hospital, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stack = Stack(config(tmp_path, listener(hospital.upstream)))
    assert main(["restart", "--config", str(stack.path)]) == 1
    assert "no sidecar answers" in capsys.readouterr().out


def test_a_relay_that_dies_is_replaced_behind_its_socket(
    started: list[Running], hospital: Hospital, tmp_path: Path
) -> None:
    """The supervisor holds the sockets: while there is no relay a client waits, and is not refused."""
    running = Running(config(tmp_path, listener(hospital.upstream)))
    started.append(running)
    (pid,) = running.relays().values()
    subprocess.run(["kill", "-9", str(pid)], check=True)
    with connect(hospital.dsn("dpi_export", running.port)) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_a_restart_under_sysbench_fails_nothing(started: list[Running], tmp_path: Path) -> None:
    missing = missing_programs() or [name for name in ("sysbench",) if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {missing}")
    with enterable_directory() as directory, EmbeddedMariadb(directory / "server") as server:
        mysql.load(server)
        running = Running(config(tmp_path, mysql.mysql_listener(f"127.0.0.1:{server.port}")))
        started.append(running)
        common = [
            "sysbench", "oltp_read_only", "--db-driver=mysql", "--mysql-host=127.0.0.1", f"--mysql-port={running.port}",
            f"--mysql-user={mysql.ACCOUNT}", f"--mysql-password={PASSWORD}", f"--mysql-db={DATABASE}", "--tables=1",
            "--table-size=500", "--threads=3", "--time=5",
        ]  # fmt: skip
        subprocess.run([*common, "prepare"], check=True, capture_output=True, timeout=60)
        load = subprocess.Popen([*common, "run"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        stop, failures, rounds = threading.Event(), [], 0

        def connect_anew() -> None:
            nonlocal rounds
            while not stop.is_set():
                try:
                    with (
                        pymysql.connect(
                            host="127.0.0.1",
                            port=running.port,
                            user=mysql.ACCOUNT,
                            password=PASSWORD,
                            database=DATABASE,
                        ) as session,
                        session.cursor() as cursor,
                    ):
                        cursor.execute("SELECT COUNT(*) FROM patient")
                        rounds += cursor.fetchone() == (mysql.PATIENTS,)
                except Exception as error:
                    failures.append(error)

        thread = threading.Thread(target=connect_anew)
        thread.start()
        wait_for(lambda: rounds > 5)
        assert running.restart()["status"] == 0
        before = rounds
        wait_for(lambda: rounds > before + 5)
        stop.set()
        thread.join(20)
        assert not failures
        said = load.communicate(timeout=60)[0]
        assert load.returncode == 0, said
        assert "FATAL" not in said
        errors = next(line for line in said.splitlines() if "ignored errors:" in line)
        assert errors.split()[2] == "0", said
        wait_for(lambda: list(running.relays()) == ["relay-1"])


def supervised(directory: Path, upstream: str, **sidecar: Any) -> Sidecar:
    """A sidecar of which this thread is the supervisor."""
    stack = Stack(config(directory, listener(upstream), **sidecar))
    return Sidecar(str(stack.path), stack.config)


def all_ready(sidecar: Sidecar) -> None:
    wait_for(lambda: sidecar.supervisor.check() or all(map(sidecar._ready, sidecar.supervisor.parts[1:])))


def test_a_relay_that_is_down_during_a_restart_is_replaced_too(hospital: Hospital, tmp_path: Path) -> None:
    """It waited for its next start, was taken for gone, and came back beside the new one: two relays with one spool."""
    sidecar = supervised(tmp_path, hospital.upstream)
    try:
        sidecar.start()
        all_ready(sidecar)
        part = sidecar.supervisor.parts[1]
        assert part.process is not None
        part.backoff_s = 3.0
        part.process.kill()
        part.process.wait()
        sidecar.supervisor.check()
        sidecar.restart(sidecar.config, lambda _: None)
        parts = sidecar.supervisor.parts
        wait_for(lambda: sidecar.supervisor.check() or [one.name for one in parts] == ["shipper", "relay-1"])
        assert not part.alive
    finally:
        sidecar.stop()


def test_a_restart_that_does_not_get_all_addresses_leaves_none_behind(hospital: Hospital, tmp_path: Path) -> None:
    """A socket that listens and of which nobody takes connections has every second client wait for ever."""
    sidecar = supervised(tmp_path, hospital.upstream)
    try:
        sidecar.start()
        all_ready(sidecar)
        (one,) = sidecar.config.listener
        new, taken = replace(listener(hospital.upstream), name="new"), replace(one, name="taken")
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = replace(taken, listen=f"127.0.0.1:{other.getsockname()[1]}")
            wanted = replace(sidecar.config, listener=[one, new, taken], sidecar=SidecarConfig(workers=2))
            with pytest.raises(ConfigError, match="choose another"):
                sidecar.restart(wanted, lambda _: None)
        for _ in range(12):
            with psycopg.connect(hospital.dsn("dpi_export", port_of(one.listen)), connect_timeout=3) as session:
                assert session.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port_of(new.listen)), 1)
    finally:
        sidecar.stop()


def test_a_process_that_cannot_be_started_is_tried_again(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No memory for a fork, or the program replaced at this moment: it ended the supervisor, and with it every session."""
    sidecar = supervised(tmp_path, hospital.upstream, workers=2)
    try:
        sidecar.start()
        all_ready(sidecar)
        _, gone, other = sidecar.supervisor.parts
        assert gone.process is not None
        argv, gone.argv = gone.argv, ["/nowhere/python"]
        gone.process.kill()
        wait_for(lambda: sidecar.supervisor.check() or gone.backoff_s > 0.5)
        assert other.alive
        monkeypatch.setattr("exfilguard.cli.sidecar.own_command", lambda *_: ["/nowhere/python"])
        with pytest.raises(RestartFailed, match="the old ones go on"):
            sidecar.restart(sidecar.config, lambda _: None)
        gone.argv = argv
        all_ready(sidecar)
    finally:
        sidecar.stop()


def test_an_order_that_finds_no_descriptor_ends_nothing(
    started: list[Running], hospital: Hospital, tmp_path: Path
) -> None:
    running = Running(config(tmp_path, listener(hospital.upstream)))
    started.append(running)
    before, supervisor = running.relays(), running.stack.parts["sidecar"].pid
    soft, hard = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, hard))
    with socket.socket(socket.AF_UNIX) as order, short_path(running.stack.data_dir / "run" / CONTROL) as address:
        order.connect(address)
        time.sleep(1.0)
        assert running.relays() == before
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (soft, hard))
    assert running.restart()["status"] == 0


def test_a_second_sidecar_of_the_same_data_disturbs_nothing(
    started: list[Running], hospital: Hospital, tmp_path: Path
) -> None:
    """It took the first one's control socket and statistics away before it saw that the port was in use."""
    running = Running(config(tmp_path, listener(hospital.upstream)))
    started.append(running)
    command = [sys.executable, "-m", "exfilguard", "sidecar", "--config", str(running.stack.path)]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 1
    assert "already runs" in second.stderr
    assert len(running.relays()) == 1
    assert running.restart()["status"] == 0


def test_what_a_killed_supervisor_leaves_busy_and_the_next_ones_relays_lose_nothing_to_each_other(
    started: list[Running], hospital: Hospital, tansu: EmbeddedBroker, tmp_path: Path
) -> None:
    """A relay whose supervisor is gone ends its transactions in peace: the new one had its number and its spool meanwhile."""
    kafka = kafka_config(tansu, prefix="orphan")
    running = Running(config(tmp_path, listener(hospital.upstream), kafka))
    started.append(running)
    asked = 0

    def ask(session: psycopg.Connection[Any], times: int) -> None:
        nonlocal asked
        for _ in range(times):
            session.execute("SELECT id FROM patient LIMIT 10")
            asked += 10

    with psycopg.connect(hospital.dsn("dpi_export", running.port)) as busy:
        ask(busy, 5)
        running.stack.kill("sidecar")
        wait_for(lambda: not _accepts(running.port))
        running.stack.start("sidecar")
        wait_for(lambda: _accepts(running.port))
        with connect(hospital.dsn("dpi_export", running.port)) as other:
            ask(other, 5)
            wait_for(lambda: count_events(running.config).rows >= asked)
            ask(busy, 5)
            ask(other, 5)
        busy.commit()
    wait_for(lambda: count_events(running.config).rows >= asked, 20.0, "all of both is published")
    assert count_events(running.config).rows == asked


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
