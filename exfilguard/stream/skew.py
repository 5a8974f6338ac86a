"""How far the sidecars' clocks are from this detector's. Pure: times come as arguments, integer milliseconds.

A record carries the time at which it was sent, by the clock of the sidecar's host. What passes until it is looked at is the way through
Kafka plus the difference of the clocks; the way is never negative and now and then short, so the least of a minute is close to the
difference. Only records that end their partition are told to us: what waits in a backlog says nothing of clocks.

    now - sent:   ... 40 12 15 90 | 11 33 700 ...        11 of this minute, 12 of the one before: 11 ms late at most
"""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_MS = 60_000
KEPT_MS = 5 * MINUTE_MS
"""A sidecar that was silent for so long is forgotten: its clock is not known."""
MAX_SIDECARS = 10_000


@dataclass(slots=True)
class _Seen:
    minute: int
    least_ms: int
    """Of this minute."""
    before_ms: int
    """Of the last minute in which something came."""
    last_ms: int


class Skew:
    """The smallest delay of each sidecar, of this minute and the one before."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def note(self, sidecar: str, sent_ms: int, now_ms: int) -> None:
        """A record of `sidecar` says that it was sent at `sent_ms`, and is looked at now."""
        delay, minute = now_ms - sent_ms, now_ms // MINUTE_MS
        seen = self._seen.get(sidecar)
        if seen is None:
            if len(self._seen) < MAX_SIDECARS:
                self._seen[sidecar] = _Seen(minute, delay, delay, now_ms)
            return
        if minute != seen.minute:
            seen.minute, seen.before_ms, seen.least_ms = minute, seen.least_ms, delay
        elif delay < seen.least_ms:
            seen.least_ms = delay
        seen.last_ms = now_ms

    def largest(self, count: int, now_ms: int) -> list[tuple[str, float]]:
        """(sidecar, seconds that its clock is ahead of ours, negative when behind), those that differ most first."""
        self._seen = {name: s for name, s in self._seen.items() if abs(now_ms - s.last_ms) <= KEPT_MS}
        found = [(name, -min(s.least_ms, s.before_ms) / 1000) for name, s in self._seen.items()]
        return sorted(found, key=lambda item: -abs(item[1]))[:count]
