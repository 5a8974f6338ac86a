"""The mass-lock stop: the detector may have N accounts suspended in M minutes, for more a human is asked.

A policy with a wrong limit must not suspend a whole clinic in its systems. Pure: time is an argument, in milliseconds.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from ..events.verdict import Verdict


class Admission(Protocol):
    """Who may be suspended without asking: one process's own MassLockStop, or one that all processes share."""

    def admits(self, verdict: Verdict, now_ms: int) -> bool | None:
        """None: not known yet, ask again."""

    def remember(self, key: str, at_ms: int, now_ms: int) -> None:
        """A suspension on record that was begun then."""

    def forget(self, key: str) -> None:
        """Nothing was suspended after all: no hook knows this account."""


class MassLockStop:
    """Counts accounts, not attempts: the same account again within the window costs nothing."""

    def __init__(self, accounts: int, window_ms: int) -> None:
        self.accounts = accounts
        """0: no bound."""
        self.window_ms = window_ms
        self._begun: OrderedDict[str, int] = OrderedDict()
        """key -> when its suspension began, oldest first; at most `accounts` of them"""

    def admits(self, verdict: Verdict, now_ms: int) -> bool:
        """True when this account may be suspended without asking. An operator's word always may, and is not counted."""
        if not self.accounts or verdict.issuer.startswith("operator:"):
            return True
        return self.take(verdict.key, now_ms)

    def take(self, key: str, now_ms: int) -> bool:
        """`admits` for an account that the bound concerns."""
        if key in self._begun:
            return True
        self._expire(now_ms)
        if len(self._begun) >= self.accounts:
            return False
        self._begun[key] = now_ms
        return True

    def remember(self, key: str, at_ms: int, now_ms: int) -> None:
        """A suspension that another process, or this one before its restart, has begun."""
        if self.accounts and at_ms > now_ms - self.window_ms and at_ms > self._begun.get(key, 0):
            self._begun[key] = at_ms
            self._begun.move_to_end(key)
            while len(self._begun) > self.accounts:
                self._begun.popitem(last=False)

    def forget(self, key: str) -> None:
        """Nothing was suspended after all: no hook knows this account."""
        self._begun.pop(key, None)

    def _expire(self, now_ms: int) -> None:
        for key in [key for key, at_ms in self._begun.items() if at_ms <= now_ms - self.window_ms]:
            del self._begun[key]
