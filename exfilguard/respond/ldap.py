"""LDAP: the account's entry is disabled in OpenLDAP (ppolicy) or Active Directory.

    ppolicy             pwdAccountLockedTime: 000001010000Z, "until an administrator unlocks it"
                        (draft-behera-ldap-password-policy 5.3.3)
    active-directory    userAccountControl |= 0x2 (ACCOUNTDISABLE, [MS-ADTS] 2.2.16), read-modify-write: the old value is
                        deleted and the new one added in one request, which fails when somebody else was faster

A directory refuses new binds and Kerberos tickets; connections that are bound, and tickets already given out, live on until
they end. What those open is for the hooks of the systems behind, and for the sidecar. python-ldap blocks, so each attempt
has a thread of its own, bounded by the library's own time limits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias, TypeVar

import ldap
from ldap.filter import escape_filter_chars

from ..config.responder import LDAPHookConfig
from ..errors import HookError, HookRefused
from .hook import Seen, Settings, SuspendHook

T = TypeVar("T")

LOCKED_FOR_GOOD = "000001010000Z"
ACCOUNTDISABLE = 0x2
TRIES = 3
"""Of a read-modify-write that somebody else's change has crossed."""

Connection: TypeAlias = Any
"""ldap.ldapobject.SimpleLDAPObject; the library has no types."""


class LDAPHook(SuspendHook[Connection]):
    """See the module. `undo` is {attribute: its values before}."""

    def __init__(self, config: LDAPHookConfig, settings: Settings) -> None:
        super().__init__("ldap", settings)
        self._config = config
        self._active_directory = config.method == "active-directory"
        self._attribute = "userAccountControl" if self._active_directory else "pwdAccountLockedTime"

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncIterator[Connection]:
        connection = await _in_thread(self._bind)
        try:
            yield connection
        finally:
            # Not waited for: the library would wait for the request that is still under way.
            asyncio.get_running_loop().run_in_executor(None, _unbind, connection)

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        return self._connect()

    def _bind(self) -> Connection:
        config, limit_s = self._config, self.settings.timeout_ms / 1000
        connection = ldap.initialize(config.url)
        connection.set_option(ldap.OPT_NETWORK_TIMEOUT, limit_s)
        connection.set_option(ldap.OPT_TIMEOUT, limit_s)
        connection.set_option(
            ldap.OPT_REFERRALS, 0
        )  # a referral would be followed with the same password, wherever it points
        if config.tls_ca:
            connection.set_option(ldap.OPT_X_TLS_CACERTFILE, config.tls_ca)
        if config.starttls or config.url.startswith("ldaps:"):
            connection.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
            connection.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
        if config.starttls:
            connection.start_tls_s()
        connection.simple_bind_s(config.bind_dn, config.password)
        return connection

    # -- the account ----------------------------------------------------------------------------------------------------

    async def _entry(self, client: Connection, account: str) -> tuple[str, list[str]]:
        """(DN, values of the attribute). Raises HookRefused when there is not exactly one entry."""
        found = await _in_thread(lambda: self._search(client, account))
        if not found:
            raise HookRefused("no such entry below base_dn: the principal is not one of this directory's")
        if len(found) > 1:
            raise HookRefused("more than one entry has this name: make responder.ldap.filter say which")
        dn, attributes = found[0]
        if dn.lower() == self._config.bind_dn.lower():
            raise HookRefused("this is the hook's own account")
        values = {name.lower(): values for name, values in attributes.items()}.get(self._attribute.lower(), [])
        return dn, [value.decode("ascii", "replace") for value in values]

    def _search(self, client: Connection, account: str) -> list[tuple[str, dict[str, list[bytes]]]]:
        text = self._config.filter.replace("{account}", escape_filter_chars(account))
        try:
            found = client.search_ext_s(
                self._config.base_dn, ldap.SCOPE_SUBTREE, text, [self._attribute], timeout=self._seconds(), sizelimit=2
            )
        except ldap.NO_SUCH_OBJECT:
            raise HookError("base_dn does not exist, or the hook may not read it: check deploy/ldap/") from None
        except ldap.SIZELIMIT_EXCEEDED:
            raise HookRefused("more than one entry has this name: make responder.ldap.filter say which") from None
        return [(dn, attributes) for dn, attributes in found if dn is not None]

    def _seconds(self) -> int:
        return max(1, self.settings.timeout_ms // 1000)

    async def look(self, client: Connection, account: str) -> Seen:
        _, values = await self._entry(client, account)
        return Seen(locked=self._is_locked(values), sessions=0, undo={self._attribute: values})

    def _is_locked(self, values: list[str]) -> bool:
        if self._active_directory:
            return bool(_flags(values) & ACCOUNTDISABLE)
        return LOCKED_FOR_GOOD in values

    async def suspend(self, client: Connection, account: str, seen: Seen) -> None:
        if self._active_directory:
            await self._flip(client, account, lambda flags: flags | ACCOUNTDISABLE)
        else:
            dn, _ = await self._entry(client, account)
            await _in_thread(lambda: client.modify_s(dn, [_replace(self._attribute, [LOCKED_FOR_GOOD])]))

    async def restore(self, client: Connection, account: str, undo: dict[str, Any]) -> None:
        before = [str(value) for value in undo.get(self._attribute, [])]
        if self._active_directory:
            # Only the bit: whatever else an administrator has changed meanwhile stays.
            if not _flags(before) & ACCOUNTDISABLE:
                await self._flip(client, account, lambda flags: flags & ~ACCOUNTDISABLE)
        else:
            dn, _ = await self._entry(client, account)
            await _in_thread(lambda: client.modify_s(dn, [_replace(self._attribute, before)]))

    def is_as_before(self, seen: Seen, undo: dict[str, Any]) -> bool:
        if self._active_directory:
            before = [str(value) for value in undo.get(self._attribute, [])]
            return not (_flags(seen.undo[self._attribute]) ^ _flags(before)) & ACCOUNTDISABLE
        return seen.undo == undo

    async def _flip(self, client: Connection, account: str, change: Callable[[int], int]) -> None:
        for attempt in range(TRIES):
            dn, values = await self._entry(client, account)
            old, new = values[0], str(change(_flags(values)))
            if old == new:
                return
            changes = [
                (ldap.MOD_DELETE, self._attribute, [old.encode()]), (ldap.MOD_ADD, self._attribute, [new.encode()])
            ]  # fmt: skip
            try:
                await _in_thread(lambda dn=dn, changes=changes: client.modify_s(dn, changes))  # type: ignore[misc]
                return
            except ldap.NO_SUCH_ATTRIBUTE:  # somebody else has changed it between our read and our write
                if attempt == TRIES - 1:
                    raise HookError("userAccountControl is being changed by somebody else all the time") from None

    def explain(self, error: Exception) -> str | None:
        """The server's diagnostic message may quote names: only the result's class is passed on."""
        if isinstance(error, ldap.LDAPError):
            return f"LDAP refused ({type(error).__name__}): check url, bind_dn, password and the ACLs of deploy/ldap/"
        return None


def _flags(values: list[str]) -> int:
    """Raises HookError for an entry without a readable userAccountControl."""
    if len(values) != 1 or not values[0].lstrip("-").isdigit():
        raise HookError("the entry has no userAccountControl that this hook may read: check deploy/ldap/")
    return int(values[0])


def _replace(attribute: str, values: list[str]) -> tuple[int, str, list[bytes] | None]:
    return ldap.MOD_REPLACE, attribute, [value.encode() for value in values] or None


def _unbind(connection: Connection) -> None:
    with contextlib.suppress(ldap.LDAPError):
        connection.unbind_s()


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)
