"""The judge of one tenant: asks the detectors, decides what is said, and says it in one sentence with its numbers.

    judge     totals of an account in its windows      against the limits of its class             `budget`
    hour      an hour of an account is over            against its own past                        `habit`, `drift`
    cross     sums over accounts                       against the limits of the dimension         `cross`
    notable   one event that matters by itself         honeytoken, flags, findings, newcomers      see `notable.py`

What they found becomes at most one verdict in `ladder.py`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..events.verdict import Level, Verdict, severity
from ..windows import Totals
from . import notable
from .habit import Finding, close_hour, enough_of, step_reached, surplus_steps
from .ladder import Case, Ladder
from .policy import DAY, HOUR, MONTH, UNITS, WEEK, WINDOW_NAMES, WINDOWS_MS, Class, Limit, Policy
from .profile import Profile, Profiles

MAX_CACHED = 200_000
NEW_SHAPE = 0.9
GROWN_UP_HOURS = 14 * 24
OWN_PART = 0.1
"""Of its class's first surplus step: so much beyond its habit makes an account one that takes more than it used to."""
BEYOND_HABIT = 0.25
"""Of a sum: so much of it must be beyond its accounts' habits, where not half of them takes more than it used to."""
Thresholds = tuple[tuple[tuple[int, ...], ...], ...]
"""One row a window, one ladder of totals a unit."""
TENANT = "tenant:"
"""Prefix of the name under which the tenant's own sums are judged; no account can have it, a colon ends a dimension."""


@dataclass(frozen=True, slots=True)
class _Crossed:
    level: Level
    limit: Limit
    value: int
    total: int


class Judge:
    """Judges the accounts of one tenant. `issuer` names the detector in its verdicts; `profiles`: a memory that the tenants of one
    detector share. Pure but for small bounded memories."""

    def __init__(self, policy: Policy, tenant: str, issuer: str, profiles: Profiles | None = None) -> None:
        self.policy = policy
        self.tenant = tenant
        self.ladder = Ladder(policy, tenant, issuer)
        self.windows_ms = WINDOWS_MS
        self._profiles = profiles if profiles is not None else Profiles()
        self.tenant_surplus: Finding | None = None
        """Set while the tenant's own rate of distinct patients drifts."""
        self._classes: dict[str, tuple[str, Class]] = {}
        self._thresholds: dict[int, Thresholds] = {}
        self._surplus: OrderedDict[str, float] = OrderedDict()
        """Accounts whose last closed hour left a surplus."""
        self._tenant_hours = 0
        """Age of the tenant's own profile; 0: not known yet."""
        self._crossed: OrderedDict[tuple[str, str, str], Verdict] = OrderedDict()

    def follow(self, policy: Policy) -> None:
        """Another policy is in force from now on; what was learnt of the accounts, and said of them, stays."""
        self.policy = self.ladder.policy = policy
        self._classes.clear()
        self._thresholds.clear()

    @property
    def honeytokens(self) -> frozenset[str]:
        """Digests whose single read matters."""
        return self.policy.honeytokens

    # -- budgets ----------------------------------------------------------------------------------------------------

    def thresholds(self, principal: str, now_ms: int, profile: bytes | None = None) -> Thresholds:
        """Per window (rows, patients, bytes, queries): the totals beyond each of which a call of `judge` is due; (): never.

        Allowances change with the time of day, so what always applies counts: a call too many does no harm.
        """
        _, rules = self._of(principal)
        found = self._thresholds.get(id(rules))
        if found is None:
            rows: list[list[tuple[int, ...]]] = [[() for _ in UNITS] for _ in WINDOWS_MS]
            for limit in rules.limits:
                rows[limit.window][UNITS.index(limit.unit)] = tuple(value for _, value in limit.steps)
            found = self._thresholds[id(rules)] = tuple(tuple(row) for row in rows)
        return found

    def limits_of(self, principal: str) -> Sequence[Limit]:
        """The limits of its class."""
        return self._of(principal)[1].limits

    def cross_from(self, dimension: str) -> int:
        """Distinct patients in any window below which a sum of this dimension is of no interest; 0: it never is."""
        rule = self.policy.cross.get(dimension)
        values = [limit.steps[0][1] for limit in rule.limits if limit.steps] if rule is not None else []
        return max(1, min(values)) if values else 0

    def crosses(self, dimension: str, totals: Sequence[Totals]) -> bool:
        """False where `cross` has nothing to say of these totals, whoever is behind them."""
        rule = self.policy.cross.get(dimension)
        return rule is not None and _worst(rule.limits, totals, 1) is not None

    def judge(
        self, principal: str, totals: Sequence[Totals], now_ms: int, previous: Verdict | None, crossed_ms: int
    ) -> Verdict | None:
        """The new verdict, or None when what stands goes on standing.

        Args: `totals` one per window of WINDOWS_MS; `previous` the newest verdict on this account, in force or not;
        `crossed_ms` the time of the event that led here. Times in milliseconds.
        """
        name, rules = self._of(principal)
        multiply = 1
        at = crossed_ms or now_ms  # the hour of the work, not the hour in which a backlog is read
        for allowance in self.policy.allowances:
            if allowance.holds(principal, at):
                multiply = max(multiply, allowance.multiply)
                if allowance.use_class:
                    name, rules = allowance.use_class, self.policy.classes[allowance.use_class]
        crossed = _worst(rules.limits, totals, multiply)
        if crossed is None:
            return None
        unit, window = crossed.limit.unit, crossed.limit.window
        case = Case(
            "budget",
            crossed.level,
            f"{principal} took {crossed.total:,} {unit} in {WINDOW_NAMES[window]}; the {crossed.level} limit of "
            f"class {name} is {crossed.value:,}",
            unit,
            window,
            crossed.total,
            crossed.value,
        )
        return self.ladder.decide(principal, [case], now_ms, previous, crossed_ms)

    # -- own past ---------------------------------------------------------------------------------------------------

    def hour(
        self,
        principal: str,
        profile: bytes | None,
        hour: int,
        totals: Sequence[Totals],
        now_ms: int,
        previous: Verdict | None,
    ) -> tuple[bytes, Verdict | None]:
        """An hour (UTC, ms // 3,600,000) has closed; `totals` are the windows at its end. Returns the new profile."""
        past = self._profiles.load(profile)
        if past.first_hour and hour <= past.last_hour:
            return self._profiles.dump(past), None
        if principal.startswith(TENANT):
            return self._tenant_hour(past, hour, totals), None
        name, rules = self._of(principal)
        if (
            previous is not None
            and previous.level == "none"
            and previous.issuer.startswith("operator:")
            and previous.issued_ms > past.pardon_ms
        ):
            past.pardon_ms = previous.issued_ms
            past.drift, past.persistence, past.drift_hour = 0.0, 0.0, 0
        allowed = False
        for allowance in self.policy.allowances:
            if allowance.covers(principal, hour * 3_600_000):
                allowed = allowed or allowance.multiply > 1
                if allowance.use_class:  # another class, but a habit all the same
                    name, rules = allowance.use_class, self.policy.classes[allowance.use_class]
        found = close_hour(
            past,
            hour,
            totals[HOUR].patients,
            totals[DAY].patients,
            rules,
            self.policy.habit,
            self.policy.drift,
            allowed=allowed,
        )
        self._surplus.pop(principal, None)
        if found.surplus > 0:
            self._surplus[principal] = found.surplus
            if len(self._surplus) > MAX_CACHED:
                self._surplus.popitem(last=False)
        cases = [] if allowed else list(self._habit(principal, name, rules, found, hour))
        verdict = self.ladder.decide(principal, cases, now_ms, previous, (hour + 1) * 3_600_000 - 1) if cases else None
        clears = self.policy.step_down == "clear" and verdict is None and not cases
        if clears and _worst(rules.limits, totals, 1) is None:
            verdict = self.ladder.cleared(principal, now_ms, previous)
        return self._profiles.dump(past), verdict

    def _habit(self, principal: str, name: str, rules: Class, found: Finding, hour: int) -> Iterable[Case]:
        if not (found.surplus > 0 or found.unusual_day or found.unusual_hour):
            return
        usual, policy = found.usual, self.policy
        source = (
            f"the median of its {usual.days} last such days is {usual.median:,.0f}"
            if usual.days
            else f"a typical day of class {name} is {usual.median:,.0f}, and it has no habit of its own yet"
        )
        raised = None if name in policy.drift.tenant_exempt else self.tenant_surplus
        percent = policy.drift.tenant_share if raised is not None else 100
        # The whole tenant's rate is evidence enough: no account needs to persist then.
        enough = 1.0 if raised is not None else enough_of(found.persistence, policy.drift)
        reached = step_reached(found, surplus_steps(rules, policy.drift, usual, percent), enough)
        if reached is not None:
            level, limit = reached
            tenant = f", while the whole tenant is {raised.surplus:,.0f} above its own" if raised is not None else ""
            days = max(1, (hour - found.since_hour) // 24 + 1)
            yield Case(
                "drift", level, f"{principal} took {found.surplus:,.0f} patients beyond its habit in {days} "
                f"day{'s' if days > 1 else ''}; {source}; the {level} step is {limit:,.0f}{tenant}",
                "patients", DAY, int(found.surplus), int(limit),
            )  # fmt: skip
        if found.unusual_day and found.day - usual.median > _first(rules.surplus):
            yield Case(
                "habit", policy.habit.level, f"{principal} took {found.day:,} patients in 24h; {source}, and more than "
                f"{found.unusual_day:,.0f} ({policy.habit.day_deviations} robust deviations) is unusual",
                "patients", DAY, found.day, int(found.unusual_day),
            )  # fmt: skip
        if found.unusual_hour:
            yield Case(
                "habit", policy.habit.level, f"{principal} took {found.hour_patients:,} patients in an hour of the week in which "
                f"its median is {found.hour_median:,.0f}; more than {found.unusual_hour:,.0f} "
                f"({policy.habit.hour_deviations} robust deviations) is unusual",
                "patients", HOUR, found.hour_patients, int(found.unusual_hour),
            )  # fmt: skip

    def _tenant_hour(self, past: Profile, hour: int, totals: Sequence[Totals]) -> bytes:
        """The tenant's own sum: while it drifts, less is enough for each account."""
        drift = self.policy.drift
        rules = Class((), surplus=(("alert", 1),), typical=1 << 30)
        found = close_hour(
            past,
            hour,
            totals[HOUR].patients,
            min(totals[DAY].patients, 0xFFFF),
            rules,
            self.policy.habit,
            drift,
            allowed=False,
        )
        raised = found.usual.days and found.surplus > drift.tenant_deviations * found.usual.wide * enough_of(
            found.persistence, drift
        )
        self.tenant_surplus = found if raised else None
        self._tenant_hours = past.last_hour - past.first_hour + 1
        return self._profiles.dump(past)

    # -- sums over accounts -----------------------------------------------------------------------------------------

    def cross(
        self,
        dimension: str,
        value: str,
        totals: Sequence[Totals],
        contributors: Sequence[tuple[str, float]],
        now_ms: int,
        standing: Mapping[str, Verdict] | None = None,
    ) -> list[Verdict]:
        """Verdicts on the accounts behind a sum. `contributors`: (principal, share of the sum 0..1), largest first;
        `standing`: newest verdicts by key, so that nothing is said twice.

        A sum of an hour or less speaks for itself. Of what grew over days, half of the accounts must take more than their own
        habit, or a quarter of it must lie beyond their habits; and a query shape must be new as well, in an installation that is not: the screens of an application are used by
        the same people for years, a thief's tool is not. (A shape is new when its 30 days hold no more than its last 7.)
        """
        rule = self.policy.cross.get(dimension)
        if rule is None or not rule.min_accounts <= len(contributors) <= rule.max_accounts:
            return []
        slow = dimension != "shape" or totals[WEEK].patients >= NEW_SHAPE * totals[MONTH].patients
        crossed = _worst([limit for limit in rule.limits if slow or limit.window <= HOUR], totals, 1)
        if crossed is None:
            return []
        unit, window = crossed.limit.unit, crossed.limit.window
        level = crossed.level
        if window > HOUR and dimension == "shape" and self._tenant_hours < GROWN_UP_HOURS:
            level = "alert"
        if window > HOUR and not self._beyond_habit(contributors, crossed.total, rule.min_accounts):
            return []
        what = "source" if dimension == "source" else "query shape"
        out = []
        for principal, share in contributors:
            name, _ = self._of(principal)
            if share * 100 < rule.share or name in rule.exempt:
                continue
            if any((a.multiply > 1 or a.use_class) and a.covers(principal, now_ms) for a in self.policy.allowances):
                continue
            case = Case(
                "cross", level, f"{len(contributors)} accounts together took {crossed.total:,} {unit} in "
                f"{WINDOW_NAMES[window]} from {what} {value}, {share:.0%} of them by {principal}; the {crossed.level} limit of a "
                f"{what} with so many accounts is {crossed.value:,}",
                unit, window, crossed.total, crossed.value,
            )  # fmt: skip
            key = (dimension, value, principal)
            previous = (standing or {}).get(f"{self.tenant}/{principal}") or self._crossed.get(key)
            verdict = self.ladder.decide(principal, [case], now_ms, previous, now_ms)
            if verdict is not None:
                self._crossed[key] = verdict
                self._crossed.move_to_end(key)
                if len(self._crossed) > MAX_CACHED:
                    self._crossed.popitem(last=False)
                out.append(verdict)
        return out

    def _beyond_habit(self, contributors: Sequence[tuple[str, float]], total: int, fewest: int) -> bool:
        """Whether a sum that grew over days is more than its accounts' usual work."""
        surplus = [self._surplus.get(name, 0.0) for name, _ in contributors]
        own = [OWN_PART * _first(self._of(name)[1].surplus) for name, _ in contributors]
        busier = sum(took >= part for took, part in zip(surplus, own, strict=True))
        return busier >= max(fewest, len(contributors) / 2) or sum(surplus) >= BEYOND_HABIT * total

    # -- single events ----------------------------------------------------------------------------------------------

    def notable(
        self, principal: str, event: Mapping[str, Any], why: str, now_ms: int, previous: Verdict | None
    ) -> Verdict | None:
        """One event that matters by itself; `why` is what the core saw (see notable.WHY), or empty to look at the event."""
        _, rules = self._of(principal)
        at = min(int(event.get("time_ms", now_ms)), now_ms)  # a time that is still to come is its sidecar's mistake
        allowed: set[str] = set()
        for allowance in self.policy.allowances:
            if allowance.holds(principal, at):
                allowed |= allowance.flags
        cases = [
            Case(f.detector, f.level, f.reason, f.unit, HOUR, f.total, f.limit)
            for f in notable.look(self.policy, rules, principal, event, why, frozenset(allowed))
        ]
        return self.ladder.decide(principal, cases, now_ms, previous, at) if cases else None

    def _of(self, principal: str) -> tuple[str, Class]:
        found = self._classes.get(principal)
        if found is None:
            if len(self._classes) >= MAX_CACHED:
                self._classes.clear()
            name = self.policy.class_of(principal)
            found = self._classes[principal] = (name, self.policy.classes[name])
        return found


def _first(steps: Sequence[tuple[Level, int]]) -> int:
    return steps[0][1] if steps else 0


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
