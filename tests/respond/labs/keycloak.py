"""Keycloak."""

from __future__ import annotations

import secrets
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from exfilguard.config.responder import (
    KeycloakHookConfig,
)
from exfilguard.embedded import keycloak
from exfilguard.embedded.keycloak import EmbeddedKeycloak
from exfilguard.respond.hook import Settings, SuspendHook
from exfilguard.respond.keycloak import KeycloakHook

from .lab import HOOK_PASSWORD, PASSWORD, OldSession, ServerLab, call


class KeycloakLab(ServerLab):
    name = "keycloak"
    sessions = True
    again_s = 60.0
    max_name_bytes = 200

    def __init__(self, directory: Path) -> None:
        self.server = EmbeddedKeycloak(directory / "keycloak")

    def start(self) -> None:
        self.server.start()
        token = self._admin()
        base = f"{self.server.url}/admin/realms"
        realm = {
            "realm": "clinic", "enabled": True, "sslRequired": "none",
            # Keycloak's own profile refuses most characters in names; a clinic's federated users have them.
            "clients": [
                {"clientId": "dpi", "publicClient": True, "directAccessGrantsEnabled": True, "standardFlowEnabled": False},
                {"clientId": "exfilguard", "secret": HOOK_PASSWORD, "serviceAccountsEnabled": True, "standardFlowEnabled": False,
                 "directAccessGrantsEnabled": False},
            ],
        }  # fmt: skip
        assert call("POST", base, json_body=realm, token=token)[0] == 201
        base += "/clinic"
        _, profile = call("GET", f"{base}/users/profile", token=token)
        for attribute in profile["attributes"]:
            attribute.pop("required", None)
            if attribute["name"] == "username":
                attribute["validations"] = {"length": {"min": 1, "max": 250}}
        assert call("PUT", f"{base}/users/profile", json_body=profile, token=token)[0] == 200
        # As deploy/keycloak/README.md grants it.
        _, clients = call("GET", f"{base}/clients?clientId=exfilguard", token=token)
        _, service = call("GET", f"{base}/clients/{clients[0]['id']}/service-account-user", token=token)
        _, management = call("GET", f"{base}/clients?clientId=realm-management", token=token)
        _, roles = call("GET", f"{base}/clients/{management[0]['id']}/roles", token=token)
        wanted = [role for role in roles if role["name"] in ("manage-users", "view-clients")]
        path = f"{base}/users/{service['id']}/role-mappings/clients/{management[0]['id']}"
        assert call("POST", path, json_body=wanted, token=token)[0] == 204

    def _admin(self) -> str:
        form = {
            "grant_type": "password",
            "client_id": "admin-cli",
            "username": keycloak.ADMIN,
            "password": self.server.password,
        }
        status, answer = call("POST", f"{self.server.url}/realms/master/protocol/openid-connect/token", form=form)
        assert status == 200, answer
        return str(answer["access_token"])

    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        config = KeycloakHookConfig(
            url=f"http://127.0.0.1:{port}", realm="clinic", client_secret=settings.pop("password", HOOK_PASSWORD)
        )
        return KeycloakHook(config, Settings(**settings))

    def create(self, account: str) -> None:
        user = {
            "username": account, "enabled": True, "email": f"{secrets.token_hex(6)}@clinic.example", "firstName": "A", "lastName": "B",
            "credentials": [{"type": "password", "value": PASSWORD, "temporary": False}],
        }  # fmt: skip
        status, answer = call(
            "POST", f"{self.server.url}/admin/realms/clinic/users", json_body=user, token=self._admin()
        )
        assert status == 201, answer

    def user(self, account: str) -> dict[str, Any]:
        query = urllib.parse.urlencode({"username": account, "exact": "true"})
        _, found = call("GET", f"{self.server.url}/admin/realms/clinic/users?{query}", token=self._admin())
        return dict(found[0])

    def disable(self, account: str, enabled: bool = False) -> None:
        user = self.user(account)
        url = f"{self.server.url}/admin/realms/clinic/users/{user['id']}"
        assert call("PUT", url, json_body={**user, "enabled": enabled}, token=self._admin())[0] == 204

    def enable(self, account: str) -> None:
        self.disable(account, True)

    def login(self, account: str, scope: str = "openid") -> OldSession | None:
        form = {"grant_type": "password", "client_id": "dpi", "username": account, "password": PASSWORD, "scope": scope}
        status, answer = call("POST", f"{self.server.url}/realms/clinic/protocol/openid-connect/token", form=form)
        assert status == 200 or answer["error"] == "invalid_grant", answer
        return _Tokens(self.server.url, answer) if status == 200 else None


class _Tokens:
    """Alive while the refresh token gives a new access token, or the access token is taken by userinfo."""

    def __init__(self, url: str, tokens: dict[str, Any]) -> None:
        self._url, self._tokens = f"{url}/realms/clinic/protocol/openid-connect", tokens

    def alive(self) -> bool:
        taken, _ = call("GET", f"{self._url}/userinfo", token=self._tokens["access_token"])
        form = {"grant_type": "refresh_token", "client_id": "dpi", "refresh_token": self._tokens["refresh_token"]}
        status, answer = call("POST", f"{self._url}/token", form=form)
        if status == 200:
            self._tokens = answer
        return status == 200 or taken == 200
