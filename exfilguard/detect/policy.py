"""Policies are data: TOML to one frozen Policy, every mistake reported at once."""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

from ..errors import ConfigError
from ..events.verdict import Level

WINDOWS_MS = (10_000, 60_000, 300_000, 3_600_000, 86_400_000)
WINDOW_NAMES = ("10s", "1m", "5m", "1h", "24h")
UNITS = ("rows", "patients", "bytes", "queries")
STEPS: tuple[Level, ...] = ("alert", "throttle", "cut", "lock")

DEFAULT_POLICY = Path(__file__).with_name("default_policy.toml")

_DURATION = re.compile(r"(\d+)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Limit:
    """One unit in one window, and the totals beyond which each step is taken."""

    unit: str
    window: int
    """Index in WINDOWS_MS."""
    steps: tuple[tuple[Level, int], ...]
    """(level, limit), harmless first."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """A justified, expiring exception."""

    account: str
    reason: str
    expires_ms: int
    """Unix epoch, milliseconds."""
    from_minute: int = 0
    """Of the day, UTC."""
    to_minute: int = 1440
    multiply: int = 1
    use_class: str = ""

    def holds(self, principal: str, now_ms: int) -> bool:
        """True while it covers this account at this time."""
        if now_ms >= self.expires_ms or not fnmatchcase(principal, self.account):
            return False
        minute = now_ms // 60_000 % 1440
        if self.from_minute <= self.to_minute:
            return self.from_minute <= minute < self.to_minute
        return minute >= self.from_minute or minute < self.to_minute


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy file."""

    version: str
    classes: dict[str, tuple[Limit, ...]]
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
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{source}: not valid TOML: {error}"]) from None
    reader = _Reader(text, source)
    policy = reader.policy(document)
    if reader.problems:
        raise ConfigError(reader.problems)
    return policy


_KEYS = {
    "version", "default_class", "max_level", "expiry", "throttle_rows_per_s", "break_glass", "shared", "session_share",
    "lock_shared", "class", "accounts", "allowance",
}  # fmt: skip


class _Reader:
    def __init__(self, text: str, source: str) -> None:
        self.lines = text.splitlines()
        self.source = source
        self.problems: list[str] = []

    def problem(self, key: str, text: str) -> None:
        last = key.rpartition(".")[2]
        found = [n for n, line in enumerate(self.lines, 1) if re.match(rf'\s*(\[\[?)?[\w."]*{re.escape(last)}\b', line)]
        self.problems.append(f"{self.source}{f':{found[0]}' if found else ''}: {key}: {text}")

    def policy(self, document: dict[str, Any]) -> Policy:
        for key in document:
            if key not in _KEYS:
                self.problem(key, "unknown setting; remove it")
        classes = {name: self.limits(name, raw) for name, raw in self.table(document, "class").items()}
        if not classes:
            self.problem("class", "no class is defined: add [class.NAME] with its limits")
        default = self.text(document, "default_class", next(iter(classes), ""))
        if default not in classes:
            self.problem("default_class", f"no such class: one of {', '.join(classes)}")
        accounts = []
        for pattern, name in self.table(document, "accounts").items():
            if name not in classes:
                self.problem(f"accounts.{pattern}", f"no such class: one of {', '.join(classes)}")
            accounts.append((pattern, str(name)))
        max_level = document.get("max_level", "lock")
        if max_level not in STEPS:
            self.problem("max_level", f"must be one of {', '.join(STEPS)}")
        raw = document.get("allowance", [])
        if not isinstance(raw, list):
            self.problem("allowance", "is a list: write [[allowance]]")
            raw = []
        allowances = [self.allowance(i, item, classes) for i, item in enumerate(raw)]
        return Policy(
            version=self.text(document, "version", "unversioned"),
            classes=classes,
            accounts=tuple(accounts),
            default_class=default,
            max_level=max_level,
            expiry_ms=self.duration_ms(document, "expiry", "1h"),
            throttle_rows_per_s=self.number(document, "throttle_rows_per_s", 200),
            break_glass=self.names(document, "break_glass"),
            shared=self.names(document, "shared"),
            session_share=self.number(document, "session_share", 5_000),
            lock_shared=document.get("lock_shared", False) is True,
            allowances=tuple(a for a in allowances if a is not None),
        )

    def limits(self, name: str, raw: object) -> tuple[Limit, ...]:
        path = f"class.{name}"
        items = raw.get("limits") if isinstance(raw, dict) else None
        if not isinstance(items, list) or not items:
            self.problem(path, "needs limits = [ { unit = .., window = .., alert = .. } ]")
            return ()
        out = []
        for item in items:
            if not isinstance(item, dict):
                self.problem(path, "a limit is a table: { unit = .., window = .., alert = .. }")
                continue
            unit, window = item.get("unit"), item.get("window")
            steps: list[tuple[Level, int]] = []
            if unit not in UNITS:
                self.problem(path, f"unit must be one of {', '.join(UNITS)}")
            if window not in WINDOW_NAMES:
                self.problem(path, f"window must be one of {', '.join(WINDOW_NAMES)}")
            for key, value in item.items():
                if key in ("unit", "window"):
                    continue
                if key not in STEPS:
                    self.problem(path, f"{key} is not a step: one of {', '.join(STEPS)}")
                elif type(value) is not int or value < 0:
                    self.problem(path, f"{key} must be a whole number, 0 or more")
            for step in STEPS:
                value = item.get(step)
                if type(value) is int:
                    if steps and value <= steps[-1][1]:
                        self.problem(path, f"{step} must be more than {steps[-1][0]}: the ladder only goes up")
                    steps.append((step, value))
            if not steps:
                self.problem(path, f"a limit needs at least one of {', '.join(STEPS)}")
            if unit in UNITS and window in WINDOW_NAMES:
                out.append(Limit(str(unit), WINDOW_NAMES.index(window), tuple(steps)))
        return tuple(out)

    def allowance(self, index: int, raw: object, classes: dict[str, Any]) -> Allowance | None:
        path = f"allowance[{index}]"
        if not isinstance(raw, dict):
            self.problem(path, "is a table")
            return None
        before = len(self.problems)
        for key in raw:
            if key not in ("account", "reason", "expires", "hours", "multiply", "class"):
                self.problem(f"{path}.{key}", "unknown setting; remove it")
        for key in ("account", "reason"):
            if not isinstance(raw.get(key), str) or not raw[key].strip():
                self.problem(f"{path}.{key}", "is missing: an exception names its account and its reason")
        expires = raw.get("expires")
        moment = None
        if isinstance(expires, dt.datetime):
            moment = expires if expires.tzinfo else expires.replace(tzinfo=dt.UTC)
        elif isinstance(expires, dt.date):
            moment = dt.datetime(expires.year, expires.month, expires.day, tzinfo=dt.UTC) + dt.timedelta(days=1)
        else:
            self.problem(f"{path}.expires", "is missing: write the last day it holds, as expires = 2027-01-31")
        start, end = 0, 1440
        if "hours" in raw:
            match = _HOURS.fullmatch(str(raw["hours"]))
            if match is None:
                self.problem(f"{path}.hours", 'write it in UTC as "22:00-04:00"')
            else:
                start, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
        multiply, use_class = raw.get("multiply", 1), raw.get("class", "")
        if type(multiply) is not int or multiply < 1:
            self.problem(f"{path}.multiply", "must be a whole number, 1 or more")
        if use_class and use_class not in classes:
            self.problem(f"{path}.class", f"no such class: one of {', '.join(classes)}")
        if multiply == 1 and not use_class:
            self.problem(path, "allows nothing: add multiply or class")
        if len(self.problems) > before or moment is None:
            return None
        expires_ms = int(moment.timestamp() * 1000)
        return Allowance(raw["account"], raw["reason"], expires_ms, start, end, multiply, use_class)

    def table(self, document: dict[str, Any], key: str) -> dict[str, Any]:
        value = document.get(key, {})
        if isinstance(value, dict):
            return value
        self.problem(key, "is a section: write it as a TOML table")
        return {}

    def text(self, document: dict[str, Any], key: str, default: str) -> str:
        value = document.get(key, default)
        if not isinstance(value, str) or not value:
            self.problem(key, "must be text in quotes")
            return default
        return value

    def number(self, document: dict[str, Any], key: str, default: int) -> int:
        value = document.get(key, default)
        if type(value) is not int or value < 1:
            self.problem(key, "must be a whole number, 1 or more")
            return default
        return value

    def names(self, document: dict[str, Any], key: str) -> frozenset[str]:
        value = document.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            self.problem(key, "must be a list of account names")
            return frozenset()
        return frozenset(value)

    def duration_ms(self, document: dict[str, Any], key: str, default: str) -> int:
        match = _DURATION.fullmatch(str(document.get(key, default)))
        if match is None:
            self.problem(key, 'write a duration such as "30m" or "1h"')
            return 0
        return int(match[1]) * _SECONDS[match[2]] * 1000


assert set(STEPS) | {"none"} == set(get_args(Level))  # noqa: S101 -- the ladder and the contract are one
