"""One connection to PostgreSQL for one attempt, and what its errors mean."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psycopg

Connection = psycopg.AsyncConnection[Any]


@contextlib.asynccontextmanager
async def connect(dsn: str) -> AsyncIterator[Connection]:
    """Autocommit. The caller bounds the time."""
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True, application_name="exfilguard-hook")
    async with connection:
        yield connection


def explain(error: Exception, remedy: str) -> str | None:
    """The server's message may quote values: only its code is passed on."""
    if isinstance(error, psycopg.Error):
        return f"PostgreSQL refused ({error.sqlstate or type(error).__name__}): {remedy}"
    if isinstance(error, UnicodeError):
        return "the name cannot be written in the database's encoding: no such account there"
    return None
