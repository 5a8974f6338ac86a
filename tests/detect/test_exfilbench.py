"""Exfilbench's thieves: the catalogue is the README's, and every step is an event that the guard reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest

from bench.exfilbench.attacks import HORIZON_DAYS, PREFIXES, SPEEDS, WIRE, Attack, catalogue, honeytoken, steps
from bench.exfilbench.clinic import DAY_MS, MONDAY_MS
from bench.exfilbench.play import LocalBudget, Outcome, play
from exfilguard.events.codec import decode_frame, encode_frame, frame_head
from exfilguard.events.verdict import Verdict

README = (Path(__file__).parents[2] / "bench" / "exfilbench" / "README.md").read_text(encoding="utf-8")
WORKING = {prefix: [f"{prefix}.{n:03d}" for n in range(60)] for prefix in PREFIXES}
ATTACKS = catalogue(WORKING)
START = MONDAY_MS + 9 * DAY_MS // 24


def test_the_readme_lists_every_attack_and_no_other() -> None:
    table = README.split("## Thieves")[1].split("What is delivered")[0]
    listed = set(re.findall(r"`([^`]+)`", "\n".join(line for line in table.splitlines() if line.startswith("|"))))
    assert listed == {attack.name for attack in ATTACKS} | {honeytoken().name}


def test_what_can_be_slow_is_played_at_every_speed_down_to_500_a_day() -> None:
    speeds: dict[str, set[int]] = {}
    for attack in ATTACKS:
        speeds.setdefault(attack.name, set()).add(attack.speed)
    assert min(s for s in SPEEDS if s != WIRE) == 500
    slow = [name for name, found in speeds.items() if found == set(SPEEDS)]
    assert len(slow) >= 26
    assert len({attack.title for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize("name", dict.fromkeys(attack.name for attack in ATTACKS))
def test_steps_are_events_in_order_with_as_many_patients_as_they_say(name: str) -> None:
    for attack in ATTACKS:
        if attack.name == name:
            check_steps(attack)


def check_steps(attack: Attack) -> None:
    before, events = START, []
    for at, account, event, count in islice(steps(attack, START, 1), 40):
        assert before <= at <= START + HORIZON_DAYS * DAY_MS
        assert (event["time_ms"], event["principal"]) == (at, account)
        told = max(len(event.get("patients", ())), len(event.get("asked", ()))) + event.get("patients_estimated", 0)
        assert told == count or (not count and event["kind"] in ("query", "finding"))
        before = at
        events.append(orjson.dumps(event))
    assert len(decode_frame(encode_frame(frame_head("t", "s", "1"), 0, events)).events) == len(events)


def test_a_days_pace_is_the_speed() -> None:
    for attack in ATTACKS:
        if attack.speed in (500, 2_000):
            taken = sum(count for at, *_, count in steps(attack, START, 1) if at < START + 5 * DAY_MS)
            assert taken == pytest.approx(5 * attack.speed, rel=0.25), attack.title


class Deaf:
    """Cuts an account at its n-th event, like a guard that has one rule."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.seen: list[dict[str, Any]] = []

    def feed(self, events: list[dict[str, Any]]) -> list[Verdict]:
        self.seen += events
        if len(self.seen) < self.after:
            return []
        return [Verdict("t", "thief", "cut", 1, self.seen[-1]["time_ms"], "enough", "detector:t")]


def single_steps(count: int, every_ms: int) -> Iterator[tuple[int, str, dict[str, Any], int]]:
    for n in range(count):
        event = {"time_ms": n * every_ms, "kind": "query", "listener": "dpi", "principal": "thief", "rows": 1}
        yield n * every_ms, "thief", event | {"patients": [f"{n:016x}"]}, 1


def outcome(after: int, *, enforce: bool = False, every_ms: int = 1_000) -> Outcome:
    return play(Deaf(after), Attack("a", WIRE, ("thief",)), single_steps(3_000, every_ms), [], enforce=enforce)  # type: ignore[arg-type]


def test_delivered_is_what_came_before_the_cut_and_its_delay() -> None:
    found = outcome(10)
    assert (found.delivered, found.found) == (10, True)
    assert outcome(10_000).delivered == 3_000
    assert not outcome(10_000).found


def test_the_local_budget_delays_a_thief_who_comes_back() -> None:
    found = outcome(10_000, enforce=True, every_ms=1)
    assert found.spent_local
    budget = LocalBudget(3, 1_000)
    assert [budget.admit(("a", "l"), at, 2) for at in (0, 10, 20, 1_500)] == [2, 1, 0, 2]
    assert budget.admit(("a", "other sidecar"), 20, 2) == 2
