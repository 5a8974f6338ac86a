"""PostgreSQL: ALTER ROLE .. NOLOGIN, then the role's backends are terminated until none is left.

Order and race: NOLOGIN first, committed, so that nobody new comes in; then terminate; a login that was already past its
check shows up as a backend within milliseconds and meets the next round. Verified means: NOLOGIN is set and no backend of
the role runs. The hook's own account needs the grants of deploy/postgres/hook.sql and never needs to be a superuser.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from ..config.responder import PostgresHookConfig
from ..errors import HookRefused
from .hook import Seen, Settings, SuspendHook
from .postgres_client import Connection, connect, explain

_SQL = Path(__file__).parent / "sql"
_INSPECT = (_SQL / "postgres_inspect.sql").read_text(encoding="utf-8")
_TERMINATE = (_SQL / "postgres_terminate.sql").read_text(encoding="utf-8")

NAME_BYTES = 63
"""NAMEDATALEN - 1: the server cuts a longer name off at login, to the byte. Who logs in with a padded name is that role."""


def role_of(account: str) -> str:
    """The role that logs in under this name. Raises HookRefused where none can."""
    try:
        return account.encode()[:NAME_BYTES].decode()
    except UnicodeError:
        raise HookRefused("no role can log in under this name: it would be cut in the middle of a character") from None


class PostgresHook(SuspendHook[Connection]):
    """See the module."""

    def __init__(self, config: PostgresHookConfig, settings: Settings) -> None:
        super().__init__("postgres", settings)
        self._dsn = config.dsn
        self.own = str(conninfo_to_dict(config.dsn).get("user", ""))

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        return connect(self._dsn)

    async def look(self, client: Connection, account: str) -> Seen:
        row = await (await client.execute(_INSPECT, {"role": role_of(account)})).fetchone()
        if row is None:
            raise HookRefused(
                "no such role in this database: the principal is an application user, not a database account"
            )
        can_login, superuser, backends = row
        if superuser:
            raise HookRefused("a superuser is never locked: it is how the lock is undone")
        return Seen(locked=not can_login, sessions=int(backends), undo={"login": bool(can_login)})

    async def suspend(self, client: Connection, account: str, seen: Seen) -> None:
        await client.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(role_of(account))))

    async def end_sessions(self, client: Connection, account: str) -> int:
        row = await (await client.execute(_TERMINATE, {"role": role_of(account)})).fetchone()
        return int(row[0]) if row is not None else 0

    async def restore(self, client: Connection, account: str, undo: dict[str, Any]) -> None:
        if undo.get("login"):
            await client.execute(sql.SQL("ALTER ROLE {} LOGIN").format(sql.Identifier(role_of(account))))

    def explain(self, error: Exception) -> str | None:
        return explain(error, "check the DSN and the grants of deploy/postgres/hook.sql")
