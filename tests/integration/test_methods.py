"""Ways to log in and kinds of message that no driver of the matrix uses: GSSENCRequest, direct TLS and its ALPN, md5, cleartext,
FunctionCall. The database's answer is the client's, byte for byte."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.config.test_certificates import made
from tests.wire import build as b

from .conftest import PATIENTS, Hospital
from .guarded import Relay
from .stack import DATABASE, PASSWORD, connect, wait_for

GSSENC_REQUEST = struct.pack("!II", 8, 80877104)
SSL_REQUEST = struct.pack("!II", 8, 80877103)
METHODS = {
    "asks_md5": "md5",
    "asks_clear": "password",
    "asks_scram": "scram-sha-256",
    "asks_nothing": "trust",
    "asks_never": "reject",
}


@pytest.fixture(scope="module")
def accounts(hospital: Hospital) -> Iterator[None]:
    """One for each method of pg_hba.conf."""
    hba = hospital.server.data_dir / "cluster" / "pg_hba.conf"
    before = hba.read_text(encoding="utf-8")
    lines = "".join(f"host all {name} 127.0.0.1/32 {method}\n" for name, method in METHODS.items())
    hba.write_text(lines + before, encoding="utf-8")
    with connect(hospital.admin_dsn) as admin:
        for name, method in METHODS.items():
            admin.execute(f"SET password_encryption = '{'md5' if method == 'md5' else 'scram-sha-256'}'")
            admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
            admin.execute(f"GRANT SELECT ON patient TO {name}")
        admin.execute("SELECT pg_reload_conf()")
    time.sleep(0.3)
    yield
    hba.write_text(before, encoding="utf-8")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_between_the_client_and_the_database(
    relay: Relay, hospital: Hospital, accounts: None, name: str
) -> None:
    guarded = relay()

    def tried(dsn: str) -> str:
        try:
            with connect(dsn) as session:
                return str(session.execute("SELECT count(*) FROM patient").fetchone())
        except psycopg.Error as error:
            return str(error).replace(str(guarded.port), "PORT").replace(str(hospital.port), "PORT")

    for dsn in (hospital.dsn(name), hospital.dsn(name).replace(PASSWORD, "wrong")):
        through = dsn.replace(f"port={hospital.port}", f"port={guarded.port}")
        assert through != dsn
        assert tried(through) == tried(dsn)
    logins = [
        e["kind"] for e in wait_for(lambda: [e for e in guarded.events() if e["kind"] in ("login", "login_failed")])
    ]
    expected = {"asks_nothing": {"login"}, "asks_never": {"login_failed"}}.get(name, {"login", "login_failed"})
    assert set(logins) <= expected


def test_a_function_call_is_answered_and_followed(relay: Relay, hospital: Hospital, accounts: None) -> None:
    """int4pl(40, 2) by its oid, binary; then a query, which is still told apart."""
    call = b.message("F", struct.pack("!IhhhiIiIh", 177, 1, 1, 2, 4, 40, 4, 2, 1))
    query = b.query("SELECT id FROM patient WHERE id <= 5")
    guarded = relay()
    heard = {}
    for port in (hospital.port, guarded.port):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            raw.sendall(b.startup(user="asks_nothing", database=DATABASE))
            _until_ready(raw)
            raw.sendall(call)
            answer = _until_ready(raw)
            raw.sendall(query)
            heard[port] = answer + _until_ready(raw)
    assert heard[guarded.port] == heard[hospital.port]
    assert heard[guarded.port].startswith(b.message("V", struct.pack("!iI", 4, 42)))
    wait_for(lambda: guarded.counted("asks_nothing") == 6)
    assert not [e for e in guarded.events() if e["kind"] == "desynced"]


@pytest.mark.parametrize("on_cut", ["close", "error"])
def test_what_function_calls_return_ends_at_the_budget(
    relay: Relay, hospital: Hospital, accounts: None, on_cut: str
) -> None:
    """Each value is a row. A call that was cut leaves the session in step like any other statement."""
    call = b.message("F", struct.pack("!IhhhiIiIh", 177, 1, 1, 2, 4, 40, 4, 2, 1))
    guarded = relay(mode="enforce", budget_rows=4, budget_window_ms=60_000, on_cut=on_cut)
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as raw:
        raw.sendall(b.startup(user="asks_nothing", database=DATABASE))
        _until_ready(raw)
        for _ in range(4):
            raw.sendall(call)
            assert _until_ready(raw).startswith(b"V")
        raw.sendall(call)
        answer = _until_ready(raw) if on_cut == "error" else raw.recv(1 << 16)
        assert answer.startswith(b"E")
        assert b"local budget" in answer
        if on_cut == "error":
            raw.sendall(b.query("SET search_path = public"))
            assert b"SET\0" in _until_ready(raw)


def test_what_may_come_at_any_time_is_taken_for_no_answer(relay: Relay, hospital: Hospital) -> None:
    """Notices between the rows, a notification while nothing is asked, and a ParameterStatus that a reload caused."""
    guarded = relay()
    heard: dict[int, list[str]] = {}
    with connect(guarded.dsn()) as through, connect(hospital.dsn("dpi_export")) as direct:
        for session in (direct, through):
            said = heard[session.info.port] = []
            session.add_notice_handler(lambda d, said=said: said.append(d.message_primary or ""))  # type: ignore[misc]
            session.execute(
                "CREATE FUNCTION pg_temp.loud(n int) RETURNS int LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE NOTICE 'seen %', n; RETURN n; END $$"
            )
            session.execute("LISTEN canal")
            rows = session.execute(
                "SELECT id, pg_temp.loud(id::int) FROM patient WHERE id <= 20 ORDER BY id"
            ).fetchall()
            assert rows == [(n, n) for n in range(1, 21)]
        assert heard[guarded.port] == heard[hospital.port] == [f"seen {n}" for n in range(1, 21)]
        with connect(hospital.admin_dsn) as admin:
            admin.execute("NOTIFY canal, 'at rest'")
            assert [n.payload for n in through.notifies(timeout=20, stop_after=1)] == ["at rest"]
            admin.execute("ALTER SYSTEM SET IntervalStyle = 'iso_8601'")
            try:
                admin.execute("SELECT pg_reload_conf()")

                def told() -> bool:
                    assert through.execute("SELECT 7").fetchone() == (7,)
                    return through.info.parameter_status("IntervalStyle") == "iso_8601"

                wait_for(told, message="a ParameterStatus that nobody asked for")
            finally:
                admin.execute("ALTER SYSTEM RESET IntervalStyle")
                admin.execute("SELECT pg_reload_conf()")
        assert through.execute("SELECT id FROM patient WHERE id <= 3").fetchall() == [(1,), (2,), (3,)]
    wait_for(lambda: [e["kind"] for e in guarded.events()][-1:] == ["logout"])
    assert not [e for e in guarded.events() if e["kind"] == "desynced"]


SAY_ALL = "DO $$ DECLARE p record; BEGIN FOR p IN SELECT * FROM patient ORDER BY id LOOP RAISE NOTICE '%', p; END LOOP; END $$"
SAY_PACKED = "DO $$ BEGIN RAISE NOTICE '%', (SELECT string_agg(id::text, ',') FROM patient); END $$"
SAY_HUGE = (
    "DO $$ BEGIN RAISE NOTICE '%', (SELECT string_agg(p::text, ' ') FROM patient p, generate_series(1, 3)); END $$"
)
FAIL = "SELECT (nom_naissance || id)::int FROM patient WHERE id = {}"
FAIL_HUGE = "SELECT string_agg(p::text, ' ')::int FROM patient p, generate_series(1, 3)"


@pytest.mark.parametrize("budget", [{"budget_patients": 20}, {"budget_rows": 20}])
@pytest.mark.parametrize("on_cut", ["close", "error"])
def test_what_is_said_beside_the_rows_ends_at_the_budget(
    relay: Relay, hospital: Hospital, budget: dict[str, int], on_cut: str
) -> None:
    """Notices and errors are as good as rows to somebody who is after what is in them."""
    guarded = relay(mode="enforce", budget_window_ms=60_000, on_cut=on_cut, **budget)
    for account, sql in {
        "dr.martin": SAY_ALL,
        "dr.petit": SAY_PACKED,
        "dr.simon": SAY_HUGE,
        "dr.roux": FAIL_HUGE,
    }.items():
        heard: list[str] = []
        with connect(guarded.dsn(account)) as session:
            session.add_notice_handler(lambda d, heard=heard: heard.append(d.message_primary or ""))  # type: ignore[misc]
            if "budget_patients" in budget or sql == SAY_ALL:
                with pytest.raises(psycopg.Error, match="local budget"):
                    session.execute(sql)
                assert len(heard) == (20 if sql == SAY_ALL else 0)
            else:
                with contextlib.suppress(psycopg.DataError):
                    session.execute(sql)  # one of twenty, however long
    told: list[str] = []
    for number in range(1, 30):
        with connect(guarded.dsn("dr.leroy")) as session, pytest.raises(psycopg.Error) as caught:
            session.execute(FAIL.format(number))
        told.append(str(caught.value))
    assert len([words for words in told if "invalid input syntax" in words]) == 20
    assert all("local budget" in words for words in told[20:])


def test_notifications_end_at_the_budget(relay: Relay, hospital: Hospital) -> None:
    guarded = relay(mode="enforce", budget_rows=50, budget_window_ms=60_000)
    with connect(hospital.dsn("dpi_export")) as direct, connect(guarded.dsn("dr.martin")) as through:
        through.execute("LISTEN canal")
        direct.execute("SELECT count(pg_notify('canal', p::text)) FROM (SELECT * FROM patient LIMIT 200) AS p")
        heard = []
        with pytest.raises(psycopg.Error):
            heard += through.notifies(timeout=10, stop_after=100)
        assert len(heard) <= 50


def test_what_is_said_beside_the_rows_is_counted(relay: Relay, hospital: Hospital) -> None:
    guarded = relay()
    for sql, patients in {
        SAY_ALL: PATIENTS,
        SAY_PACKED: PATIENTS,
        FAIL.format(7): 1,
        "SELECT 1 FROM nosuch": 0,
    }.items():
        before = len(guarded.events())
        with connect(guarded.dsn()) as through, contextlib.suppress(psycopg.Error):
            through.execute(sql)
        events = wait_for(lambda: (found := guarded.events()[before:])[-1]["kind"] == "logout" and found)  # noqa: B023
        digests = {digest for event in events for digest in event.get("patients", ())}
        assert len(digests) + sum(event.get("patients_estimated", 0) for event in events) == patients
        assert not sum(event.get("rows", 0) for event in events)


def _until_ready(raw: socket.socket) -> bytes:
    seen = b""
    while not seen.endswith(b.READY):
        part = raw.recv(1 << 16)
        assert part, seen
        seen += part
    return seen


def test_gssapi_encryption_is_declined_and_the_client_goes_on(relay: Relay, accounts: None, tmp_path: Path) -> None:
    """libpq asks for GSSAPI, then for TLS, on one connection; both answers are one byte."""
    cert, key = made(tmp_path, "guard")
    guarded = relay(tls="terminate", tls_cert=str(cert), tls_key=str(key))
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as raw:
        raw.sendall(GSSENC_REQUEST)
        assert raw.recv(10) == b"N"
        raw.sendall(SSL_REQUEST)
        assert raw.recv(1) == b"S"
        context = ssl.create_default_context(cafile=str(cert))
        context.check_hostname = False
        with context.wrap_socket(raw) as encrypted:
            encrypted.sendall(b.startup(user="asks_nothing", database=DATABASE))
            _until_ready(encrypted)
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as raw:
        raw.sendall(GSSENC_REQUEST)
        assert raw.recv(10) == b"N"
        raw.sendall(b.startup(user="asks_nothing", database=DATABASE))
        _until_ready(raw)


@pytest.mark.parametrize("protocols", [[], ["h2"], ["postgresql"], ["h2", "postgresql"]])
def test_direct_tls_is_taken_with_postgresqls_alpn_only(
    relay: Relay, accounts: None, tmp_path: Path, protocols: list[str]
) -> None:
    cert, key = made(tmp_path, "guard")
    guarded = relay(tls="terminate", tls_cert=str(cert), tls_key=str(key))
    context = ssl.create_default_context(cafile=str(cert))
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(protocols)
    with (
        socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as raw,
        context.wrap_socket(raw) as encrypted,
    ):
        if "postgresql" in protocols:
            assert encrypted.selected_alpn_protocol() == "postgresql"
            encrypted.sendall(b.startup(user="asks_nothing", database=DATABASE))
            _until_ready(encrypted)
        else:
            said = encrypted.recv(1000)
            assert b"C08P01" in said
            assert b"sslnegotiation=postgres" in said
            assert guarded.stack.total("tls_failures_total") == 1
