"""Is the guard itself well? From the processes' own figures. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

EVENTS_WAIT_S = 10


@dataclass(frozen=True, slots=True)
class Health:
    """`problems`: (key of the sentence in text.py, its fields)."""

    problems: tuple[tuple[str, dict[str, object]], ...]
    queries: int
    sessions: int


def _sum(snapshots: Iterable[Any], name: str) -> int:
    return int(sum(value for snapshot in snapshots for found, _, value in snapshot.values if found == name))


def judge(snapshots: Mapping[str, Any], *, reading: bool, detectors: int | None) -> Health:
    """`snapshots`: by process of this host, None for one that does not answer; `reading`: Kafka answers the console; `detectors`: how
    many of them speak, on any host, None when that is not known yet."""
    problems: list[tuple[str, dict[str, object]]] = []
    if not reading:
        problems.append(("not_reading", {}))
    elif detectors == 0:
        problems.append(("no_detector", {}))
    problems += [("process_down", {"name": name}) for name, snapshot in snapshots.items() if snapshot is None]
    there = [snapshot for snapshot in snapshots.values() if snapshot is not None]
    if (waiting := _sum(there, "spool_oldest_seconds")) >= EVENTS_WAIT_S:
        problems.append(("events_wait", {"seconds": waiting}))
    if lost := _sum(there, "spool_lost_events_total") + _sum(there, "spool_damaged_records_total"):
        problems.append(("events_lost", {"count": lost}))
    if missing := _sum(there, "frames_gap_total"):
        problems.append(("frames_missing", {"count": missing}))
    return Health(tuple(problems), _sum(there, "queries_total"), _sum(there, "sessions"))
