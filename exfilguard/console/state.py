"""What the pages show: incidents and accounts, made of verdicts and actions as they arrive. No I/O; time is an argument.

An incident is one account's story from the first step against it until the account is free again: the verdicts, what the hooks
did, what people decided. It opens with a verdict above `none` and ends with a `none` or with the last verdict's expiry; the next step
after that begins a new one. Both topics may come again from their beginning, in any mixture: what is known already changes nothing.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..events.action import BOOKKEEPING, OPERATOR, Action
from ..events.verdict import Level, Verdict, severity

MAX_INCIDENTS = 20_000
MAX_STEPS = 200
"""Verdicts, and actions, kept of one incident: the newest."""

ACKNOWLEDGED = "ack"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a timeline: a verdict or an action."""

    when_ms: int
    verdict: Verdict | None = None
    action: Action | None = None


@dataclass(slots=True)
class Incident:
    """One account's story. Times in milliseconds since the Unix epoch."""

    key: str
    """tenant/principal"""
    opened_ms: int
    number: int
    """Revision of its first verdict."""
    verdicts: list[Verdict] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    lifted_ms: int = 0
    worst: Level = "alert"

    @property
    def id(self) -> str:
        """16 hex digits, the same in every console."""
        return hashlib.blake2b(f"{self.key}\0{self.number}".encode(), digest_size=8).hexdigest()

    @property
    def tenant(self) -> str:
        return self.key.partition("/")[0]

    @property
    def principal(self) -> str:
        return self.key.partition("/")[2]

    @property
    def last(self) -> Verdict:
        return self.verdicts[-1]

    def closed_ms(self, now_ms: int) -> int:
        """When it ended; 0 while it stands."""
        if self.lifted_ms:
            return self.lifted_ms
        expires = self.last.expires_ms
        return expires if expires and expires <= now_ms else 0

    def level(self, now_ms: int) -> Level:
        """What stands now."""
        return "none" if self.closed_ms(now_ms) else self.last.level

    @property
    def cause(self) -> Verdict:
        """The verdict that explains the worst step."""
        return next((v for v in reversed(self.verdicts) if v.level == self.worst), self.last)

    def steps(self) -> list[Step]:
        """Verdicts and actions, oldest first."""
        found = [Step(v.issued_ms, verdict=v) for v in self.verdicts]
        found += [Step(a.started_ms, action=a) for a in self.actions]
        return sorted(found, key=lambda step: step.when_ms)

    @property
    def acknowledged(self) -> Action | None:
        """The newest acknowledgement since the last change of what stands."""
        for action in reversed(self.actions):
            if (
                action.hook == OPERATOR
                and action.operation == ACKNOWLEDGED
                and action.verdict_revision >= self.last.revision
            ):
                return action
        return None


class ConsoleState:
    """All of it, under one lock: the feed's thread writes, the pages read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._incidents: dict[str, Incident] = {}
        """by id, oldest first"""
        self._current: dict[str, Incident] = {}
        """newest incident of each key"""
        self._newest: dict[str, int] = {}
        """newest revision seen of each key"""
        self._early: dict[str, list[Action]] = {}
        """actions whose verdict has not been read yet: the two topics are read side by side"""
        self._seen_actions: set[tuple[str, str, str, str, int, int]] = set()
        self.version = 0
        """Grows with every change."""

    # -- what arrives -----------------------------------------------------------------------------------------------

    def learn(self, verdict: Verdict) -> None:
        with self._lock:
            if verdict.revision <= self._newest.get(verdict.key, -1):
                return
            self._newest[verdict.key] = verdict.revision
            current = self._current.get(verdict.key)
            if current is not None and current.closed_ms(verdict.issued_ms):
                current = None
            if verdict.level == "none":
                if current is not None:
                    current.verdicts.append(verdict)
                    current.lifted_ms = verdict.issued_ms
            else:
                if current is None:
                    current = Incident(verdict.key, verdict.issued_ms, verdict.revision, worst=verdict.level)
                    self._incidents[current.id] = self._current[verdict.key] = current
                    self._bound()
                current.verdicts.append(verdict)
                del current.verdicts[1:-MAX_STEPS]
                if severity(verdict.level) > severity(current.worst):
                    current.worst = verdict.level
            for action in self._early.pop(verdict.key, []):
                self._attach(action)
            self.version += 1

    def record(self, action: Action) -> None:
        if action.outcome in BOOKKEEPING:
            return
        mark = (action.key, action.hook, action.operation, action.outcome, action.started_ms, action.verdict_revision)
        with self._lock:
            if mark in self._seen_actions:
                return
            if len(self._seen_actions) >= 100 * MAX_INCIDENTS:
                self._seen_actions.clear()
            self._seen_actions.add(mark)
            self._attach(action)
            self.version += 1

    def _attach(self, action: Action) -> None:
        incident = self._current.get(action.key)
        if incident is None or action.verdict_revision > self._newest.get(action.key, -1):
            waiting = self._early.setdefault(action.key, [])
            waiting.append(action)
            del waiting[:-MAX_STEPS]
            return
        incident.actions.append(action)
        incident.actions.sort(key=lambda a: a.started_ms)
        del incident.actions[:-MAX_STEPS]

    def _bound(self) -> None:
        while len(self._incidents) > MAX_INCIDENTS:
            oldest = next(iter(self._incidents.values()))
            del self._incidents[oldest.id]
            if self._current.get(oldest.key) is oldest:
                del self._current[oldest.key]

    # -- what is asked ----------------------------------------------------------------------------------------------

    def incident(self, incident_id: str) -> Incident | None:
        with self._lock:
            return self._incidents.get(incident_id)

    def of_account(self, key: str) -> list[Incident]:
        """Newest first."""
        with self._lock:
            return [i for i in reversed(self._incidents.values()) if i.key == key]

    def standing(self, key: str) -> Verdict | None:
        """The newest verdict of a key, in force or not."""
        with self._lock:
            incident = self._current.get(key)
            return incident.last if incident is not None else None

    def open(self, now_ms: int) -> list[Incident]:
        """What stands: worst first, then newest."""
        with self._lock:
            found = [i for i in self._current.values() if not i.closed_ms(now_ms)]
        return sorted(found, key=lambda i: (-severity(i.last.level), -i.last.issued_ms))

    def page(
        self, first: int, count: int, matching: str = "", standing_ms: int | None = None
    ) -> tuple[Sequence[Incident], int]:
        """(incidents, newest first, how many there are); `matching`: a part of the account's name; `standing_ms`: only what stands then."""
        with self._lock:
            found = list(reversed(self._incidents.values()))
        if matching:
            wanted = matching.casefold()
            found = [i for i in found if wanted in i.principal.casefold()]
        if standing_ms is not None:
            found = [i for i in found if not i.closed_ms(standing_ms)]
        return found[first : first + count], len(found)

    def decisions(self, first: int, count: int) -> tuple[list[Action], int]:
        """(what people decided, newest first, how many there are)"""
        with self._lock:
            actions = [a for i in self._incidents.values() for a in i.actions if a.hook == OPERATOR]
            actions += [a for waiting in self._early.values() for a in waiting if a.hook == OPERATOR]
        actions.sort(key=lambda a: -a.started_ms)
        return actions[first : first + count], len(actions)
