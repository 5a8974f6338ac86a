"""Which frames are in: `(sidecar, epoch, seq)` per partition, each exactly once, however often it is delivered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAX_SOURCES = 10_000
MAX_MISSING = 200
"""Ranges remembered of one source; the oldest is given up beyond that: a frame of it would be taken for a duplicate."""


@dataclass(slots=True)
class _Source:
    next: int = 0
    missing: list[list[int]] = field(default_factory=list)
    """[first, behind the last] of what was skipped and may still come."""


class Sequences:
    """Sources are forgotten in the order in which they were last seen, beyond MAX_SOURCES."""

    def __init__(self, saved: list[Any] | None = None) -> None:
        self._sources: dict[tuple[int, str, str], _Source] = {}
        for partition, sidecar, epoch, following, missing in saved or []:
            self._sources[(partition, sidecar, epoch)] = _Source(following, [list(m) for m in missing])

    def __len__(self) -> int:
        return len(self._sources)

    def saved(self) -> list[Any]:
        """For the manifest; `Sequences(saved)` is the same again."""
        return [[*key, source.next, source.missing] for key, source in self._sources.items()]

    def accept(self, partition: int, sidecar: str, epoch: str, seq: int) -> bool:
        """True the first time. A gap is remembered, so that what comes late is still taken."""
        key = (partition, sidecar, epoch)
        source = self._sources.pop(key, None) or _Source()
        self._sources[key] = source
        if len(self._sources) > MAX_SOURCES:
            del self._sources[next(iter(self._sources))]
        if seq >= source.next:
            if seq > source.next:
                source.missing.append([source.next, seq])
                del source.missing[:-MAX_MISSING]
            source.next = seq + 1
            return True
        for i, (low, high) in enumerate(source.missing):
            if low <= seq < high:
                source.missing[i : i + 1] = [r for r in ([low, seq], [seq + 1, high]) if r[0] < r[1]]
                return True
        return False

    def missing(self) -> int:
        """Frames that were skipped and have not come."""
        return sum(high - low for source in self._sources.values() for low, high in source.missing)
