"""Who is nearest to a limit: the detectors' largest accounts against the policy. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..detect.policy import UNITS, WINDOW_NAMES, Policy
from ..events.verdict import Level


@dataclass(frozen=True, slots=True)
class Reach:
    """How near one account is to its nearest step."""

    account: str
    """tenant/principal"""
    unit: str
    window: str
    total: int
    limit: int
    level: Level
    """The step that the limit stands for."""

    @property
    def share(self) -> float:
        """1.0: at the limit."""
        return self.total / self.limit if self.limit else 0.0

    @property
    def percent(self) -> int:
        """For a bar: 0 to 100."""
        return min(100, round(100 * self.share))


def largest_of(snapshots: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """account -> totals of each window, from every detector's snapshot."""
    detectors = [s for s in snapshots.values() if s is not None and s.role == "detector"]
    return {account: totals for detector in detectors for account, totals in detector.details.get("largest", ())}


def reaches(account: str, totals: Sequence[Sequence[int]], policy: Policy) -> list[Reach]:
    """Every limit of the account's class with the first step it has not passed, or its last step; nearest first."""
    principal = account.partition("/")[2]
    out = []
    for limit in policy.classes[policy.class_of(principal)].limits:
        if limit.window >= len(totals):
            continue
        total = totals[limit.window][UNITS.index(limit.unit)]
        level, value = next(((level, value) for level, value in limit.steps if total <= value), limit.steps[-1])
        out.append(Reach(account, limit.unit, WINDOW_NAMES[limit.window], total, value, level))
    return sorted(out, key=lambda reach: -reach.share)


def nearest(largest: Mapping[str, Sequence[Sequence[int]]], policy: Policy, count: int) -> list[Reach]:
    """The accounts nearest to a step, one line each."""
    found = [mine[0] for account, totals in largest.items() if (mine := reaches(account, totals, policy))]
    return sorted(found, key=lambda reach: -reach.share)[:count]
