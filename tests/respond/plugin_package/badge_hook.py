"""Locks badges: a system that is a directory, one file a badge. What a hook of another package looks like."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from exfilguard.errors import HookError, HookRefused
from exfilguard.respond.hook import Seen, Settings, SuspendHook


class BadgeHook(SuspendHook[Path]):
    def __init__(self, name: str, directory: Path, secret: str, settings: Settings) -> None:
        super().__init__(name, settings)
        self._directory, self._secret = directory, secret

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Path]:
        if (self._directory / "secret").read_text() != self._secret:
            raise HookError("the badge system refuses the secret: check secret_file")
        yield self._directory

    async def look(self, client: Path, account: str) -> Seen:
        badge = client / quote(account, safe="")
        if not badge.is_file():
            raise HookRefused("nobody has such a badge")
        state = badge.read_text()
        return Seen(locked=state == "closed", sessions=0, undo={"state": state})

    async def suspend(self, client: Path, account: str, seen: Seen) -> None:
        (client / quote(account, safe="")).write_text("closed")

    async def restore(self, client: Path, account: str, undo: dict[str, Any]) -> None:
        (client / quote(account, safe="")).write_text(undo["state"])

    def explain(self, error: Exception) -> str | None:
        return "the badge system cannot be reached" if isinstance(error, OSError) else None


def make(name: str, settings: dict[str, str], secret: str, common: Settings) -> BadgeHook:
    """The entry point."""
    return BadgeHook(name, Path(settings["directory"]), secret, common)
