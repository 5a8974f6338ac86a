"""Plays an attack into a running clinic, and counts what the thief gets until the cut."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from exfilguard.events.verdict import severity

from .attacks import HORIZON_DAYS, Attack, Step
from .clinic import DAY_MS
from .guard import VERDICT_MS, Guard

FRAME_EVENTS = 50
FRAME_MS = 10
BUDGET_PATIENTS = 1_000
BUDGET_MS = 600_000
"""The local budget of a users' listener in `enforce`: budget_patients = 1_000, budget_window = "10m"."""
SERVICE_BUDGET_PATIENTS = 2_500
SERVICE_BUDGET_MS = 6 * 3_600_000
"""Batches and interfaces come through a listener of their own: budget_patients = 2_500, budget_window = "6h"."""


RETRY_MS = 30_000
"""A thief whose session ended tries again after so long."""


@dataclass(slots=True)
class Outcome:
    """What one attack brought. Times in milliseconds after its first event; -1: never."""

    attack: Attack
    delivered: int = 0
    alert_ms: int = -1
    cut_ms: int = -1
    """When the last of its accounts was cut."""
    detectors: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    """The sentences of the first alert and of the first cut."""
    spent_local: bool = False
    """The local budget stopped it at least once."""

    @property
    def found(self) -> bool:
        return self.cut_ms >= 0


class LocalBudget:
    """What a principal may take at one sidecar in a rolling window; the same arithmetic as the sidecar's, patients only."""

    def __init__(self, patients: int, window_ms: int) -> None:
        self.patients = patients
        self.window_ms = window_ms
        self._taken: dict[tuple[str, str], deque[tuple[int, int]]] = {}

    def admit(self, key: tuple[str, str], at: int, count: int) -> int:
        """`key`: (account, listener)."""
        taken = self._taken.setdefault(key, deque())
        while taken and taken[0][0] <= at - self.window_ms:
            taken.popleft()
        left = max(0, self.patients - sum(n for _, n in taken))
        admitted = min(left, count)
        if admitted:
            if taken and taken[-1][0] >= at - 1_000:
                taken[-1] = (taken[-1][0], taken[-1][1] + admitted)
            else:
                taken.append((at, admitted))
        return admitted


def play(
    guard: Guard, attack: Attack, attack_steps: Iterable[Step], normal: Iterable[dict[str, Any]], *, enforce: bool
) -> Outcome:
    """`normal`: the clinic's events from the attack's beginning on, in time order; they go on while it lasts."""
    outcome = Outcome(attack)
    budget = None
    if enforce:
        budget = (
            LocalBudget(BUDGET_PATIENTS, BUDGET_MS)
            if attack.budgeted
            else LocalBudget(SERVICE_BUDGET_PATIENTS, SERVICE_BUDGET_MS)
        )
    cut_at: dict[str, int] = {}
    accounts = set(attack.accounts)
    buffer: list[dict[str, Any]] = []
    clinic: Iterator[dict[str, Any]] = iter(normal)
    ahead = next(clinic, None)
    began = -1

    def flush() -> None:
        if not buffer:
            return
        for verdict in guard.feed(buffer):
            if verdict.principal not in accounts or verdict.level == "none" or began < 0:
                continue
            seen = max(0, verdict.crossed_ms or verdict.issued_ms, buffer[0]["time_ms"]) + VERDICT_MS - began
            if outcome.alert_ms < 0:
                outcome.alert_ms = seen
                outcome.reasons.append(verdict.reason)
            if verdict.detector not in outcome.detectors:
                outcome.detectors.append(verdict.detector)
            if severity(verdict.level) >= severity("cut") and verdict.principal not in cut_at:
                cut_at[verdict.principal] = began + seen
                outcome.reasons.append(verdict.reason)
        buffer.clear()

    wait_ms = 0
    for at, account, event, count in attack_steps:
        at += wait_ms
        if began >= 0 and at - began > HORIZON_DAYS * DAY_MS:
            break
        while True:
            while ahead is not None and ahead["time_ms"] < at:
                buffer.append(ahead)
                ahead = next(clinic, None)
                if len(buffer) >= FRAME_EVENTS:
                    flush()
            if buffer and (at - buffer[0]["time_ms"] >= FRAME_MS or len(buffer) >= FRAME_EVENTS):
                flush()
            if account in cut_at and at >= cut_at[account]:
                break  # refused
            began = at if began < 0 else began
            if not count:
                buffer.append(event | {"time_ms": at})
                break
            admitted = count if budget is None else budget.admit((account, event["listener"]), at, count)
            if admitted:
                outcome.delivered += admitted
                buffer.append(_part(event, at, admitted, count))
                count -= admitted
            if not count:
                break
            flush()  # the sidecar has ended the session at the local budget: the thief comes back for the rest
            outcome.spent_local = True
            wait_ms += RETRY_MS
            at += RETRY_MS
        if len(cut_at) == len(accounts) and all(at >= t for t in cut_at.values()):
            break
    flush()
    if len(cut_at) == len(accounts):
        outcome.cut_ms = max(cut_at.values()) - began
    return outcome


def _part(event: dict[str, Any], at: int, admitted: int, count: int) -> dict[str, Any]:
    """The event at its time, with what was admitted of its last `count` patients."""
    part = event | {"time_ms": at}
    if "patients" in event:
        patients = event["patients"]
        part["patients"] = patients[len(patients) - count :][:admitted]
    if "patients_estimated" in event:
        part["patients_estimated"] = admitted
    if admitted < count:
        part["rows"] = max(1, event["rows"] * admitted // count)
    return part


def horizon_days(attack: Attack) -> int:
    """Days of normal traffic that the attack needs beside it."""
    at_once = attack.speed == 0 and attack.hours == (0.0, 24.0)
    return 1 if at_once else HORIZON_DAYS + 1


def start_of(day_ms: int, attack: Attack) -> int:
    """The thief begins on a Monday at nine, or when its hours begin."""
    return day_ms + 9 * DAY_MS // 24
