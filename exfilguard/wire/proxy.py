"""The PROXY protocol, versions 1 and 2: who the client in front of a load balancer is.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt

    v1   PROXY TCP4 192.0.2.1 10.0.0.9 56324 5432\\r\\n                        at most 107 bytes
    v2   12 bytes of signature, version and command, family, int16 length, addresses, TLVs
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Literal

from ..errors import ProtocolError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MAX_V1_BYTES = 107
MAX_V2_BYTES = 16 + 4_096
"""Addresses and TLVs (certificates among them) are far smaller; the format would allow 65,535."""

_V4 = struct.Struct("!4s4sHH")
_V6 = struct.Struct("!16s16sHH")


@dataclass(frozen=True, slots=True)
class Header:
    """Addresses as text without port; empty for a connection of the load balancer's own (LOCAL, UNKNOWN)."""

    source: str = ""
    source_port: int = 0
    target: str = ""
    target_port: int = 0


def parse(buffer: bytes) -> tuple[Header | None, int]:
    """The header at the beginning of `buffer` and its size; (None, 0) when more bytes are needed. Raises ProtocolError."""
    if buffer[:12] == SIGNATURE[: len(buffer)] and buffer:
        return _parse_v2(buffer)
    if buffer[:6] == b"PROXY "[: len(buffer)]:
        return _parse_v1(buffer)
    raise ProtocolError("no PROXY header")


def _parse_v1(buffer: bytes) -> tuple[Header | None, int]:
    end = buffer.find(b"\r\n", 0, MAX_V1_BYTES)
    if end < 0:
        if len(buffer) >= MAX_V1_BYTES:
            raise ProtocolError("PROXY header is too long")
        return None, 0
    try:
        parts = buffer[:end].decode("ascii").split(" ")
        if parts[1] == "UNKNOWN":
            return Header(), end + 2
        _, family, source, target, source_port, target_port = parts
        addresses = [ipaddress.ip_address(source), ipaddress.ip_address(target)]
        if family not in ("TCP4", "TCP6") or any(address.version != int(family[3]) for address in addresses):
            raise ValueError
        return Header(str(addresses[0]), _port(source_port), str(addresses[1]), _port(target_port)), end + 2
    except (ValueError, IndexError):
        raise ProtocolError("PROXY header is malformed") from None


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise ValueError
    return int(text)


def _parse_v2(buffer: bytes) -> tuple[Header | None, int]:
    if len(buffer) < 16:
        return None, 0
    command, family = buffer[12], buffer[13]
    size = 16 + int.from_bytes(buffer[14:16], "big")
    if command >> 4 != 2 or command & 15 > 1:
        raise ProtocolError("PROXY header of an unknown version or command")
    if size > MAX_V2_BYTES:
        raise ProtocolError("PROXY header is too long")
    if len(buffer) < size:
        return None, 0
    if command & 15 == 0 or family >> 4 not in (1, 2):
        return Header(), size  # LOCAL, or a family that names no IP address
    layout = _V4 if family >> 4 == 1 else _V6
    if size < 16 + layout.size:
        raise ProtocolError("PROXY header is too short for its addresses")
    source, target, source_port, target_port = layout.unpack_from(buffer, 16)
    return Header(str(ipaddress.ip_address(source)), source_port, str(ipaddress.ip_address(target)), target_port), size


def build(version: Literal["v1", "v2"], header: Header) -> bytes:
    """The header's bytes. Addresses of two families, or none, give a header that names nobody."""
    try:
        source, target = ipaddress.ip_address(header.source), ipaddress.ip_address(header.target)
        known = source.version == target.version
    except ValueError:
        known = False
    if version == "v1":
        if not known:
            return b"PROXY UNKNOWN\r\n"
        return f"PROXY TCP{source.version} {source} {target} {header.source_port} {header.target_port}\r\n".encode(
            "ascii"
        )
    if not known:
        return SIGNATURE + struct.pack("!BBH", 0x20, 0, 0)
    layout = _V4 if source.version == 4 else _V6
    body = layout.pack(source.packed, target.packed, header.source_port, header.target_port)
    return SIGNATURE + struct.pack("!BBH", 0x21, 0x11 if source.version == 4 else 0x21, len(body)) + body
