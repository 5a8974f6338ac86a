"""What an account's past looks like, in at most `MAX_BYTES`: opaque bytes to everybody but this file.

    head | days of work, newest last: distinct patients u16, weekday u8 | zlib( hours[week % 6][hour of week], one byte each )

A ring of six weeks by 168 hours holds the distinct patients of each hour on a logarithmic scale (a sixteenth of an octave: 4 %);
so median and deviation of an hour of the week are exact order statistics of what was seen, not an approximation of them.
Weeks begin on Monday, UTC. A byte of version leads; an unknown version or damage gives an empty profile: a cold start, no error.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

WEEKS = 6
HOURS_OF_WEEK = 168
CELLS = WEEKS * HOURS_OF_WEEK
DAYS = 42
"""Days of work that are kept."""
VERSION = 1
MAX_BYTES = 1_400

MIN_LIKE = 3
ALIKE = 1.5
"""Weekdays whose medians differ by less than this factor are one kind of day."""
WINDOW_BITS = 10
"""zlib's window: the cells fit, and a smaller one is set up in a third of the time."""
_DAY = struct.Struct("<HB")
_SINGLE = struct.Struct("<ff")
_HEAD = struct.Struct("<BBIIIHffIQ")
# version, days, first hour, last hour, day, day's patients, drift, persistence, drift's first hour, last pardon (ms)
_MONDAY = 96  # hour 0 of the epoch was a Thursday: 1970-01-05 00:00 was a Monday


def quantised(count: int) -> int:
    """0 stays 0; else 1 + 16 log2(count), up to 255 (more than 60,000)."""
    return 0 if count <= 0 else min(255, 1 + round(16 * math.log2(count)))


_BACK = (0.0, *(2.0 ** ((q - 1) / 16) for q in range(1, 256)))


def cell_of(hour: int) -> int:
    """Place of an hour (ms // 3,600,000) in the ring."""
    return (hour - _MONDAY) % CELLS


@dataclass(slots=True)
class Profile:
    """One account's past. Hours count from the Unix epoch."""

    first_hour: int = 0
    last_hour: int = 0
    """The newest hour that was closed."""
    day: int = 0
    """The day (UTC, since the epoch) that is not over yet, and the distinct patients of 24 h at its last hour with work."""
    day_patients: int = 0
    drift: float = 0.0
    """The sequential test's sum: patients beyond the habit, as of the last day that is over."""
    persistence: float = 0.0
    """The second test's: for how many days it has gone on."""
    drift_hour: int = 0
    """When the sum last left zero; 0 while it is zero."""
    pardon_ms: int = 0
    """The newest operator's decision that reset the sum."""
    days: list[tuple[int, int]] = field(default_factory=list)
    """(distinct patients, weekday from Monday = 0) of days of work."""
    cells: bytearray = field(default_factory=lambda: bytearray(CELLS))
    usual: tuple[int, Any] | None = field(default=None, compare=False)
    """habit.py's memory of what days like this one are, and of which: until `days` change."""
    _packed: bytes | None = field(default=None, compare=False, repr=False)
    """`days` as they are dumped, until they change."""

    @classmethod
    def load(cls, data: bytes | None) -> Profile:
        """An empty profile for None, another version or damaged bytes."""
        if not data or len(data) < _HEAD.size or data[0] != VERSION:
            return cls()
        _, count, first, last, day, patients, drift, persistence, drift_hour, pardon = _HEAD.unpack_from(data)
        end = _HEAD.size + _DAY.size * count
        try:
            cells = bytearray(zlib.decompressobj().decompress(data[end:], CELLS))
            days = [(n, weekday) for n, weekday in _DAY.iter_unpack(data[_HEAD.size : end])]
        except (zlib.error, struct.error):
            return cls()
        if len(cells) != CELLS or count > DAYS:
            return cls()
        return cls(first, last, day, patients, drift, persistence, drift_hour, pardon, days, cells)

    def dump(self) -> bytes:
        """At most MAX_BYTES; about 250 for an account of office hours. What is read again goes on just as this one does: the
        figures are rounded here as they are kept."""
        self.day_patients = min(self.day_patients, 0xFFFF)
        self.drift, self.persistence = _SINGLE.unpack(_SINGLE.pack(self.drift, self.persistence))
        head = _HEAD.pack(
            VERSION, len(self.days), self.first_hour, self.last_hour, self.day, self.day_patients,
            self.drift, self.persistence, self.drift_hour, self.pardon_ms,
        )  # fmt: skip
        if self._packed is None:
            self._packed = b"".join(_DAY.pack(*day) for day in self.days)
        return head + self._packed + zlib.compress(self.cells, 1, WINDOW_BITS)

    def remember_day(self, patients: int) -> None:
        """The day of work `day` is over."""
        self.days.append((min(max(0, patients), 0xFFFF), (self.day + 3) % 7))  # day 0 of the epoch was a Thursday
        del self.days[:-DAYS]
        self.usual = self._packed = None

    def advance(self, hour: int) -> None:
        """Hours between the last closed one and this one saw no work. The first call sets the beginning."""
        if not self.first_hour:
            self.first_hour = self.last_hour = hour
            return
        skipped = min(hour - self.last_hour - 1, CELLS)
        if skipped > 0:
            end = cell_of(hour)  # behind the last of them
            before = max(0, skipped - end)
            self.cells[end - skipped + before : end] = bytes(skipped - before)
            if before:
                self.cells[CELLS - before :] = bytes(before)
        self.last_hour = hour

    def days_like(self, day: int) -> list[int]:
        """Distinct patients of the days of work to compare `day` with: of its weekday, and of the weekdays that are alike, for not
        every account's weekend is on Saturday. Of all days where the weekday is not known yet."""
        by: dict[int, list[int]] = {}
        for patients, weekday in self.days:
            by.setdefault(weekday, []).append(patients)
        own = by.get((day + 3) % 7, [])
        if len(own) < MIN_LIKE:
            return [patients for patients, _ in self.days]
        middle = sorted(own)[len(own) // 2]
        out = []
        for values in by.values():
            other = sorted(values)[len(values) // 2]
            if values is own or middle <= ALIKE * other <= ALIKE * ALIKE * middle:
                out += values
        return out

    def share_of_today(self, hour: int) -> float:
        """How much of the last 24 hours' work was done on the day that this hour belongs to."""
        count = min(24, hour - self.first_hour + 1)
        end = cell_of(hour) + 1
        last = self.cells[end - count : end] if count <= end else self.cells[end - count :] + self.cells[:end]
        last.reverse()  # the newest first
        total = sum(map(_BACK.__getitem__, last))
        return sum(map(_BACK.__getitem__, last[: hour % 24 + 1])) / total if total else 1.0

    def hours_like(self, hour: int) -> list[float]:
        """Distinct patients in this hour of the week and its two neighbours, in the weeks before this one, as far as the
        profile reaches back."""
        out: list[float] = []
        if not self.first_hour:
            return out
        for back in range(1, WEEKS):
            for near in (-1, 0, 1):
                at = hour - back * HOURS_OF_WEEK + near
                if at >= self.first_hour:
                    out.append(_BACK[self.cells[cell_of(at)]])
        return out


class Profiles:
    """The profiles that were dumped last, by their bytes: an account's next hour need not read them again. Bounded; several judges
    may share one."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, Profile] = OrderedDict()

    def load(self, data: bytes | None) -> Profile:
        """As Profile.load. The caller owns it until it is dumped here."""
        found = self._kept.pop(data, None) if data else None
        return Profile.load(data) if found is None else found

    def dump(self, profile: Profile) -> bytes:
        """As Profile.dump."""
        data = profile.dump()
        self._kept[data] = profile
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return data
