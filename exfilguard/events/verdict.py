"""Verdict: the standing judgement on one principal. The last one on the compacted topic is in force.

Order between two verdicts on a key is by `revision` alone, never by arrival.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["none", "alert", "throttle", "cut", "lock"]
LEVELS: tuple[Level, ...] = ("none", "alert", "throttle", "cut", "lock")
"""From harmless to final; the index is the severity."""

Scope = Literal["principal", "session"]


def severity(level: Level) -> int:
    """0 for `none` up to 4 for `lock`."""
    return LEVELS.index(level)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judgement, explained. Times in milliseconds since the Unix epoch."""

    tenant: str
    principal: str
    level: Level
    revision: int
    """Strictly increasing per key: max(previous + 1, issued_ms)."""
    issued_ms: int
    reason: str
    """One sentence with its numbers."""
    issuer: str
    """`detector:<worker>` or `operator:<name>`."""
    scope: Scope = "principal"
    """`session`: a shared account; only sessions that themselves took `session_rows` rows are cut."""
    unit: str = ""
    window_ms: int = 0
    total: int = 0
    limit: int = 0
    policy: str = ""
    """Version of the policy that was applied."""
    crossed_ms: int = 0
    """Event time of the event that crossed the limit."""
    expires_ms: int = 0
    """0: stands until lifted."""
    session_rows: int = 0
    throttle_rows_per_s: int = 0
    detector: str = ""
    """Which detector spoke: `budget`, `habit`, `drift`, `cross`, `honeytoken`, `flag`, `finding`, `newcomer`; empty: a person."""

    @property
    def key(self) -> str:
        return f"{self.tenant}/{self.principal}"

    def in_force(self, now_ms: int) -> bool:
        """True while the verdict is neither lifted nor expired."""
        return self.level != "none" and (self.expires_ms == 0 or now_ms < self.expires_ms)
