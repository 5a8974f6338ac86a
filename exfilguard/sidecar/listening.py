"""The sockets a relay listens on: its own, or those that `exfilguard sidecar` holds for all its relays.

Held by the supervisor, a socket outlives the process that takes connections from it: what waits in the kernel's queue when a relay
ends, or is replaced, is taken by the next one instead of being reset. One socket for each relay (SO_REUSEPORT), so that the kernel
spreads connections over them.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct

from ..config.load import parse_address

BACKLOG = 1024
KEEP_IDLE_S, KEEP_EVERY_S, KEEP_TIMES = 300, 60, 9
"""A network that is away for nine minutes breaks no session at rest."""
_SO_ATTACH_FILTER = 26
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of TCP's flags
    (0x54, 0, 0, 0x12),  # SYN and ACK of it
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # yes: drop
    (0x06, 0, 0, 0xFFFFFFFF),  # no: take
)
"""Classic BPF: code, jump if true, jump if false, constant (https://docs.kernel.org/networking/filter.html)."""


def open_sockets(address: str) -> list[socket.socket]:
    """Bound to every address that `host:port` stands for, not listening yet. Raises OSError."""
    host, port = parse_address(address)
    out: list[socket.socket] = []
    try:
        for family, kind, protocol, _, bound in dict.fromkeys(
            socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            one = socket.socket(family, kind, protocol)
            out.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(bound)
    except OSError:
        for one in out:
            one.close()
        raise
    return out


def ask_whether_there(one: socket.socket) -> None:
    """A connection at rest is asked by the kernel whether its other end is still there; one that is accepted inherits it from the
    socket that listens. Servers and drivers do so by themselves, and would learn only that the relay is."""
    if one.family not in (socket.AF_INET, socket.AF_INET6):
        return
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_EVERY_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_TIMES),
    ):
        with contextlib.suppress(OSError):  # it is gone already
            one.setsockopt(level, option, value)


def take_no_more(listening: socket.socket) -> None:
    """From now on nobody new gets in: the kernel drops SYNs for this socket, clients say theirs again a second later, and by then
    another socket of the port answers, or nobody does. Handshakes that have begun go on to their end. Closing the socket at once
    would reset those. Linux only; elsewhere nothing happens."""
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in _DROP_SYN))
    try:
        listening.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_DROP_SYN), ctypes.addressof(program))
        )
    except OSError:
        return
