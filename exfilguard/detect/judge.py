"""The judge: an account's totals against its limits.

A verdict is issued when something changes: a higher step than the one that stands, or the same step again once the
standing one has expired. What stands is never lowered here; that is for an operator, or for its expiry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..events.verdict import Level, Scope, Verdict, severity
from ..windows import Totals
from .policy import UNITS, WINDOW_NAMES, WINDOWS_MS, Limit, Policy

MAX_CACHED = 200_000


@dataclass(frozen=True, slots=True)
class _Crossed:
    level: Level
    limit: Limit
    value: int
    total: int


class Judge:
    """Judges the accounts of one tenant. `issuer` names the detector in its verdicts."""

    def __init__(self, policy: Policy, tenant: str, issuer: str) -> None:
        self.policy = policy
        self.tenant = tenant
        self.issuer = issuer
        self._limits: dict[str, tuple[str, tuple[Limit, ...]]] = {}

    def judge(
        self, principal: str, totals: Sequence[Totals], now_ms: int, previous: Verdict | None, crossed_ms: int
    ) -> Verdict | None:
        """The new verdict, or None when what stands goes on standing.

        Args: `totals` one per window of WINDOWS_MS; `previous` the newest verdict on this account, in force or not;
        `crossed_ms` the time of the event that led here. Times in milliseconds.
        """
        name, limits = self._of(principal)
        multiply = 1
        for allowance in self.policy.allowances:
            if allowance.holds(principal, now_ms):
                multiply = max(multiply, allowance.multiply)
                if allowance.use_class:
                    name, limits = allowance.use_class, self.policy.classes[allowance.use_class]
        crossed = _worst(limits, totals, multiply)
        if crossed is None:
            return None
        shared = principal in self.policy.shared
        level = self._capped(principal, crossed.level, shared)
        # A person's decision stands until it expires; the detector's own only gives way to a higher step.
        if (
            previous is not None
            and _holds(previous, now_ms)
            and (previous.issuer.startswith("operator:") or severity(previous.level) >= severity(level))
        ):
            return None
        unit, window = crossed.limit.unit, crossed.limit.window
        scope: Scope = "session" if shared and level == "cut" else "principal"
        return Verdict(
            tenant=self.tenant,
            principal=principal,
            level=level,
            revision=max(now_ms, previous.revision + 1 if previous is not None else 0),
            issued_ms=now_ms,
            reason=(
                f"{principal} took {crossed.total:,} {unit} in {WINDOW_NAMES[window]}; the {crossed.level} limit of "
                f"class {name} is {crossed.value:,}"
            ),
            issuer=self.issuer,
            scope=scope,
            unit=unit,
            window_ms=WINDOWS_MS[window],
            total=crossed.total,
            limit=crossed.value,
            policy=self.policy.version,
            crossed_ms=crossed_ms,
            expires_ms=now_ms + self.policy.expiry_ms,
            session_rows=self.policy.session_share if scope == "session" else 0,
            throttle_rows_per_s=self.policy.throttle_rows_per_s if level == "throttle" else 0,
        )

    def _of(self, principal: str) -> tuple[str, tuple[Limit, ...]]:
        found = self._limits.get(principal)
        if found is None:
            if len(self._limits) >= MAX_CACHED:
                self._limits.clear()
            name = self.policy.class_of(principal)
            found = self._limits[principal] = (name, self.policy.classes[name])
        return found

    def _capped(self, principal: str, level: Level, shared: bool) -> Level:
        cap: Level = self.policy.max_level
        if principal in self.policy.break_glass:
            cap = "alert"
        elif shared and not self.policy.lock_shared and severity(cap) > severity("cut"):
            cap = "cut"
        return level if severity(level) <= severity(cap) else cap


def _holds(verdict: Verdict, now_ms: int) -> bool:
    """True while nothing new is due: in force, or an operator's `none` that has not run out."""
    if verdict.level == "none":
        return verdict.issuer.startswith("operator:") and now_ms < verdict.expires_ms
    return verdict.in_force(now_ms)


def _worst(limits: Sequence[Limit], totals: Sequence[Totals], multiply: int) -> _Crossed | None:
    """The highest step crossed; between equals the one exceeded by the larger factor."""
    worst: _Crossed | None = None
    for limit in limits:
        total = totals[limit.window][UNITS.index(limit.unit)]
        for level, value in reversed(limit.steps):
            allowed = value * multiply
            if total > allowed:
                if (
                    worst is None
                    or severity(level) > severity(worst.level)
                    or (level == worst.level and total * max(1, worst.value) > worst.total * max(1, allowed))
                ):
                    worst = _Crossed(level, limit, allowed, total)
                break
    return worst
