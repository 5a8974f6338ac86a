"""Keycloak: the user is disabled, every session is ended, offline tokens are revoked. Admin REST API:
https://www.keycloak.org/docs-api/latest/rest-api/index.html

    PUT    /admin/realms/R/users/ID                      {"enabled": false}, the whole representation read before
    POST   /admin/realms/R/users/ID/logout               online sessions
    GET    /admin/realms/R/users/ID/consents             which clients hold offline tokens
    DELETE /admin/realms/R/sessions/SID?isOffline=true   each offline session

Access tokens that were given out live until they expire (minutes, by the realm's settings) at applications that check their
signature only; refresh, introspection and userinfo refuse them at once. The client's roles: deploy/keycloak/README.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import quote

from ..config.responder import KeycloakHookConfig
from ..errors import HookRefused
from .hook import Seen, Settings, SuspendHook
from .http_client import Http, connect, expect, explain

REMEDY = "check url, realm, client and its roles (deploy/keycloak/README.md)"


class KeycloakHook(SuspendHook[Http]):
    """See the module. `undo` is {"enabled": bool}."""

    def __init__(self, config: KeycloakHookConfig, settings: Settings) -> None:
        super().__init__("keycloak", settings)
        self._config = config
        self._realm = f"/admin/realms/{quote(config.realm, safe='')}"
        self.own = f"service-account-{config.client_id.lower()}"

    def connect(self) -> AbstractAsyncContextManager[Http]:
        return self._connect()

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncIterator[Http]:
        config = self._config
        async with connect(config.url, config.tls_ca) as http:
            answer = await http.call(
                "POST",
                f"/realms/{quote(config.realm, safe='')}/protocol/openid-connect/token",
                form={
                    "grant_type": "client_credentials",
                    "client_id": config.client_id,
                    "client_secret": config.client_secret,
                },
            )
            expect(answer, "no token for the hook's client", REMEDY, 200)
            http.headers["Authorization"] = f"Bearer {answer.body['access_token']}"
            yield http

    async def _user(self, http: Http, account: str) -> dict[str, Any]:
        answer = await http.call("GET", f"{self._realm}/users", query={"username": account, "exact": "true"})
        expect(answer, "users cannot be searched", REMEDY, 200)
        # Keycloak keeps user names in lower case, and may answer more than was asked for.
        found = [user for user in answer.body if str(user["username"]).lower() == account.lower()]
        if not found:
            raise HookRefused("the realm has no such user")
        if len(found) > 1:
            raise HookRefused("the realm has more than one such user")
        answer = await http.call("GET", f"{self._realm}/users/{found[0]['id']}")
        expect(answer, "the user cannot be read", REMEDY, 200)
        user: dict[str, Any] = answer.body
        return user

    async def look(self, client: Http, account: str) -> Seen:
        user = await self._user(client, account)
        answer = await client.call("GET", f"{self._realm}/users/{user['id']}/sessions")
        expect(answer, "sessions cannot be read", REMEDY, 200)
        sessions = len(answer.body) + len(await self._offline(client, user["id"]))
        enabled = bool(user["enabled"])
        return Seen(locked=not enabled, sessions=sessions, undo={"enabled": enabled})

    async def _offline(self, http: Http, user: str) -> list[str]:
        """Ids of the user's offline sessions."""
        answer = await http.call("GET", f"{self._realm}/users/{user}/consents")
        expect(answer, "offline tokens cannot be read", REMEDY, 200)
        out = []
        for consent in answer.body:
            for grant in consent.get("additionalGrants", ()):
                found = await http.call(
                    "GET", f"{self._realm}/users/{user}/offline-sessions/{quote(grant['client'], safe='')}"
                )
                expect(found, "offline sessions cannot be read", REMEDY, 200)
                out += [str(session["id"]) for session in found.body]
        return out

    async def suspend(self, client: Http, account: str, seen: Seen) -> None:
        await self._enable(client, account, False)

    async def end_sessions(self, client: Http, account: str) -> int:
        user = await self._user(client, account)
        offline = await self._offline(client, user["id"])
        answer = await client.call("GET", f"{self._realm}/users/{user['id']}/sessions")
        expect(answer, "sessions cannot be read", REMEDY, 200)
        if answer.body or offline:
            expect(
                await client.call("POST", f"{self._realm}/users/{user['id']}/logout"),
                "sessions cannot be ended",
                REMEDY,
            )
        for session in offline:
            gone = await client.call(
                "DELETE", f"{self._realm}/sessions/{quote(session, safe='')}", query={"isOffline": "true"}
            )
            expect(gone, "an offline session cannot be ended", REMEDY, 204, 404)
        return len(answer.body) + len(offline)

    async def restore(self, client: Http, account: str, undo: dict[str, Any]) -> None:
        if undo.get("enabled"):
            await self._enable(client, account, True)

    async def _enable(self, http: Http, account: str, enabled: bool) -> None:
        # The whole representation goes back: a partial one may blank what it does not name.
        user = await self._user(http, account)
        user.pop("access", None)
        answer = await http.call("PUT", f"{self._realm}/users/{user['id']}", json={**user, "enabled": enabled})
        expect(answer, "the user cannot be changed", REMEDY, 204)

    def explain(self, error: Exception) -> str | None:
        return explain(error, REMEDY)
