"""Incidents, made of two topics that are read side by side and may come again."""

from __future__ import annotations

import random

import pytest

from exfilguard.console import state as module
from exfilguard.console.state import ConsoleState

from .conftest import T0, action, verdict

HOUR = 3_600_000


def test_a_story_opens_rises_and_ends() -> None:
    state = ConsoleState()
    state.learn(verdict(level="alert"))
    state.learn(verdict(level="lock", revision=T0 + 100))
    state.record(action(revision=T0 + 100))
    (incident,) = state.open(T0 + 1_000)
    assert (incident.principal, incident.worst, incident.last.level) == ("dpi_export", "lock", "lock")
    assert incident.opened_ms == T0
    assert [step.when_ms for step in incident.steps()] == [T0, T0 + 100, T0 + 120]
    state.learn(verdict(level="none", revision=T0 + 5_000, issuer="operator:anna", reason="the yearly export"))
    assert state.open(T0 + 6_000) == []
    assert incident.closed_ms(T0 + 6_000) == T0 + 5_000
    assert incident.cause.level == "lock", "what explains it is the worst step, not its lifting"


def test_an_expired_step_ends_its_incident_and_the_next_begins_another() -> None:
    state = ConsoleState()
    state.learn(verdict())
    assert state.open(T0 + HOUR) == []
    state.learn(verdict(revision=T0 + 2 * HOUR))
    first, second = reversed(state.of_account("clinic/dpi_export"))
    assert (first.opened_ms, second.opened_ms) == (T0, T0 + 2 * HOUR)
    assert first.id != second.id
    assert state.incident(first.id) is first


def test_what_comes_again_or_out_of_order_changes_nothing() -> None:
    records = [
        verdict(level="alert"),
        verdict(level="lock", revision=T0 + 100),
        action(revision=T0 + 100),
        action(revision=T0 + 100, outcome="started", started_ms=T0 + 110, ended_ms=T0 + 110),
        action(revision=T0 + 100, hook="operator", operation="ack", actor="anna", started_ms=T0 + 900),
    ]
    rng = random.Random(1)
    for _ in range(50):
        state = ConsoleState()
        verdicts, actions = records[:2], records[2:]
        rng.shuffle(actions)
        merged = [*verdicts, *actions, *records]
        order = list(range(len(merged)))
        rng.shuffle(order)
        order.sort(key=lambda i: merged[i] is records[1])  # within the verdicts topic the order is kept
        for i in [merged.index(records[0]), *order]:
            record = merged[i]
            state.learn(record) if hasattr(record, "level") else state.record(record)
        (incident,) = state.of_account("clinic/dpi_export")
        assert [a.started_ms for a in incident.actions] == [T0 + 110, T0 + 120, T0 + 900]
        assert [v.level for v in incident.verdicts] == ["alert", "lock"]
        assert incident.acknowledged is not None


def test_an_acknowledgement_counts_until_the_next_step() -> None:
    state = ConsoleState()
    state.learn(verdict(level="alert"))
    state.record(action(hook="operator", operation="ack", actor="anna"))
    (incident,) = state.open(T0 + 1)
    assert incident.acknowledged is not None
    assert incident.acknowledged.actor == "anna"
    state.learn(verdict(level="cut", revision=T0 + 100))
    assert incident.acknowledged is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INCIDENTS", 10)
    monkeypatch.setattr(module, "MAX_STEPS", 5)
    state = ConsoleState()
    for n in range(100):
        state.learn(verdict(f"account{n}", revision=T0 + n))
    found, total = state.page(0, 50)
    assert total == len(found) == 10
    assert found[0].principal == "account99"
    for n in range(100):
        state.learn(verdict("account99", revision=T0 + 1_000 + n))
        state.record(action("account99", revision=T0 + 1_000 + n))
    (incident,) = state.of_account("clinic/account99")
    assert len(incident.verdicts) <= 6
    assert incident.verdicts[0].revision == T0 + 99, "how it began is kept"
    assert len(incident.actions) == 5


def test_pages_and_search() -> None:
    state = ConsoleState()
    for n in range(120):
        state.learn(verdict(f"user{n:03}", revision=T0 + n))
    page, total = state.page(50, 50)
    assert (page[0].principal, len(page), total) == ("user069", 50, 120)
    page, total = state.page(0, 50, "USER11")
    assert [i.principal for i in page] == [f"user{n}" for n in range(119, 109, -1)]
    assert total == 10
