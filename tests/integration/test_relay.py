"""The relay in front of a real PostgreSQL, with the clients people use. No broker: nothing of this may need one."""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import orjson
import psycopg
import pytest

from exfilguard.config.schema import Config, KafkaConfig, ListenerConfig, SidecarConfig, SpoolConfig
from exfilguard.embedded.child import free_port
from exfilguard.events.codec import encode_verdict
from exfilguard.events.verdict import Verdict
from exfilguard.lab import attack
from exfilguard.runtime.process import own_command
from exfilguard.runtime.stats import short_path
from exfilguard.sidecar.verdict_table import VerdictTable

from .conftest import PATIENTS, Hospital
from .guarded import Relay
from .stack import DATABASE, PASSWORD, Stack, Tap, clean_environment, connect, listener, port_of, rss_kib, wait_for

# -- the same as without it -------------------------------------------------------------------------------------------

QUERIES = [
    ("SELECT id, nom_naissance, date_naissance FROM patient WHERE id < %s ORDER BY id", (500,)),
    ("SELECT count(*), max(id) FROM sejour", ()),
    ("SELECT NULL, 'é'::text, 1.5::numeric, now() - now(), ARRAY[1,2,3], repeat('x', 200000)", ()),
]


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_psycopg_gets_the_same_rows_in_every_way_of_asking(relay: Relay, mode: str) -> None:
    guarded = relay(mode=mode, budget_rows=10_000_000 if mode == "enforce" else 0)
    with connect(guarded.hospital.dsn("dpi_export")) as direct, connect(guarded.dsn()) as through:
        for query, parameters in QUERIES:
            for options in ({}, {"prepare": True}, {"prepare": True}, {"binary": True}):
                expected = direct.execute(query, parameters or None, **options).fetchall()  # type: ignore[arg-type]
                assert through.execute(query, parameters or None, **options).fetchall() == expected  # type: ignore[arg-type]
        with through.pipeline():
            cursors = [through.execute("SELECT id FROM patient WHERE id = %s", (n,)) for n in range(1, 50)]
        assert [c.fetchone() for c in cursors] == [(n,) for n in range(1, 50)]
        with through.transaction(), through.cursor(name="held") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT id FROM patient WHERE id <= 1000 ORDER BY id")
            assert [row[0] for row in cursor] == list(range(1, 1001))
        with pytest.raises(psycopg.errors.UndefinedTable):
            through.execute("SELECT * FROM nowhere")
        assert through.execute("SELECT 1; SELECT 2").fetchall() == [(1,)]


def test_copy_both_ways(relay: Relay) -> None:
    guarded = relay()
    with connect(guarded.dsn()) as through:
        with through.cursor() as cursor, cursor.copy("COPY (SELECT id FROM patient ORDER BY id) TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == PATIENTS
        with through.cursor() as cursor, cursor.copy("COPY (SELECT id FROM patient) TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int8"])
            assert sum(1 for _ in copy.rows()) == PATIENTS
        through.execute("CREATE TEMP TABLE mine (a int, b text)")
        with through.cursor() as cursor, cursor.copy("COPY mine FROM STDIN") as copy:
            for n in range(3_000):
                copy.write_row((n, "é" * 50))
        assert through.execute("SELECT count(*), sum(a) FROM mine").fetchone() == (3000, 4498500)
    wait_for(lambda: guarded.counted() == 2 * PATIENTS + 1, message="rows of both COPYs and the count are spooled")


def test_a_cancel_request_cancels(relay: Relay) -> None:
    guarded = relay()
    with connect(guarded.dsn()) as through:
        threading.Timer(0.3, through.cancel).start()
        began = time.monotonic()
        with pytest.raises(psycopg.errors.QueryCanceled):
            through.execute("SELECT pg_sleep(30)")
        assert time.monotonic() - began < 10
        assert through.execute("SELECT 1").fetchone() == (1,)


def test_a_database_that_is_known_by_a_name(relay: Relay, hospital: Hospital) -> None:
    with connect(relay(upstream=f"localhost:{hospital.port}").dsn()) as session:
        assert session.execute("SELECT 1").fetchone() == (1,)
        threading.Timer(0.3, session.cancel).start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            session.execute("SELECT pg_sleep(20)")


def test_every_byte_is_the_same_on_both_sides(relay: Relay, hospital: Hospital, tmp_path: Path) -> None:
    """client - tap - relay - tap - database, for psql, psycopg and pgbench."""
    inner = Tap(hospital.port)
    guarded = relay(upstream=f"127.0.0.1:{inner.port}")
    outer = Tap(guarded.port)
    # Requests for TLS and GSS encryption are answered by the relay itself, and are not the database's to see.
    dsn = hospital.dsn("dpi_export", outer.port) + " sslmode=disable gssencmode=disable"
    with connect(dsn) as through:
        for query, parameters in QUERIES:
            for options in ({}, {"prepare": True}, {"binary": True}):
                through.execute(query, parameters or None, **options).fetchall()  # type: ignore[arg-type]
        with through.cursor() as cursor, cursor.copy("COPY patient TO STDOUT") as copy:
            for _ in copy:
                pass
    script = tmp_path / "script.sql"
    script.write_text(
        "\\timing off\nSELECT * FROM patient LIMIT 5;\n\\d patient\nSELECT broken;\n\\copy sejour TO '/dev/null'\n",
        "utf-8",
    )
    subprocess.run(
        [hospital.server.bin / "psql", dsn, "-f", script], capture_output=True, check=True, env=clean_environment()
    )
    bench = tmp_path / "bench.sql"
    bench.write_text("\\set n random(1, 8000)\nSELECT * FROM patient WHERE id = :n;\n", "utf-8")
    for protocol in ("simple", "extended", "prepared"):
        done = subprocess.run(
            [hospital.server.bin / "pgbench", "-n", "-f", bench, "-M", protocol, "-c", "4", "-t", "200", dsn],
            capture_output=True, check=False, env=clean_environment(), text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "number of transactions actually processed: 800/800" in done.stdout
    assert len(outer.conversations) == len(inner.conversations) > 10

    def said(tap: Tap) -> list[tuple[bytes, bytes]]:
        """Connections may reach the inner tap in another order: conversations are compared by what was said."""
        return sorted((bytes(c.client), bytes(c.server)) for c in tap.conversations)

    # The last Terminate may still be on its way when pgbench has ended.
    wait_for(lambda: said(outer) == said(inner), message="both sides said the same")
    inner.close()
    outer.close()


def test_psql_prints_the_same(relay: Relay, hospital: Hospital) -> None:
    guarded = relay()
    command = "SELECT id, prenoms FROM patient WHERE id < 40; TABLE utilisateur; SELECT 1/0; SELECT version()"

    def psql(dsn: str) -> tuple[str, str]:
        done = subprocess.run(
            [hospital.server.bin / "psql", dsn, "-c", command],
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(),
        )
        return done.stdout, done.stderr

    assert psql(guarded.dsn()) == psql(hospital.dsn("dpi_export"))


def test_a_large_result_uses_no_more_memory(relay: Relay) -> None:
    guarded = relay()
    pid = guarded.stack.parts["relay"].pid
    with connect(guarded.dsn()) as through:
        through.execute("SELECT 1")
        before = rss_kib(pid)
        highest = rows = 0
        for _ in through.cursor().stream("SELECT repeat('x', 1000) FROM generate_series(1, 300000)"):
            rows += 1
            if rows % 5_000 == 0:
                highest = max(highest, rss_kib(pid))
                time.sleep(0.001)  # a client slower than the database: the difference must not pile up in the relay
        assert rows == 300_000
        assert highest - before < 16_000, f"grew from {before} to {highest} KiB over 300 MB"


# -- what is counted --------------------------------------------------------------------------------------------------


def test_rows_and_patients_are_counted_however_they_leave(relay: Relay) -> None:
    guarded = relay()
    with connect(guarded.dsn()) as through:
        through.execute("SELECT id FROM patient WHERE id <= 10").fetchall()
        through.execute("SELECT id FROM patient WHERE id <= 20", prepare=True, binary=True).fetchall()
        with through.cursor() as cursor, cursor.copy("COPY (SELECT * FROM patient WHERE id <= 30) TO STDOUT") as copy:
            list(copy)
        with through.transaction():
            cursor = through.cursor(name="c")
            cursor.execute("SELECT id FROM patient WHERE id <= 40")
            cursor.fetchall()
    wait_for(lambda: guarded.counted() == 100)
    digests = {p for e in guarded.events() for p in e.get("patients", ())}
    assert len(digests) == 40
    assert sum(e.get("patients_estimated", 0) for e in guarded.events()) == 30  # the COPY shows no identifier
    text = b"".join(p.read_bytes() for p in (guarded.stack.data_dir / "spool" / "0").glob("*.seg"))
    assert b"<= 10" not in text
    assert PASSWORD.encode() not in text


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_one_that_asks_for_what_is_hard_to_read_holds_up_nobody(relay: Relay, mode: str) -> None:
    """A cell that is nearly a list of identifiers, a text that is nearly a comparison with one."""
    guarded = relay(mode=mode, budget_rows=10_000)
    with connect(guarded.dsn()) as thief, connect(guarded.dsn("dr.martin")) as colleague:
        began = time.monotonic()
        thief.execute("SELECT repeat('1  ', 40) || 'x' FROM patient LIMIT 100").fetchall()
        thief.execute("SELECT 1 FROM patient WHERE id IN (" + " " * 50_000 + "1)").fetchall()
        with pytest.raises(psycopg.errors.SyntaxError):
            thief.execute("SELECT 1 FROM patient WHERE id IN (" + " " * 50_000)
        colleague.execute("SELECT 1")
        assert time.monotonic() - began < 5.0


def test_progress_is_reported_while_a_result_streams(relay: Relay) -> None:
    guarded = relay(progress_rows=100)
    with connect(guarded.dsn()) as through:
        stream = through.cursor().stream("SELECT id, pg_sleep(0.001) FROM patient WHERE id <= 2000")
        for _ in range(500):
            next(stream)
        wait_for(lambda: guarded.counted() >= 300, message="progress events before the end")
        kinds = [e["kind"] for e in guarded.events()]
        assert "progress" in kinds
        assert "query" not in kinds
        for _ in stream:
            pass
    wait_for(lambda: guarded.counted() == 2_000)


# -- enforce and verdicts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pages", "select", "copy"])
@pytest.mark.parametrize("limit", [1, 777, 5_000])
def test_enforce_delivers_exactly_the_limit(relay: Relay, method: attack.Method, limit: int) -> None:
    guarded = relay(mode="enforce", budget_rows=limit)
    loot = attack.dump(guarded.dsn(), method)
    assert loot.rows == limit
    assert "ExfilGuard" in loot.message
    assert attack.dump(guarded.dsn(), method).rows == 0  # the budget is the account's, not the connection's
    wait_for(lambda: guarded.counted() == limit, message="what was counted is what arrived")
    assert guarded.stack.total("records_past_limit_total") == 0
    with connect(guarded.dsn("dr.martin")) as colleague:
        assert colleague.execute("SELECT 1").fetchone() == (1,)


def test_enforce_counts_distinct_patients(relay: Relay) -> None:
    guarded = relay(mode="enforce", budget_patients=50)
    with connect(guarded.dsn()) as through:
        for _ in range(10):
            assert len(through.execute("SELECT id FROM patient WHERE id <= 50").fetchall()) == 50
        rows = 0
        with pytest.raises(psycopg.OperationalError, match="ExfilGuard"):
            for _ in through.cursor().stream("SELECT id FROM patient WHERE id <= 60 ORDER BY id"):
                rows += 1
        assert rows == 50


@pytest.mark.parametrize("limit", [1, 500])
def test_a_budget_of_patients_holds_for_copy_too(relay: Relay, limit: int) -> None:
    guarded = relay(mode="enforce", budget_patients=limit)
    loot = attack.dump(guarded.dsn(), "copy")
    assert loot.rows == limit
    assert "patients" in loot.message
    assert attack.dump(guarded.dsn(), "select").rows == 0


def test_many_sessions_share_one_budget(relay: Relay) -> None:
    guarded = relay(mode="enforce", budget_rows=1_000)
    loots = [attack.Loot() for _ in range(8)]
    threads = [threading.Thread(target=attack.dump, args=(guarded.dsn(), "select", loot)) for loot in loots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(loot.rows for loot in loots) == 1_000


def test_an_exempt_account_has_no_budget(relay: Relay) -> None:
    guarded = relay(mode="enforce", budget_rows=10, budget_exempt=["batch_*"])
    assert attack.dump(guarded.dsn("batch_nuit"), "select").rows == PATIENTS
    assert attack.dump(guarded.dsn(), "select").rows == 10


def test_observe_never_touches_the_stream(relay: Relay) -> None:
    guarded = relay(mode="observe", budget_rows=10, budget_patients=10)
    loot = attack.dump(guarded.dsn(), "select")
    assert (loot.rows, loot.message) == (PATIENTS, "")


def test_a_saved_verdict_is_enforced_from_the_first_connection(relay: Relay, tmp_path: Path) -> None:
    table = VerdictTable(tmp_path / "data" / "verdicts.json")
    table.apply(
        Verdict(
            tenant="clinic",
            principal="dpi_export",
            level="lock",
            revision=7,
            issued_ms=1,
            reason="r",
            issuer="operator:x",
        )
    )
    table.save()
    guarded = relay()
    loot = attack.dump(guarded.dsn())
    assert (loot.rows, "reference 7" in loot.message) == (0, True)
    with connect(guarded.dsn("dr.martin")) as other:
        assert other.execute("SELECT 1").fetchone() == (1,)


# -- bad input --------------------------------------------------------------------------------------------------------


def talk(port: int, data: bytes, seconds: float = 5.0) -> bytes:
    """Send, and read until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as client:
        client.sendall(data)
        out = b""
        try:
            while chunk := client.recv(1 << 16):
                out += chunk
        except ConnectionResetError:
            pass
        return out


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 64,
        bytes(range(256)) * 40,
        struct.pack("!I", 1 << 30) + b"\x00\x03\x00\x00" + b"x" * 100,
        struct.pack("!II", 8, 0x00020000),
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
    ids=["http", "zeros", "noise", "one-gigabyte", "protocol-2", "tls-at-once"],
)
def test_what_is_not_the_protocol_is_closed_with_a_clear_error(relay: Relay, data: bytes) -> None:
    guarded = relay()
    answer = talk(guarded.port, data)
    assert b"ExfilGuard" in answer
    assert b"PostgreSQL protocol" in answer
    assert guarded.stack.total("garbage_connections_total") == 1
    with connect(guarded.dsn()) as through:
        assert through.execute("SELECT 1").fetchone() == (1,)


def test_a_half_open_connection_is_closed_in_time(relay: Relay) -> None:
    guarded = relay(login_timeout_ms=500)
    began = time.monotonic()
    assert talk(guarded.port, b"\x00\x00") == b""
    assert time.monotonic() - began < 4


def test_a_length_of_a_gigabyte_inside_a_session_is_not_believed(relay: Relay) -> None:
    guarded = relay()
    pid = guarded.stack.parts["relay"].pid
    with connect(guarded.dsn()) as through:
        before = rss_kib(pid)
        raw = socket.socket(fileno=through.pgconn.socket)
        try:
            raw.sendall(b"Q" + struct.pack("!I", 1 << 30) + b"SELECT 1;" * 100)
            time.sleep(0.5)
            assert rss_kib(pid) - before < 8_000
        finally:
            raw.detach()
            through.close()
    with connect(guarded.dsn()) as through:
        assert through.execute("SELECT 1").fetchone() == (1,)


def test_a_dead_database_is_a_clear_error(relay: Relay) -> None:
    guarded = relay(upstream=f"127.0.0.1:{free_port()}")
    with pytest.raises(psycopg.OperationalError, match="cannot reach the database"):
        connect(guarded.dsn())
    assert guarded.stack.total("upstream_failures_total") == 1


def test_a_server_that_dies_in_the_middle_of_a_result(relay: Relay) -> None:
    guarded = relay()
    with connect(guarded.dsn()) as other, connect(guarded.dsn()) as through:
        (backend,) = through.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        before, rows = guarded.counted(), 0
        with pytest.raises(psycopg.OperationalError):
            for _ in through.cursor().stream("SELECT n, repeat('x', 1000) FROM generate_series(1, 1000000) AS n"):
                rows += 1
                if rows == 1_000:
                    with connect(guarded.hospital.admin_dsn) as admin:
                        admin.execute("SELECT pg_terminate_backend(%s)", (backend,))
        assert through.broken
        assert 1_000 <= rows < 1_000_000
        wait_for(lambda: guarded.counted() - before >= rows, message="every row that came is counted")
        assert other.execute("SELECT 1").fetchone() == (1,)


def test_a_log_that_nobody_reads_stops_no_query(hospital: Hospital, tmp_path: Path) -> None:
    """A pipe that is full: whoever wrote a line into it waited, and every session with it."""
    dead = replace(listener(f"127.0.0.1:{free_port()}"), name="dead")
    config = Config(
        tenant="clinic", data_dir=str(tmp_path / "data"), kafka=KafkaConfig(bootstrap="127.0.0.1:9"),
        listener=[listener(hospital.upstream), dead],
    )  # fmt: skip
    stack = Stack(config)
    command = own_command("relay", "--config", str(stack.path))
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
            stack.relay_ready()
            for _ in range(80):
                with pytest.raises(psycopg.OperationalError):
                    psycopg.connect(hospital.dsn("dpi_export", port_of(dead.listen)), connect_timeout=3)
            with connect(hospital.dsn("dpi_export", port_of(config.listener[0].listen))) as session:
                assert session.execute("SELECT 1").fetchone() == (1,)
            said = os.read(process.stderr.fileno(), 1 << 16).decode()
            assert "the database cannot be reached" in said
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(hospital.dsn("dpi_export", port_of(dead.listen)), connect_timeout=3)
            assert "lines were left out" in os.read(process.stderr.fileno(), 1 << 16).decode()
        finally:
            process.kill()


def test_a_wrong_password_is_the_databases_answer(relay: Relay) -> None:
    guarded = relay()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(guarded.dsn().replace(PASSWORD, "wrong"))
    wait_for(lambda: [e for e in guarded.events() if e["kind"] == "login_failed"])


def test_a_full_spool_lets_care_go_on_and_the_gap_is_counted(relay: Relay) -> None:
    guarded = relay(spool=SpoolConfig(segment_bytes=1 << 16, max_bytes=1 << 17))
    with connect(guarded.dsn()) as through:
        for n in range(2_000):
            assert through.execute("SELECT %s::int", (n,)).fetchone() == (n,)
    assert guarded.stack.total("spool_lost_events_total") > 100
    assert "spool is full" in guarded.stack.log("relay")


def test_a_full_spool_can_refuse_instead(relay: Relay) -> None:
    guarded = relay(spool=SpoolConfig(segment_bytes=1 << 16, max_bytes=1 << 17, on_full="refuse"))
    with pytest.raises(psycopg.OperationalError, match="spool is full"), connect(guarded.dsn()) as through:
        for n in range(2_000):
            through.execute("SELECT %s::int", (n,))


# -- TLS --------------------------------------------------------------------------------------------------------------


def certificate(directory: Path) -> tuple[str, str]:
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return str(cert), str(key)


def test_tls_is_refused_by_default_and_clients_go_on_without(relay: Relay) -> None:
    guarded = relay()
    with connect(guarded.dsn() + " sslmode=prefer") as through:
        assert through.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="SSL"):
        connect(guarded.dsn() + " sslmode=require")


def test_tls_is_terminated_with_the_configured_certificate(relay: Relay, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    guarded = relay(tls="terminate", tls_cert=cert, tls_key=key)
    for binding in ("prefer", "disable"):
        dsn = f"{guarded.dsn()} sslmode=verify-full sslrootcert={cert} channel_binding={binding}"
        with connect(dsn) as through:
            assert through.pgconn.ssl_in_use
            assert len(through.execute("SELECT id FROM patient WHERE id <= 100").fetchall()) == 100
    wait_for(lambda: guarded.counted() == 200)
    with connect(guarded.dsn() + " sslmode=disable") as through:
        assert through.execute("SELECT 1").fetchone() == (1,)
    context = ssl.create_default_context()
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=5) as plain:
        plain.sendall(struct.pack("!II", 8, 80877103))
        assert plain.recv(1) == b"S"
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(plain, server_hostname="localhost")


def test_config_of_this_file_names_the_lab(hospital: Hospital) -> None:
    """The fixtures guard what they claim to guard."""
    with connect(hospital.dsn("dpi_export")) as direct:
        row = direct.execute("SELECT current_database(), (SELECT count(*) FROM patient)").fetchone()
    assert row == (DATABASE, PATIENTS)
    assert isinstance(listener("x:1"), ListenerConfig)


def test_two_workers_share_the_port(tmp_path: Path, hospital: Hospital) -> None:
    made = listener(hospital.upstream)
    config = Config(
        tenant="clinic",
        data_dir=str(tmp_path / "data"),
        kafka=KafkaConfig(bootstrap="127.0.0.1:9"),
        sidecar=SidecarConfig(workers=2),
        listener=[made],
    )
    stack = Stack(config)
    try:
        for number in range(2):
            stack.start("relay", "--worker", str(number), key=f"relay-{number}")
            stack.relay_ready(number)
        for _ in range(40):
            with connect(hospital.dsn("dpi_export", port_of(made.listen))) as through:
                through.execute("SELECT id FROM patient WHERE id <= 5").fetchall()
        wait_for(lambda: stack.total("rows_total") == 200)
        counts = [stack.snapshot(f"relay-{n}") for n in range(2)]
        shares = [v for s in counts if s is not None for name, _, v in s.values if name == "connections_total"]
        assert sum(shares) == 40
        assert min(shares) > 0, "the kernel spreads connections over both"
    finally:
        stack.stop()


@pytest.mark.parametrize("pause_s", [0.0, 0.0002])
def test_a_verdict_in_the_middle_of_a_result_ends_it_between_two_rows(
    relay: Relay, hospital: Hospital, pause_s: float
) -> None:
    """Whatever was in flight arrives whole, then the error: what is counted is what the client received."""
    guarded = relay()
    verdict = Verdict(
        tenant="clinic", principal="dpi_export", level="lock", revision=9, issued_ms=1, reason="r", issuer="operator:x"
    )
    rows = 0
    with pytest.raises(psycopg.OperationalError, match="reference 9"), connect(guarded.dsn()) as through:
        query = "SELECT p.*, repeat('x', 300) FROM patient AS p, generate_series(1, 50)"
        for _ in through.cursor().stream(query):
            rows += 1
            if rows == 3_000:
                guarded.stack.tell(verdict)
                time.sleep(0.02)  # as the lock-out hook does a moment later
                with connect(hospital.admin_dsn) as admin:
                    admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'dpi_export' AND state = 'active'"
                    )
            if pause_s:
                time.sleep(pause_s)
    assert 3_000 < rows < 400_000
    wait_for(lambda: guarded.counted() == rows, message=f"{rows} received, {guarded.counted()} counted")


def test_the_columns_of_a_database_with_very_many_tables_are_taken(relay: Relay) -> None:
    """A schema for each establishment, a partition for each month: the relay closed its control connection at such a line, and the
    shipper opened it again, without end."""
    guarded = relay()
    verdict = Verdict("clinic", "nobody", "lock", 9, 1, "r", "operator:x")
    columns = [[16_384 + n, 1] for n in range(100_000)]
    tables = [[f"clinic_{n}", "patient", 9, 9, [["id", 20, 0, 0]]] for n in range(20_000)]
    message = {"listener": "dpi", "origins": columns, "others": [], "identity_tables": [], "tables": tables}
    with (
        socket.socket(socket.AF_UNIX) as control,
        short_path(guarded.stack.data_dir / "run" / "relay-0.sock") as address,
    ):
        control.connect(address)
        control.sendall(orjson.dumps({"columns": message}) + b"\n")
        control.sendall(b'{"verdict":' + encode_verdict(verdict) + b"}\n")

        def heard() -> bool:
            snapshot = guarded.stack.snapshot("relay-0")
            return snapshot is not None and snapshot.details["verdicts"] == 1

        wait_for(heard)
    assert "control" not in guarded.stack.log("relay")


def test_a_throttle_holds_for_a_principal_over_all_its_sessions_and_ends_with_its_verdict(relay: Relay) -> None:
    """Four sessions together, and one that connects anew for every query, are no faster than the verdict says; everybody else is
    as fast as ever, and so is the principal again when the verdict is over."""
    rate, lasts_s = 500, 4.0
    guarded = relay()
    now = int(time.time() * 1000)
    verdict = Verdict(
        tenant="clinic", principal="dpi_export", level="throttle", revision=9, issued_ms=now, reason="r", issuer="operator:x",
        throttle_rows_per_s=rate, expires_ms=now + int(lasts_s * 1000),
    )  # fmt: skip
    guarded.stack.tell(verdict)
    time.sleep(0.1)
    began = time.monotonic()
    taken = [0] * 5

    def take(number: int) -> None:
        while time.monotonic() - began < lasts_s - 1.0:
            with connect(guarded.dsn()) as session:
                # Wide rows: a portion of the relay holds few of them.
                for _ in session.cursor().stream(
                    "SELECT repeat('x', 3000) FROM generate_series(1, %s)", (40 if number else 4_000,)
                ):
                    taken[number] += 1
                    if time.monotonic() - began > lasts_s - 1.0:
                        break
                session.close()

    threads = [threading.Thread(target=take, args=(n,), daemon=True) for n in range(5)]
    for thread in threads:
        thread.start()
    with connect(guarded.dsn("dr.martin")) as colleague:
        start = time.monotonic()
        colleague.execute("SELECT g FROM generate_series(1, 20000) AS g").fetchall()
        assert time.monotonic() - start < 1.0
    for thread in threads:
        thread.join(lasts_s + 5)
    elapsed = lasts_s - 1.0
    assert sum(taken) < rate * elapsed + 5 * 100, taken
    assert sum(taken) > rate * elapsed / 4, taken
    time.sleep(max(0.0, lasts_s + 0.2 - (time.monotonic() - began)))
    with connect(guarded.dsn()) as session:
        start = time.monotonic()
        session.execute("SELECT g FROM generate_series(1, 20000) AS g").fetchall()
        assert time.monotonic() - start < 1.0


def test_sessions_that_ask_at_the_same_moment_are_no_faster_than_one(relay: Relay) -> None:
    rate, sessions = 100, 30
    guarded = relay()
    verdict = Verdict(
        tenant="clinic", principal="dpi_export", level="throttle", revision=9, issued_ms=1, reason="r", issuer="operator:x",
        throttle_rows_per_s=rate, expires_ms=int(time.time() * 1000) + 60_000,
    )  # fmt: skip
    links = [connect(guarded.dsn()) for _ in range(sessions)]
    guarded.stack.tell(verdict)
    time.sleep(0.2)
    for link in links:
        link.pgconn.send_query(b"SELECT g FROM generate_series(1, 300) AS g, pg_sleep(0.5)")
    time.sleep(3.0)
    assert 300 <= guarded.counted() <= 300 * 3
    for link in links:
        link.close()
