"""TLS at the sidecar with libpq 18: direct TLS with ALPN, the protocol's version 3.2, client certificates, renewal.

TLS towards the database: a listener that terminates TLS stands in for one, since the embedded server has none. Everything
runs on both event loops: with TLS on every listener on uvloop, with one in clear beside them on the sockets in C."""

from __future__ import annotations

import signal
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from exfilguard.config.schema import ListenerConfig
from tests.config.test_certificates import made

from .conftest import PATIENTS, Hospital
from .guarded import Guarded, Relay
from .stack import connect, listener, rss_kib, wait_for

SSL_REQUEST = struct.pack("!II", 8, 80877103)


@pytest.fixture(params=["uvloop", "pump"])
def relay(request: pytest.FixtureRequest, relay: Relay, hospital: Hospital) -> Relay:
    """On either event loop."""
    clear = [listener(hospital.upstream, name="clear")] if request.param == "pump" else []

    def start(beside: Sequence[ListenerConfig] = (), **changes: Any) -> Guarded:
        return relay(beside=[*beside, *clear], **changes)

    return start


def psql(guarded: Guarded, settings: str, user: str = "dpi_export") -> tuple[int, str, str]:
    """By psycopg's own libpq, which has TLS: the embedded server's has none."""
    try:
        with connect(f"{guarded.dsn(user)} {settings}") as through:
            return 0, str(through.execute("SELECT 40 + 2").fetchone()[0]), ""  # type: ignore[index]
    except psycopg.Error as error:
        return 2, "", str(error)


def test_direct_tls_and_both_protocol_versions(relay: Relay, tmp_path: Path) -> None:
    cert, key = made(tmp_path, "guard")
    guarded = relay(tls="terminate", tls_cert=str(cert), tls_key=str(key))
    for settings in (
        "sslmode=require sslnegotiation=direct",
        "sslmode=require sslnegotiation=postgres",
        "sslmode=require sslnegotiation=direct min_protocol_version=3.2 max_protocol_version=3.2",
        "sslmode=disable min_protocol_version=3.2 max_protocol_version=3.2",
        "sslmode=disable max_protocol_version=3.0",
        "sslmode=require channel_binding=prefer",
    ):
        assert psql(guarded, settings)[:2] == (0, "42"), settings
    assert guarded.stack.total("certificate_expiration_timestamp_seconds") > time.time()


def test_a_client_certificate_must_be_the_accounts(relay: Relay, tmp_path: Path) -> None:
    cert, key = made(tmp_path, "guard")
    own, own_key = made(tmp_path, "dpi_export")
    own_key.chmod(0o600)
    guarded = relay(tls="terminate", tls_cert=str(cert), tls_key=str(key), tls_client_ca=str(own))
    shown = f"sslmode=require sslcert={own} sslkey={own_key}"
    assert psql(guarded, shown)[:2] == (0, "42")
    assert "another account's" in psql(guarded, shown, "dr.martin")[2]
    assert "client certificate is required" in psql(guarded, f"sslmode=require sslcert={tmp_path}/none")[2]
    assert "connect with TLS" in psql(guarded, "sslmode=disable")[2]


def test_a_renewed_certificate_is_taken_on_sighup(relay: Relay, tmp_path: Path) -> None:
    cert, key = made(tmp_path, "guard", 5)
    guarded = relay(tls="terminate", tls_cert=str(cert), tls_key=str(key))
    before = guarded.stack.total("certificate_expiration_timestamp_seconds")
    made(tmp_path, "guard", 60)
    process = guarded.stack.parts["relay"].process
    assert process is not None
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: guarded.stack.total("certificate_expiration_timestamp_seconds") > before)
    assert psql(guarded, "sslmode=require")[:2] == (0, "42")
    key.write_text("broken", encoding="utf-8")
    process.send_signal(signal.SIGHUP)
    wait_for(lambda: "the old ones stay in use" in guarded.stack.log("relay"))
    assert psql(guarded, "sslmode=require")[:2] == (0, "42")


def test_a_handshake_that_fails_or_never_ends_is_counted_and_harms_nobody(relay: Relay, tmp_path: Path) -> None:
    cert, key = made(tmp_path, "guard")
    guarded = relay(tls="terminate", tls_cert=str(cert), tls_key=str(key), login_timeout_ms=1000)
    context = ssl.create_default_context()  # trusts no such certificate: the client ends the handshake with an alert
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=5) as plain:
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(plain, server_hostname="guard")
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=5) as plain:
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while plain.recv(4096):
            pass  # an alert, then the end
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=5) as plain:
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
        assert plain.recv(1) == b""  # says nothing: the login's time is up
    wait_for(lambda: guarded.stack.total("tls_failures_total") >= 2)
    assert guarded.stack.total("login_timeouts_total") == 1
    assert psql(guarded, "sslmode=require")[:2] == (0, "42")
    assert "Traceback" not in guarded.stack.log("relay")


def test_what_comes_in_the_handshakes_last_packet_is_answered_encrypted(relay: Relay, tmp_path: Path) -> None:
    """A client may send its StartupMessage right behind its Finished. What is refused at once is not refused in clear."""
    cert, key = made(tmp_path, "guard")
    guarded = relay(tls="terminate", tls_cert=str(cert), tls_key=str(key))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=str(cert))
    context.check_hostname = False
    tls = context.wrap_bio(incoming, outgoing)
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=5) as plain:
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                plain.sendall(outgoing.read())
                incoming.write(plain.recv(65536))
            else:
                break
        tls.write(struct.pack("!II", 8, 2 << 16))  # version 2
        plain.sendall(outgoing.read())  # both at once
        while True:
            try:
                answer = tls.read(65536)
            except ssl.SSLWantReadError:
                data = plain.recv(65536)
                assert data, "closed without a word"
                incoming.write(data)  # anything in clear ends in an SSLError here
            else:
                break
        assert answer[:1] == b"E"


# -- towards the database ---------------------------------------------------------------------------------------------


@pytest.fixture
def chained(relay: Relay, tmp_path: Path, hospital: Hospital) -> Relay:
    """A listener whose database is a listener with TLS, whose database is the hospital's."""
    cert, key = made(tmp_path, "localhost")

    def start(behind: dict[str, Any], **changes: Any) -> Guarded:
        made_behind = listener(
            hospital.upstream, name="behind", tls="terminate", tls_cert=str(cert), tls_key=str(key), **behind
        )
        upstream = made_behind.listen.replace("127.0.0.1", "localhost")
        return relay(upstream=upstream, beside=[made_behind], **changes)

    return start


def test_tls_on_both_sides_carries_much_and_waits_for_a_slow_client(
    chained: Relay, tmp_path: Path, hospital: Hospital
) -> None:
    cert, key = made(tmp_path, "guard")
    outer = {"tls": "terminate", "tls_cert": str(cert), "tls_key": str(key), "upstream_tls": "require"}
    guarded = chained({}, **outer)
    query = "SELECT id, nom_naissance, repeat('x', 100) FROM patient ORDER BY id"
    with connect(hospital.dsn("dpi_export")) as direct, connect(f"{guarded.dsn()} sslmode=require") as through:
        assert through.pgconn.ssl_in_use
        expected = direct.execute(query).fetchall()
        assert len(expected) == PATIENTS
        for binary in (False, True):
            assert through.execute(query, binary=binary).fetchall() == expected
        sent = "é" * 3_000_000
        assert through.execute("SELECT length(%s)", (sent,)).fetchone() == (3_000_000,)
        before = rss_kib(guarded.stack.parts["relay"].process.pid)  # type: ignore[union-attr]
        much = "COPY (SELECT repeat('y', 1000) FROM generate_series(1, 100000)) TO STDOUT"
        with through.cursor() as cursor, cursor.copy(much) as copy:
            time.sleep(1)  # 100 MB are on their way, and nobody reads
            grown = rss_kib(guarded.stack.parts["relay"].process.pid) - before  # type: ignore[union-attr]
            assert sum(len(bytes(part)) for part in copy) == 100_100_000
        assert grown < 16_384
    assert guarded.stack.total("tls_failures_total") == 0


def test_the_databases_certificate_is_verified(chained: Relay, tmp_path: Path) -> None:
    other, _ = made(tmp_path, "other")
    guarded = chained({}, upstream_tls="verify-full", upstream_ca=str(other))
    assert "cannot reach the database" in psql(guarded, "sslmode=disable")[2]
    assert guarded.stack.total("upstream_failures_total") == 1
    assert "Traceback" not in guarded.stack.log("relay")


def test_the_database_without_tls_is_refused_when_tls_is_asked_for(relay: Relay) -> None:
    guarded = relay(upstream_tls="require")
    assert "cannot reach the database" in psql(guarded, "sslmode=disable")[2]


def test_the_guard_shows_its_certificate_to_the_database(chained: Relay, tmp_path: Path) -> None:
    own, own_key = made(tmp_path, "dpi_export")
    shown = {"upstream_tls": "require", "upstream_cert": str(own), "upstream_key": str(own_key)}
    guarded = chained({"tls_client_ca": str(own)}, **shown)
    assert psql(guarded, "sslmode=disable")[:2] == (0, "42")
    assert "another account's" in psql(guarded, "sslmode=disable", "dr.martin")[2]
