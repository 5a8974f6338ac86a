"""Connecting to a database that is known by a name. A name may stand for several addresses: both nodes of a pair, IPv6 and IPv4. One
that does not answer, a machine without power or a route that swallows, must not use up the time in which the next one would.

    address that answered last ──► ........ nothing yet
    next one          0.25 s later ──► connected: taken, the others are given up           (RFC 8305, section 5)
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from asyncio.staggered import staggered_race
from functools import partial
from typing import Any

ANOTHER_S = 0.25


class Name:
    """One `host:port`."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._answered: Any = None
        """The address that is asked first: so a cancel goes where its session is."""

    async def connected(self) -> socket.socket:
        """A socket, connected. Raises OSError."""
        found = await _addresses(self.host, self.port)
        found.sort(key=lambda info: info[4] != self._answered)
        winner, index, errors = await staggered_race([partial(_connect, *info) for info in found], ANOTHER_S)
        if winner is None or index is None:
            raise next((e for e in errors if isinstance(e, OSError)), OSError(f"{self.host} has no address"))
        self._answered = found[index][4]
        one: socket.socket = winner
        return one


async def _addresses(host: str, port: int) -> list[Any]:
    try:
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError(f"no host can have the name {host}") from None


async def _connect(family: int, kind: int, protocol: int, _: str, address: Any) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(one, address)
    except BaseException:  # given up, too
        one.close()
        raise
    return one


def named(host: str, port: int) -> Name | None:
    """None for what is an address already."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return Name(host, port)
    return None
