"""Sums over accounts, across partitions and workers. Pure: records in and out.

An account lies in one partition; what many accounts took from one source, with one query shape, or in the whole tenant lies in all
of them. Each engine publishes its part of the large sums to the compacted topic `sums`, key `partition/dimension/tenant/value`:
absolute totals as of a moment, and for the distinct patients a HyperLogLog sketch, so that the parts add up without counting
anybody twice. A part that is published again replaces itself: nothing can be lost or doubled on the way. Every worker follows the
topic, adds up, and speaks of the accounts that it owns.

    {"v":1,"partition":3,"dimension":"source","tenant":..,"value":..,"at_ms":..,
     "windows":{"3600000":[rows,patients,bytes,queries,sketch], ..},"contributors":[[account,patients], ..]}

`sketch`: the registers of a HyperLogLog with p = 12, one byte each, deflated (zlib) and in base64. Error: 1.6 % standard, on the
patients of all accounts together. Totals of a part that has not moved since are those of `at_ms`; a window that ended since is 0.
"""

from __future__ import annotations

import base64
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from ..detect.judge import TENANT, Judge
from ..detect.policy import DAY, HOUR, WINDOWS_MS
from ..errors import CodecError
from ..events.verdict import Verdict
from ..windows import Totals, estimate
from .engine import DIMENSION_PRECISION, DIMENSIONS, Engine

VERSION = 1
LOOKED = 200
"""Sums looked at by one engine in one call."""
PARTS = 5
"""Published in one call: those that grew most first."""
SHARE_OF_LEAST = 32
"""A part is published from this share of the smallest limit on: parts of a sum that crosses may be small."""
GROWN = 64
""".. and again when it grew by this part, or after REPEAT_MS."""
REPEAT_MS = 60_000
MAX_SUMS = 20_000
_PEOPLE = ("source", "shape")


class Publisher:
    """What one engine has published of its sums."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self._at = 0
        self._said: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()
        """(dimension, key) -> (patients, when)"""

    def records(
        self, engine: Engine, judge_of: Callable[[str], Judge], now_ms: int
    ) -> list[tuple[bytes, bytes | None]]:
        """The parts that are due, bounded; deletions of those that are no more. Call it every second or so."""
        floors: dict[tuple[str, str], int] = {}

        def floor(dimension: str, tenant: str) -> int:
            if (dimension, tenant) not in floors:
                least = judge_of(tenant).cross_from(dimension) if dimension in _PEOPLE else SHARE_OF_LEAST
                floors[dimension, tenant] = max(1, least // SHARE_OF_LEAST) if least else 1 << 60
            return floors[dimension, tenant]

        tenants = [key.partition("/")[0] for key in engine.dimensions["tenant"]]
        candidates = [
            (dimension, number)
            for dimension in DIMENSIONS
            for number in engine.dimensions[dimension].beyond(min((floor(dimension, t) for t in tenants), default=1))
        ]
        # A part of them in each call: frames wait meanwhile.
        start = self._at if self._at < len(candidates) else 0
        self._at = start + LOOKED
        due: list[tuple[int, str, str, int]] = []
        for dimension, number in candidates[start : start + LOOKED]:
            store = engine.dimensions[dimension]
            key, patients = store.key(number), store.patients(number)
            before, when = self._said.get((dimension, key), (0, 0))
            if patients < floor(dimension, key.partition("/")[0]):
                continue
            if not when or abs(patients - before) * GROWN > before or now_ms - when > REPEAT_MS:
                due.append((patients - before, dimension, key, number))
        due.sort(reverse=True)
        out: list[tuple[bytes, bytes | None]] = []
        for _, dimension, key, number in due[:PARTS]:
            store = engine.dimensions[dimension]
            totals = store.totals_of(number, now_ms)
            if not any(total.patients for total in totals):
                continue  # out of every window
            self._said[dimension, key] = (store.patients(number), now_ms)
            self._said.move_to_end((dimension, key))
            out.append((self._key(dimension, key), self._part(engine, dimension, key, number, totals, now_ms)))
        for dimension, key in list(islice(self._said, PARTS)):  # those that were said longest ago
            if engine.dimensions[dimension].totals(key, now_ms)[-1].patients == 0:
                del self._said[dimension, key]
                out.append((self._key(dimension, key), None))
        return out

    def _key(self, dimension: str, key: str) -> bytes:
        return f"{self.partition}/{dimension}/{key}".encode()

    def _part(self, engine: Engine, dimension: str, key: str, number: int, totals: list[Totals], now_ms: int) -> bytes:
        store = engine.dimensions[dimension]
        tenant, _, value = key.partition("/")
        windows = {}
        for n, (width, total) in enumerate(zip(store.windows_ms, totals, strict=True)):
            if not any(total):
                continue
            registers = store.registers(number, n, now_ms, DIMENSION_PRECISION) if total.patients else b""
            sketch = base64.b64encode(zlib.compress(registers, 1)).decode() if registers else ""
            windows[str(width)] = [*total, sketch]
        people = store.contributors(number, engine.store) if dimension in _PEOPLE else []
        return orjson.dumps(
            {
                "v": VERSION, "partition": self.partition, "dimension": dimension, "tenant": tenant, "value": value,
                "at_ms": now_ms, "windows": windows,
                "contributors": [[account.partition("/")[2], count] for account, count in people],
            }
        )  # fmt: skip


@dataclass(slots=True)
class _Part:
    at_ms: int
    windows: dict[int, tuple[Totals, bytes]]
    """window ms -> (totals, deflated sketch)"""
    contributors: list[tuple[str, int]]


class Sums:
    """Everybody's parts, added up."""

    def __init__(self) -> None:
        self._parts: OrderedDict[tuple[str, str, str], dict[int, _Part]] = OrderedDict()
        """(dimension, tenant, value) -> partition -> part; the sums that moved last are last"""
        self._moved: set[tuple[str, str, str]] = set()

    def add(self, key: bytes, value: bytes | None) -> None:
        """One record of the topic. Raises CodecError."""
        if value is None:
            number, _, rest = key.decode(errors="replace").partition("/")
            dimension, _, rest = rest.partition("/")
            tenant, _, name = rest.partition("/")
            if number.isdigit():
                self._parts.get((dimension, tenant, name), {}).pop(int(number), None)
            return
        try:
            record: Any = orjson.loads(value)
            if record["v"] != VERSION:
                raise CodecError("sum: of a version that this release does not read")
            at = (str(record["dimension"]), str(record["tenant"]), str(record["value"]))
            part = _Part(
                int(record["at_ms"]),
                {
                    int(width): (Totals(*map(int, total[:4])), base64.b64decode(total[4], validate=True))
                    for width, total in record["windows"].items()
                },
                [(str(account), int(count)) for account, count in record["contributors"]],
            )
            partition = int(record["partition"])
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            raise CodecError("sum: cannot be read") from None
        self._parts.setdefault(at, {})[partition] = part
        self._parts.move_to_end(at)
        self._moved.add(at)
        while len(self._parts) > MAX_SUMS:
            self._moved.discard(self._parts.popitem(last=False)[0])

    def totals(self, dimension: str, tenant: str, value: str, now_ms: int) -> list[Totals]:
        """One per window: the parts added up; distinct patients by their sketches. Raises CodecError when one is damaged."""
        parts = self._parts.get((dimension, tenant, value), {})
        out = []
        for width in WINDOWS_MS:
            live = [p.windows[width] for p in parts.values() if width in p.windows and now_ms - p.at_ms < width]
            if len(live) == 1:
                out.append(live[0][0])
                continue
            sketches = []
            for total, sketch in live:
                if total.patients:
                    try:
                        registers = zlib.decompressobj().decompress(sketch, 1 << DIMENSION_PRECISION)
                    except zlib.error:
                        registers = b""
                    if len(registers) != 1 << DIMENSION_PRECISION:
                        raise CodecError("sum: a sketch is damaged")
                    sketches.append(registers)
            # No sum is smaller than its largest part: below a few thousand those are exact.
            patients = max(estimate(sketches), *(t.patients for t, _ in live)) if sketches else 0
            out.append(
                Totals(
                    sum(t.rows for t, _ in live),
                    patients,
                    sum(t.bytes for t, _ in live),
                    sum(t.queries for t, _ in live),
                )
            )
        return out

    def contributors(self, dimension: str, tenant: str, value: str) -> list[tuple[str, float]]:
        """(principal, its share of the patients), largest first."""
        counts: dict[str, int] = {}
        for part in self._parts.get((dimension, tenant, value), {}).values():
            for account, count in part.contributors:
                counts[account] = counts.get(account, 0) + count
        whole = sum(counts.values()) or 1
        return sorted(((a, n / whole) for a, n in counts.items()), key=lambda item: -item[1])

    def judge(
        self,
        judge_of: Callable[[str], Judge],
        owns: Callable[[str, str], bool],
        standing: Mapping[str, Verdict],
        now_ms: int,
    ) -> list[Verdict]:
        """Verdicts on the accounts that are owned here, behind sums that moved since the last call."""
        moved, self._moved = self._moved, set()
        verdicts: list[Verdict] = []
        for dimension, tenant, value in moved:
            if dimension not in _PEOPLE:
                continue
            try:
                totals = self.totals(dimension, tenant, value, now_ms)
            except CodecError:
                self._parts.pop((dimension, tenant, value), None)
                continue
            people = self.contributors(dimension, tenant, value)
            known = {**standing, **{v.key: v for v in verdicts}} if verdicts else standing
            verdicts += [
                verdict
                for verdict in judge_of(tenant).cross(dimension, value, totals, people, now_ms, known)
                if owns(tenant, verdict.principal)
            ]
        return verdicts

    @property
    def tenants(self) -> list[str]:
        return [tenant for dimension, tenant, _ in self._parts if dimension == "tenant"]

    def close_hour(self, judge_of: Callable[[str], Judge], engines: Iterable[Engine], hour: int, now_ms: int) -> None:
        """An hour (UTC) is over: each tenant's own sum against its own past. The profile is kept with every engine."""
        held = list(engines)
        for tenant in self.tenants:
            key = f"{tenant}/"
            numbers = [
                (e.dimensions["tenant"], e.dimensions["tenant"].number(key))
                for e in held
                if key in e.dimensions["tenant"]
            ]
            profiles = [found for store, number in numbers if (found := store.profile(number))]
            totals = self.totals("tenant", tenant, "", now_ms)
            if not numbers or not (totals[HOUR].queries or totals[DAY].queries):
                continue
            newest = max(profiles, key=len, default=None)
            profile, _ = judge_of(tenant).hour(f"{TENANT}{tenant}", newest, hour, totals, now_ms, None)
            for store, number in numbers:
                store.set_profile(number, profile)
