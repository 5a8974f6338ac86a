"""The wall clock, as events and verdicts tell time. Only shells read it; the pure parts are given the time."""

from __future__ import annotations

import time

__all__ = ["elapsed_s", "now_ms"]

try:
    from ._clock import elapsed_s, now_ms
except ImportError:  # no C compiler at installation

    def now_ms() -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def elapsed_s() -> float:
        """Seconds of a clock that only goes forward, for durations."""
        return time.perf_counter()
