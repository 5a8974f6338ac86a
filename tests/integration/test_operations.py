"""Running it: drain and rolling restart, half-closes, idle sessions, load balancers on either side, cancel over workers."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from exfilguard.config.schema import Config, KafkaConfig, SidecarConfig
from exfilguard.embedded.child import free_port
from exfilguard.events.verdict import Verdict
from exfilguard.runtime.stats import run_dir, short_path
from exfilguard.sidecar.verdict_table import VerdictTable
from exfilguard.wire import proxy
from tests.wire import build as b

from .balancer import haproxy
from .conftest import Hospital
from .guarded import Guarded, Relay
from .stack import PASSWORD, Stack, connect, listener, wait_for

# -- drain ------------------------------------------------------------------------------------------------------------


def stopping(guarded: Guarded, key: str = "relay") -> threading.Thread:
    thread = threading.Thread(target=guarded.stack.kill, args=(key, signal.SIGTERM))
    thread.start()
    return thread


def test_drain_tells_idle_sessions_and_lets_transactions_end(relay: Relay) -> None:
    guarded = relay()
    idle, busy, running = (connect(guarded.dsn()) for _ in range(3))
    busy.execute("BEGIN")
    busy.execute("CREATE TEMP TABLE t (a int)")
    result: list[Any] = []
    slow = threading.Thread(target=lambda: result.append(running.execute("SELECT pg_sleep(1.5), 7").fetchone()))
    slow.start()
    time.sleep(0.3)
    stopped = stopping(guarded)
    time.sleep(0.5)
    with pytest.raises(psycopg.errors.AdminShutdown):
        idle.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        connect(guarded.dsn())
    busy.execute("INSERT INTO t VALUES (1)")  # 0.5 s into the drain
    assert busy.execute("SELECT count(*) FROM t").fetchone() == (1,)
    busy.execute("COMMIT")
    slow.join(10)
    assert result[0][1] == 7
    stopped.join(10)
    assert not stopped.is_alive(), "it ends as soon as the last session has"
    for session in (busy, running):
        with pytest.raises(psycopg.errors.AdminShutdown):
            session.execute("SELECT 1")
    ends = [e["kind"] for e in guarded.events()]
    assert ends.count("logout") == 3


def test_a_transaction_that_does_not_end_has_until_drain(relay: Relay) -> None:
    guarded = relay(sidecar=SidecarConfig(drain_ms=700))
    with connect(guarded.dsn()) as through:
        through.execute("BEGIN")
        began = time.monotonic()
        stopped = stopping(guarded)
        stopped.join(10)
        assert 0.6 < time.monotonic() - began < 5
        with pytest.raises(psycopg.errors.AdminShutdown):
            through.execute("SELECT 1")
        through.close()


def test_a_rolling_restart_fails_no_query(relay: Relay) -> None:
    """Two workers; each is stopped and started again under load. A client connects again when it was told 57P01 at rest."""
    guarded = relay(sidecar=SidecarConfig(workers=2))
    stop = threading.Event()
    done = [0] * 6
    again = [0] * 6
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            ask(number)
        except BaseException as error:
            failures.append(error)

    def ask(number: int) -> None:
        connection = connect(guarded.dsn())
        while not stop.is_set():
            try:
                with connection.transaction():
                    for n in range(3):
                        row = connection.execute(
                            "SELECT id FROM patient WHERE id = %s", (1 + (number * 100 + n) % 8000,)
                        ).fetchone()
                        assert row is not None
                done[number] += 1
                time.sleep(0.002)
            except psycopg.errors.AdminShutdown:
                # Told at rest: nothing of the transaction had begun.
                again[number] += 1
                connection.close()
                connection = connect(guarded.dsn())
        connection.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(done))]
    for thread in threads:
        thread.start()
    wait_for(lambda: min(done) > 5)
    for number, key in ((0, "relay"), (1, "relay-1")):
        guarded.stack.kill(key, signal.SIGTERM)
        before = list(done)
        wait_for(lambda b=before: all(d > x + 5 for d, x in zip(done, b, strict=True)) or failures)
        guarded.stack.start("relay", "--worker", str(number), key=key)
        guarded.stack.relay_ready(number)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert not failures
    assert sum(again) >= 1


# -- half-closes and silence ------------------------------------------------------------------------------------------


def logged_in(port: int, user: str = "app") -> socket.socket:
    """A raw session of an account that needs no password."""
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    raw.sendall(b.startup(user=user, database="dpi"))
    seen = b""
    while b.READY not in seen:
        part = raw.recv(1 << 16)
        assert part, seen
        seen += part
    return raw


@pytest.fixture(scope="module")
def trusted(hospital: Hospital) -> Iterator[str]:
    """An account without password, for clients made of bytes."""
    cluster = hospital.server.data_dir / "cluster"
    hba = cluster / "pg_hba.conf"
    before = hba.read_text(encoding="utf-8")
    hba.write_text("host all plain 127.0.0.1/32 trust\n" + before, encoding="utf-8")
    with connect(hospital.admin_dsn) as admin:
        admin.execute("CREATE ROLE plain LOGIN")
        admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO plain")
        admin.execute("SELECT pg_reload_conf()")
    time.sleep(0.3)
    yield "plain"
    hba.write_text(before, encoding="utf-8")


def test_a_client_that_says_no_more_still_gets_its_answer(relay: Relay, trusted: str) -> None:
    guarded = relay()
    with logged_in(guarded.port, trusted) as raw:
        raw.sendall(b.query("SELECT id FROM patient ORDER BY id; SELECT pg_sleep(0.3), 'the end'"))
        raw.shutdown(socket.SHUT_WR)
        seen = b""
        while part := raw.recv(1 << 16):
            seen += part
    assert b"the end" in seen
    assert seen.endswith(b.READY)
    wait_for(lambda: guarded.counted(trusted) == 8_001)


def test_a_client_that_leaves_while_nothing_is_asked_ends_both_sides(
    relay: Relay, hospital: Hospital, trusted: str
) -> None:
    guarded = relay()
    logged_in(guarded.port, trusted).close()
    with connect(hospital.admin_dsn) as admin:
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'plain'"
        wait_for(lambda: admin.execute(query).fetchone() == (0,))
    wait_for(lambda: guarded.stack.total("sessions") == 0)


def keep_alive_timers(local: int | None = None, remote: int | None = None) -> list[bool]:
    """Of the connections of this machine with that port at one end: whether the kernel will ask if the other end is there."""
    out = []
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, here, there, state, _, timer, *_ = line.split()
        ports = (local in (None, int(here[-4:], 16)), remote in (None, int(there[-4:], 16)))
        if state == "01" and all(ports):
            out.append(timer.startswith("02:"))
    return out


def test_a_peer_that_lost_its_power_does_not_hold_a_session_for_ever(relay: Relay, hospital: Hospital) -> None:
    """A server ends such a connection, a driver too: behind the relay each saw the relay, which was there."""
    guarded = relay()
    before = len(keep_alive_timers(remote=hospital.port))
    with connect(guarded.dsn()) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)
        time.sleep(0.3)  # nothing is on its way
        assert keep_alive_timers(local=guarded.port) == [True]
        to_database = keep_alive_timers(remote=hospital.port)
        assert len(to_database) == before + 1
        assert all(to_database)


def test_idle_sessions_are_closed_and_busy_ones_are_not(relay: Relay) -> None:
    guarded = relay(idle_timeout_ms=800)
    with connect(guarded.dsn()) as idle, connect(guarded.dsn()) as busy:
        assert busy.execute("SELECT pg_sleep(2.5), 1").fetchone()[1] == 1  # type: ignore[index]
        with pytest.raises(psycopg.errors.IdleSessionTimeout):
            idle.execute("SELECT 1")
        assert busy.execute("SELECT 1").fetchone() == (1,)
    assert guarded.stack.total("idle_sessions_closed_total") == 1


# -- load balancers ---------------------------------------------------------------------------------------------------


def sources(guarded: Guarded) -> set[str]:
    return {e["source"] for e in guarded.events() if e["kind"] == "login"}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_clients_address_survives_a_load_balancer(relay: Relay, trusted: str, version: str) -> None:
    guarded = relay(proxy_protocol_in=["127.0.0.0/8"])
    header = proxy.build(version, proxy.Header("203.0.113.7", 4711, "10.0.0.9", 5432))  # type: ignore[arg-type]
    data = header + b.startup(user=trusted, database="dpi")
    for cut in (len(header), 5, len(data)):
        with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as raw:
            raw.sendall(data[:cut])
            time.sleep(0.05)
            raw.sendall(data[cut:])
            seen = b""
            while b.READY not in seen:
                seen += raw.recv(1 << 16)
    wait_for(lambda: sources(guarded) == {"203.0.113.7"})


def test_a_load_balancer_without_its_header_is_refused(relay: Relay, trusted: str) -> None:
    guarded = relay(proxy_protocol_in=["127.0.0.0/8"])
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=5) as raw:
        raw.sendall(b.startup(user=trusted, database="dpi"))
        assert raw.recv(100) == b""


def test_nobody_elses_header_is_believed(relay: Relay, trusted: str) -> None:
    other = relay(proxy_protocol_in=["192.0.2.0/24"])
    with socket.create_connection(("127.0.0.1", other.port), timeout=5) as raw:
        raw.sendall(
            proxy.build("v1", proxy.Header("203.0.113.7", 1, "10.0.0.9", 2)) + b.startup(user=trusted, database="dpi")
        )
        assert b"PostgreSQL protocol" in raw.recv(1000)


def test_behind_haproxy_and_before_haproxy(relay: Relay, hospital: Hospital, tmp_path: Path) -> None:
    """client - HAProxy (send-proxy-v2) - guard - HAProxy (accept-proxy) - PostgreSQL, with a client from 127.0.0.5."""
    with haproxy(tmp_path, hospital.port, accept=True) as inner:
        guarded = relay(upstream=f"127.0.0.1:{inner}", proxy_protocol_in=["127.0.0.1"], proxy_protocol_out="v2")
        with haproxy(tmp_path, guarded.port, send=True) as outer:
            tunnel = free_port()
            forward = Forwarder(tunnel, outer, "127.0.0.5")
            with connect(hospital.dsn("dpi_export", tunnel)) as through:
                assert len(through.execute("SELECT id FROM patient WHERE id <= 10").fetchall()) == 10
                threading.Timer(0.3, lambda: through.cancel_safe()).start()
                with pytest.raises(psycopg.errors.QueryCanceled):
                    through.execute("SELECT pg_sleep(20)")
            forward.close()
        assert wait_for(lambda: sources(guarded)) == {"127.0.0.5"}
        text = wait_for(lambda: (tmp_path / f"haproxy-{inner}.log").read_text("utf-8"))
        assert "client=127.0.0.5" in text, "the one on the database's side was told"


class Forwarder:
    """Connects on from another loopback address, as a client elsewhere would."""

    def __init__(self, port: int, upstream: int, source: str) -> None:
        self._server = socket.create_server(("127.0.0.1", port))
        self._upstream, self._source = upstream, source
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._upstream), source_address=(self._source, 0))
            for a, z in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(a, z), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


# -- replication -------------------------------------------------------------------------------------------------------


def test_replication_is_refused_unless_allowed_and_then_counted(
    relay: Relay, hospital: Hospital, tmp_path: Path
) -> None:
    with connect(hospital.admin_dsn) as admin:
        admin.execute(f"CREATE ROLE replica LOGIN REPLICATION PASSWORD '{PASSWORD}'")
    basebackup = [hospital.server.bin / "pg_basebackup", "-D", "-", "-Ft", "-X", "none", "--no-sync", "-d"]
    refused = relay()
    done = subprocess.run(
        [*basebackup, refused.hospital.dsn("replica", refused.port)], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert b"replication is not allowed through this guard" in done.stderr
    assert [e for e in refused.events() if e["kind"] == "refused"] or refused.stack.total("refused_total") == 1


def test_an_allowed_replica_is_counted_and_flagged(relay: Relay, hospital: Hospital, tmp_path: Path) -> None:
    guarded = relay(allow_replication=["replic*"])
    with connect(hospital.admin_dsn) as admin:
        admin.execute(f"CREATE ROLE replica2 LOGIN REPLICATION PASSWORD '{PASSWORD}'")
        assert guarded.stack.total("refused_total") == 0
        directory = tmp_path / "wal"
        directory.mkdir()
        dsn = hospital.dsn("replica2", guarded.port)
        receive = subprocess.Popen(
            [hospital.server.bin / "pg_receivewal", "-D", directory, "-d", dsn, "--no-loop", "-s", "1"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            # It begins with the segment that is written to when it connects: a table made earlier would not be sent.
            wait_for(lambda: list(directory.glob("*.partial")))
            admin.execute("CREATE TABLE IF NOT EXISTS filled AS SELECT generate_series(1, 20000) AS a")
            admin.execute("SELECT pg_switch_wal()")
            wait_for(lambda: sum(e.get("bytes", 0) for e in guarded.events()) > 500_000)
        finally:
            receive.send_signal(signal.SIGINT)
            receive.wait(20)
            admin.execute("DROP TABLE filled")
    wait_for(lambda: [e for e in guarded.events() if e["kind"] == "logout"])
    events = [e for e in guarded.events() if e["principal"] == "replica2"]
    assert all("replication" in e.get("flags", []) for e in events)
    assert sum(e.get("bytes", 0) for e in events) > 500_000
    assert not [e for e in events if e["kind"] == "desynced"]


def test_a_shipper_that_had_no_descriptor_left_for_a_moment_tells_the_relays_again(tmp_path: Path) -> None:
    """The thread that tells them of verdicts ended, and nobody saw it: a relay that started later never heard of a lock."""
    config = Config(
        tenant="clinic",
        data_dir=str(tmp_path / "data"),
        kafka=KafkaConfig(bootstrap="127.0.0.1:9"),
        listener=[listener("127.0.0.1:9")],
    )
    table = VerdictTable(Path(config.data_dir) / "verdicts.json")
    table.apply(Verdict("clinic", "dpi_export", "lock", 1, 1, "a test", "operator:test"))
    table.save()
    stack = Stack(config)
    try:
        shipper = stack.start("shipper")
        wait_for(lambda: stack.snapshot("shipper"))
        soft, hard = resource.prlimit(shipper.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(shipper.pid, resource.RLIMIT_NOFILE, (3, hard))
        with socket.socket(socket.AF_UNIX) as relay, short_path(run_dir(config.data_dir) / "relay-0.sock") as address:
            relay.bind(address)
            relay.listen()
            time.sleep(0.5)
            resource.prlimit(shipper.pid, resource.RLIMIT_NOFILE, (soft, hard))
            relay.settimeout(5.0)
            link, _ = relay.accept()
            with link:
                assert b"dpi_export" in link.recv(1 << 16)
    finally:
        stack.stop()
