"""What every hook is: two operations on an account, each of which says how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from ..events.action import Outcome


@dataclass(frozen=True, slots=True)
class HookResult:
    """How one attempt ended. `detail` is for people and holds no secret."""

    outcome: Outcome
    verified: bool
    detail: str = ""
    undo: dict[str, Any] = field(default_factory=dict)
    """What `unlock` needs to restore what was before."""


class Hook(Protocol):
    """A lock-out hook. Both operations are idempotent and raise HookError when they could not do or verify their work,
    HookRefused when they will not act on this account."""

    name: str

    async def lock(self, account: str) -> HookResult:
        """Suspend the account and end its sessions."""

    async def unlock(self, account: str, undo: dict[str, Any]) -> HookResult:
        """Restore what `lock` changed, and nothing else."""
