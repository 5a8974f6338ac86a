"""Who is nearest to a limit: totals of accounts against the policy. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..events.verdict import Level
from .policy import UNITS, WINDOW_NAMES, Limit, Policy


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


def reaches(account: str, totals: Sequence[Sequence[int]], policy: Policy) -> list[Reach]:
    """Every limit of the account's class with the first step it has not passed, or its last step; nearest first."""
    principal = account.partition("/")[2]
    out = []
    for limit in policy.classes[policy.class_of(principal)].limits:
        if limit.window >= len(totals):
            continue
        total = totals[limit.window][UNITS.index(limit.unit)]
        level, value = _step(limit, total)
        out.append(Reach(account, limit.unit, WINDOW_NAMES[limit.window], total, value, level))
    return sorted(out, key=lambda reach: -reach.share)


def nearest(totals: Mapping[str, Sequence[Sequence[int]]], policy: Policy, count: int) -> list[Reach]:
    """The accounts nearest to a step, one line each."""
    found = [mine[0] for account, windows in totals.items() if (mine := reaches(account, windows, policy))]
    return sorted(found, key=lambda reach: -reach.share)[:count]


def share(limits: Iterable[Limit], totals: Sequence[Sequence[int]]) -> float:
    """How near an account is to its nearest step, as `reaches` has it, without making the list: for ranking many."""
    best = 0.0
    for limit in limits:
        if limit.window < len(totals):
            total = totals[limit.window][UNITS.index(limit.unit)]
            value = _step(limit, total)[1]
            if value and total / value > best:
                best = total / value
    return best


def _step(limit: Limit, total: int) -> tuple[Level, int]:
    for level, value in limit.steps:
        if total <= value:
            return level, value
    return limit.steps[-1]
