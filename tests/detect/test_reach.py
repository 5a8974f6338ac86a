"""How near an account is to its limits: the ranking's short cut says what the whole list says."""

from __future__ import annotations

import random

from exfilguard.detect.policy import WINDOWS_MS, default_policy
from exfilguard.detect.reach import nearest, reaches, share

POLICY = default_policy()
NAMES = ["dr.martin", "dpi_export", "secretariat", "pharma", "batch_nuit", "postgres"]


def test_the_short_cut_equals_the_nearest_of_the_list() -> None:
    chance = random.Random(7)
    for _ in range(500):
        name = chance.choice(NAMES)
        totals = [[int(chance.expovariate(1 / 4_000)) for _ in range(4)] for _ in WINDOWS_MS]
        listed = reaches(f"clinic/{name}", totals, POLICY)
        limits = POLICY.classes[POLICY.class_of(name)].limits
        assert share(limits, totals) == (listed[0].share if listed else 0.0)


def test_the_step_ahead_is_named_and_past_the_last_one_the_last() -> None:
    limit = next(limit for limit in POLICY.classes[POLICY.class_of("dr.martin")].limits if limit.unit == "patients")
    (first_level, first), (last_level, last) = limit.steps[0], limit.steps[-1]

    def at(patients: int) -> tuple[str, int]:
        totals = [[0, 0, 0, 0] for _ in WINDOWS_MS]
        totals[limit.window][1] = patients
        found = reaches("clinic/dr.martin", totals, POLICY)[0]
        return found.level, found.limit

    assert at(first) == (first_level, first), "a limit is passed, not reached"
    assert at(last + 1) == (last_level, last)


def test_the_accounts_nearest_to_a_limit_come_first_one_line_each() -> None:
    quiet, busy = [[1, 1, 1, 1]] * 7, [[900, 800, 5_000, 12]] * 7
    found = nearest({"clinic/a": quiet, "clinic/b": busy, "clinic/c": quiet}, POLICY, 2)
    assert [reach.account for reach in found] == ["clinic/b", "clinic/a"]
