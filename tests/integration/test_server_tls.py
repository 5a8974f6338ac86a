"""A PostgreSQL that has TLS itself, and is of the time before protocol 3.2: what it offers reaches clients knowingly. Debian's 15; the
embedded server has no TLS."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from exfilguard.embedded.postgres import EmbeddedPostgres
from tests.config.test_certificates import made
from tests.wire import build as b

from .conftest import Hospital, enterable_directory
from .guarded import Guarded, Relay
from .stack import DATABASE, PASSWORD, connect, wait_for
from .test_relay import certificate

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
BINDING_ERROR = "SCRAM channel binding negotiation error"


@pytest.fixture(scope="module")
def secured() -> Iterator[Hospital]:
    """Accounts: dpi_export by SCRAM, over TLS alone; by_certificate by the certificate that the guard shows."""
    if not PROGRAMS.is_dir():
        pytest.skip("PostgreSQL 15: apt install postgresql-15")
    with enterable_directory() as directory:
        cert, key = certificate(directory)
        own, _ = made(directory, "by_certificate")
        for path in (cert, str(own)):
            os.chmod(path, 0o644)
        inside = directory / "server" / "tls.key"
        settings = {"ssl": "on", "ssl_cert_file": cert, "ssl_key_file": str(inside), "ssl_ca_file": str(own)}
        server = WithKey(directory / "server", settings=settings, bin_dir=PROGRAMS)
        server.key = Path(key).read_text("ascii")
        with server:
            hba = server.data_dir / "cluster" / "pg_hba.conf"
            hba.write_text(
                "hostssl all by_certificate 127.0.0.1/32 cert\nhostnossl all dpi_export 127.0.0.1/32 reject\n"
                + hba.read_text(encoding="utf-8"),
                encoding="utf-8",
            )
            with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
                admin.execute(f"CREATE DATABASE {DATABASE}")
                admin.execute(f"CREATE ROLE dpi_export LOGIN PASSWORD '{PASSWORD}'")
                admin.execute("CREATE ROLE by_certificate LOGIN")
                admin.execute("SELECT pg_reload_conf()")
            yield Hospital(server)


class WithKey(EmbeddedPostgres):
    """Its TLS key is a file that only it may read."""

    key = ""

    def prepare(self) -> Any:
        self.secret_file("tls.key", self.key)
        return super().prepare()


Behind = Callable[..., Guarded]


@pytest.fixture
def behind(relay: Relay, secured: Hospital, tmp_path: Path) -> Behind:
    """Starts a relay that goes to this server with TLS."""

    def start(**changes: Any) -> Guarded:
        guarded = relay(upstream=secured.upstream, upstream_tls="require", **changes)
        guarded.hospital = secured
        return guarded

    return start


def tried(dsn: str) -> tuple[str, int, bool]:
    """(error, protocol version, TLS as the database sees it)."""
    try:
        with connect(dsn) as session:
            row = session.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
            assert row is not None
            return "", session.pgconn.full_protocol_version, row[0]
    except psycopg.Error as error:
        return str(error), 0, False


def test_the_server_offers_channel_binding_and_a_client_in_clear_does_not_miss_it(
    behind: Behind, secured: Hospital
) -> None:
    guarded = behind()
    assert b"SCRAM-SHA-256-PLUS" in offered(secured.port)
    for binding in ("disable", "prefer"):
        assert tried(f"{guarded.dsn()} sslmode=disable channel_binding={binding}") == ("", 30000, True)
    assert "channel binding" in tried(f"{guarded.dsn()} sslmode=disable channel_binding=require")[0]
    wait_for(lambda: [e["kind"] for e in guarded.events() if e["kind"] == "login"] == ["login"] * 2)


def test_with_tls_on_both_sides_a_client_must_not_insist_on_channel_binding(
    behind: Behind, secured: Hospital, tmp_path: Path
) -> None:
    """It would bind to the guard's certificate, the server to its own. The proof covers what the client said of it, so nobody in
    between can mend that: the server says what is wrong, and a client that is told `disable` logs in."""
    cert, key = certificate(tmp_path)
    guarded = behind(tls="terminate", tls_cert=cert, tls_key=key)
    direct = secured.dsn("dpi_export") + " sslmode=require"
    assert tried(f"{direct} channel_binding=require")[0] == ""
    through = f"{guarded.dsn()} sslmode=require"
    assert tried(f"{through} channel_binding=disable") == ("", 30000, True)
    assert BINDING_ERROR in tried(f"{through} channel_binding=prefer")[0]
    assert "channel binding" in tried(f"{through} channel_binding=require")[0]
    wait_for(lambda: any(e["kind"] == "login_failed" for e in guarded.events()))


def test_the_guards_certificate_is_the_accounts_to_a_server_that_asks_for_one(
    behind: Behind, secured: Hospital
) -> None:
    directory = secured.server.data_dir.parent
    shown = {"upstream_cert": f"{directory}/by_certificate.crt", "upstream_key": f"{directory}/by_certificate.key"}
    guarded = behind(**shown)
    assert tried(f"{guarded.dsn('by_certificate')} sslmode=disable") == ("", 30000, True)


def test_without_one_it_is_the_server_that_refuses(behind: Behind, secured: Hospital) -> None:
    guarded, settings = behind(), " sslmode=disable"
    direct = tried(secured.dsn("by_certificate") + " sslmode=require")
    assert "connection requires a valid client certificate" in direct[0]
    assert "connection requires a valid client certificate" in tried(guarded.dsn("by_certificate") + settings)[0]


def test_a_server_that_does_not_know_protocol_3_2_negotiates_3_0(behind: Behind, secured: Hospital) -> None:
    """NegotiateProtocolVersion is the server's, and reaches the client as it is."""
    guarded = behind()
    for least in ("3.0", "3.2"):
        settings = f" min_protocol_version={least} max_protocol_version=3.2"
        through = tried(f"{guarded.dsn()} sslmode=disable{settings}")
        direct = tried(f"{secured.dsn('dpi_export')} sslmode=require{settings}")
        assert through == (direct[0].replace(str(secured.port), str(guarded.port)), *direct[1:])
        assert bool(through[0]) == (least == "3.2")
        assert through[1] == (30000 if least == "3.0" else 0)
    assert not [e for e in guarded.events() if e["kind"] == "desynced"]


def offered(port: int) -> bytes:
    """What the server says for SASL, asked over TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(struct.pack("!II", 8, 80877103))
        assert raw.recv(1) == b"S"
        with context.wrap_socket(raw) as encrypted:
            encrypted.sendall(b.startup(user="dpi_export", database=DATABASE))
            return encrypted.recv(1000)
