"""Syslog, RFC 5424, and how a message is framed: octet counting on streams (RFC 6587 3.4.1, RFC 5425), a datagram on UDP."""

from __future__ import annotations

import re

from .moment import moment_of

FACILITY = 13
"""Log audit (RFC 5424, table 1)."""
MAX_UDP_BYTES = 60_000
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")


def message(time_ms: int, host: str, level: int, msgid: str, text: str) -> bytes:
    """One message. `level`: syslog severity, 0 (emergency) to 7. The text is UTF-8, without a byte order mark, on one line."""
    moment = moment_of(time_ms)
    stamp = f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"
    name = _UNPRINTABLE.sub("-", host)[:255] or "-"
    body = text.replace("\n", " ").replace("\r", " ").encode("utf-8", "replace")
    return f"<{FACILITY * 8 + level}>1 {stamp} {name} exfilguard - {msgid} - ".encode() + body


def counted(data: bytes) -> bytes:
    """For a stream: the message's length in octets, a space, the message."""
    return b"%d %b" % (len(data), data)
