"""Who the client is behind a load balancer, and telling it to one on the database's side (wire/proxy.py).

A header is believed only from the addresses in `proxy_protocol_in`, and demanded from them: a client there without one would be
counted under the load balancer's address.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ..errors import ProtocolError
from ..wire import proxy

if TYPE_CHECKING:
    from .sides import ClientSide

log = logging.getLogger(__name__)


def addresses_of(transport: asyncio.BaseTransport) -> proxy.Header:
    """The two ends of a connection; empty for a Unix socket."""
    peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    if not isinstance(peer, tuple) or not isinstance(own, tuple):
        return proxy.Header()
    return proxy.Header(peer[0], peer[1], own[0], own[1])


class ProxyHeader:
    """The beginning of one connection from a load balancer."""

    __slots__ = ("_buffer", "_client")

    def __init__(self, client: ClientSide) -> None:
        self._client = client
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        client = self._client
        self._buffer += data
        try:
            header, used = proxy.parse(self._buffer)
        except ProtocolError as error:
            client.guard.counters.garbage += 1
            name = client.guard.listener.name
            log.warning("listener %s: closed a connection from a load balancer: %s; does it send one?", name, error)
            client.abort()
            return
        if header is None or client.session is None:
            return
        rest = self._buffer[used:]
        client.divert = None
        if header.source:  # else the load balancer's own connection, a health check
            client.addresses = header
            client.session.source = header.source
        client.session.front.connected()
        if rest:
            client.data_received(rest)
