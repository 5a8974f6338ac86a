"""SCIM 2.0: `active` becomes false. RFC 7644, 3.4.2.2 (filter) and 3.5.2 (PATCH); RFC 7643, 4.1.1 (active).

SCIM knows no sessions: what the identity provider does with those of a deactivated user is its own; put the sidecar and, where
the sessions matter, another hook beside this one.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import quote

import orjson

from ..config.responder import SCIMHookConfig
from ..errors import HookRefused
from .hook import Seen, Settings, SuspendHook
from .http_client import Http, connect, expect, explain

PATCH_OP = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
MEDIA_TYPE = "application/scim+json"
REMEDY = "check url, token and what the provider allows it"


class SCIMHook(SuspendHook[Http]):
    """See the module. `undo` is {"active": true | false | null}, null where the provider had no value."""

    def __init__(self, config: SCIMHookConfig, settings: Settings) -> None:
        super().__init__("scim", settings)
        self._config = config

    def connect(self) -> AbstractAsyncContextManager[Http]:
        return self._connect()

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncIterator[Http]:
        async with connect(self._config.url, self._config.tls_ca) as http:
            http.headers |= {
                "Authorization": f"Bearer {self._config.token}",
                "Accept": MEDIA_TYPE,
                "Content-Type": MEDIA_TYPE,
            }
            yield http

    async def _user(self, http: Http, account: str) -> tuple[str, bool | None]:
        """(id, active)."""
        # A filter's strings are JSON strings (RFC 7644 3.4.2.2): quoted so, a name cannot end its own quotes.
        text = f"{self._config.filter_attribute} eq {orjson.dumps(account).decode()}"
        answer = await http.call("GET", "/Users", query={"filter": text, "count": "2"})
        expect(answer, "users cannot be searched", REMEDY, 200)
        found = answer.body.get("Resources") or []
        if self._config.filter_attribute == "userName":
            found = [user for user in found if str(user.get("userName", "")).lower() == account.lower()]
        if not found:
            raise HookRefused("the provider has no such user")
        if len(found) > 1:
            raise HookRefused("the provider has more than one such user")
        user = str(found[0]["id"])
        answer = await http.call("GET", f"/Users/{quote(user, safe='')}")
        expect(answer, "the user cannot be read", REMEDY, 200)
        active = answer.body.get("active")
        return user, None if active is None else bool(active)

    async def look(self, client: Http, account: str) -> Seen:
        _, active = await self._user(client, account)
        return Seen(locked=active is False, sessions=0, undo={"active": active})

    async def suspend(self, client: Http, account: str, seen: Seen) -> None:
        await self._set(client, account, False)

    async def restore(self, client: Http, account: str, undo: dict[str, Any]) -> None:
        await self._set(client, account, undo.get("active"))

    def is_as_before(self, seen: Seen, undo: dict[str, Any]) -> bool:
        # No value means active; some providers answer with one where there was none.
        return (seen.undo["active"] is False) == (undo.get("active") is False)

    async def _set(self, http: Http, account: str, active: bool | None) -> None:
        user, _ = await self._user(http, account)
        value = active is not False
        operation: dict[str, Any] = {"op": "replace", "path": "active", "value": value}
        if self._config.patch == "pathless":
            operation = {"op": "replace", "value": {"active": value}}
        answer = await http.call(
            "PATCH", f"/Users/{quote(user, safe='')}", json={"schemas": [PATCH_OP], "Operations": [operation]}
        )
        expect(answer, "the user cannot be changed", REMEDY, 200, 204)

    def explain(self, error: Exception) -> str | None:
        return explain(error, REMEDY)
