"""What every detector says of the accounts nearest to a limit, on whatever host it runs: the topic `standings`, newest word of each.

    {"v":1,"worker":"1@ward","accounts":[["clinic/dr.martin",[[rows,patients,bytes,queries], one a window ..]], ..]}

A word is good for `FRESH_S` from its arrival here, so no two clocks are compared: a detector that has gone is not believed any longer.
"""

from __future__ import annotations

import threading
from typing import Any

import orjson

FRESH_S = 15.0
"""A detector speaks every 5 seconds at least."""
MAX_WORKERS = 1_000

Totals = list[list[int]]


class Standings:
    """Filled by the feed's thread, read by the pages. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[str, tuple[float, dict[str, Totals]]] = {}
        """worker -> (when it arrived, its accounts), oldest first"""

    def learn(self, value: bytes, now_s: float) -> bool:
        """False when it cannot be read."""
        try:
            found = orjson.loads(value)
            if found["v"] != 1:
                return False
            worker = str(found["worker"])
            accounts = {str(account): _totals(windows) for account, windows in found["accounts"]}
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return False
        with self._lock:
            self._said.pop(worker, None)
            self._said[worker] = (now_s, accounts)
            if len(self._said) > MAX_WORKERS:
                del self._said[next(iter(self._said))]
        return True

    def accounts(self, now_s: float) -> dict[str, Totals]:
        """account -> totals of each window. Of two detectors that name the same one, the newer word: it has just moved."""
        with self._lock:
            return {
                account: totals
                for arrived_s, accounts in self._said.values()
                if now_s - arrived_s <= FRESH_S
                for account, totals in accounts.items()
            }

    def detectors(self, now_s: float) -> int:
        """How many speak."""
        with self._lock:
            return sum(now_s - arrived_s <= FRESH_S for arrived_s, _ in self._said.values())


def _totals(windows: Any) -> Totals:
    """Raises TypeError, ValueError."""
    totals = [[int(number) for number in window] for window in windows]
    if any(len(window) != 4 for window in totals):
        raise ValueError("a window has four totals")
    return totals
