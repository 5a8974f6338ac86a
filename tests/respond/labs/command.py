"""A command of the clinic."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exfilguard.config.responder import (
    CommandHookConfig,
)
from exfilguard.respond.command import CommandHook
from exfilguard.respond.hook import Settings, SuspendHook

from .lab import OldSession

_PROGRAM = '''#!/usr/bin/env python3
"""Locks accounts of a system that is one JSON file."""
import fcntl, json, os, sys
given = json.load(sys.stdin)
assert given["account"] == os.environ["EXFILGUARD_ACCOUNT"] and len(sys.argv) == 2
path = sys.argv[1]
with open(path + ".lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    system = json.load(open(path))
    if system["down"]:
        sys.exit(1)
    user = system["users"].get(given["account"])
    if user is None:
        sys.exit(4)
    if given["operation"] == "inspect":
        print(json.dumps({"locked": not user["active"], "sessions": len(user["sessions"]), "undo": {"active": user["active"]}}))
        sys.exit(0)
    if given["operation"] == "lock":
        user.update(active=False, sessions=[])
    else:
        user.update(active=given["undo"]["active"])
    json.dump(system, open(path + ".new", "w"))
    os.replace(path + ".new", path)
'''


class CommandLab:
    name = "command"
    sessions = True
    max_name_bytes = 200

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "command"
        self.path = self.directory / "system.json"
        self.program = self.directory / "lock.py"

    def start(self) -> None:
        self.directory.mkdir()
        self.program.write_text(_PROGRAM, encoding="utf-8")
        self.program.chmod(0o755)
        self._save({"down": False, "users": {}})

    def _load(self) -> dict[str, Any]:
        return dict(json.loads(self.path.read_text(encoding="utf-8")))

    def _save(self, system: dict[str, Any]) -> None:
        new = self.path.with_suffix(".admin")
        new.write_text(json.dumps(system), encoding="utf-8")
        os.replace(new, self.path)

    @contextlib.contextmanager
    def _changed(self) -> Iterator[dict[str, Any]]:
        import fcntl

        with open(f"{self.path}.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            system = self._load()
            yield system
            self._save(system)

    def stop(self) -> None:
        return

    def kill(self) -> None:
        with self._changed() as system:
            system["down"] = True

    def again(self) -> None:
        with self._changed() as system:
            system["down"] = False

    def hook(self, **settings: Any) -> SuspendHook[Any]:
        settings.pop("password", None)
        return CommandHook(
            CommandHookConfig(name="command", argv=[sys.executable, "-S", str(self.program), str(self.path)]),
            Settings(**settings),
        )

    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        """A program that asks a service on this port, and waits for its answer."""
        script = (
            f"import socket; s = socket.create_connection(('127.0.0.1', {port})); s.sendall(b'?'); s.recv(9); s.recv(9)"
        )
        return CommandHook(
            CommandHookConfig(name="command", argv=[sys.executable, "-S", "-c", script]), Settings(**settings)
        )

    def create(self, account: str) -> None:
        with self._changed() as system:
            system["users"][account] = {"active": True, "sessions": []}

    def disable(self, account: str) -> None:
        with self._changed() as system:
            system["users"][account]["active"] = False

    def enable(self, account: str) -> None:
        with self._changed() as system:
            system["users"][account]["active"] = True

    def login(self, account: str) -> OldSession | None:
        key = secrets.token_hex(8)
        with self._changed() as system:
            user = system["users"][account]
            if not user["active"]:
                return None
            user["sessions"].append(key)
        return _Key(self, account, key)


class _Key:
    def __init__(self, lab: CommandLab, account: str, key: str) -> None:
        self._lab, self._account, self._key = lab, account, key

    def alive(self) -> bool:
        return self._key in self._lab._load()["users"][self._account]["sessions"]
