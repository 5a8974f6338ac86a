"""What every hook is: two operations on an account, each of which says how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..events.action import Outcome


@dataclass(frozen=True, slots=True)
class HookResult:
    """How one attempt ended. `detail` is for people and holds no secret."""

    outcome: Outcome
    verified: bool
    detail: str = ""


class Hook(Protocol):
    """A lock-out hook. Both operations are idempotent and raise HookError when they could not do or verify their work,
    HookRefused when they will not act on this account."""

    name: str

    async def before(self, account: str) -> dict[str, Any]:
        """What `unlock` must restore. Changes nothing; its answer is on record before `lock` is called."""

    async def lock(self, account: str) -> HookResult:
        """Suspend the account and end its sessions."""

    async def unlock(self, account: str, undo: dict[str, Any]) -> HookResult:
        """Restore what `lock` changed, and nothing else."""
