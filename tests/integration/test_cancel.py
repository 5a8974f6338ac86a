"""Cancelling: through TLS on either side, with both lengths of key, and wherever the cancel's own connection lands."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from exfilguard.config.schema import SidecarConfig
from exfilguard.embedded.child import free_port

from .balancer import haproxy
from .conftest import Hospital
from .guarded import Guarded, Relay
from .stack import Tap, connect, listener, port_of, wait_for
from .test_relay import certificate

CANCEL = struct.pack("!III", 16, 80877102, 12345) + b"secr"


def cancelled(connection: psycopg.Connection[Any], cancel: Callable[[], None]) -> None:
    """A long statement is cancelled, and the next one on the same session is not."""
    timer = threading.Timer(0.1, cancel)
    timer.start()
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(20)")
    timer.join()
    assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("loop", ["uvloop", "pump"])
@pytest.mark.parametrize("protocol", ["3.0", "3.2"])
def test_a_cancel_goes_through_tls_on_both_sides(
    relay: Relay, hospital: Hospital, tmp_path: Path, protocol: str, loop: str
) -> None:
    """client - TLS - guard - tap - TLS - guard - database: nowhere is the key seen in clear."""
    cert, key = certificate(tmp_path)
    behind = listener(hospital.upstream, name="behind", tls="terminate", tls_cert=cert, tls_key=key)
    tap = Tap(port_of(behind.listen))
    beside = [behind, listener(hospital.upstream, name="clear")] if loop == "pump" else [behind]
    guarded = relay(
        upstream=f"127.0.0.1:{tap.port}", beside=beside, upstream_tls="verify-full", upstream_ca=cert,
        tls="terminate", tls_cert=cert, tls_key=key,
    )  # fmt: skip
    dsn = f"{guarded.dsn()} sslmode=verify-full sslrootcert={cert} min_protocol_version={protocol}"
    with connect(f"{dsn} max_protocol_version={protocol}") as through:
        assert through.pgconn.ssl_in_use
        assert through.pgconn.full_protocol_version == int(protocol[0]) * 10_000 + int(protocol[2])
        for _ in range(2):
            cancelled(through, through.cancel_safe)
    wait_for(lambda: len(tap.conversations) == 3 and all(c.over for c in tap.conversations))
    for conversation in tap.conversations:
        said = bytes(conversation.client)
        assert said[:8] == struct.pack("!II", 8, 80877103)
        assert said[8:10] == b"\x16\x03", "what follows the request is TLS"
    tap.close()
    assert guarded.stack.total("cancels_failed_total") == 0


def raw_cancel(port: int) -> float:
    """A CancelRequest in clear; returns the seconds until its connection was closed."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(CANCEL)
        assert raw.recv(1) == b""
    return time.monotonic() - began


@pytest.mark.parametrize(
    "answer", [b"N", b"Sand more, in clear", b"", b"S"], ids=["refused", "stuffed", "gone", "no-tls"]
)
def test_a_cancel_is_not_sent_where_tls_cannot_be_had(relay: Relay, answer: bytes) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    guarded = relay(upstream=f"127.0.0.1:{server.getsockname()[1]}", upstream_tls="require")
    heard = b""

    def serve() -> None:
        nonlocal heard
        peer, _ = server.accept()
        heard += peer.recv(8)
        if answer:
            peer.sendall(answer)
            peer.sendall(b"no handshake" if answer == b"S" else b"")
            peer.settimeout(10)
            while part := peer.recv(4096):
                heard += part
        peer.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    raw_cancel(guarded.port)
    thread.join(10)
    server.close()
    assert heard[:8] == struct.pack("!II", 8, 80877103)
    assert b"secr" not in heard
    wait_for(lambda: guarded.stack.total("cancels_failed_total") == 1)
    assert "a cancel was not passed on" in guarded.stack.log("relay")


def test_a_certificate_that_does_not_verify_gets_no_cancel(relay: Relay, hospital: Hospital, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = certificate(tmp_path / "other")
    behind = listener(hospital.upstream, name="behind", tls="terminate", tls_cert=cert, tls_key=key)
    guarded = relay(upstream=behind.listen, beside=[behind], upstream_tls="verify-full", upstream_ca=other)
    raw_cancel(guarded.port)
    wait_for(lambda: guarded.stack.total("cancels_failed_total") == 1)


def test_the_client_is_let_go_when_the_database_has_acted(relay: Relay) -> None:
    """Were it let go earlier, the cancel could hit the statement it sends next."""
    server = socket.create_server(("127.0.0.1", 0))
    guarded = relay(upstream=f"127.0.0.1:{server.getsockname()[1]}")

    def serve() -> None:
        peer, _ = server.accept()
        assert peer.recv(64) == CANCEL
        time.sleep(0.5)
        peer.close()

    threading.Thread(target=serve, daemon=True).start()
    assert raw_cancel(guarded.port) >= 0.5
    server.close()


def test_a_flood_of_cancels_is_bounded_and_harms_nobody(relay: Relay) -> None:
    """A database that answers none of them: at most 32 connections to it."""
    server = socket.create_server(("127.0.0.1", 0), backlog=512)
    guarded = relay(upstream=f"127.0.0.1:{server.getsockname()[1]}", beside=())
    clients = [socket.create_connection(("127.0.0.1", guarded.port), timeout=10) for _ in range(200)]
    for client in clients:
        client.sendall(CANCEL)
    peers = []
    server.settimeout(1.0)
    try:
        while True:
            peers.append(server.accept()[0])
    except TimeoutError:
        pass
    assert len(peers) == 32
    for one in (*clients, *peers, server):
        one.close()


def test_a_cancel_may_reach_any_worker(relay: Relay) -> None:
    guarded = relay(sidecar=SidecarConfig(workers=3))
    with connect(guarded.dsn()) as through:
        for _ in range(9):  # each by a connection that the kernel gives to one of three
            cancelled(through, through.cancel_safe)


def test_a_cancel_may_reach_any_sidecar_behind_one_name(relay: Relay, hospital: Hospital, tmp_path: Path) -> None:
    """Two sidecars behind a load balancer that takes them in turns: session and cancel go different ways."""
    one = relay()
    other = Guarded(one.stack, hospital)
    second = _second(tmp_path, hospital)
    try:
        with haproxy(tmp_path, one.port, second.port) as port, connect(hospital.dsn("dpi_export", port)) as through:
            for _ in range(4):
                cancelled(through, through.cancel_safe)
        ways = [guarded.stack.total("connections_total") for guarded in (other, second)]
        assert all(ways), f"both were used: {ways}"
    finally:
        second.stack.stop()


def _second(tmp_path: Path, hospital: Hospital) -> Guarded:
    """Another sidecar before the same database."""
    from exfilguard.config.schema import Config, KafkaConfig

    from .stack import Stack

    made = listener(hospital.upstream, listen=f"127.0.0.1:{free_port()}")
    stack = Stack(
        Config(
            tenant="clinic",
            data_dir=str(tmp_path / "second"),
            kafka=KafkaConfig(bootstrap="127.0.0.1:9"),
            listener=[made],
        )
    )
    stack.start("relay")
    stack.relay_ready()
    return Guarded(stack, hospital)
