"""Sums over accounts where one engine holds everything: a replay. What `sums.py` says across partitions, without records and sketches.

The detector looks every second. Here a look follows what was counted: an account's sum cannot grow without events, and most of a
recording's seconds have none. So a step is said after at most LOOK_EVENTS more events, LOOK_PATIENTS more patients or LOOK_MS.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping

from ..detect.judge import TENANT, Judge
from ..detect.policy import DAY, HOUR, HOUR_MS
from ..events.verdict import Verdict
from .engine import Engine

LOOK_EVENTS, LOOK_PATIENTS, LOOK_MS = 200, 100, 300_000
LEAST_MS = 1_000
"""Between two looks, as in the detector."""
PEOPLE = ("source", "shape")


class Alone:
    """Looks at one engine's sums, in the recording's time. `standing`: newest verdicts by key, which it adds to."""

    def __init__(
        self, engine: Engine, judge_of: Callable[[str], Judge], standing: MutableMapping[str, Verdict]
    ) -> None:
        self._engine = engine
        self._judge_of = judge_of
        self._standing = standing
        self._looked_ms = self._events = self._patients = self._hour = 0
        self._crowds: dict[tuple[str, int], int] = {}
        """Sums of too many accounts to say anything -> the hour in which that was seen: an application server, a screen of everybody's."""

    def moved(self, now_ms: int) -> list[Verdict]:
        """After each frame: what a look that is due found."""
        if self._hour < now_ms // HOUR_MS:
            self._close_hour(now_ms)
        since = now_ms - self._looked_ms
        if since < LEAST_MS or self._engine.events == self._events:
            return []
        if self._engine.events - self._events < LOOK_EVENTS and since < LOOK_MS:
            patients = self._tenants_patients()
            if patients - self._patients < LOOK_PATIENTS:
                return []
        return self.look(now_ms)

    def look(self, now_ms: int) -> list[Verdict]:
        """At every sum that moved since the last look."""
        since_ms, self._looked_ms = self._looked_ms, now_ms
        self._events, self._patients = self._engine.events, self._tenants_patients()
        verdicts: list[Verdict] = []
        for dimension in PEOPLE:
            store = self._engine.dimensions[dimension]
            floors = {tenant: self._judge_of(tenant).cross_from(dimension) for tenant in self._tenants()}
            least = min((floor for floor in floors.values() if floor), default=0)
            for number in store.beyond(least) if least else ():
                key = store.key(number)
                tenant, _, value = key.partition("/")
                if store.newest_ms(key) < since_ms or not floors.get(tenant):
                    continue
                judge = self._judge_of(tenant)
                crowd = (dimension, number)
                if self._crowds.get(crowd) == self._hour:
                    continue
                totals = store.totals_of(number)
                if not judge.crosses(dimension, totals):
                    continue
                people = store.contributors(number, self._engine.store)
                if len(people) > judge.policy.cross[dimension].max_accounts:
                    self._crowds[crowd] = self._hour
                    continue
                whole = sum(count for _, count in people) or 1
                shares = [(account.partition("/")[2], count / whole) for account, count in people]
                for verdict in judge.cross(dimension, value, totals, shares, now_ms, self._standing):
                    self._standing[verdict.key] = verdict
                    verdicts.append(verdict)
        return verdicts

    def _close_hour(self, now_ms: int) -> None:
        """Each tenant's own sum against its own past."""
        hour, self._hour = self._hour, now_ms // HOUR_MS
        store = self._engine.dimensions["tenant"]
        for number in store.numbers() if hour else ():
            totals = store.totals_of(number, (hour + 1) * HOUR_MS - 1)
            if totals[HOUR].queries or totals[DAY].queries:
                tenant = store.key(number).partition("/")[0]
                profile, _ = self._judge_of(tenant).hour(
                    f"{TENANT}{tenant}", store.profile(number), hour, totals, now_ms, None
                )
                store.set_profile(number, profile)

    def _tenants(self) -> list[str]:
        return [key.partition("/")[0] for key in self._engine.dimensions["tenant"]]

    def _tenants_patients(self) -> int:
        store = self._engine.dimensions["tenant"]
        return sum(store.patients(number) for number in store.numbers())
