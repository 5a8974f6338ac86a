"""Why Kafka does not let us in, said so that the operator can act: each layer of the way is tried by itself.

The client library only says that it could not bootstrap. Requests: https://kafka.apache.org/protocol (SaslHandshake v1,
SaslAuthenticate v0, ApiVersions v0, Metadata v0).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from typing import Any

from kafka.net.sasl import get_sasl_mechanism

from ..config.schema import Config

CONNECT_S = 1.0
ANSWER_S = 3.0
_METADATA, _API_VERSIONS, _SASL_HANDSHAKE, _SASL_AUTHENTICATE = 3, 18, 17, 36
_NO_TOPICS = struct.pack(">i", 0)
_UNSUPPORTED_MECHANISM = 33
_ALERT = 0x15
"""First byte of a TLS alert record (RFC 8446, 5.1): what a TLS port answers to plain bytes."""
_MAX_ANSWER = 1 << 20


class _Trouble(Exception):
    """A layer that refuses; the text is for the operator."""


def why(config: Config) -> str:
    """What is wrong on the way to the brokers and what to do, or empty when they answer. Takes a few seconds at most."""
    found = ""
    for server in config.kafka.bootstrap.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), CONNECT_S)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", "") or type(error).__name__
            found = found or f"nothing answers at {server.strip()} ({reason}): check the broker and kafka.bootstrap"
            continue
        with contextlib.closing(connection):
            connection.settimeout(ANSWER_S)
            try:
                _try(config, connection, host.strip("[]"), server.strip())
            except _Trouble as trouble:
                return str(trouble)
            except OSError as error:
                found = (
                    f"{server.strip()} closed the connection or was silent ({type(error).__name__}): check the broker"
                )
                continue
        return ""
    return found


def _try(config: Config, connection: socket.socket, host: str, server: str) -> None:
    kafka, protocol = config.kafka, config.kafka.security_protocol
    if "SSL" in protocol:
        connection = _handshake(config, connection, host, server)
    if "SASL" not in protocol or "SSL" not in protocol:
        # To be asked for more than a client gives is to be hung up on, with an alert where TLS was wanted.
        if not _serves(connection, _METADATA if "SASL" not in protocol else _API_VERSIONS):
            missing = (
                "a login or a client certificate: set kafka.security_protocol to SASL_SSL, or kafka.cert_file and key_file"
                if protocol == "SSL"
                else "kafka.security_protocol SASL_SSL (or SSL), with kafka.ca_file, kafka.username and kafka.password_file"
            )
            raise _Trouble(f"{server} does not accept {protocol}: it wants {missing}")
        if "SASL" not in protocol:
            return
    body = kafka.sasl_mechanism.encode()
    error, _ = _ask(connection, _SASL_HANDSHAKE, 1, struct.pack(">h", len(body)) + body)
    if error == _UNSUPPORTED_MECHANISM:
        raise _Trouble(f"{server} does not take {kafka.sasl_mechanism}: set kafka.sasl_mechanism to what it takes")
    mechanism = get_sasl_mechanism(kafka.sasl_mechanism)(
        host=host, sasl_mechanism=kafka.sasl_mechanism, security_protocol=protocol,
        sasl_plain_username=kafka.username, sasl_plain_password=kafka.password,
    )  # fmt: skip
    while not mechanism.is_done():
        token = mechanism.auth_bytes()
        error, answer = _ask(connection, _SASL_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token)
        if error:
            raise _Trouble(
                f"{server} refuses the user {kafka.username}: check kafka.username and kafka.password_file (a password that was "
                "changed on the brokers must be changed here too)"
            )
        (size,) = struct.unpack_from(">h", answer)
        at = 2 + max(0, size)
        (size,) = struct.unpack_from(">i", answer, at)
        mechanism.receive(answer[at + 4 : at + 4 + size])


def _handshake(config: Config, connection: socket.socket, host: str, server: str) -> ssl.SSLSocket:
    kafka = config.kafka
    context = ssl.create_default_context(cafile=kafka.ca_file or None)
    if kafka.cert_file:
        context.load_cert_chain(kafka.cert_file, kafka.key_file)
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        said = error.verify_message
        if "expired" in said:
            raise _Trouble(
                f"the certificate of {server} has expired: renew it on the broker (and check this machine's clock)"
            ) from None
        if "not yet valid" in said:
            raise _Trouble(f"the certificate of {server} is not yet valid: check this machine's clock") from None
        if "match" in said or "IP address" in said:
            raise _Trouble(
                f"the certificate of {server} is for another name: use that name in kafka.bootstrap, or issue it for this one"
            ) from None
        raise _Trouble(
            f"the certificate of {server} is not signed by {kafka.ca_file or 'a CA of this system'} ({said}): set kafka.ca_file to "
            "the CA that signed the brokers' certificates"
        ) from None
    except ssl.SSLError as error:
        if "CERTIFICATE" in (error.reason or "").upper():
            raise _Trouble(f"{server} asks for a client certificate: set kafka.cert_file and kafka.key_file") from None
        raise _Trouble(
            f"{server} does not speak TLS as kafka.security_protocol {kafka.security_protocol} wants it ({error.reason}): correct "
            "kafka.bootstrap's port or kafka.security_protocol"
        ) from None
    except ConnectionError:
        raise _Trouble(
            f"{server} does not speak TLS as kafka.security_protocol {kafka.security_protocol} wants it: correct "
            "kafka.bootstrap's port or kafka.security_protocol"
        ) from None


def _serves(connection: socket.socket, key: int) -> bool:
    """Does it answer a request that says nothing about who asks?"""
    try:
        connection.sendall(_request(key, 0, _NO_TOPICS if key == _METADATA else b""))
        head = _exactly(connection, 4)
        if head[0] == _ALERT:
            return False
        _exactly(connection, min(_MAX_ANSWER, *struct.unpack(">i", head)))
    except (ConnectionError, ssl.SSLError):
        return False
    return True


def _request(key: int, version: int, body: bytes) -> bytes:
    client = b"exfilguard"
    head = struct.pack(">hhih", key, version, 1, len(client)) + client
    return struct.pack(">i", len(head) + len(body)) + head + body


def _ask(connection: socket.socket, key: int, version: int, body: bytes) -> tuple[int, bytes]:
    """(error code, what follows it). Raises OSError."""
    connection.sendall(_request(key, version, body))
    (size,) = struct.unpack(">i", _exactly(connection, 4))
    if not 6 <= size <= _MAX_ANSWER:
        raise OSError("not an answer of Kafka's")
    answer = _exactly(connection, size)
    (code,) = struct.unpack_from(">h", answer, 4)
    return int(code), answer[6:]


def _exactly(connection: Any, count: int) -> bytes:
    out = b""
    while len(out) < count:
        if not (piece := connection.recv(count - len(out))):
            raise ConnectionResetError("closed")
        out += piece
    return out
