"""Running it in front of MariaDB: drain, half-closes, idle sessions, load balancers on either side, progress, an allowed replica. The
server takes PROXY headers itself, and writes a binary log."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from exfilguard.embedded.mariadb import EmbeddedMariadb, missing_programs
from exfilguard.wire import proxy

from . import mysql
from .conftest import enterable_directory
from .mysql import ACCOUNT, PATIENTS, GuardedMysql, Streaming
from .stack import PASSWORD, wait_for

Relay = Callable[..., GuardedMysql]
SOURCE = "SELECT SUBSTRING_INDEX(host, ':', 1) FROM information_schema.processlist WHERE id = CONNECTION_ID()"
HEADER = proxy.Header("203.0.113.7", 4711, "10.0.0.9", 3306)


@pytest.fixture(scope="module")
def mariadb() -> Iterator[EmbeddedMariadb]:
    if missing := missing_programs():
        pytest.skip(f"MariaDB needs {missing}")
    settings = {"proxy-protocol-networks": "127.0.0.0/8", "log-bin": "binlog", "server-id": "7"}
    with enterable_directory() as directory, EmbeddedMariadb(directory / "server", settings=settings) as server:
        mysql.load(server)
        yield server


@pytest.fixture
def relay(tmp_path: Path, mariadb: EmbeddedMariadb) -> Iterator[Relay]:
    with mysql.guards(tmp_path, mariadb.port) as start:
        yield start


def one(connection: pymysql.Connection[Any], query: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()


def error_of(connection: pymysql.Connection[Any]) -> int:
    """Its number, of the next command: a client that was told while it asked nothing reads it then."""
    with pytest.raises(pymysql.MySQLError) as caught:
        one(connection, "SELECT 1")
    return int(caught.value.args[0])


# -- the end of sessions ----------------------------------------------------------------------------------------------


def test_drain_tells_idle_sessions_and_lets_transactions_end(relay: Relay) -> None:
    guarded = relay()
    idle, busy, running = (guarded.connect(autocommit=True) for _ in range(3))
    one(busy, "BEGIN")
    one(busy, "SELECT COUNT(*) FROM patient")
    result: list[Any] = []
    slow = threading.Thread(target=lambda: result.append(one(running, "SELECT SLEEP(1.5), 7")))
    slow.start()
    time.sleep(0.3)
    stopped = threading.Thread(target=guarded.stack.kill, args=("relay", signal.SIGTERM))
    stopped.start()

    def refused() -> bool:
        try:
            guarded.connect().close()
        except (pymysql.MySQLError, OSError):
            return True
        return False

    wait_for(refused, message="nobody new is taken")
    assert error_of(idle) in (1053, 2006, 2013)
    assert one(busy, "SELECT COUNT(*) FROM patient") == (PATIENTS,)
    one(busy, "COMMIT")
    slow.join(20)
    assert result == [(0, 7)]
    stopped.join(20)
    assert not stopped.is_alive(), "it ends as soon as the last session has"
    assert [e["kind"] for e in guarded.events()].count("logout") == 3


def test_a_client_that_says_no_more_still_gets_its_answer(relay: Relay) -> None:
    guarded = relay()
    connection = guarded.connect()
    with connection.cursor(Streaming) as cursor:
        connection._execute_command(3, "SELECT id, SLEEP(id = 2000) FROM patient")
        connection._sock.shutdown(socket.SHUT_WR)
        result = pymysql.connections.MySQLResult(connection)
        result.read()
        assert len(result.rows) == PATIENTS
        del cursor
    wait_for(lambda: guarded.counted() == PATIENTS)
    wait_for(lambda: guarded.stack.total("sessions") == 0, message="and both sides end")


def test_idle_sessions_are_closed_and_busy_ones_are_not(relay: Relay) -> None:
    guarded = relay(idle_timeout_ms=800)
    idle, busy = guarded.connect(), guarded.connect()
    assert one(busy, "SELECT SLEEP(2.5), 1") == (0, 1)
    assert error_of(idle) in (4031, 2006, 2013)
    assert one(busy, "SELECT 1") == (1,)
    assert guarded.stack.total("idle_sessions_closed_total") == 1


def test_a_session_that_has_asked_nothing_since_its_login_is_not_idle_for_longer(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pools open some connections before they need them."""
    guarded = relay(idle_timeout_ms=6_000)
    monkeypatch.setattr(pymysql.connections.Connection, "set_character_set", lambda *_: None)
    new = guarded.connect()
    time.sleep(2.5)
    assert one(new, "SELECT 1") == (1,)


# -- load balancers ---------------------------------------------------------------------------------------------------


def behind_a_balancer(port: int, version: str, **options: Any) -> pymysql.Connection[Any]:
    """A session of PyMySQL whose connection begins with a PROXY header."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    raw.sendall(proxy.build(version, HEADER))  # type: ignore[arg-type]
    made = pymysql.connect(user=ACCOUNT, password=PASSWORD, database="dpi", defer_connect=True, **options)
    made.connect(raw)
    return made


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_clients_address_comes_in_and_goes_out(relay: Relay, mariadb: EmbeddedMariadb, version: str) -> None:
    with contextlib.closing(behind_a_balancer(mariadb.port, version)) as direct:
        assert one(direct, SOURCE) == (HEADER.source,), "MariaDB itself believes such a header"
    guarded = relay(proxy_protocol_in=["127.0.0.1"], proxy_protocol_out=version)
    with contextlib.closing(behind_a_balancer(guarded.port, version)) as through:
        assert one(through, SOURCE) == (HEADER.source,)
        assert one(through, "SELECT COUNT(*) FROM patient") == (PATIENTS,)
    wait_for(lambda: {e["source"] for e in guarded.events() if e["kind"] == "login"} == {HEADER.source})
    silent = relay(proxy_protocol_in=["127.0.0.1"], login_timeout_ms=2_000)
    with contextlib.closing(behind_a_balancer(silent.port, version)) as through:
        assert one(through, SOURCE) == ("localhost",), "the database is told by `proxy_protocol_out` alone"
    with pytest.raises((pymysql.MySQLError, OSError)):
        silent.connect()  # says nothing until it is greeted, so it is the login's time that ends it


def test_clients_that_leave_before_they_log_in_keep_nobody_out(relay: Relay, mariadb: EmbeddedMariadb) -> None:
    """The server counts them, and at `max_connect_errors` in a row it refuses everybody from that address: behind the guard, everybody.
    It does not count those from 127.0.0.1, so here the clients have another, and the guard tells it."""
    guarded = relay(proxy_protocol_out="v1", login_timeout_ms=1_500)

    def client() -> socket.socket:
        return socket.create_connection(("127.0.0.1", guarded.port), timeout=10, source_address=("127.0.0.2", 0))

    with mariadb.connect() as admin, admin.cursor() as cursor:
        cursor.execute("SET GLOBAL max_connect_errors = 4")
        cursor.execute("FLUSH HOSTS")
    try:
        for _ in range(8):
            client().close()  # before the greeting
        for _ in range(8):
            with client() as gone:
                assert gone.recv(5)
        for _ in range(8):
            with client() as lost:
                assert lost.recv(5)
                lost.sendall(b"GET / HTTP/1.1\r\n\r\n")
                lost.recv(1000)
        silent = [client() for _ in range(8)]
        for waiting in silent:
            while waiting.recv(1000):
                pass
            waiting.close()
        wait_for(lambda: guarded.stack.total("sessions") == 0)
        time.sleep(0.5)
        found = pymysql.connect(user=ACCOUNT, password=PASSWORD, database="dpi", defer_connect=True)
        found.connect(client())
        assert one(found, "SELECT COUNT(*) FROM patient") == (PATIENTS,)
        found.close()
    finally:
        with mariadb.connect() as admin, admin.cursor() as cursor:
            cursor.execute("SET GLOBAL max_connect_errors = 100")
            cursor.execute("FLUSH HOSTS")


# -- what is long, what is copied --------------------------------------------------------------------------------------


def test_progress_is_reported_while_a_result_streams(relay: Relay) -> None:
    guarded = relay(progress_rows=100)
    with guarded.connect() as connection, connection.cursor(Streaming) as cursor:
        cursor.execute("SELECT id, REPEAT('x', 2000), SLEEP(0.001) FROM patient")
        for _ in range(500):
            cursor.fetchone()
        wait_for(lambda: guarded.counted() >= 300, message="progress events before the end")
        kinds = [e["kind"] for e in guarded.events()]
        assert "progress" in kinds
        assert all(not e.get("rows") for e in guarded.events() if e["kind"] == "query"), "it has not ended"
        cursor.fetchall()
    wait_for(lambda: guarded.counted() == PATIENTS)


def test_the_binary_log_is_refused_unless_allowed_and_then_counted(relay: Relay) -> None:
    """By MariaDB's own program."""

    def dump(guarded: GuardedMysql) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["mariadb-binlog", "--no-defaults", "--read-from-remote-server", "--host=127.0.0.1", f"--port={guarded.port}",
             f"--user={ACCOUNT}", "--raw", "--result-file=/dev/null", "binlog.000001"],
            capture_output=True, check=False, timeout=60, env={**os.environ, "MYSQL_PWD": PASSWORD},
        )  # fmt: skip

    refused = relay()
    done = dump(refused)
    assert done.returncode
    assert b"not allowed through this guard" in done.stderr
    wait_for(lambda: any(e["kind"] == "refused" for e in refused.events()))
    allowed = relay(allow_replication=["dpi_*"])
    done = dump(allowed)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: any(e["kind"] == "logout" for e in allowed.events()))
    events = allowed.events()
    assert sum(e.get("bytes", 0) for e in events if "replication" in e.get("flags", ())) > 100_000
    assert not [e for e in events if e["kind"] == "desynced"]
