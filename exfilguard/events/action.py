"""Action: one attempt of one lock-out hook, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Operation = Literal["lock", "unlock"]
Outcome = Literal["started", "done", "already", "refused", "failed", "dry_run"]


"""`started` is written before anything changes, with what `undo` must restore: a crash half-way cannot lose it."""


@dataclass(frozen=True, slots=True)
class Action:
    """Recorded whether it succeeded or not. Times in milliseconds since the Unix epoch."""

    tenant: str
    principal: str
    hook: str
    operation: Operation
    outcome: Outcome
    verified: bool
    """The hook looked afterwards and saw the account in the wanted state."""
    verdict_revision: int
    started_ms: int
    ended_ms: int
    detail: str = ""
    undo: dict[str, Any] = field(default_factory=dict)
    """What was before, so that the reverse restores it instead of guessing."""

    @property
    def key(self) -> str:
        return f"{self.tenant}/{self.principal}"
