"""MySQL and MariaDB: ACCOUNT LOCK on every `user`@`host` of the account, then KILL of its connections until none is left.

    account "anna"          every row of the user table whose user is anna, whatever its host
    account "anna@10.0.%"   where no user has that whole name: the one row anna@10.0.%; its connections are those of anna,
                            since the process list does not say which row a login had matched

The hook's own account may do one thing only: EXECUTE the procedures of deploy/mysql/hook.sql, which look, lock, unlock and
kill with their definer's rights and refuse administrators. So its password gives nobody a way to change another one's.
ACCOUNT LOCK stops new logins only; a login that was past its check meets the next round of KILL.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from ..config.responder import MySQLHookConfig
from ..errors import HookRefused
from .hook import Seen, Settings, SuspendHook
from .mysql_client import Connection, connect, explain, rows


def server_name(account: str) -> str:
    """The name as the server's user table (utf8mb3) has it: a character beyond the basic plane is a question mark there, at
    CREATE USER and at login alike."""
    return "".join(c if c <= "\uffff" else "?" for c in account)


class MySQLHook(SuspendHook[Connection]):
    """See the module. `undo` is {"hosts": {host: locked}}."""

    def __init__(self, config: MySQLHookConfig, settings: Settings) -> None:
        super().__init__("mysql", settings)
        self._config = config
        self.own = config.user

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        config = self._config
        return connect(config.address, config.user, config.password, config.tls_ca)

    async def look(self, client: Connection, account: str) -> Seen:
        _, found = await self._rows(client, account)
        if any(row["administrator"] for row in found):
            raise HookRefused("an administrator is never locked: it is how the lock is undone")
        hosts = {row["host"]: bool(row["locked"]) for row in found}
        return Seen(
            locked=all(hosts.values()), sessions=int(found[0]["sessions"]), undo={"hosts": dict(sorted(hosts.items()))}
        )

    async def _rows(self, client: Connection, account: str) -> tuple[str, list[dict[str, Any]]]:
        """(user, its rows)."""
        user, host = server_name(account), None
        found = await rows(client, "CALL exfilguard.look(%s)", (user,))
        if not found and "@" in user:
            user, _, host = user.rpartition("@")
            if user == self.own:
                raise HookRefused("this is the hook's own account")
            found = [row for row in await rows(client, "CALL exfilguard.look(%s)", (user,)) if row["host"] == host]
        if not found:
            raise HookRefused(
                "no such user in this server: the principal is an application user, not a database account"
            )
        return user, found

    async def suspend(self, client: Connection, account: str, seen: Seen) -> None:
        user, found = await self._rows(client, account)
        for row in found:
            if not row["locked"]:
                await rows(client, "CALL exfilguard.lock_account(%s, %s)", (user, row["host"]))

    async def end_sessions(self, client: Connection, account: str) -> int:
        user, _ = await self._rows(client, account)
        ended = await rows(client, "CALL exfilguard.end_sessions(%s)", (user,))
        return int(ended[0]["ended"]) if ended else 0

    async def restore(self, client: Connection, account: str, undo: dict[str, Any]) -> None:
        before = undo.get("hosts", {})
        user, found = await self._rows(client, account)
        for row in found:
            if row["locked"] and before.get(row["host"]) is False:
                await rows(client, "CALL exfilguard.unlock_account(%s, %s)", (user, row["host"]))

    def is_given_back(self, seen: Seen, undo: dict[str, Any]) -> bool:
        """None of the rows that were open before is locked now."""
        return not any(seen.undo["hosts"].get(host) for host, locked in undo.get("hosts", {}).items() if not locked)

    def is_as_before(self, seen: Seen, undo: dict[str, Any]) -> bool:
        """A row that was made or dropped meanwhile is nobody's to restore."""
        now, before = seen.undo["hosts"], undo.get("hosts", {})
        return all(now[host] == before[host] for host in now.keys() & before.keys())

    def explain(self, error: Exception) -> str | None:
        return explain(error, "check address, password and the grants of deploy/mysql/hook.sql")
