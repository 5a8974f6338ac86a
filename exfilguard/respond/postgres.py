"""PostgreSQL: ALTER ROLE .. NOLOGIN, then the role's backends are terminated until none is left.

Order and race: NOLOGIN first, committed, so that nobody new comes in; then terminate; a login that was already past its
check shows up as a backend within milliseconds and meets the next round. Verified means: NOLOGIN is set and no backend of
the role runs. The hook's own account needs the grants of deploy/postgres/hook.sql and never needs to be a superuser.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from ..config.schema import PostgresHookConfig
from ..errors import HookError, HookRefused
from .hook import HookResult

_SQL = Path(__file__).parent / "sql"
_INSPECT = (_SQL / "postgres_inspect.sql").read_text(encoding="utf-8")
_TERMINATE = (_SQL / "postgres_terminate.sql").read_text(encoding="utf-8")

T = TypeVar("T")

ROUND_S = 0.02
"""Pause between two rounds of termination."""


class PostgresHook:
    """See the module. `protected`: accounts never locked (break-glass, and shared unless the policy allows it)."""

    name = "postgres"

    def __init__(self, config: PostgresHookConfig, protected: Collection[str] = ()) -> None:
        self._config = config
        self._protected = frozenset(protected)
        self._own = str(conninfo_to_dict(config.dsn).get("user", ""))

    async def before(self, account: str) -> dict[str, Any]:
        """Whether the role may log in now. Raises HookError, HookRefused."""
        if account in self._protected:
            raise HookRefused("the policy protects this account (break-glass or shared): cut at the sidecar only")
        if account == self._own:
            raise HookRefused("this is the hook's own account")
        return {"login": await self._bounded(self._can_login(account))}

    async def lock(self, account: str) -> HookResult:
        """Raises HookError, HookRefused."""
        await self.before(account)
        return await self._bounded(self._lock(account))

    async def unlock(self, account: str, undo: dict[str, Any]) -> HookResult:
        """Restores LOGIN where the lock took it away. Raises HookError."""
        return await self._bounded(self._unlock(account, undo))

    async def _bounded(self, work: Coroutine[Any, Any, T]) -> T:
        limit_s = self._config.timeout_ms / 1000
        try:
            async with asyncio.timeout(limit_s):
                return await work
        except TimeoutError:
            raise HookError(
                f"not finished within {limit_s:g} s: is the database reachable and not overloaded?"
            ) from None
        except psycopg.Error as error:
            # The server's message may quote values: only its class and code are passed on.
            code = error.sqlstate or type(error).__name__
            raise HookError(
                f"PostgreSQL refused ({code}): check the DSN and the grants of deploy/postgres/hook.sql"
            ) from None

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            self._config.dsn, autocommit=True, application_name="exfilguard-hook"
        )

    async def _can_login(self, account: str) -> bool:
        async with await self._connect() as connection:
            can_login, _ = await self._inspect(connection, account)
            return can_login

    async def _lock(self, account: str) -> HookResult:
        async with await self._connect() as connection:
            can_login, backends = await self._inspect(connection, account)
            if not can_login and not backends:
                return HookResult("already", verified=True, detail="already NOLOGIN without sessions")
            if self._config.dry_run:
                return HookResult("dry_run", verified=False, detail=f"would set NOLOGIN and end {backends} sessions")
            if can_login:
                await connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(account)))
            ended = 0
            while True:
                cursor = await connection.execute(_TERMINATE, {"role": account})
                row = await cursor.fetchone()
                ended += int(row[0]) if row is not None else 0
                can_login, backends = await self._inspect(connection, account)
                if not backends:
                    break
                await asyncio.sleep(ROUND_S)
            if can_login:
                raise HookError("NOLOGIN did not take effect: somebody else is changing this role")
            return HookResult("done", verified=True, detail=f"NOLOGIN set, {ended} sessions ended")

    async def _unlock(self, account: str, undo: dict[str, Any]) -> HookResult:
        async with await self._connect() as connection:
            can_login, _ = await self._inspect(connection, account)
            if can_login:
                return HookResult("already", verified=True, detail="may already log in")
            if not undo.get("login", False):
                return HookResult("already", verified=True, detail="was NOLOGIN before the lock: left as it was")
            if self._config.dry_run:
                return HookResult("dry_run", verified=False, detail="would set LOGIN")
            await connection.execute(sql.SQL("ALTER ROLE {} LOGIN").format(sql.Identifier(account)))
            can_login, _ = await self._inspect(connection, account)
            if not can_login:
                raise HookError("LOGIN did not take effect: somebody else is changing this role")
            return HookResult("done", verified=True, detail="LOGIN restored")

    @staticmethod
    async def _inspect(connection: psycopg.AsyncConnection[Any], account: str) -> tuple[bool, int]:
        cursor = await connection.execute(_INSPECT, {"role": account})
        row = await cursor.fetchone()
        if row is None:
            raise HookRefused(
                "no such role in this database: the principal is an application user, not a database account"
            )
        can_login, superuser, backends = row
        if superuser:
            raise HookRefused("a superuser is never locked: it is how the lock is undone")
        return bool(can_login), int(backends)
