"""TOML to a Policy: types, ranges and contradictions, every mistake at once with its line and its remedy."""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from collections.abc import Iterable
from typing import Any, get_args

from ..errors import ConfigError
from ..events.query import FLAGS
from ..events.verdict import Level
from .policy import (
    DIMENSIONS,
    STEPS,
    UNITS,
    WINDOW_NAMES,
    Allowance,
    Class,
    Cross,
    Drift,
    Habit,
    Limit,
    Policy,
    Steps,
)
from .profile import DAYS

LONGEST_ALLOWANCE_DAYS = 400
MAX_HONEYTOKENS = 10_000
MOST_ACCOUNTS = 31

_DURATION = re.compile(r"(\d+)(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_DIGEST = re.compile(r"[0-9a-f]{16}")
_TOP = {
    "version", "default_class", "max_level", "expiry", "longest_expiry", "repeat", "step_down", "throttle_rows_per_s",
    "break_glass", "shared", "session_share", "lock_shared", "class", "accounts", "allowance", "habit", "drift", "cross",
    "honeytokens", "honeytoken_level", "flags", "findings", "newcomers",
}  # fmt: skip


def read(text: str, source: str) -> Policy:
    """Raises ConfigError with every mistake found."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # its own, numbers of thousands of digits, lists in lists in lists
        raise ConfigError([f"{source}: not valid TOML: {error}"]) from None
    reader = _Reader(text, source)
    policy = reader.policy(document)
    if reader.problems:
        raise ConfigError(reader.problems)
    return policy


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
        self.known(document, _TOP, "")
        classes = {name: self.one_class(name, raw) for name, raw in self.table(document, "class").items()}
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
        raw = document.get("allowance", [])
        if not isinstance(raw, list):
            self.problem("allowance", "is a list: write [[allowance]]")
            raw = []
        allowances = [self.allowance(i, item, classes) for i, item in enumerate(raw)]
        break_glass, shared = self.names(document, "break_glass"), self.names(document, "shared")
        for both in sorted(break_glass & shared):
            self.problem("shared", f"{both} is a break-glass account too: it can be one of the two")
        expiry = self.duration_ms(document, "expiry", "1h")
        longest = self.duration_ms(document, "longest_expiry", "24h")
        if expiry > longest > 0:
            self.problem("longest_expiry", "is shorter than expiry")
        step_down = document.get("step_down", "expiry")
        if step_down not in ("expiry", "clear"):
            self.problem("step_down", 'must be "expiry" or "clear"')
        cross = self.table(document, "cross")
        self.known(cross, DIMENSIONS, "cross")
        return Policy(
            version=self.text(document, "version", "unversioned"),
            classes=classes,
            accounts=tuple(accounts),
            default_class=default,
            max_level=self.level(document, "max_level", "lock", STEPS),
            expiry_ms=expiry,
            longest_expiry_ms=longest,
            repeat_ms=self.duration_ms(document, "repeat", "24h"),
            step_down=str(step_down),
            throttle_rows_per_s=self.number(document, "throttle_rows_per_s", 200),
            break_glass=break_glass,
            shared=shared,
            session_share=self.number(document, "session_share", 5_000),
            lock_shared=self.truth(document, "lock_shared"),
            allowances=tuple(a for a in allowances if a is not None),
            habit=self.habit(self.table(document, "habit")),
            drift=self.drift(self.table(document, "drift"), classes),
            cross={name: self.cross(name, raw, classes) for name, raw in cross.items() if name in DIMENSIONS},
            honeytokens=self.digests(document),
            honeytoken_level=self.level(document, "honeytoken_level", "lock"),
            flags=self.flags(self.table(document, "flags")),
            findings=self.level(document, "findings", "alert"),
            newcomers=self.level(document, "newcomers", "alert"),
        )

    # -- sections ---------------------------------------------------------------------------------------------------

    def one_class(self, name: str, raw: object) -> Class:
        path = f"class.{name}"
        table = raw if isinstance(raw, dict) else {}
        self.known(table, ("limits", "day", "surplus", "hour_floor", "privileged"), path)
        limits = self.limits(path, table.get("limits"))
        day = self.table(table, "day", path)
        self.known(day, ("typical", "spread"), f"{path}.day")
        surplus = self.steps(f"{path}.surplus", self.table(table, "surplus", path))
        return Class(
            limits,
            self.number(day, "typical", 100, f"{path}.day"),
            self.number(day, "spread", 50, f"{path}.day"),
            surplus,
            self.number(table, "hour_floor", 60, path),
            self.truth(table, "privileged", path),
        )

    def limits(self, path: str, items: object) -> tuple[Limit, ...]:
        if not isinstance(items, list) or not items:
            self.problem(path, "needs limits = [ { unit = .., window = .., alert = .. } ]")
            return ()
        out: list[Limit] = []
        for item in items:
            if not isinstance(item, dict):
                self.problem(path, "a limit is a table: { unit = .., window = .., alert = .. }")
                continue
            unit, window = item.get("unit"), item.get("window")
            if unit not in UNITS:
                self.problem(path, f"unit must be one of {', '.join(UNITS)}")
            if window not in WINDOW_NAMES:
                self.problem(path, f"window must be one of {', '.join(WINDOW_NAMES)}")
            steps = self.steps(path, {k: v for k, v in item.items() if k not in ("unit", "window")})
            if not steps:
                self.problem(path, f"a limit needs at least one of {', '.join(STEPS)}")
            if unit in UNITS and window in WINDOW_NAMES:
                out.append(Limit(str(unit), WINDOW_NAMES.index(window), steps))
        self.contradictions(path, out)
        return tuple(out)

    def steps(self, path: str, table: dict[str, Any]) -> Steps:
        for key, value in table.items():
            if key not in STEPS:
                self.problem(path, f"{key} is not a step: one of {', '.join(STEPS)}")
            elif type(value) is not int or value < 0:
                self.problem(path, f"{key} must be a whole number, 0 or more")
        out: list[tuple[Level, int]] = []
        for step in STEPS:
            value = table.get(step)
            if type(value) is int:
                if out and value <= out[-1][1]:
                    self.problem(path, f"{step} must be more than {out[-1][0]}: the ladder only goes up")
                out.append((step, value))
        return tuple(out)

    def contradictions(self, path: str, limits: list[Limit]) -> None:
        """What can never take effect: a longer window holds at least as much as a shorter one."""
        seen: set[tuple[str, int]] = set()
        for limit in limits:
            key = (limit.unit, limit.window)
            if key in seen:
                self.problem(path, f"{limit.unit} in {WINDOW_NAMES[limit.window]} is given twice")
            seen.add(key)
            for other in limits:
                if other.unit != limit.unit or other.window <= limit.window:
                    continue
                longer = dict(other.steps)
                for level, value in limit.steps:
                    if longer.get(level, value) < value:
                        self.problem(
                            path,
                            f"{level} at {value} {limit.unit} in {WINDOW_NAMES[limit.window]} never takes effect: it comes at "
                            f"{longer[level]} in {WINDOW_NAMES[other.window]} already; lower the one or raise the other",
                        )

    def habit(self, table: dict[str, Any]) -> Habit:
        self.known(table, ("days", "day_deviations", "hour_deviations", "level"), "habit")
        base = Habit()
        days = self.number(table, "days", base.days, "habit")
        if days > DAYS:
            self.problem("habit.days", f"must be at most {DAYS}: that many days are kept")
        return Habit(
            days,
            self.number(table, "day_deviations", base.day_deviations, "habit"),
            self.number(table, "hour_deviations", base.hour_deviations, "habit"),
            self.level(table, "level", base.level),
        )

    def drift(self, table: dict[str, Any], classes: dict[str, Class]) -> Drift:
        self.known(
            table, ("slack", "deviations", "persistence", "tenant_deviations", "tenant_share", "tenant_exempt"), "drift"
        )
        base = Drift()
        steps = self.steps("drift.deviations", self.table(table, "deviations", "drift"))
        share = self.number(table, "tenant_share", base.tenant_share, "drift")
        if share > 100:
            self.problem("drift.tenant_share", "is a percentage: at most 100")
        exempt = self.exempt(table, "tenant_exempt", "drift", classes)
        return Drift(
            self.number(table, "slack", base.slack, "drift"),
            steps or base.deviations,
            self.number(table, "persistence", base.persistence, "drift"),
            self.number(table, "tenant_deviations", base.tenant_deviations, "drift"),
            share,
            exempt,
        )

    def cross(self, name: str, raw: object, classes: dict[str, Class]) -> Cross:
        path = f"cross.{name}"
        table = raw if isinstance(raw, dict) else {}
        self.known(table, ("limits", "min_accounts", "max_accounts", "share", "exempt"), path)
        fewest = self.number(table, "min_accounts", 4, path)
        most = self.number(table, "max_accounts", 25, path)
        if fewest > most:
            self.problem(f"{path}.max_accounts", "is less than min_accounts")
        if most > MOST_ACCOUNTS:
            self.problem(
                f"{path}.max_accounts", f"must be at most {MOST_ACCOUNTS}: that many are remembered, and one more"
            )
        share = self.number(table, "share", 4, path)
        if share > 100:
            self.problem(f"{path}.share", "is a percentage: at most 100")
        exempt = self.exempt(table, "exempt", path, classes)
        return Cross(self.limits(path, table.get("limits")), fewest, most, share, exempt)

    def exempt(self, table: dict[str, Any], key: str, path: str, classes: dict[str, Class]) -> frozenset[str]:
        names = self.names(table, key, path, "classes")
        for unknown in sorted(names - classes.keys()):
            self.problem(f"{path}.{key}", f"{unknown}: no such class: one of {', '.join(classes)}")
        return names

    def digests(self, document: dict[str, Any]) -> frozenset[str]:
        names = self.names(document, "honeytokens", what="digests of 16 hex digits")
        if len(names) > MAX_HONEYTOKENS:
            self.problem("honeytokens", f"at most {MAX_HONEYTOKENS:,} are looked for")
        if any(_DIGEST.fullmatch(name) is None for name in names):
            self.problem(
                "honeytokens", "holds something that is no digest of 16 hex digits: make them with `exfilguard digest`"
            )
        return names

    def flags(self, table: dict[str, Any]) -> dict[str, Level]:
        self.known(table, FLAGS, "flags")
        return {name: self.level(table, name, "none") for name in table if name in FLAGS}

    def allowance(self, index: int, raw: object, classes: dict[str, Class]) -> Allowance | None:
        path = f"allowance[{index}]"
        if not isinstance(raw, dict):
            self.problem(path, "is a table")
            return None
        before = len(self.problems)
        self.known(raw, ("account", "reason", "owner", "since", "expires", "hours", "multiply", "class", "flags"), path)
        for key, what in (
            ("account", "the account"), ("reason", "its reason"), ("owner", "who answers for it"),
        ):  # fmt: skip
            if not isinstance(raw.get(key), str) or not raw[key].strip():
                self.problem(f"{path}.{key}", f"is missing: an exception names {what}")
        since = self.moment(f"{path}.since", raw.get("since"), "the first day it holds, as since = 2027-01-01", 0)
        expires = self.moment(
            f"{path}.expires", raw.get("expires"), "the last day it holds, as expires = 2027-01-31", 1
        )
        if since is not None and expires is not None:
            if expires <= since:
                self.problem(f"{path}.expires", "lies before since")
            elif expires - since > dt.timedelta(days=LONGEST_ALLOWANCE_DAYS):
                self.problem(f"{path}.expires", f"holds longer than {LONGEST_ALLOWANCE_DAYS} days: renew it instead")
        start, end = 0, 1440
        if "hours" in raw:
            match = _HOURS.fullmatch(str(raw["hours"]))
            if match is None:
                self.problem(f"{path}.hours", 'write it in UTC as "22:00-04:00"')
            else:
                start, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
        multiply = self.number(raw, "multiply", 1, path)
        use_class = raw.get("class", "")
        if use_class and use_class not in classes:
            self.problem(f"{path}.class", f"no such class: one of {', '.join(classes)}")
        flags = self.names(raw, "flags", path, "flags")
        for unknown in sorted(flags - set(FLAGS)):
            self.problem(f"{path}.flags", f"{unknown} is no flag: one of {', '.join(FLAGS)}")
        if multiply == 1 and not use_class and not flags:
            self.problem(path, "allows nothing: add multiply, class or flags")
        if len(self.problems) > before or since is None or expires is None:
            return None
        since_ms, expires_ms = int(since.timestamp() * 1000), int(expires.timestamp() * 1000)
        return Allowance(
            raw["account"], raw["reason"], expires_ms, raw["owner"], since_ms, start, end, multiply, use_class, flags
        )

    # -- values -----------------------------------------------------------------------------------------------------

    def known(self, table: dict[str, Any], keys: Iterable[str], path: str) -> None:
        allowed = set(keys)
        for key in table:
            if key not in allowed:
                self.problem(f"{path}.{key}" if path else key, "unknown setting; remove it")

    def table(self, document: dict[str, Any], key: str, path: str = "") -> dict[str, Any]:
        value = document.get(key, {})
        if isinstance(value, dict):
            return value
        self.problem(f"{path}.{key}" if path else key, "is a section: write it as a TOML table")
        return {}

    def text(self, document: dict[str, Any], key: str, default: str) -> str:
        value = document.get(key, default)
        if not isinstance(value, str) or not value:
            self.problem(key, "must be text in quotes")
            return default
        return value

    def truth(self, document: dict[str, Any], key: str, path: str = "") -> bool:
        value = document.get(key, False)
        if not isinstance(value, bool):
            self.problem(f"{path}.{key}" if path else key, "must be true or false")
        return value is True

    def level(
        self, document: dict[str, Any], key: str, default: Level, allowed: tuple[Level, ...] = get_args(Level)
    ) -> Level:
        value: Level = document.get(key, default)
        if value not in allowed:
            self.problem(key, f"must be one of {', '.join(allowed)}")
            return default
        return value

    def number(self, document: dict[str, Any], key: str, default: int, path: str = "") -> int:
        value = document.get(key, default)
        if type(value) is not int or value < 1:
            self.problem(f"{path}.{key}" if path else key, "must be a whole number, 1 or more")
            return default
        return value

    def names(self, document: dict[str, Any], key: str, path: str = "", what: str = "names") -> frozenset[str]:
        value = document.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            self.problem(f"{path}.{key}" if path else key, f"must be a list of {what}")
            return frozenset()
        return frozenset(value)

    def moment(self, path: str, value: object, remedy: str, days: int) -> dt.datetime | None:
        """A date or a time; `days` are added to a date: the end of a last day is the next midnight, UTC."""
        if isinstance(value, dt.datetime):
            return value if value.tzinfo else value.replace(tzinfo=dt.UTC)
        if isinstance(value, dt.date):
            return dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC) + dt.timedelta(days=days)
        self.problem(path, f"is missing: write {remedy}")
        return None

    def duration_ms(self, document: dict[str, Any], key: str, default: str) -> int:
        match = _DURATION.fullmatch(str(document.get(key, default)))
        if match is None:
            self.problem(key, 'write a duration such as "30m" or "1h"')
            return 0
        return int(match[1]) * _SECONDS[match[2]] * 1000
