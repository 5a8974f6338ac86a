"""The pace of a principal under a `throttle` verdict: N records a second over all its sessions, so that neither more sessions
nor new ones are faster. Care goes on, theft does not.

    taken   ████░░░░░░░░████░░░░░░░░      each portion is paid for with the time it may take; who comes while an earlier
    free         ^           ^            portion is not yet paid waits for its end

What has come of a session's result while another's portion is not yet paid for is put back and waits too (ServerSide.put_back):
so many sessions that ask at the same moment have one portion together, not one each.

Virtual scheduling (GCRA, ITU-T I.371 A.1) without a burst allowance. Pure: time is an argument, in milliseconds.
"""

from __future__ import annotations

SET_BACK_MS = 1_000
"""What is less are two readings of one clock."""


class Throttle:
    """One principal. `expires_ms`: 0 for until lifted."""

    __slots__ = ("_free_ms", "_seen_ms", "expires_ms", "rows_per_s")

    def __init__(self, rows_per_s: float, expires_ms: int) -> None:
        self.rows_per_s = max(rows_per_s, 0.001)
        self.expires_ms = expires_ms
        self._free_ms = 0.0
        self._seen_ms = 0

    def expired(self, now_ms: int) -> bool:
        """True when the verdict no longer stands."""
        return self.expires_ms != 0 and now_ms >= self.expires_ms

    def take(self, rows: int, now_ms: int) -> float:
        """Seconds until the next record may pass, after these (0 rows: as it is). Never beyond the verdict's end."""
        if self.expired(now_ms):
            return 0.0
        if now_ms < self._seen_ms - SET_BACK_MS:
            self._free_ms -= self._seen_ms - now_ms  # nobody waits until the clock is where it was
        self._seen_ms = now_ms
        if rows:
            self._free_ms = max(self._free_ms, float(now_ms)) + rows * 1000 / self.rows_per_s
        until = min(self._free_ms, float(self.expires_ms)) if self.expires_ms else self._free_ms
        return max(0.0, until - now_ms) / 1000
