"""What every peer shares: the windows, the limit, and how it says how far it is."""

from __future__ import annotations

import os
import time

WINDOWS_MS = (10_000, 60_000, 300_000, 3_600_000, 86_400_000)
STEPS = 8
LIMIT = 1_000_000_000
BOOTSTRAP = os.environ.get("BENCH_BOOTSTRAP", "127.0.0.1:9092")
TOPIC = os.environ.get("BENCH_TOPIC", "bench")


class Progress:
    """Prints `EVENTS SECONDS` at most five times a second."""

    def __init__(self) -> None:
        self.events = 0
        self._said = 0.0

    def add(self, events: int) -> None:
        self.events += events
        now = time.monotonic()
        if now - self._said > 0.2:
            self._said = now
            print(self.events, f"{now:.4f}", flush=True)
