"""TLS on both sides of the relay: contexts, their renewal, and what a client's certificate proves.

PostgreSQL's direct TLS (libpq's sslnegotiation=direct) wants ALPN `postgresql`, so that no other protocol's connection can be
turned on this port: https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-SSL
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

from ..config.certificates import expires_at, problem_of
from ..config.schema import ListenerConfig
from ..errors import ConfigError

log = logging.getLogger(__name__)

ALPN = {"postgres": ["postgresql"]}


def server_context(listener: ListenerConfig) -> ssl.SSLContext:
    """Towards the clients. Raises ConfigError, with the remedy."""
    if problem := problem_of(Path(listener.tls_cert), Path(listener.tls_key)):
        raise ConfigError([f"listener {listener.name}: tls_cert: {problem}"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(listener.tls_cert, listener.tls_key)
    if protocols := ALPN.get(listener.engine):
        context.set_alpn_protocols(protocols)
    if listener.tls_client_ca:
        try:
            context.load_verify_locations(listener.tls_client_ca)
        except (OSError, ssl.SSLError):
            raise ConfigError(
                [f"listener {listener.name}: tls_client_ca: {listener.tls_client_ca} cannot be read as PEM"]
            ) from None
        # Asked for, not required, in the handshake: a client without one gets the database's words for it instead of a TLS alert.
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def client_context(listener: ListenerConfig) -> ssl.SSLContext:
    """Towards the database. Raises ConfigError."""
    try:
        context = ssl.create_default_context(cafile=listener.upstream_ca or None)
    except (OSError, ssl.SSLError):
        raise ConfigError(
            [f"listener {listener.name}: upstream_ca: {listener.upstream_ca} cannot be read as PEM"]
        ) from None
    if protocols := ALPN.get(listener.engine):
        context.set_alpn_protocols(protocols)
    if listener.upstream_tls == "require":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if listener.upstream_cert:
        if problem := problem_of(Path(listener.upstream_cert), Path(listener.upstream_key)):
            raise ConfigError([f"listener {listener.name}: upstream_cert: {problem}"])
        context.load_cert_chain(listener.upstream_cert, listener.upstream_key)
    return context


class Certificates:
    """One listener's contexts; `reload` takes renewed files without a restart."""

    def __init__(self, listener: ListenerConfig) -> None:
        self.listener = listener
        self.server: ssl.SSLContext | None = None
        self.client: ssl.SSLContext | None = None
        self.expire_at: dict[str, int] = {}
        """Use (`listener`: shown to clients, `upstream`: to the database) -> Unix time, seconds, at which it expires."""
        self._load()

    def _load(self) -> None:
        listener = self.listener
        server = server_context(listener) if listener.tls == "terminate" else None
        client = client_context(listener) if listener.upstream_tls != "disable" else None
        shown = {
            "listener": listener.tls_cert if server is not None else "",
            "upstream": listener.upstream_cert if client is not None else "",
        }
        self.expire_at = {use: expires_at(Path(path)) for use, path in shown.items() if path}
        self.server, self.client = server, client

    def reload(self) -> None:
        """New sessions get the files as they are now. What cannot be used is logged, and what was in use stays."""
        try:
            self._load()
        except ConfigError as error:
            log.error("certificates not reloaded, the old ones stay in use: %s", "; ".join(error.problems))
        else:
            log.info("listener %s: certificates reloaded", self.listener.name)


def common_name(certificate: dict[str, Any] | None) -> str:
    """The subject's common name in what `getpeercert` returns; empty without one."""
    for part in (certificate or {}).get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return ""


def account_problem(connection: ssl.SSLObject | None, account: str) -> str:
    """Why the client's certificate does not prove that it is this account; empty when it does. `connection`: None without TLS."""
    if connection is None:
        return "a client certificate is required: connect with TLS"
    found = connection.getpeercert()
    if not found:
        return "a client certificate is required: give the client one and its key"
    return "" if common_name(found) == account else "the client certificate is another account's"
