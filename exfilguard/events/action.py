"""Action: one attempt of one lock-out hook and how it ended, or what an operator decided, by whom, from where and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Operation = Literal["lock", "unlock", "extend", "ack", "break_glass"]
"""Hooks know the first two."""
Outcome = Literal[
    "started", "done", "already", "refused", "failed", "dry_run", "held", "requested", "claimed", "released"
]
"""`started` is written before anything changes, with what `undo` must restore: a crash half-way cannot lose it. `held`: the
mass-lock stop waits for a human. `requested`: an operator asked for what a second one must confirm. `claimed`, `released`: what
the responders count the mass-lock stop by; on partition 0 of the topic, whatever the account."""

BOOKKEEPING = ("claimed", "released")
"""Outcomes that are nothing to tell people."""
OPERATOR = "operator"
"""`hook` of what people decided."""
MASS_LOCK = "mass-lock"
"""`hook` of the mass-lock stop."""


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
    actor: str = ""
    """Who caused it: the verdict's issuer (`detector:1`, `operator:anna`), or `anna` and `anna as root` for a command."""
    host: str = ""
    """Machine from which an operator's command came."""
    reason: str = ""
    """An operator's own words."""
    expires_ms: int = 0
    """Of a request that waits for a second operator; 0: none."""

    @property
    def key(self) -> str:
        return f"{self.tenant}/{self.principal}"
