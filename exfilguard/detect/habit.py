"""An account against its own past: unusual hours and days, and the sequential tests for what is slow.

Robust location and scale: median and 1.4826 MAD (Rousseeuw & Croux, "Alternatives to the median absolute deviation", JASA 88,
1993), never less than a Poisson count's. Days of work are skewed (an on-call day is not a clinic day): what a single day may be is
measured with a wider scale, which the upper decile gives.

Two one-sided CUSUMs (Page, "Continuous inspection schemes", Biometrika 41, 1954; the quickest tests for a shift at a given rate of
false alarms: Lorden 1971, Moustakides 1986) run over the days of work, and both must speak:
- `surplus`, S = max(0, S + x - reference): patients beyond the habit, a number that a person can check. The reference is the larger
  of median and mean, plus slack, so that an account's rare heavy days are part of its habit.
- `persistence`, the same of (x - median - scale) / scale cut to [-1, 1], as robust charts cut their scores (Huber's psi): how many
  days in a row it went on. Two nights on call make a surplus; a slow extraction makes one every day.
A surplus of SURE times its step needs no persistence; in between, each day that it went on makes less of it enough.

The baseline takes winsorised days only, so that a thief cannot raise it quickly. An account without a habit is measured by its class's
typical day.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..events.verdict import Level
from .policy import Class, Drift, Habit
from .profile import DAYS, Profile, cell_of, quantised

NORMAL = 1.4826
UPPER = 1.2816
"""The upper decile of a normal distribution, in deviations."""
MIN_HOURS = 9
"""Fewer hours to compare with (three weeks): no hour is called unusual."""
WINSOR, WINSOR_SPREADS = 3.0, 2.0
"""A day is learnt as at most so many scales, or so many of the class's spreads, above the median."""
SUSPECT, SUSPECT_SPREADS = 1.0, 0.5
"""The same while the surplus is beyond its alert: the baseline neither follows a thief nor stays behind for ever."""
PARDON_DAYS = 14
"""After a person's pardon an account is learnt from as it is for so long: its work has changed, and somebody said so."""
SURE = 3.0
MOST_PERSISTENT = 15.0
DRIFT_CAP = 1.25
"""The sum is kept below this multiple of the highest step, so that it comes down again when the cause has ended."""


def robust(values: Sequence[float], floor: float = 3.0) -> tuple[float, float, float]:
    """(median, scale, wide scale) of a sample that is not empty."""
    ordered = sorted(values)
    middle = _median(ordered)
    mad = _median(sorted(abs(v - middle) for v in ordered))
    upper = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    scale = max(NORMAL * mad, 0.05 * middle, math.sqrt(middle), floor)
    return middle, scale, max(scale, (upper - middle) / UPPER)


def _median(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


@dataclass(frozen=True, slots=True)
class Usual:
    """A day of this account, as its past says, or its class while it has none."""

    median: float
    scale: float
    """Of most days."""
    wide: float
    """Of all days, the heavy ones too."""
    mean: float
    days: int
    """Days of work that say so; 0: the class's typical day."""

    def reference(self, drift: Drift) -> float:
        """What a day may be before the sum grows."""
        return max(self.median, self.mean) + self.scale * drift.slack / 100

    def step(self, patients: float) -> float:
        """What a day adds to the persistence, -1 to 1."""
        return max(-1.0, min(1.0, (patients - self.median - self.scale) / self.scale))


@dataclass(frozen=True, slots=True)
class Finding:
    """What an hour's end showed. `surplus`: patients beyond the habit by now, and since which hour."""

    usual: Usual
    day: int
    surplus: float
    since_hour: int
    persistence: float = 0.0
    unusual_day: float = 0.0
    """The limit that the day exceeded; 0: it did not."""
    unusual_hour: float = 0.0
    hour_patients: int = 0
    hour_median: float = 0.0


def usual_day(profile: Profile, rules: Class, habit: Habit) -> Usual:
    """The cold-start rule: with fewer than `habit.days` days of work the class speaks."""
    if len(profile.days) < habit.days:
        typical, spread = float(rules.typical), float(rules.spread)
        return Usual(typical, spread, spread, typical, 0)
    if profile.usual is not None and profile.usual[0] == profile.day:
        known: Usual = profile.usual[1]
        return known
    like = profile.days_like(profile.day)
    median, scale, wide = robust(like)
    usual = Usual(median, scale, wide, sum(like) / len(like), len(like))
    profile.usual = (profile.day, usual)
    return usual


def close_hour(
    profile: Profile,
    hour: int,
    hour_patients: int,
    day_patients: int,
    rules: Class,
    habit: Habit,
    drift: Drift,
    *,
    allowed: bool,
) -> Finding:
    """Take one closed hour into the profile, which is changed, and say what it showed.

    Args: `hour_patients` distinct patients of the hour; `day_patients` of the 24 hours up to its end; `allowed`: an allowance
    covers the account, so that this day is neither tested nor learnt from.
    """
    day = hour // 24
    if not profile.first_hour:
        profile.day = day
    if day != profile.day:
        _close_day(profile, rules, habit, drift)
        if day - profile.day > 1:
            _rest(profile, day - profile.day - 1, usual_day(profile, rules, habit), drift)
        profile.day, profile.day_patients = day, 0
    before = profile.hours_like(hour) if hour_patients > rules.hour_floor else []
    profile.advance(hour)
    profile.cells[cell_of(hour)] = quantised(hour_patients)
    usual = usual_day(profile, rules, habit)
    if allowed:
        return Finding(usual, day_patients, 0.0, 0)
    if hour_patients:
        profile.day_patients = day_patients
    surplus, persistence = profile.drift, profile.persistence
    if profile.day_patients:
        today = profile.day_patients * profile.share_of_today(hour)
        surplus = max(0.0, surplus, surplus + today - usual.reference(drift))
        persistence += max(0.0, usual.step(today))
    since = profile.drift_hour or hour
    unusual_day = unusual_hour = hour_median = 0.0
    if usual.days:
        limit = usual.median + habit.day_deviations * usual.wide
        if day_patients > limit:
            unusual_day = limit
    if len(before) >= MIN_HOURS:
        hour_median, _, wide = robust(before)
        limit = hour_median + habit.hour_deviations * wide
        if hour_patients > limit:
            unusual_hour = limit
    return Finding(
        usual, day_patients, surplus, since, persistence, unusual_day, unusual_hour, hour_patients, hour_median
    )


def _close_day(profile: Profile, rules: Class, habit: Habit, drift: Drift) -> None:
    if not profile.day_patients:
        return
    usual = usual_day(profile, rules, habit)
    patients = profile.day_patients
    total = max(0.0, profile.drift + patients - usual.reference(drift))
    _set_drift(profile, _capped(total, usual, rules, drift))
    profile.persistence = max(0.0, min(MOST_PERSISTENT, profile.persistence + usual.step(patients)))
    if profile.pardon_ms and profile.day * 24 <= profile.pardon_ms // 3_600_000 + PARDON_DAYS * 24:
        bound = math.inf
    else:
        steps = surplus_steps(rules, drift, usual, 100)
        suspect = bool(steps) and total > steps[0][1] and profile.persistence >= drift.persistence
        scales, spreads = (SUSPECT, SUSPECT_SPREADS) if suspect else (WINSOR, WINSOR_SPREADS)
        bound = usual.median + max(scales * usual.scale, spreads * rules.spread)
    profile.remember_day(int(min(patients, bound)))


def _rest(profile: Profile, days: int, usual: Usual, drift: Drift) -> None:
    """Days without work: the sum comes down slowly, for a thief rests too."""
    _set_drift(profile, max(0.0, profile.drift - min(days, DAYS) * usual.scale * drift.slack / 100))


def _capped(total: float, usual: Usual, rules: Class, drift: Drift) -> float:
    steps = surplus_steps(rules, drift, usual, 100)
    return min(total, DRIFT_CAP * steps[-1][1]) if steps else 0.0


def _set_drift(profile: Profile, total: float) -> None:
    if total > 0 and not profile.drift_hour:
        profile.drift_hour = max(1, profile.day * 24)
    elif total <= 0:
        profile.drift_hour = 0
    profile.drift = total


def step_reached(found: Finding, steps: list[tuple[Level, float]], enough: float) -> tuple[Level, float] | None:
    """The highest (level, surplus) that is reached. `enough`: how many times its step a surplus must be."""
    for level, limit in reversed(steps):
        if found.surplus > limit * enough:
            return level, limit * enough
    return None


def enough_of(persistence: float, drift: Drift) -> float:
    """How many times its step a surplus must be: SURE on the first day, 1 once it has gone on for `drift.persistence` days, and a
    straight line in between."""
    return SURE - (SURE - 1) * max(0.0, min(1.0, persistence / drift.persistence))


def surplus_steps(rules: Class, drift: Drift, usual: Usual, percent: int) -> list[tuple[Level, float]]:
    """(level, surplus): a class's own number and the account's own spread must both be exceeded."""
    spread = dict(drift.deviations)
    return [
        (level, max(value * percent / 100, spread.get(level, 0) * usual.wide * percent / 100))
        for level, value in rules.surplus
    ]
