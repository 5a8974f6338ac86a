"""How a relay ends: no session is broken off in a transaction that can end in time, and no client is left without a word.

SIGUSR1: another relay has taken over (`exfilguard restart`)
    listening ends     the sockets stay open in the supervisor, so nothing that the kernel has accepted is lost
    sessions           go on as if nothing had been, for `sidecar.handover` at most; then as by SIGTERM
SIGTERM
    listening ends     what the kernel had accepted is still taken; the next connection reaches another worker, or nobody
    logging in         has its time
    at rest            the engine's own words for a shutdown (PostgreSQL: 57P01 admin_shutdown), so that pools connect again: in place
                       of the answer to the next request, which is not sent on; or when nothing was said for a moment. Not
                       right behind an answer: libpq, which reads both at once, would take the error for a notice and lose it
    in a transaction   until it ends, or until `sidecar.drain`; then the same words, at a message's boundary
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from ..runtime.clock import now_ms
from .engine import Refusal
from .listening import take_no_more
from .relay import SHUTDOWN_WORDS

if TYPE_CHECKING:
    from .relay import Session
    from .worker import Worker

log = logging.getLogger(__name__)

POLL_S = 0.02
HANDSHAKE_S = 0.1
"""For the handshakes that have begun, and to take what the kernel has accepted."""
ARRIVING_S = 2.0
"""For clients that have connected to log in."""
RESTED_MS = 200
"""So long at rest, a session is told without being asked."""
GOODBYE_S = 2.0
"""For the last words to be read."""


async def stop_listening(worker: Worker) -> None:
    """Whoever is on the way in still comes in."""
    guards = list(worker.guards.values())
    if not worker.inherits:
        for guard in guards:
            for _, listening in guard.listening:
                take_no_more(listening)
        await asyncio.sleep(HANDSHAKE_S)
    for guard in guards:
        for server, _ in guard.listening:
            server.close()
        guard.listening.clear()


async def drain(worker: Worker) -> None:
    """Returns when every session has ended."""
    worker.draining = True
    await stop_listening(worker)
    guards = list(worker.guards.values())
    for guard in guards:
        guard.gate.telling = True
    seconds = worker.config.sidecar.drain_ms / 1000
    began = time.monotonic()

    def held() -> list[Session]:
        return [session for guard in guards for session in guard.all_sessions()]

    def arriving() -> bool:
        return any(guard.clients > guard.sessions_open + guard.lingering for guard in guards)

    while (passed := time.monotonic() - began) < seconds:
        sessions = held()
        if not sessions and (passed > ARRIVING_S or not arriving()):
            break
        now = now_ms()
        for session in sessions:
            if session.at_rest and now - session.heard_ms >= RESTED_MS:
                session.dismiss(Refusal.SHUTDOWN, SHUTDOWN_WORDS)
        await asyncio.sleep(POLL_S)
    if sessions := held():
        log.warning("%d sessions were still busy after sidecar.drain and are ended", len(sessions))
        for session in sessions:
            session.cancel_backend()
            session.dismiss(Refusal.SHUTDOWN, SHUTDOWN_WORDS)
    for _ in range(int(GOODBYE_S / POLL_S)):
        if not any(guard.lingering for guard in guards):
            break
        await asyncio.sleep(POLL_S)
