"""What a run of `make bench-relay` has measured so far: kept on disk after each part, so that one that was stopped goes on there.

A part holds everything that is compared with each other, so that ratios stay within one run of the servers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .report import RESULTS

STOPPED = 75
"""Exit status: the time given was over, run again (EX_TEMPFAIL)."""

Sample = dict[str, Any]


class Parts:
    """`key`: what the run was asked for; samples of another kind of run are not gone on with. `seconds`: time given; 0: all it takes."""

    def __init__(self, path: Path, key: list[Any], seconds: float) -> None:
        self.path = path
        self.key = key
        self.samples: dict[str, list[Sample]] = {}
        """Part -> what it measured."""
        self.stopped = False
        self._until = time.monotonic() + seconds if seconds else float("inf")
        self._longest_s = 0.0
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["key"] == key:
                self.samples = found["samples"]

    def run(self, name: str, measure: Callable[[], list[Sample]]) -> None:
        """Measure a part, unless that was done or its time would not be enough."""
        if name in self.samples or self.stopped:
            return
        began = time.monotonic()
        if began + self._longest_s > self._until:
            self.stopped = True
            return
        self.samples[name] = measure()
        self._longest_s = max(self._longest_s, time.monotonic() - began)
        RESULTS.mkdir(exist_ok=True)
        self.path.write_text(json.dumps({"key": self.key, "samples": self.samples}), encoding="utf-8")

    def of(self, prefix: str) -> list[Sample]:
        """The samples of all parts whose names begin so."""
        return [sample for name, found in self.samples.items() if name.startswith(prefix) for sample in found]

    def finished(self) -> None:
        """The page and the results are written: the next run begins anew."""
        self.path.unlink(missing_ok=True)
