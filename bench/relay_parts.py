"""What a run of `make bench-relay` has measured so far: kept on disk after each part, so that one that was stopped goes on there.

A part holds everything that is compared with each other, so that ratios stay within one run of the servers.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .report import RESULTS, Report

OURS = ("sidecar", "enforcing")
"""The ways that publish what they see."""
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


def tell_queries(samples: list[Sample], report: Report, ways: Sequence[str], peer: str, barred: Sequence[str]) -> None:
    """Many small queries: medians over the rounds for each protocol, number of clients and way; the sidecar's bars are medians of
    the ratios to `peer` within a round, for the protocols `barred`."""
    found: dict[tuple[str, int, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        figures = {name: value for name, value in sample.items() if name not in ("protocol", "clients", "way")}
        found[sample["protocol"], sample["clients"], sample["way"]].append(figures)
    table: list[Sample] = []
    for (protocol, clients, way), runs in found.items():
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        table.append({"protocol": protocol, "clients": clients, "way": way, **medians, "rounds": runs})
        print(f"  {protocol:8} {clients:2} {way:9}", *(f"{k} {v:9.1f}" for k, v in medians.items()), file=sys.stderr)
    report.facts["queries"] = sorted(table, key=lambda row: (row["protocol"], row["clients"], ways.index(row["way"])))
    for protocol, clients in dict.fromkeys((protocol, clients) for protocol, clients, _ in found):
        ours, theirs = found.get((protocol, clients, "sidecar")), found.get((protocol, clients, peer))
        if ours and theirs and protocol in barred:
            for name in ("p50_us", "p99_us", "cpu_us"):
                ratios = [a[name] / b[name] for a, b in zip(ours, theirs, strict=True)]
                report.bar(f"{protocol}_{clients}_{name}_vs_{peer}", round(statistics.median(ratios), 2), 1.0)
