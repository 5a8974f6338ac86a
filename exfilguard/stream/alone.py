"""Sums over accounts where one engine holds everything: a replay, a benchmark. What `sums.py` says across partitions, without records
and sketches.

The detector publishes the parts of a sum that grew, every second. Here a sum is looked at once LOOK_PATIENTS more patients came to it,
or LOOK_MS after its last look when any did: it cannot grow without. Which are due the core knows; it leaves out what is below
every limit, or has too many accounts behind it, or too few, to say anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping

from ..detect.judge import TENANT, Judge
from ..detect.policy import DAY, HOUR, HOUR_MS, Policy
from ..events.verdict import Verdict
from .engine import Engine

LOOK_PATIENTS, LOOK_MS = 50, 300_000
LEAST_MS = 1_000
"""Between two looks at one sum, as in the detector."""
PEOPLE = ("source", "shape")
DAY_HOURS = 24


class Alone:
    """Looks at one engine's sums, in the recording's time. `policy`: of all its tenants; `standing`: newest verdicts by key, which it
    adds to."""

    def __init__(
        self,
        engine: Engine,
        policy: Policy,
        judge_of: Callable[[str], Judge],
        standing: MutableMapping[str, Verdict],
    ) -> None:
        self._engine = engine
        self._judge_of = judge_of
        self._standing = standing
        self._hour = 0
        rules = [policy.cross.get(name) for name in PEOPLE]
        engine.follow_sums(
            LOOK_PATIENTS,
            LEAST_MS,
            LOOK_MS,
            [(rule.floors, rule.min_accounts, rule.max_accounts) if rule is not None else None for rule in rules],
        )

    @property
    def until_ms(self) -> int:
        """When the hour ends: `moved` is due then, whatever came."""
        return (self._hour + 1) * HOUR_MS

    def moved(self, now_ms: int) -> list[Verdict]:
        """After each frame: what a look at the sums that are due found."""
        verdicts = self._found(now_ms, self._engine.due_sums) if self._engine.look(now_ms) else []
        if self._hour < now_ms // HOUR_MS:
            self._close_hours(now_ms)
        return verdicts

    def look(self, now_ms: int) -> list[Verdict]:
        """At every sum that patients came to since it was looked at: the end of a recording."""
        return self._found(now_ms, lambda dimension: self._engine.all_sums(dimension, now_ms))

    def _found(self, now_ms: int, sums: Callable[[str], Iterable[int]]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for dimension in PEOPLE:
            for number in sums(dimension):
                store = self._engine.dimensions[dimension]
                tenant, _, value = store.key(number).partition("/")
                judge, totals = self._judge_of(tenant), store.totals_of(number)
                if not judge.crosses(dimension, totals):
                    continue
                people = store.contributors(number, self._engine.store)
                whole = sum(count for _, count in people) or 1
                shares = [(account.partition("/")[2], count / whole) for account, count in people]
                for verdict in judge.cross(dimension, value, totals, shares, now_ms, self._standing):
                    self._standing[verdict.key] = verdict
                    verdicts.append(verdict)
        return verdicts

    def _close_hours(self, now_ms: int) -> None:
        """Each tenant's own sum against its own past, hour by hour while its last day holds anything."""
        began, self._hour = self._hour, now_ms // HOUR_MS
        store = self._engine.dimensions["tenant"]
        for number in store.numbers() if began else ():
            tenant = store.key(number).partition("/")[0]
            for hour in range(began, min(self._hour, began + DAY_HOURS + 1)):
                totals = store.totals_of(number, (hour + 1) * HOUR_MS - 1)
                if totals[HOUR].queries or totals[DAY].queries:
                    profile, _ = self._judge_of(tenant).hour(
                        f"{TENANT}{tenant}", store.profile(number), hour, totals, now_ms, None
                    )
                    store.set_profile(number, profile)
