"""A program of the clinic's own. Never a shell; the account is never an argument, where every user of the machine could read
it and a leading dash would make it an option.

    standard input    one JSON object: {"operation": .., "account": .., "undo": {..}}
    environment       EXFILGUARD_OPERATION, EXFILGUARD_ACCOUNT, PATH and LANG; nothing else of ours
    operation         inspect   prints {"locked": bool, "sessions": int, "undo": {..}}, changes nothing
                      lock      suspends the account and ends its sessions
                      unlock    restores what `undo` says
    exit status       0 done; 4 will not act on this account; anything else: failed

`inspect` is called before and after the others: what a program claims is not believed until it has looked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson

from ..config.responder import CommandHookConfig
from ..errors import ConfigError, HookError, HookRefused
from .hook import Seen, Settings, SuspendHook

WILL_NOT = 4
MAX_OUTPUT_BYTES = 64 << 10
_KEPT = ("PATH", "LANG", "LC_ALL", "HOME", "TZ")


class CommandHook(SuspendHook[None]):
    """See the module."""

    def __init__(self, config: CommandHookConfig, settings: Settings) -> None:
        super().__init__(config.name, settings)
        if "\0" in "".join(config.argv):
            raise ConfigError(["argv holds a NUL"])
        self._argv = list(config.argv)

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncIterator[None]:
        yield None

    def connect(self) -> AbstractAsyncContextManager[None]:
        return self._connect()

    async def look(self, client: None, account: str) -> Seen:
        raw = await self._run("inspect", account, {})
        try:
            found = orjson.loads(raw)
            locked, sessions, undo = found["locked"], found.get("sessions", 0), found.get("undo", {})
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise HookError("inspect printed no JSON object with `locked`: see docs/RESPONSE.md") from None
        if not isinstance(locked, bool) or type(sessions) is not int or not isinstance(undo, dict):
            raise HookError("inspect must print locked as true or false, sessions as a number, undo as an object")
        return Seen(locked, sessions, undo)

    async def suspend(self, client: None, account: str, seen: Seen) -> None:
        await self._run("lock", account, seen.undo)

    async def end_sessions(self, client: None, account: str) -> int:
        seen = await self.look(None, account)
        if seen.sessions:
            await self._run("lock", account, seen.undo)
        return seen.sessions

    async def restore(self, client: None, account: str, undo: dict[str, Any]) -> None:
        await self._run("unlock", account, undo)

    def explain(self, error: Exception) -> str | None:
        if isinstance(error, OSError):
            return f"the program cannot be run ({error.strerror}): check argv and its permissions"
        if isinstance(error, UnicodeError | ValueError):
            return "the name cannot be handed to a program on this machine"
        return None

    async def _run(self, operation: str, account: str, undo: dict[str, Any]) -> bytes:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {"EXFILGUARD_OPERATION": operation, "EXFILGUARD_ACCOUNT": account}
        process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # may hold anything; the program has its own log
            env=environment,
            start_new_session=True,
        )
        given = orjson.dumps({"operation": operation, "account": account, "undo": undo})
        try:
            out = await _talk(process, given)
            status = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # on time-out: it and its children; else what it left behind
            with contextlib.suppress(ProcessLookupError):
                await process.wait()
        if status == WILL_NOT:
            raise HookRefused("the program will not act on this account")
        if status:
            raise HookError(f"{operation} ended with status {status}: see the program's own log")
        return out


async def _talk(process: asyncio.subprocess.Process, given: bytes) -> bytes:
    """Feeds its input, returns its output. Raises HookError for too much of it."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(given)
            await process.stdin.drain()
        process.stdin.close()
    out = bytearray()
    while process.stdout is not None and (part := await process.stdout.read(8192)):
        out += part
        if len(out) > MAX_OUTPUT_BYTES:
            raise HookError("the program prints without end")
    return bytes(out)
