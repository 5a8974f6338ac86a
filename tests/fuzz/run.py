"""Mutated inputs, as many as asked for: each is made from its number alone, so a run can be resumed and an input replayed.

    python -m tests.fuzz.run [--target all|postgres|mysql|quick|mysql-quick|edges] [--inputs 5000000] [--seconds S] [--states DIR] [--replay N]

A run goes on where the one before it ended; docs/benchmarks/fuzz.md tells of all of them. Exit status 1 when an input crashed, broke an invariant, hung, or memory grew.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.fuzz import page
from tests.fuzz.child import Mark, outlived
from tests.fuzz.edges import Edges
from tests.fuzz.mysql import Mysql
from tests.fuzz.mysql_quick import MysqlQuick
from tests.fuzz.postgres import Postgres
from tests.fuzz.quick import Quick
from tests.fuzz.target import Hang, Target
from tests.integration.stack import rss_kib

TARGETS = {"postgres": Postgres, "mysql": Mysql, "quick": Quick, "mysql-quick": MysqlQuick, "edges": Edges}
SEED = "exfilguard"
BATCH = 2_000
BATCH_CPU_S = 30.0
"""Processor time for one batch, far beyond what it needs."""
WARM_UP = 50_000
GROWTH_KIB = 32_000


def rng_of(number: int) -> random.Random:
    return random.Random(f"{SEED} {number}")


def _hung(*_: Any) -> None:
    raise Hang


class Campaign:
    """Numbers, and what was found."""

    def __init__(self, target: Target, state: Path | None) -> None:
        import os

        self.target = target
        self.state = state
        self.next = 0
        self.seconds = 0.0
        self.failures: list[dict[str, Any]] = []
        self.mended: list[dict[str, Any]] = []
        """Failures of earlier runs that are none any more."""
        self.growth_kib = 0
        self.peak_kib = 0
        self._warm_kib = 0
        self._pid = os.getpid()
        self._mark = Mark(state.with_suffix(".at")) if state is not None else None
        self._fatal: set[int] = set()
        """Inputs that end the process: not tried again but in one of their own."""
        if state is not None and state.is_file():
            saved = json.loads(state.read_text(encoding="utf-8"))
            self.next, self.seconds, self.failures = saved["next"], saved["seconds"], saved["failures"]
            self.growth_kib, self.peak_kib = saved.get("growth_kib", 0), saved.get("peak_kib", 0)
            self.mended = saved.get("mended", [])
            self._recheck()
        self._look_back()

    def _recheck(self) -> None:
        failures, self.failures = self.failures, []
        for failure in failures:
            found = outlived(self.try_one, failure["number"])
            (self.failures if found else self.mended).append(failure)
        self._fatal = {failure["number"] for failure in self.failures if failure.get("fatal")}

    def _look_back(self) -> None:
        """An earlier run that did not come to its end: was it stopped, or did its last input end it?"""
        last = self._mark.get() if self._mark is not None else Mark.NONE
        if last == Mark.NONE or last in self._fatal:
            return
        if ended := outlived(self.try_one, last):
            self.failures.append({"number": last, "error": ended, "at": "the process ended", "fatal": True})
            self._fatal.add(last)
        if self._mark is not None:
            self._mark.set(Mark.NONE)
        self.save()

    def try_one(self, number: int) -> None:
        self.target.run(self.target.make(rng_of(number)))

    def batch(self, count: int) -> None:
        """The next `count` inputs."""
        signal.signal(signal.SIGVTALRM, _hung)
        signal.setitimer(signal.ITIMER_VIRTUAL, BATCH_CPU_S)
        end = self.next + count
        while self.next < end:
            number = self.next
            self.next += 1
            if number in self._fatal:
                continue
            if self._mark is not None:
                self._mark.set(number)
            try:
                self.try_one(number)
            except (Exception, RecursionError) as error:
                self.failures.append(
                    {"number": number, "error": type(error).__name__, "at": traceback.format_exc(limit=-3)}
                )
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    def run(self, inputs: int, seconds: float) -> None:
        began = time.monotonic()
        first = self.next
        before = self.seconds
        while self.next < inputs and time.monotonic() - began < seconds and len(self.failures) < 50:
            self.batch(min(BATCH, inputs - self.next))
            self.seconds = before + time.monotonic() - began
            if not self._warm_kib and self.next - first >= WARM_UP:
                self._warm_kib = rss_kib(self._pid)
            if self._warm_kib:
                self.growth_kib = max(self.growth_kib, rss_kib(self._pid) - self._warm_kib)
            if self.next // BATCH % 50 == 0:
                self.save()
                print(self, flush=True)
        if self._mark is not None:
            self._mark.set(Mark.NONE)
        self.save()

    def save(self) -> None:
        self.peak_kib = max(self.peak_kib, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        if self.state is not None:
            self.state.parent.mkdir(parents=True, exist_ok=True)
            found = {
                "next": self.next, "seconds": round(self.seconds, 1), "failures": self.failures,
                "mended": self.mended, "growth_kib": self.growth_kib, "peak_kib": self.peak_kib,
            }  # fmt: skip
            self.state.write_text(json.dumps(found, indent=1), encoding="utf-8")

    @property
    def failed(self) -> bool:
        return bool(self.failures) or self.growth_kib > GROWTH_KIB

    def __str__(self) -> str:
        rate = self.next / self.seconds if self.seconds else 0
        return (
            f"{self.target.name}: {self.next:,} inputs in {self.seconds:,.0f} s ({rate:,.0f}/s), {len(self.failures)} failures, "
            f"memory grew by {self.growth_kib:,} KiB since the first {WARM_UP:,} of this run"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=(*TARGETS, "all"), default="all")
    parser.add_argument("--inputs", type=int, default=5_000_000, help="for each target, with those of earlier runs")
    parser.add_argument("--seconds", type=float, default=1e9, help="of this run, for all targets together")
    parser.add_argument("--states", type=Path, default=page.STATES, help="where a run is resumed from")
    parser.add_argument("--replay", type=int, help="one input of a target again, by its number")
    args = parser.parse_args()
    names = list(TARGETS) if args.target == "all" else [args.target]
    if args.replay is not None:
        target = TARGETS[names[0]]()
        given = target.make(rng_of(args.replay))
        print(given)
        target.run(given)
        return 0
    began, failed = time.monotonic(), False
    for at, name in enumerate(names):
        campaign = Campaign(TARGETS[name](), args.states / f"{name}.json")
        campaign.run(args.inputs, (args.seconds - (time.monotonic() - began)) / (len(names) - at))
        print(campaign)
        for failure in campaign.failures[:5]:
            print(failure["number"], failure["at"], file=sys.stderr)
        failed = failed or campaign.failed
    page.write(args.states)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
