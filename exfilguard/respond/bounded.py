"""A time limit that holds whatever the work does with its cancellation.

asyncio.timeout cancels once and then waits: a library that, being cancelled, first asks the hanging server to cancel too
(psycopg does) would hold its caller for as long as the server likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..runtime.tasks import spawn

T = TypeVar("T")

GRACE_S = 0.1
"""For work that ends properly when it is cancelled."""
INSIST_S = 1.0


async def bounded(work: Coroutine[Any, Any, T], limit_s: float) -> T:
    """The result of `work`, or TimeoutError at most GRACE_S after the limit, while what is left of it is cancelled again and
    again in the background."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=limit_s)
    except asyncio.CancelledError:
        spawn(_insist(task), "end of a cancelled attempt")
        raise
    if not done:
        task.cancel()
        await asyncio.wait({task}, timeout=GRACE_S)
        if not task.done():
            spawn(_insist(task), "end of an attempt that took too long")
        elif not task.cancelled():
            task.exception()  # looked at, so that it is not reported as forgotten
        raise TimeoutError
    return task.result()


async def _insist(task: asyncio.Task[Any]) -> None:
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=INSIST_S)
    if not task.cancelled():
        task.exception()
