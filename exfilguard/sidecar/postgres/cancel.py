"""CancelRequest: passed on by a connection of its own, as protected as the sessions' are.

    client ── CancelRequest (in TLS or not) ──► relay ── [SSLRequest, TLS,] CancelRequest ──► database
           ◄────────────── closed ────────────        ◄──────────── closed ─────────────

Rules:
- The process id and secret are the database's own: any worker, and any sidecar before the same database, can pass one on. A cancel
  lands where the kernel or a load balancer puts it.
- With `upstream_tls` it goes in TLS, verified like a session's, or not at all: whoever reads the secret can stop that session's statements.
- The client's connection ends when the database has closed its own, so when the signal was sent: a client that waits for that
  (libpq does) may ask its next question without its being cancelled in the first one's place.

https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING

from ...errors import ProtocolError
from ...wire.postgres import startup
from ..relay import CONNECT_TIMEOUT_S

if TYPE_CHECKING:
    from ..worker import Guard

log = logging.getLogger(__name__)


async def send_cancel(guard: Guard, request: bytes) -> None:
    """Returns when the database has acted on it. Never raises: what cannot be passed on is logged and counted."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S), guard.cancels:
            await _send(guard, request)
    except (OSError, TimeoutError, ssl.SSLError, ProtocolError) as error:
        guard.counters.cancels_failed += 1
        log.warning("listener %s: a cancel was not passed on: %s", guard.listener.name, type(error).__name__)


async def _send(guard: Guard, request: bytes) -> None:
    reader, writer = await guard.open_stream()
    try:
        context = guard.upstream_tls
        if context is not None:
            writer.write(startup.ssl_request())
            if await reader.read(64) != b"S":  # "N", or bytes in clear that would be taken for encrypted ones
                raise ProtocolError("the database refused TLS for a cancel")
            await writer.start_tls(context, server_hostname=guard.upstream_host or None)
        writer.write(request)
        await _closed(reader)
    finally:
        writer.close()


async def _closed(reader: asyncio.StreamReader) -> None:
    """The server answers by closing, some of them with a reset."""
    try:
        while await reader.read(64):
            pass
    except ConnectionError:
        return
