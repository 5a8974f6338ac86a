"""An application's own user and session tables, by statements from the configuration: what GNU Health, Mediboard and the
like need, whose users are no database accounts. Worth as much as the database hook: disabling a user in such a table leaves
his open session reading patients until its row is gone too.

    state     SELECT .. WHERE login = %(account)s        one row: the key, and what the lock changes. On record before it
    lock      UPDATE .., DELETE ..                        one transaction; parameters: account and state's columns
    locked    SELECT NOT active AND NOT EXISTS (..)       true when a fresh login and every session are refused
    unlock    UPDATE .. SET active = %(active)s           one transaction; parameters: account and the columns on record

Values are parameters of the protocol or quoted by the driver, never put into the text by us. Nothing else is substituted.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from psycopg.conninfo import conninfo_to_dict

from ..config.responder import ApplicationHookConfig
from ..errors import HookError, HookRefused
from . import postgres_client
from .hook import Seen, Settings, SuspendHook

Parameters = dict[str, Any]


class Database(Protocol):
    """What the two engines are used for."""

    async def query(self, statement: str, parameters: Parameters) -> list[dict[str, Any]]:
        """At most two rows, by column name."""

    async def change(self, statements: list[str], parameters: Parameters) -> None:
        """All of them or none."""


class ApplicationHook(SuspendHook[Database]):
    """See the module."""

    def __init__(self, config: ApplicationHookConfig, settings: Settings) -> None:
        super().__init__(config.name, settings)
        self._config = config
        if config.engine == "postgres":
            conninfo_to_dict(config.dsn)  # raises for one that cannot be read, now and not in the night

    def connect(self) -> AbstractAsyncContextManager[Database]:
        return _postgres(self._config) if self._config.engine == "postgres" else _mysql(self._config)

    async def look(self, client: Database, account: str) -> Seen:
        state = await self._state(client, account)
        answer = await client.query(self._config.locked, {**state, "account": account})
        if len(answer) != 1 or len(answer[0]) != 1:
            raise HookError("the statement `locked` must give one row with one value")
        return Seen(locked=bool(next(iter(answer[0].values()))), sessions=0, undo=state)

    async def _state(self, client: Database, account: str) -> dict[str, Any]:
        found = await client.query(self._config.state, {"account": account})
        if not found:
            raise HookRefused("the application has no such user")
        if len(found) > 1:
            raise HookRefused("the application has more than one such user: make the statement `state` say which")
        if "account" in found[0]:
            raise HookError("a column of `state` may not be called account: that is the parameter's name")
        for name, value in found[0].items():
            if value is not None and not isinstance(value, bool | int | str):
                raise HookError(f"the column {name} of `state` is no text, number or boolean: cast it")
        return found[0]

    async def suspend(self, client: Database, account: str, seen: Seen) -> None:
        await client.change(self._config.lock, {**seen.undo, "account": account})

    async def restore(self, client: Database, account: str, undo: dict[str, Any]) -> None:
        await client.change(self._config.unlock, {**undo, "account": account})

    def explain(self, error: Exception) -> str | None:
        remedy = f"check the address, the statements and the grants of responder.application {self.name}"
        if isinstance(error, KeyError):
            return f"a statement names a parameter that `state` does not give: {remedy}"
        if (text := postgres_client.explain(error, remedy)) is not None or self._config.engine == "postgres":
            return text
        from . import mysql_client

        return mysql_client.explain(error, remedy)


# -- PostgreSQL ---------------------------------------------------------------------------------------------------------


class _Postgres:
    def __init__(self, connection: postgres_client.Connection) -> None:
        self._connection = connection

    async def query(self, statement: str, parameters: Parameters) -> list[dict[str, Any]]:
        cursor = await self._connection.execute(statement, parameters)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in await cursor.fetchmany(2)]

    async def change(self, statements: list[str], parameters: Parameters) -> None:
        async with self._connection.transaction():
            for statement in statements:
                await self._connection.execute(statement, parameters)


@contextlib.asynccontextmanager
async def _postgres(config: ApplicationHookConfig) -> AsyncIterator[Database]:
    async with postgres_client.connect(config.dsn) as connection:
        yield _Postgres(connection)


# -- MySQL and MariaDB --------------------------------------------------------------------------------------------------


class _MySQL:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def query(self, statement: str, parameters: Parameters) -> list[dict[str, Any]]:
        from .mysql_client import rows

        return (await rows(self._connection, statement, parameters))[:2]

    async def change(self, statements: list[str], parameters: Parameters) -> None:
        await self._connection.begin()
        try:
            async with self._connection.cursor() as cursor:
                for statement in statements:
                    await cursor.execute(statement, parameters)
            await self._connection.commit()
        except Exception:
            # The connection is closed behind this attempt, which rolls back too; a lost one cannot.
            with contextlib.suppress(Exception):
                await self._connection.rollback()
            raise


@contextlib.asynccontextmanager
async def _mysql(config: ApplicationHookConfig) -> AsyncIterator[Database]:
    from .mysql_client import connect

    async with connect(config.address, config.user, config.password, config.tls_ca, config.database) as connection:
        yield _MySQL(connection)
