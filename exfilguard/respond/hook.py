"""What every hook is: two operations on an account, each of which says how it ended.

    before ──► (its answer is on record) ──► lock ──► done │ already │ dry_run
                                             unlock        HookRefused: will not   HookError: could not

`SuspendHook` is the way all built-in lock-out hooks go, and the base class for hooks of other packages: look, change, end
the sessions, look again until it is so. Each attempt is bounded in time; what cannot be verified is an error, whatever the
server has answered.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Collection, Container, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Generic, Protocol, TypeVar

from ..errors import HookError, HookRefused
from ..events.action import Outcome
from ..events.verdict import Level, Verdict
from .bounded import bounded

T = TypeVar("T")
Client = TypeVar("Client")

ROUND_S = 0.02
"""Pause between two looks at an account whose sessions are being ended; doubled each time, up to MAX_ROUND_S."""
MAX_ROUND_S = 0.5
MAX_ACCOUNT_CHARS = 1_024
"""A longer name is no account of any system here."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a hook is asked: the verdict that stands (or was lifted), and what else people should know."""

    verdict: Verdict
    note: str = ""

    @property
    def account(self) -> str:
        return self.verdict.principal


@dataclass(frozen=True, slots=True)
class HookResult:
    """How one attempt ended. `detail` is for people and holds no secret."""

    outcome: Outcome
    verified: bool
    detail: str = ""


class Hook(Protocol):
    """A lock-out hook. All operations are idempotent and raise HookError when they could not do or verify their work,
    HookRefused when they will not act on this account."""

    name: str
    min_level: Level
    """Verdicts from this step on are its business."""
    suspends: bool
    """True for a hook that suspends accounts, False for one that tells people or systems."""

    async def before(self, order: Order) -> dict[str, Any]:
        """What `unlock` must restore. Changes nothing; its answer is on record before `lock` is called."""

    async def lock(self, order: Order) -> HookResult:
        """Suspend the account and end its sessions."""

    async def unlock(self, order: Order, undo: dict[str, Any]) -> HookResult:
        """Restore what `lock` changed, and nothing else."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An account as a hook found it."""

    locked: bool
    """A fresh login is refused."""
    sessions: int
    """Of those that are open; 0 where the system has none or cannot tell."""
    undo: dict[str, Any] = field(default_factory=dict)
    """What the lock changes, as it is now: JSON values, no secrets."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What all hooks have in common."""

    timeout_ms: int = 5_000
    dry_run: bool = False
    accounts: Collection[str] = ("*",)
    """Patterns; other accounts are refused."""
    protected: Container[str] = ()
    """Accounts that are never suspended (break-glass, and shared unless the policy allows it)."""


class SuspendHook(abc.ABC, Generic[Client]):
    """Look, change, end the sessions, look again. Subclasses say how, on a client that `connect` opens for one attempt.

    Only HookError and HookRefused leave it: `explain` turns a library's exceptions into what an operator should do.
    """

    min_level: Level = "lock"
    suspends = True

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings

    # -- what a subclass says -----------------------------------------------------------------------------------------

    @abc.abstractmethod
    def connect(self) -> AbstractAsyncContextManager[Client]:
        """A client for one attempt; entering it may take time and fail."""

    @abc.abstractmethod
    async def look(self, client: Client, account: str) -> Seen:
        """The account as it is. Raises HookRefused for one that does not exist or must not be touched."""

    @abc.abstractmethod
    async def suspend(self, client: Client, account: str, seen: Seen) -> None:
        """Make fresh logins fail. Called when `look` says that they do not."""

    async def end_sessions(self, client: Client, account: str) -> int:
        """End what is open, one round; returns how many were told to end. Called until `look` sees none."""
        return 0

    @abc.abstractmethod
    async def restore(self, client: Client, account: str, undo: dict[str, Any]) -> None:
        """Put back what `look` had seen before the lock."""

    def is_as_before(self, seen: Seen, undo: dict[str, Any]) -> bool:
        """What `restore` is verified by."""
        return seen.undo == undo

    def is_given_back(self, seen: Seen, undo: dict[str, Any]) -> bool:
        """True when somebody else has lifted the lock meanwhile: then nothing is touched."""
        return not seen.locked

    @abc.abstractmethod
    def explain(self, error: Exception) -> str | None:
        """What an exception of the library means and what to do, without any value; None when it is not its own."""

    own: str = ""
    """The hook's own account, which it will not lock."""

    # -- what callers use -----------------------------------------------------------------------------------------------

    async def before(self, order: Order) -> dict[str, Any]:
        """Raises HookError, HookRefused."""
        check_account(order.account, self.settings, self.own)
        return await self._bounded(self._before(order.account))

    async def lock(self, order: Order) -> HookResult:
        """Raises HookError, HookRefused."""
        check_account(order.account, self.settings, self.own)
        return await self._bounded(self._lock(order.account))

    async def unlock(self, order: Order, undo: dict[str, Any]) -> HookResult:
        """Raises HookError, HookRefused."""
        return await self._bounded(self._unlock(order.account, undo))

    async def _bounded(self, work: Coroutine[Any, Any, T]) -> T:
        limit_s = self.settings.timeout_ms / 1000
        try:
            return await bounded(work, limit_s)
        except TimeoutError:
            raise HookError(f"not finished within {limit_s:g} s: is the server reachable and not overloaded?") from None
        except HookError:
            raise
        except Exception as error:
            # The library's own message may quote values: only what the hook makes of it is passed on.
            if (text := self.explain(error)) is None:
                text = f"{type(error).__name__}, which this hook does not expect: report it"
            raise HookError(text) from None

    async def _before(self, account: str) -> dict[str, Any]:
        async with self.connect() as client:
            return (await self.look(client, account)).undo

    async def _lock(self, account: str) -> HookResult:
        async with self.connect() as client:
            seen = await self.look(client, account)
            if seen.locked and not seen.sessions:
                return HookResult("already", verified=True, detail="already suspended, no session")
            if self.settings.dry_run:
                return HookResult(
                    "dry_run", verified=False, detail=f"would suspend the account and end {seen.sessions} sessions"
                )
            if not seen.locked:
                await self.suspend(client, account, seen)
            ended, pause_s = 0, ROUND_S
            while True:
                # Again and again: a login that was past its check when the account was disabled shows up a moment later.
                ended += await self.end_sessions(client, account)
                seen = await self.look(client, account)
                if not seen.sessions:
                    break
                await asyncio.sleep(pause_s)
                pause_s = min(MAX_ROUND_S, pause_s * 2)
            if not seen.locked:
                raise HookError("the server said yes, but the account is not suspended: is somebody else changing it?")
            return HookResult("done", verified=True, detail=f"suspended, {ended} sessions ended")

    async def _unlock(self, account: str, undo: dict[str, Any]) -> HookResult:
        async with self.connect() as client:
            seen = await self.look(client, account)
            if not undo or self.is_as_before(seen, undo):
                return HookResult("already", verified=True, detail="is as it was before the lock")
            if self.is_given_back(seen, undo):
                return HookResult("already", verified=True, detail="somebody else has given it back: left as it is")
            if self.settings.dry_run:
                return HookResult("dry_run", verified=False, detail="would restore what was before the lock")
            await self.restore(client, account, undo)
            seen = await self.look(client, account)
            if not self.is_as_before(seen, undo):
                raise HookError("the server said yes, but the account is not as it was: is somebody else changing it?")
            return HookResult("done", verified=True, detail="restored what was before the lock")


def check_account(account: str, settings: Settings, own: str = "") -> None:
    """Raises HookRefused for an account that a hook with these settings does not touch."""
    if not any(fnmatchcase(account, pattern) for pattern in settings.accounts):
        raise HookRefused("not one of this hook's accounts")
    if account in settings.protected:
        raise HookRefused("the policy protects this account (break-glass or shared): cut at the sidecar only")
    if own and account == own:
        raise HookRefused("this is the hook's own account")
    if not account or "\0" in account or len(account) > MAX_ACCOUNT_CHARS:
        raise HookRefused("no system has an account with such a name: empty, too long, or with a NUL in it")
