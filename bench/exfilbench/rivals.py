"""The documented rules of others, on the same events. Each is given the best reading: it acts at once on what it finds.

- rows an hour, a day, in ten minutes, by account: fixed windows, as database firewalls and activity monitors count them;
- rows of one query: a result limit;
- z-score by database: today's rows against the 14 days before; it names no account, so it is taken to stop whoever is stealing,
  and a false alarm is counted once, not for every account.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .clinic import DAY_MS


class Rule:
    """One rival: `see` returns True when it acts on this event's account."""

    name: str

    def see(self, event: dict[str, Any]) -> bool:
        raise NotImplementedError


@dataclass(slots=True)
class RowsInWindow(Rule):
    name: str
    window_ms: int
    limit: int
    _counts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def see(self, event: dict[str, Any]) -> bool:
        account, window = event["principal"], event["time_ms"] // self.window_ms
        at, rows = self._counts.get(account, (-1, 0))
        rows = (rows if at == window else 0) + event["rows"]
        self._counts[account] = (window, rows)
        return rows > self.limit


@dataclass(slots=True)
class RowsOfQuery(Rule):
    name: str
    limit: int
    _running: dict[str, int] = field(default_factory=dict)

    def see(self, event: dict[str, Any]) -> bool:
        session = event["session"]
        rows = self._running.pop(session, 0) + event["rows"]
        if event["kind"] == "progress":
            self._running[session] = rows
        return rows > self.limit


@dataclass(slots=True)
class ZScore(Rule):
    name: str
    limit: float = 3.0
    days: int = 14
    _past: deque[int] = field(default_factory=lambda: deque(maxlen=14))
    _day: int = -1
    _rows: int = 0

    def see(self, event: dict[str, Any]) -> bool:
        day = event["time_ms"] // DAY_MS
        if day != self._day:
            if self._day >= 0:
                self._past.append(self._rows)
            self._day, self._rows = day, 0
        self._rows += event["rows"]
        if len(self._past) < self.days:
            return False
        mean = sum(self._past) / len(self._past)
        spread = math.sqrt(sum((v - mean) ** 2 for v in self._past) / (len(self._past) - 1))
        return self._rows > mean + self.limit * max(1.0, spread)


RIVALS: tuple[Callable[[], Rule], ...] = (
    lambda: RowsInWindow("500 rows an hour", 3_600_000, 500),
    lambda: RowsInWindow("50,000 rows a day", DAY_MS, 50_000),
    lambda: RowsInWindow("100,000 rows in 10 minutes", 600_000, 100_000),
    lambda: RowsOfQuery("1,000 rows a query", 1_000),
    lambda: ZScore("z-score > 3 over 14 days, by database"),
)
BY_DATABASE = frozenset({"z-score > 3 over 14 days, by database"})


class FalseAlarms:
    """Account-days on which a rival would have acted on normal traffic."""

    def __init__(self) -> None:
        self.rules = [rule() for rule in RIVALS]
        self._hits: list[set[tuple[str, int]]] = [set() for _ in self.rules]

    def see(self, event: dict[str, Any]) -> None:
        for rule, hits in zip(self.rules, self._hits, strict=True):
            if rule.see(event):
                account = "" if rule.name in BY_DATABASE else event["principal"]
                hits.add((account, event["time_ms"] // DAY_MS))

    def counts(self) -> dict[str, int]:
        return {rule.name: len(hits) for rule, hits in zip(self.rules, self._hits, strict=True)}
