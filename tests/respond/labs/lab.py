"""What every laboratory has."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pymysql

from exfilguard.errors import EmbeddedError
from exfilguard.respond.hook import SuspendHook

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
PASSWORD = "correct horse"
HOOK_PASSWORD = "battery staple"


class OldSession(Protocol):
    """What was open before the lock."""

    def alive(self) -> bool: ...


class Lab(Protocol):
    """A server, and a hook on it."""

    name: str
    sessions: bool
    """The hook also ends sessions."""
    max_name_bytes: int

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def again(self) -> None:
        """Start after `kill`, on the same data."""

    def hook(self, **settings: Any) -> SuspendHook[Any]: ...
    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        """The same hook, its server on another port of this machine."""

    def create(self, account: str) -> None: ...
    def disable(self, account: str) -> None:
        """As an administrator does, before any lock."""

    def enable(self, account: str) -> None: ...

    def login(self, account: str) -> OldSession | None:
        """A fresh login; None when it is refused."""


def patiently(start: Callable[[], None], seconds: float) -> None:
    """What a killed server left behind (a lock, a port) goes away in a moment."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            start()
            return
        except EmbeddedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


class ServerLab:
    """What laboratories have in common whose server is one of exfilguard/embedded."""

    server: Any
    again_s = 20.0
    """For what a killed server left behind."""

    def stop(self) -> None:
        self.server.stop()

    def kill(self) -> None:
        self.server.kill()

    def again(self) -> None:
        patiently(self.server.start, self.again_s)

    def hook(self, **settings: Any) -> SuspendHook[Any]:
        return self.at(self.server.port, **settings)

    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        raise NotImplementedError


class Sql:
    """An open database session."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def alive(self) -> bool:
        try:
            with self.connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                return bool(cursor.fetchone())
        except (psycopg.Error, pymysql.MySQLError, OSError):
            return False


def call(
    method: str, url: str, *, json_body: Any = None, form: dict[str, str] | None = None, token: str = ""
) -> tuple[int, Any]:
    """(status, parsed answer) of one request by the standard library."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None
    if json_body is not None:
        data = json.dumps(json_body).encode()
        headers["Content-Type"] = "application/scim+json" if "/scim/" in url else "application/json"
    elif form is not None:
        data = urllib.parse.urlencode(form).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            raw = answer.read()
            return answer.status, json.loads(raw) if raw else None
    except urllib.error.HTTPError as error:
        raw = error.read()
        return error.code, json.loads(raw) if raw[:1] in (b"{", b"[") else None
