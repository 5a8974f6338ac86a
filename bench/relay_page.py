"""docs/benchmarks/relay.md, written from a full run's figures."""

from __future__ import annotations

from typing import Any

from .report import Report


def write_page(report: Report) -> None:
    """Nothing yet: the figures are in bench/results/relay.json."""
    facts: dict[str, Any] = report.facts
    assert facts
