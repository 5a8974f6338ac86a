"""SIGTERM: no session is broken off in a transaction that can end in time, and no client is left without a word.

listening ends     what the kernel had accepted is still taken; the next connection reaches another worker, or the process
                   that takes over (SO_REUSEPORT)
at rest            the engine's own words for a shutdown (PostgreSQL: 57P01 admin_shutdown), so that pools connect again
in a transaction   until it ends, or until `sidecar.drain`; then the same words, at a message's boundary
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from .engine import Refusal

if TYPE_CHECKING:
    from .relay import Session
    from .worker import Worker

log = logging.getLogger(__name__)

POLL_S = 0.02
GOODBYE_S = 2.0
"""For the last words to be read."""
_WORDS = "terminating connection due to administrator command"


async def drain(worker: Worker) -> None:
    """Returns when every session has ended."""
    worker.draining = True
    guards = list(worker.guards.values())
    await asyncio.sleep(POLL_S)  # connections that wait in the kernel's queue would be reset with the socket
    for guard in guards:
        if guard.server is not None:
            guard.server.close()
    deadline = time.monotonic() + worker.config.sidecar.drain_ms / 1000

    def held() -> list[Session]:
        return [session for guard in guards for session in guard.all_sessions()]

    while (sessions := held()) and time.monotonic() < deadline:
        for session in sessions:
            if session.at_rest:
                session.dismiss(Refusal.SHUTDOWN, _WORDS)
        await asyncio.sleep(POLL_S)
    if sessions := held():
        log.warning("%d sessions were still busy after sidecar.drain and are ended", len(sessions))
        for session in sessions:
            session.cancel_backend()
            session.dismiss(Refusal.SHUTDOWN, _WORDS)
    for _ in range(int(GOODBYE_S / POLL_S)):
        if not any(guard.lingering for guard in guards):
            break
        await asyncio.sleep(POLL_S)
