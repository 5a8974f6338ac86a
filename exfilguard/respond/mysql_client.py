"""One connection to MySQL or MariaDB for one attempt, and what its errors mean."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import aiomysql
import pymysql

from ..config.load import parse_address

Connection: TypeAlias = Any
"""aiomysql.Connection; the library has no types."""


@contextlib.asynccontextmanager
async def connect(
    address: str, user: str, password: str, tls_ca: str = "", database: str | None = None
) -> AsyncIterator[Connection]:
    """utf8mb4, autocommit. The caller bounds the time."""
    where: dict[str, Any] = {}
    if address.startswith("unix:"):
        where["unix_socket"] = address.removeprefix("unix:")
    else:
        where["host"], where["port"] = parse_address(address)
    if tls_ca:
        where["ssl"] = ssl.create_default_context(cafile=tls_ca)
    connection = await aiomysql.connect(
        user=user, password=password, db=database, charset="utf8mb4", autocommit=True,
        program_name="exfilguard-hook", **where,
    )  # fmt: skip
    try:
        yield connection
    finally:
        connection.close()


async def rows(connection: Connection, statement: str, parameters: Any = ()) -> list[dict[str, Any]]:
    """The rows of one statement, by column name."""
    async with connection.cursor(aiomysql.DictCursor) as cursor:
        await cursor.execute(statement, parameters)
        found = await cursor.fetchall()
    return [dict(row) for row in found or ()]


def explain(error: Exception, remedy: str) -> str | None:
    """The server's message may quote values: only its number is passed on."""
    if isinstance(error, pymysql.MySQLError):
        number = error.args[0] if error.args and isinstance(error.args[0], int) else type(error).__name__
        return f"MySQL refused ({number}): {remedy}"
    if isinstance(error, OSError | EOFError):
        return f"MySQL cannot be reached ({type(error).__name__}): is it running, is the address right?"
    if isinstance(error, UnicodeError):
        return "the name cannot be written in the database's encoding: no such account there"
    return None
