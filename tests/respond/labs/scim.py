"""A SCIM server."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Any

from exfilguard.config.responder import (
    SCIMHookConfig,
)
from exfilguard.embedded.child import Child, free_port
from exfilguard.respond.hook import Settings, SuspendHook
from exfilguard.respond.scim import SCIMHook

from .lab import OldSession, call


class ScimLab:
    """`patch`: path or pathless."""

    sessions = False
    max_name_bytes = 200

    def __init__(self, directory: Path, patch: str = "path") -> None:
        self.name = "scim" if patch == "path" else "scim-pathless"
        self.patch = patch
        self.directory = directory / self.name
        self.port = free_port()
        self.token = secrets.token_urlsafe(12)
        self._child = Child("the SCIM server", self.directory / "server.log")
        self._ids: dict[str, str] = {}

    def start(self) -> None:
        self.directory.mkdir(parents=True)
        (self.directory / "token").write_text(self.token, encoding="ascii")
        self.again()

    def again(self) -> None:
        script = Path(__file__).with_name("scim_server.py")
        self._child.start(
            [
                sys.executable,
                str(script),
                str(self.port),
                str(self.directory / "token"),
                str(self.directory / "state.json"),
            ]
        )
        self._child.wait_until(self._ready, 20.0)

    def _ready(self) -> bool:
        try:
            return call("GET", f"{self.url}/Users?count=0", token=self.token)[0] == 200
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._child.kill()

    def kill(self) -> None:
        self._child.kill()

    def hook(self, **settings: Any) -> SuspendHook[Any]:
        return self.at(self.port, **settings)

    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        config = SCIMHookConfig(
            url=f"http://127.0.0.1:{port}",
            token=settings.pop("password", self.token),
            patch=self.patch,  # type: ignore[arg-type]
        )
        return SCIMHook(config, Settings(**settings))

    def create(self, account: str) -> None:
        user = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": account, "active": True}
        status, made = call("POST", f"{self.url}/Users", json_body=user, token=self.token)
        assert status == 201, made
        self._ids[account] = made["id"]

    def disable(self, account: str, active: bool = False) -> None:
        _, user = call("GET", f"{self.url}/Users/{self._ids[account]}", token=self.token)
        status, _ = call(
            "PUT", f"{self.url}/Users/{self._ids[account]}", json_body={**user, "active": active}, token=self.token
        )
        assert status == 200

    def enable(self, account: str) -> None:
        self.disable(account, True)

    def login(self, account: str) -> OldSession | None:
        _, user = call("GET", f"{self.url}/Users/{self._ids[account]}", token=self.token)
        return _Nothing() if user.get("active") is not False else None


class _Nothing:
    def alive(self) -> bool:
        return True
