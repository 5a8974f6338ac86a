"""Telling people and systems: what a message holds, and the hook that delivers one.

Once per verdict at or above `min_level`, once when it is lifted. Delivered means acknowledged by the receiver. The key of a
message is the same at every attempt, so a receiver that looks at it gets each message once.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from ..errors import HookError, HookRefused
from ..events.action import Operation
from ..events.verdict import Level, severity
from ..evidence.moment import moment_of
from .bounded import bounded
from .hook import HookResult, Order, Settings, check_account

MAX_TEXT = 500
"""Characters of a reason or an account's name in a message."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message. No patient, no secret; the account's name and the reason are what the on-call needs."""

    key: str
    """Of this message: 32 hex digits, the same at every attempt."""
    incident: str
    """Of the account: the same for `lock` and `unlock`, so that a receiver can close what it opened."""
    operation: Operation
    level: Level
    tenant: str
    account: str
    reason: str
    issuer: str
    note: str
    revision: int
    issued_ms: int
    expires_ms: int

    @property
    def title(self) -> str:
        """One line."""
        if self.operation == "unlock":
            return f"[{self.tenant}] {self.account}: lifted"
        what = {"alert": "unusual volume", "throttle": "slowed", "cut": "cut", "lock": "LOCKED"}.get(
            self.level, self.level
        )
        return f"[{self.tenant}] {self.account}: {what}"

    @property
    def text(self) -> str:
        """A few lines: why, by whom, until when, what to do."""
        lines = [self.reason, f"by {self.issuer}, {_iso(self.issued_ms)}, reference {self.revision}"]
        if self.note:
            lines.append(self.note)
        if self.operation == "lock":
            lines.append(f"until {_iso(self.expires_ms)}, unless confirmed" if self.expires_ms else "until lifted")
            lines.append("what to do: exfilguard verdicts; exfilguard ack | extend | unlock ACCOUNT --reason ..")
        return "\n".join(lines)


def _iso(ms: int) -> str:
    return moment_of(ms).isoformat(timespec="seconds")


def plain(text: str) -> str:
    """One line without control characters, bounded: an account's name is the attacker's choice."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return shown if len(shown) <= MAX_TEXT else shown[: MAX_TEXT - 1] + "\N{HORIZONTAL ELLIPSIS}"


def message_of(
    hook: str, operation: Operation, order: Order, undo: dict[str, Any], min_level: Level = "lock"
) -> Message:
    """`undo`: what the hook noted when it told of the lock; `min_level`: of that hook."""
    verdict = order.verdict
    expired = operation == "unlock" and severity(verdict.level) >= severity(min_level)
    level: Level = verdict.level if operation == "lock" else undo.get("level", verdict.level)
    identity = "\0".join((hook, operation, verdict.key, str(verdict.revision)))
    return Message(
        key=hashlib.sha256(identity.encode()).hexdigest()[:32],
        incident=hashlib.sha256("\0".join((hook, verdict.key)).encode()).hexdigest()[:32],
        operation=operation,
        level=level,
        tenant=verdict.tenant,
        account=plain(verdict.principal),
        reason="it has expired" if expired else plain(verdict.reason),
        issuer=plain(verdict.issuer),
        note=order.note,
        revision=verdict.revision,
        issued_ms=verdict.issued_ms,
        expires_ms=verdict.expires_ms,
    )


class NotifyHook(abc.ABC):
    """A hook that tells. Subclasses deliver one message and raise HookError when it was not acknowledged."""

    suspends = False

    def __init__(self, name: str, settings: Settings, min_level: Level) -> None:
        self.name = name
        self.settings = settings
        self.min_level = min_level

    @abc.abstractmethod
    async def deliver(self, message: Message) -> str:
        """What the receiver said, for the record: a status, an id; no secret."""

    @abc.abstractmethod
    def explain(self, error: Exception) -> str | None:
        """As in SuspendHook."""

    async def before(self, order: Order) -> dict[str, Any]:
        """Raises HookRefused."""
        check_account(
            order.account, Settings(accounts=self.settings.accounts)
        )  # nobody is protected from being told of
        return {"level": order.verdict.level}

    async def lock(self, order: Order) -> HookResult:
        """Raises HookError, HookRefused."""
        return await self._tell(message_of(self.name, "lock", order, {}, self.min_level))

    async def unlock(self, order: Order, undo: dict[str, Any]) -> HookResult:
        """Raises HookError, HookRefused."""
        return await self._tell(message_of(self.name, "unlock", order, undo, self.min_level))

    async def _tell(self, message: Message) -> HookResult:
        if self.settings.dry_run:
            return HookResult("dry_run", verified=False, detail=f"would tell: {message.title}")
        return HookResult("done", verified=True, detail=await self._bounded(self.deliver(message)))

    async def _bounded(self, work: Coroutine[Any, Any, str]) -> str:
        limit_s = self.settings.timeout_ms / 1000
        try:
            return await bounded(work, limit_s)
        except TimeoutError:
            raise HookError(f"not delivered within {limit_s:g} s: is the receiver reachable?") from None
        except (HookError, HookRefused):
            raise
        except Exception as error:
            if (text := self.explain(error)) is None:
                text = f"{type(error).__name__}, which this hook does not expect: report it"
            raise HookError(text) from None
