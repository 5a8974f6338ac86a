"""One line a bar, the same as JSON under bench/results/, exit 1 where one is short."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_HEAD = ("bench", "when", "python", "cores")
QUICK = os.environ.get("QUICK", "") not in ("", "0")


def percentile(values: list[float], share: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Report:
    """Collects bars and facts of one bench."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bars: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        self._measured: set[str] = set()
        """Bars of this run."""

    def resume(self) -> None:
        """Begin with what an earlier run of the same size found, for benches that are run in parts."""
        try:
            found = json.loads((RESULTS / f"{self.name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if found.pop("quick", None) == QUICK:
            self.bars = found.pop("bars", [])
            self.facts = {name: value for name, value in found.items() if name not in _HEAD}

    def value(self, name: str) -> float | None:
        """Of a bar; None when it was not measured."""
        return next((float(bar["value"]) for bar in self.bars if bar["name"] == name), None)

    def bar(self, name: str, value: float, limit: float, *, at_most: bool = True) -> None:
        """`at_most`: the value must not be above the limit; else not below."""
        ok = value <= limit if at_most else value >= limit
        self.bars = [bar for bar in self.bars if bar["name"] != name]
        self.bars.append({"name": name, "value": value, "bar": limit, "ok": ok})
        self._measured.add(name)
        print(f"{name} {value:g} {'<=' if at_most else '>='}{limit:g} {'ok' if ok else 'short'}", flush=True)

    def finish(self) -> int:
        """Writes the JSON; the exit status."""
        self.save()
        return 0 if all(bar["ok"] for bar in self.bars if bar["name"] in self._measured) else 1

    def save(self) -> None:
        """What was found so far, for a bench that may be stopped in between."""
        RESULTS.mkdir(exist_ok=True)
        out = {
            "bench": self.name,
            "quick": QUICK,
            "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "bars": self.bars,
            **self.facts,
        }
        (RESULTS / f"{self.name}.json").write_text(json.dumps(out, indent=2) + "\n", encoding="utf-8")
