"""Own past: robust baseline, cold start, the sequential test, bytes."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.detect.habit import SURE, Finding, close_hour, enough_of, robust, step_reached, surplus_steps, usual_day
from exfilguard.detect.policy import Class, Drift, Habit
from exfilguard.detect.profile import CELLS, DAYS, HOURS_OF_WEEK, MAX_BYTES, Profile, Profiles, cell_of, quantised

RULES = Class((), typical=60, spread=30, surplus=(("alert", 150), ("cut", 300), ("lock", 900)), hour_floor=20)
HABIT, DRIFT = Habit(), Drift()
MONDAY = 96  # hours of the epoch: 1970-01-05


def work(
    profile: Profile, day: int, patients: int, hours: tuple[int, ...] = (8, 9, 10, 14, 15), *, allowed: bool = False
) -> Finding:
    """One day: its hours close one after the other, the 24 hours' total grows."""
    found = None
    for i, hour in enumerate(hours, 1):
        found = close_hour(
            profile, MONDAY + day * 24 + hour, patients // len(hours), patients * i // len(hours), RULES, HABIT, DRIFT,
            allowed=allowed,
        )  # fmt: skip
    assert found is not None
    return found


def weeks(profile: Profile, count: int, patients: int, rng: random.Random | None = None) -> None:
    for day in range(count * 7):
        if day % 7 < 5:
            work(profile, day, patients if rng is None else max(1, int(rng.gauss(patients, patients / 6))))


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=60))
def test_robust_is_the_median_and_never_a_tiny_scale(values: list[int]) -> None:
    middle, scale, wide = robust(values)
    assert middle == statistics.median(values)
    mad = statistics.median(abs(v - middle) for v in values)
    assert scale >= 1.4826 * mad
    assert scale >= 3.0
    assert wide >= scale >= middle**0.5


@given(st.integers(0, 60_000))
def test_the_logarithmic_scale_is_four_percent(count: int) -> None:
    profile = Profile(first_hour=1)
    profile.cells[cell_of(MONDAY)] = quantised(count)
    (*_, back) = [v for v in profile.hours_like(MONDAY + HOURS_OF_WEEK) if v] or [0.0]
    assert abs(back - count) <= 0.045 * count


@given(st.integers(1, 40_000_000))
def test_every_hour_has_a_cell_of_its_own_for_six_weeks(hour: int) -> None:
    assert len({cell_of(hour + i) for i in range(CELLS)}) == CELLS
    assert cell_of(hour) == cell_of(hour + CELLS)


def test_a_profile_is_bounded_and_comes_back_as_it_was() -> None:
    rng = random.Random(1)
    profile = Profile()
    for hour in range(MONDAY, MONDAY + 24 * 400):
        close_hour(
            profile, hour, rng.randrange(1, 60_000), rng.randrange(1, 400_000), RULES, HABIT, DRIFT, allowed=False
        )
    data = profile.dump()
    assert len(data) <= MAX_BYTES
    again = Profile.load(data)
    assert again.dump() == data
    assert len(again.days) == DAYS
    office = Profile()
    weeks(office, 8, 40)
    assert len(office.dump()) < 400


@pytest.mark.parametrize("data", [None, b"", b"\x07" * 100, b"\x01" * 50, b"\x01" + b"\xff" * 600])
def test_damage_and_other_versions_are_a_cold_start(data: bytes | None) -> None:
    assert Profile.load(data) == Profile()


def test_until_it_has_a_habit_the_class_speaks() -> None:
    profile = Profile()
    for day in range(5):
        work(profile, day, 20)
    assert usual_day(profile, RULES, HABIT).days == 0
    assert usual_day(profile, RULES, HABIT).median == 60
    weeks(profile2 := Profile(), 4, 20)
    usual = usual_day(profile2, RULES, HABIT)
    assert (usual.days >= 10, usual.median) == (True, 20)


def test_a_steady_account_never_drifts() -> None:
    rng = random.Random(3)
    profile = Profile()
    weeks(profile, 30, 50, rng)
    assert profile.drift < 150


def test_a_slow_thief_is_found_within_days_and_the_number_is_what_was_taken() -> None:
    profile = Profile()
    weeks(profile, 8, 50)
    taken = 0
    for day in range(56, 66):
        found = work(profile, day, 50 + 80)
        taken += 80
        reached = step_reached(
            found, surplus_steps(RULES, DRIFT, found.usual, 100), enough_of(found.persistence, DRIFT)
        )
        if reached is not None and reached[0] == "cut":
            break
    assert taken <= 480
    assert abs(found.surplus - taken) < taken * 0.35


def test_a_thief_cannot_teach_the_baseline_quickly() -> None:
    profile = Profile()
    weeks(profile, 8, 50)
    before = usual_day(profile, RULES, HABIT)
    for day in range(56, 70):
        work(profile, day, 550)
    after = usual_day(profile, RULES, HABIT)
    assert after.median + 3 * after.scale < before.median + 8 * before.scale


def test_two_heavy_days_are_no_drift_but_five_are() -> None:
    profile = Profile()
    weeks(profile, 8, 50)
    levels = []
    for day, patients in enumerate((170, 170, 50, 50, 170, 170, 170, 170, 170), 56):
        found = work(profile, day, patients)
        reached = step_reached(
            found, surplus_steps(RULES, DRIFT, found.usual, 100), enough_of(found.persistence, DRIFT)
        )
        levels.append(reached[0] if reached else "")
    assert levels[:4] == [""] * 4
    assert levels[-1] == "cut"


def test_a_huge_surplus_needs_no_persistence() -> None:
    profile = Profile()
    weeks(profile, 8, 50)
    found = work(profile, 56, 2_000)
    assert step_reached(found, surplus_steps(RULES, DRIFT, found.usual, 100), enough_of(found.persistence, DRIFT)) == (
        "cut",
        750.0,
    )  # 2.5 times 300


@given(st.floats(0, 15), st.floats(0, 15))
def test_the_longer_it_goes_on_the_less_is_enough(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert SURE >= enough_of(low, DRIFT) >= enough_of(high, DRIFT) >= 1
    assert (enough_of(0, DRIFT), enough_of(DRIFT.persistence, DRIFT)) == (SURE, 1)


def test_days_off_let_the_sum_down_slowly_and_an_end_lets_it_down() -> None:
    profile = Profile()
    weeks(profile, 8, 50)
    for day in range(56, 62):
        work(profile, day, 150 if day < 61 else 50)
    high = profile.drift
    work(profile, 70, 50)  # nine days later
    work(profile, 71, 50)
    assert 0 < profile.drift < high
    for day in range(72, 160):
        work(profile, day, 30)
    assert profile.drift == 0


def test_an_allowed_day_is_neither_tested_nor_learnt() -> None:
    profile = Profile()
    weeks(profile, 8, 50)
    days = list(profile.days)
    found = work(profile, 56, 5_000, allowed=True)
    work(profile, 57, 50)
    assert (found.surplus, profile.days[-1][0]) == (0.0, days[-1][0])


def test_a_weekend_is_compared_with_weekends() -> None:
    profile = Profile()
    for day in range(56):
        work(profile, day, 20 if day % 7 >= 5 else 110)
    profile.day = (MONDAY + 5 * 24) // 24 + 56  # a Saturday
    assert usual_day(profile, RULES, HABIT).median == 20
    profile.day += 2
    assert usual_day(profile, RULES, HABIT).median == 110


def test_an_hour_at_which_the_account_never_worked() -> None:
    profile = Profile()
    weeks(profile, 6, 50)
    found = close_hour(profile, MONDAY + 42 * 24 + 3, 90, 90, RULES, HABIT, DRIFT, allowed=False)
    assert found.unusual_hour > 0
    assert found.hour_median == 0
    calm = close_hour(profile, MONDAY + 42 * 24 + 9, 12, 100, RULES, HABIT, DRIFT, allowed=False)
    assert calm.unusual_hour == 0


def test_nothing_is_unusual_in_the_first_weeks() -> None:
    profile = Profile()
    found = close_hour(profile, MONDAY + 9, 500, 500, RULES, HABIT, DRIFT, allowed=False)
    assert (found.unusual_hour, found.unusual_day) == (0.0, 0.0)


@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 3_000)), min_size=1, max_size=40), st.integers(1, 3))
def test_a_profile_that_was_kept_is_the_one_that_is_read_again(hours: list[tuple[int, int]], most: int) -> None:
    """Every hour from its bytes, and from the memory of the last ones, whose cells are also written one by one."""
    kept, data, remembered, hour = Profiles(most), {}, {}, MONDAY  # type: ignore[var-annotated]
    for n, (pause, patients) in enumerate(hours):
        hour += 1 + pause
        who = n % 2
        read, again = Profile.load(data.get(who)), kept.load(remembered.get(who))
        assert read == again
        plain = bytearray(read.cells)
        if read.first_hour:
            for skipped in range(max(read.last_hour + 1, hour - CELLS), hour):
                plain[cell_of(skipped)] = 0
        plain[cell_of(hour)] = quantised(patients)
        found = [
            close_hour(profile, hour, patients, patients * 2, RULES, HABIT, DRIFT, allowed=False)
            for profile in (read, again)
        ]
        assert found[0] == found[1]
        assert read.cells == plain
        last = [2.0 ** ((plain[cell_of(at)] - 1) / 16) if plain[cell_of(at)] else 0.0
                for at in range(hour, max(hour - 24, read.first_hour - 1), -1)]  # fmt: skip
        assert read.share_of_today(hour) == (sum(last[: hour % 24 + 1]) / sum(last) if sum(last) else 1.0)
        data[who], remembered[who] = read.dump(), kept.dump(again)
        assert data[who] == remembered[who]
        assert Profile.load(data[who]) == read
