"""KILL QUERY on a connection of its own: a server that computes does not see that its client has gone."""

from __future__ import annotations

import asyncio
import logging

from ...config.schema import ListenerConfig
from ...runtime import mysql

log = logging.getLogger(__name__)

TIMEOUT_S = 5


async def kill(listener: ListenerConfig, thread_id: int) -> None:
    """Stop what the connection `thread_id` does, as the account of `kill_dsn`. Never raises; a failure is logged without the DSN."""
    try:
        await asyncio.to_thread(_kill, listener.kill_dsn, thread_id)
    except Exception as error:  # PyMySQL's errors, and whatever a broken server makes of it
        log.warning("listener %s: kill_dsn: the backend was not killed: %s", listener.name, type(error).__name__)


def _kill(dsn: str, thread_id: int) -> None:
    with (
        mysql.connect(dsn, connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S, write_timeout=TIMEOUT_S) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"KILL QUERY {thread_id:d}")
