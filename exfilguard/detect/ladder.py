"""The ladder alert -> throttle -> cut -> lock: what the detectors found becomes at most one verdict.

Rules, which `tests/detect/test_ladder.py` holds over random policies and findings:
- no step without evidence: the level is that of a case, or less; and the sentence, the total and the limit are that case's;
- `max_level` caps everything, a `break_glass` account is only told of, a `shared` one loses sessions and is never suspended but where
  the policy says `lock_shared`;
- a step that stands is not said again, a higher one is said at once, a person's decision stands until it expires;
- an alert that goes on being true is said again after `repeat`, or when its total has grown by half; a cut or a lock that expired comes
  back only when more was taken since, and then stands twice as long, up to `longest_expiry`;
- nothing lowers a step, but for `step_down = "clear"`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..events.codec import MAX_COUNT
from ..events.verdict import Level, Scope, Verdict, severity
from .policy import DAY, WINDOWS_MS, Policy

GROWTH = 1.5
"""A standing or recent alert is said again when its total has grown by this factor."""
KIN = frozenset({"budget", "habit", "drift"})
"""Detectors that look at the same totals: one speaks for the others."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a detector has to say of a principal, before the ladder decides."""

    detector: str
    level: Level
    reason: str
    unit: str = "patients"
    window: int = DAY
    total: int = 0
    limit: int = 0


MAX_REASON_CHARS = 3_000
"""A finding's detail is its sidecar's, of any length: a verdict must be a record that a broker takes."""


class Ladder:
    """One tenant's. `issuer` names the detector in its verdicts."""

    def __init__(self, policy: Policy, tenant: str, issuer: str) -> None:
        self.policy = policy
        self.tenant = tenant
        self.issuer = issuer

    def decide(
        self, principal: str, cases: Sequence[Case], now_ms: int, previous: Verdict | None, crossed_ms: int
    ) -> Verdict | None:
        shared = principal in self.policy.shared
        best: tuple[Level, Case] | None = None
        for case in cases:
            level = self._capped(principal, case.level, shared)
            if level != "none" and (best is None or severity(level) > severity(best[0])):
                best = (level, case)
        if best is None:
            return None
        level, case = best
        expiry_ms = self._expiry(level, case, now_ms, previous)
        if not expiry_ms:
            return None
        scope: Scope = "session" if shared and level == "cut" else "principal"
        return Verdict(
            tenant=self.tenant,
            principal=principal,
            level=level,
            revision=max(now_ms, previous.revision + 1 if previous is not None else 0),
            issued_ms=now_ms,
            reason=case.reason[:MAX_REASON_CHARS],
            issuer=self.issuer,
            scope=scope,
            unit=case.unit,
            window_ms=WINDOWS_MS[case.window],
            total=min(case.total, MAX_COUNT),
            limit=case.limit,
            policy=self.policy.version,
            crossed_ms=crossed_ms,
            expires_ms=now_ms + expiry_ms,
            session_rows=self.policy.session_share if scope == "session" else 0,
            throttle_rows_per_s=self.policy.throttle_rows_per_s if level == "throttle" else 0,
            detector=case.detector,
        )

    def _expiry(self, level: Level, case: Case, now_ms: int, previous: Verdict | None) -> int:
        """How long the new step stands; 0: nothing is said."""
        policy = self.policy
        if previous is None:
            return policy.expiry_ms
        if _holds(previous, now_ms) and (
            previous.issuer.startswith("operator:") or severity(previous.level) >= severity(level)
        ):
            return 0
        if previous.issuer.startswith("operator:") or severity(previous.level) < severity(level):
            return policy.expiry_ms
        same = (previous.unit, previous.window_ms) == (case.unit, WINDOWS_MS[case.window])
        if severity(level) <= severity("throttle"):
            # People were told of this account; they are told again when it grew, in time, or by a detector of another kind.
            related = previous.detector == case.detector or {previous.detector, case.detector} <= KIN
            grown = same and case.total > previous.total * GROWTH
            recent = now_ms - previous.issued_ms < policy.repeat_ms
            return 0 if related and recent and not grown else policy.expiry_ms
        if same and previous.detector == case.detector and previous.level == level and previous.expires_ms:
            if case.detector in ("budget", "drift") and case.total <= previous.total:
                return 0
            return min(2 * (previous.expires_ms - previous.issued_ms), policy.longest_expiry_ms)
        return policy.expiry_ms

    def cleared(self, principal: str, now_ms: int, previous: Verdict | None) -> Verdict | None:
        """Below every limit again: step down early, where the policy wants it, from an alert or a throttle of ours."""
        if (
            self.policy.step_down != "clear"
            or previous is None
            or not previous.in_force(now_ms)
            or severity(previous.level) > severity("throttle")
            or previous.issuer.startswith("operator:")
        ):
            return None
        return Verdict(
            tenant=self.tenant, principal=principal, level="none", revision=max(now_ms, previous.revision + 1), issued_ms=now_ms,
            reason=f"{principal} is below every limit of its class again", issuer=self.issuer, policy=self.policy.version,
            detector=previous.detector,
        )  # fmt: skip

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
