"""Start-up packets and the messages the guard writes itself."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.errors import ProtocolError
from exfilguard.wire.postgres import startup
from exfilguard.wire.postgres._scan import COMPILED
from exfilguard.wire.postgres.messages import sqlstate
from tests.wire import build as b


def test_startup_message_byte_by_byte() -> None:
    data = b.startup(user="amélie", database="dpi", application_name="psql")
    for size in range(len(data)):
        assert startup.parse(data[:size]) == (None, 0)
    found, used = startup.parse(data + b"trailing")
    assert used == len(data)
    assert found == startup.StartupMessage({"user": "amélie", "database": "dpi", "application_name": "psql"})


def test_a_user_is_who_the_server_cuts_the_name_to() -> None:
    found, _ = startup.parse(b.startup(user="r" * 63 + "another", application_name="a" * 70))
    assert isinstance(found, startup.StartupMessage)
    assert found.params == {"user": "r" * 63, "application_name": "a" * 70}


def test_requests() -> None:
    assert startup.parse(startup.ssl_request()) == (startup.SSLRequest(), 8)
    assert startup.parse(struct.pack("!II", 8, startup.GSSENC_REQUEST_CODE)) == (startup.GSSENCRequest(), 8)
    assert startup.parse(startup.cancel_request(b"\0\0\0\7secr")) == (startup.CancelRequest(), 16)
    assert startup.parse(startup.cancel_request(b"\0\0\0\7" + b"s" * 32)) == (startup.CancelRequest(), 44)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GE",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"SSH-2.0-x\r\n",
        struct.pack("!I", 1 << 30),
        struct.pack("!II", 8, 2 << 16),
        struct.pack("!II", 12, startup.CANCEL_REQUEST_CODE) + b"abcd",
        struct.pack("!II", 9, startup.SSL_REQUEST_CODE) + b"x",
        struct.pack("!II", 7, 196608),
        b.startup(database="dpi"),
        struct.pack("!II", 13, 196608) + b"user\0",
        struct.pack("!II", 12, 196608) + b"user",
    ],
)
def test_what_is_not_the_protocol_is_said_at_once(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        startup.parse(data)


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_raise_protocol_error(data: bytes) -> None:
    try:
        _, used = startup.parse(data)
    except ProtocolError:
        return
    assert 0 <= used <= len(data)


def test_error_response_reads_back() -> None:
    raw = startup.error_response("FATAL", "53400", "arrêté")
    assert raw[:1] == b"E"
    assert int.from_bytes(raw[1:5], "big") == len(raw) - 1
    assert sqlstate(raw[5:]) == "53400"
    assert "arrêté".encode() in raw


def test_only_the_plus_offer_is_removed() -> None:
    both = b.message("R", b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")
    plain = b.message("R", b"\0\0\0\x0aSCRAM-SHA-256\0\0")
    older = b.message(
        "v", b"\0\3\0\0\0\0\0\0"
    )  # NegotiateProtocolVersion: a server that does not know what was asked for
    for before in (b"", older, older * 2):
        assert startup.strip_scram_plus(before + both + b"rest") == before + plain + b"rest"
    for untouched in (
        plain,
        older,
        older[:-3],
        b"v\0\0\0\0",
        b"v\xff\xff\xff\xff" + both,
        b.AUTH_OK,
        b"",
        b"R",
        b.row(b"SCRAM-SHA-256-PLUS\0"),
    ):
        assert startup.strip_scram_plus(untouched) == untouched


def test_compiled_core_is_loaded_where_it_must_be() -> None:
    import os

    if os.environ.get("EXFILGUARD_REQUIRE_COMPILED") == "1":
        assert COMPILED, "exfilguard.wire.postgres._scan was not compiled: is gcc there, did pip install build it?"
