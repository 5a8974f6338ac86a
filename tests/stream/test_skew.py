"""Clocks that differ, seen through the delays of a stream."""

from __future__ import annotations

import random

from exfilguard.stream import skew as module
from exfilguard.stream.skew import KEPT_MS, MINUTE_MS, Skew

T0 = 1_760_000_000_000


def test_the_least_delay_of_two_minutes_is_close_to_the_difference_of_the_clocks() -> None:
    skew, chance = Skew(), random.Random(5)
    for second in range(180):
        now = T0 + 1000 * second
        for name, ahead_ms in (("ward-0", 0), ("lab-0", -7_000), ("night-0", 90_000)):
            skew.note(name, now - chance.randint(3, 4_000) + ahead_ms, now)
    (first, night), (second_name, lab), (third, ward) = skew.largest(5, T0 + 180_000)
    assert (first, second_name, third) == ("night-0", "lab-0", "ward-0")
    assert 89.5 < night <= 90.0
    assert -7.5 < lab <= -7.0
    assert -0.5 < ward <= 0.0
    assert skew.largest(1, T0 + 180_000) == [(first, night)]


def test_a_clock_that_was_mended_is_right_after_two_minutes() -> None:
    skew = Skew()
    skew.note("ward-0", T0 + 60_000, T0)
    skew.note("ward-0", T0 + MINUTE_MS, T0 + MINUTE_MS)
    assert skew.largest(1, T0 + MINUTE_MS) == [("ward-0", 60.0)], "the minute before still counts"
    skew.note("ward-0", T0 + 2 * MINUTE_MS - 20, T0 + 2 * MINUTE_MS)
    assert skew.largest(1, T0 + 2 * MINUTE_MS) == [("ward-0", 0.0)]


def test_who_is_silent_is_forgotten_and_there_is_a_bound() -> None:
    skew = Skew()
    skew.note("ward-0", T0, T0)
    assert skew.largest(1, T0 + KEPT_MS) == [("ward-0", 0.0)]
    assert skew.largest(1, T0 + KEPT_MS + 1) == []
    for n in range(module.MAX_SIDECARS + 10):
        skew.note(f"s{n}", T0, T0)
    assert len(skew.largest(1 << 20, T0)) == module.MAX_SIDECARS
