"""What precedes the typed messages, and what the guard writes itself.

A start-up packet is `int32 length, int32 code, body`, without a type byte; the code says which kind it is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ...errors import ProtocolError

MAX_STARTUP_BYTES = 10_000
"""PostgreSQL's own bound (MAX_STARTUP_PACKET_LENGTH)."""
MAX_USER_BYTES = 63
"""PostgreSQL cuts a longer name here (NAMEDATALEN), and lets in whose it is then."""

SSL_REQUEST_CODE = 80877103
GSSENC_REQUEST_CODE = 80877104
CANCEL_REQUEST_CODE = 80877102
PROTOCOL_MAJOR = 3

_HEADER = struct.Struct("!II")


@dataclass(frozen=True, slots=True)
class SSLRequest:
    """The client asks for TLS; the answer is one byte, `S` or `N`."""


@dataclass(frozen=True, slots=True)
class GSSENCRequest:
    """The client asks for GSSAPI encryption; the answer is one byte, `G` or `N`."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """The only packet of its connection: cancel what another session is doing."""


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """Opens a session. `params`: user, database, application_name and whatever settings the client sends."""

    params: dict[str, str]


StartupPacket = SSLRequest | GSSENCRequest | CancelRequest | StartupMessage


def parse(buffer: bytes) -> tuple[StartupPacket | None, int]:
    """The first packet in `buffer` and its size in bytes; (None, 0) when more bytes are needed.

    Raises ProtocolError as soon as the bytes cannot become a start-up packet.
    """
    if len(buffer) < 4:
        # A length above the bound shows in the first two bytes: HTTP, TLS and SSH clients are told at once.
        if buffer[:2].strip(b"\0"):
            raise ProtocolError("not a PostgreSQL start-up packet")
        return None, 0
    length = int.from_bytes(buffer[:4], "big")
    if not 8 <= length <= MAX_STARTUP_BYTES:
        raise ProtocolError("start-up packet length is out of bounds")
    if len(buffer) < 8:
        return None, 0
    _, code = _HEADER.unpack_from(buffer)
    if code in (SSL_REQUEST_CODE, GSSENC_REQUEST_CODE):
        if length != 8:
            raise ProtocolError("encryption request has a body")
        return (SSLRequest() if code == SSL_REQUEST_CODE else GSSENCRequest()), 8
    if code != CANCEL_REQUEST_CODE and code >> 16 != PROTOCOL_MAJOR:
        raise ProtocolError("start-up packet of an unsupported protocol version")
    if len(buffer) < length:
        return None, 0
    if code == CANCEL_REQUEST_CODE:
        if length < 16:
            raise ProtocolError("cancel request is too short")
        return CancelRequest(), length
    return StartupMessage(_params(buffer[8:length])), length


def _params(body: bytes) -> dict[str, str]:
    if not body.endswith(b"\0"):
        raise ProtocolError("start-up parameters are not terminated")
    parts = body[:-1].split(b"\0")
    if parts[-1] == b"":
        parts.pop()
    if len(parts) % 2:
        raise ProtocolError("start-up parameters do not come in pairs")
    names = [part.decode("utf-8", "replace") for part in parts[::2]]
    values = zip(names, parts[1::2], strict=True)
    params = {
        name: (value[:MAX_USER_BYTES] if name == "user" else value).decode("utf-8", "replace") for name, value in values
    }
    if not params.get("user"):
        raise ProtocolError("start-up message names no user")
    return params


_FALSE = frozenset(("", "0", "f", "fa", "fal", "fals", "false", "n", "no", "of", "off"))
"""PostgreSQL takes any unambiguous beginning of a Boolean's name."""


def replicates(params: dict[str, str]) -> bool:
    """True when the session is to be a replication connection: physical (a Boolean) or logical (`database`)."""
    return params.get("replication", "").lower() not in _FALSE


def is_tls(buffer: bytes) -> bool:
    """True when the bytes begin a TLS handshake (a handshake record, TLS 1.x), which needs no SSLRequest since PostgreSQL 17."""
    return buffer[:2] == b"\x16\x03"


def ssl_request() -> bytes:
    """SSLRequest, towards the database."""
    return _HEADER.pack(8, SSL_REQUEST_CODE)


def cancel_request(backend_key: bytes) -> bytes:
    """CancelRequest from the body of BackendKeyData (process id and secret; protocol 3.2 has longer secrets)."""
    return _HEADER.pack(8 + len(backend_key), CANCEL_REQUEST_CODE) + backend_key


def error_response(severity: str, sqlstate: str, message: str) -> bytes:
    """ErrorResponse: severity (also in its unlocalised form), SQLSTATE, message."""
    fields = b"".join(
        code + text.encode("utf-8") + b"\0"
        for code, text in ((b"S", severity), (b"V", severity), (b"C", sqlstate), (b"M", message))
    )
    body = fields + b"\0"
    return b"E" + (len(body) + 4).to_bytes(4, "big") + body


_SASL = b"\0\0\0\x0a"
_PLUS = b"SCRAM-SHA-256-PLUS\0"


def strip_scram_plus(data: bytes) -> bytes:
    """`data` without the offer of SCRAM-SHA-256-PLUS in its AuthenticationSASL, which is its first message, or comes behind
    NegotiateProtocolVersion.

    Channel binding ties the login to one TLS connection; with a guard in between there are two. Everything else is
    returned unchanged.
    """
    start = 0
    while data[start : start + 1] == b"v":
        start += 1 + max(4, int.from_bytes(data[start + 1 : start + 5], "big"))
    if data[start : start + 1] != b"R" or data[start + 5 : start + 9] != _SASL:
        return data
    end = start + 1 + int.from_bytes(data[start + 1 : start + 5], "big")
    body = data[start + 9 : end]
    if _PLUS not in body or len(data) < end:
        return data
    body = body.replace(_PLUS, b"", 1)
    return data[:start] + b"R" + (len(body) + 8).to_bytes(4, "big") + _SASL + body + data[end:]
