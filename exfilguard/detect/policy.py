"""Policies are data. This file says what one consists of; `policy_reader` makes one from TOML and names every mistake."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import ConfigError
from ..events.verdict import Level

SECOND_MS, HOUR_MS, DAY_MS = 1_000, 3_600_000, 86_400_000
WINDOWS_MS = (10_000, 60_000, 300_000, HOUR_MS, DAY_MS, 7 * DAY_MS, 30 * DAY_MS)
WINDOW_NAMES = ("10s", "1m", "5m", "1h", "24h", "7d", "30d")
HOUR, DAY, WEEK, MONTH = 3, 4, 5, 6
"""Indices in WINDOWS_MS."""
UNITS = ("rows", "patients", "bytes", "queries")
STEPS: tuple[Level, ...] = ("alert", "throttle", "cut", "lock")
DIMENSIONS = ("source", "shape")

DEFAULT_POLICY = Path(__file__).with_name("default_policy.toml")
ALLOWANCE_WARNING_MS = 7 * DAY_MS
"""So long before its end an allowance is announced, once a day."""

Steps = tuple[tuple[Level, int], ...]
"""(level, limit), harmless first; crossed when the total is more."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One unit in one window, and the totals beyond which each step is taken."""

    unit: str
    window: int
    """Index in WINDOWS_MS."""
    steps: Steps


@dataclass(frozen=True, slots=True)
class Class:
    """What one kind of principal may take, and what its days look like."""

    limits: tuple[Limit, ...]
    typical: int = 100
    """Distinct patients of a usual day: the habit of an account that has none of its own yet."""
    spread: int = 50
    surplus: Steps = ()
    """Patients beyond the account's own habit, summed up over days (the drift test); empty: not tested."""
    hour_floor: int = 60
    """An hour with no more patients than this is never unusual."""
    privileged: bool = False
    """A source or a client that the account never used before is told."""


@dataclass(frozen=True, slots=True)
class Habit:
    """Own baseline: robust deviations beyond the median at which a day, an hour of the week, is told."""

    days: int = 10
    """Days of work after which an account has a habit of its own."""
    day_deviations: int = 6
    hour_deviations: int = 8
    level: Level = "alert"


@dataclass(frozen=True, slots=True)
class Drift:
    """The sequential test. `slack` in hundredths of a robust deviation; the steps in deviations, beside a class's surplus."""

    slack: int = 50
    deviations: Steps = (("alert", 3), ("cut", 5), ("lock", 12))
    persistence: int = 4
    """Days it must have gone on; a surplus of habit.SURE times a step needs none, see habit.enough_of."""
    tenant_deviations: int = 6
    """The whole tenant drifts when its own sum is so high; while it does, `tenant_share` percent of a class's surplus is
    enough for its accounts: work that moves between colleagues leaves the tenant's sum as it is, a theft does not."""
    tenant_share: int = 50
    tenant_exempt: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Cross:
    """Sums over the accounts of one source address or one query shape."""

    limits: tuple[Limit, ...]
    min_accounts: int = 4
    """Fewer: each account's own limits are the better judge."""
    max_accounts: int = 25
    """At most 31, for 32 are remembered. More: an application server, a gateway, a screen of the application; the sum says nothing about anybody."""
    share: int = 4
    """Percent of the sum that makes an account part of it."""
    exempt: frozenset[str] = frozenset()
    """Classes that are never judged by such a sum."""

    @property
    def floors(self) -> tuple[int, ...]:
        """The lowest step in each window and unit, as (window 0: rows, patients, bytes, queries, window 1: ..); 0: none."""
        out = [0] * (len(WINDOWS_MS) * len(UNITS))
        for limit in self.limits:
            at = limit.window * len(UNITS) + UNITS.index(limit.unit)
            out[at] = min(out[at] or limit.steps[0][1], limit.steps[0][1]) if limit.steps else out[at]
        return tuple(out)


@dataclass(frozen=True, slots=True)
class Allowance:
    """A justified, owned, expiring exception."""

    account: str
    reason: str
    expires_ms: int
    """Unix epoch, milliseconds."""
    owner: str = ""
    since_ms: int = 0
    from_minute: int = 0
    """Of the day, UTC."""
    to_minute: int = 1440
    multiply: int = 1
    use_class: str = ""
    flags: frozenset[str] = frozenset()
    """Flags that this account may raise without a verdict."""

    def covers(self, principal: str, now_ms: int) -> bool:
        """True while it is valid for this account, whatever the hour."""
        return self.since_ms <= now_ms < self.expires_ms and fnmatchcase(principal, self.account)

    def holds(self, principal: str, now_ms: int) -> bool:
        """True while it is valid for this account at this time of day."""
        if not self.covers(principal, now_ms):
            return False
        minute = now_ms // 60_000 % 1440
        if self.from_minute <= self.to_minute:
            return self.from_minute <= minute < self.to_minute
        return minute >= self.from_minute or minute < self.to_minute


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy file."""

    version: str
    classes: dict[str, Class]
    accounts: tuple[tuple[str, str], ...]
    """(account or pattern, class), in the file's order."""
    default_class: str
    max_level: Level
    expiry_ms: int
    throttle_rows_per_s: int
    break_glass: frozenset[str]
    shared: frozenset[str]
    session_share: int
    lock_shared: bool
    allowances: tuple[Allowance, ...]
    longest_expiry_ms: int = DAY_MS
    """A cut or a lock that was crossed again after it had expired stands twice as long, up to this."""
    repeat_ms: int = DAY_MS
    """An alert that goes on being true is said again after this time, or when its total has grown by half."""
    step_down: str = "expiry"
    """`expiry`: a step ends by time alone. `clear`: alert and throttle also end when an hour closes below every limit."""
    habit: Habit = field(default_factory=Habit)
    drift: Drift = field(default_factory=Drift)
    cross: dict[str, Cross] = field(default_factory=dict)
    honeytokens: frozenset[str] = frozenset()
    honeytoken_level: Level = "lock"
    flags: dict[str, Level] = field(default_factory=dict)
    findings: Level = "alert"
    newcomers: Level = "alert"

    def class_of(self, principal: str) -> str:
        """An exact entry wins over a pattern; among patterns the first in the file."""
        for pattern, name in self.accounts:
            if pattern == principal:
                return name
        for pattern, name in self.accounts:
            if fnmatchcase(principal, pattern):
                return name
        return self.default_class

    @property
    def never_locked(self) -> frozenset[str]:
        """Accounts that no hook may suspend."""
        return self.break_glass if self.lock_shared else self.break_glass | self.shared

    def ending(self, now_ms: int) -> tuple[Allowance, ...]:
        """Allowances that still hold and end within ALLOWANCE_WARNING_MS."""
        return tuple(a for a in self.allowances if now_ms < a.expires_ms <= now_ms + ALLOWANCE_WARNING_MS)


def default_policy() -> Policy:
    """The built-in policy."""
    return load_policy(DEFAULT_POLICY.read_text(encoding="utf-8"), DEFAULT_POLICY.name)


def policy_at(path: str) -> Policy:
    """The policy in this file; the built-in one for an empty path. Raises ConfigError."""
    if not path:
        return default_policy()
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError([f"{path}: cannot be read: {reason}: check detector.policy"]) from None
    return load_policy(text, path)


def load_policy(text: str, source: str) -> Policy:
    """Parse and check. Raises ConfigError with every mistake found."""
    from .policy_reader import read  # the reader builds what is defined here

    return read(text, source)
