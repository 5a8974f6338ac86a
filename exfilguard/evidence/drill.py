"""A drill's result: steps against their objectives, as a report for the auditor's file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .document import Cell, Document, Section, Table
from .words import Words


@dataclass(frozen=True, slots=True)
class Step:
    """`key` names the words `drill_<key>`. Without an objective in time, `good` alone counts."""

    key: str
    good: bool
    measured_ms: int = -1
    """-1: nothing was measured."""
    objective_ms: int = 0
    detail: str = ""


@dataclass(slots=True)
class DrillResult:
    """See the module. `aborted`: why it stopped early; empty when it ran to its end."""

    tenant: str
    account: str
    listener: str
    source: str
    started_ms: int
    ended_ms: int = 0
    canaries: int = 0
    max_rows: int = 0
    max_seconds: int = 0
    delivered: int = 0
    limit: int = 0
    level: str = ""
    """What the policy does at that limit: `cut` or `lock`."""
    reason: str = ""
    aborted: str = ""
    steps: list[Step] = field(default_factory=list)
    times: dict[str, int] = field(default_factory=dict)
    """Name -> milliseconds since the Unix epoch."""

    @property
    def passed(self) -> bool:
        return not self.aborted and bool(self.steps) and all(step.good for step in self.steps)

    def step(self, key: str, at_ms: int, since_ms: int, objective_ms: int, detail: str = "") -> None:
        """A step that must happen within its objective after `since_ms`; `at_ms` 0: it did not happen."""
        took = max(0, at_ms - since_ms) if at_ms and since_ms else -1
        self.steps.append(Step(key, 0 <= took <= objective_ms, took, objective_ms, detail))

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def document(found: DrillResult, words: Words, establishment: str, made_ms: int, version: str) -> Document:
    """The report."""
    if found.aborted:
        headline = Cell(words("drill_aborted", reason=found.aborted), "bad")
    elif found.passed:
        headline = Cell(words("drill_pass"), "good")
    else:
        headline = Cell(words("drill_fail", n=sum(not s.good for s in found.steps)), "bad")
    rows = []
    for step in found.steps:
        measured = words.duration(step.measured_ms) if step.measured_ms >= 0 else "–"
        if step.measured_ms < 0 and step.objective_ms:
            measured = words("not_reached")
        rows.append(
            [
                Cell(words(f"drill_{step.key}")),
                Cell(f"≤ {words.duration(step.objective_ms)}" if step.objective_ms else "–"),
                Cell(measured),
                Cell(words("passed") if step.good else words("failed_word"), "good" if step.good else "bad"),
                Cell(step.detail),
            ]
        )
    facts = [
        (words("account"), Cell(found.account, code=True)),
        (words("source"), Cell(f"{found.listener} ({found.source})")),
        (words("first"), Cell(words.time(found.started_ms, precise=True))),
        (words("last"), Cell(words.time(found.ended_ms, precise=True))),
        (words("drill_delivered"), Cell(words.number(found.delivered))),
        (words("reason"), Cell(found.reason or "–")),
    ]
    table = Table(
        [words(h) for h in ("step", "objective", "measured", "result", "detail")], rows, widths=[36, 13, 13, 12, 26]
    )
    safety = [
        Cell(words("drill_safety_data", n=words.number(found.canaries))),
        Cell(words("drill_safety_limits", rows=words.number(found.max_rows), seconds=found.max_seconds)),
    ]
    return Document(
        language=words.language,
        title=words("drill_title"),
        subtitle=f"{establishment or found.tenant} · {words.day(found.started_ms)}",
        headline=headline,
        figures=[],
        sections=[
            Section(words("summary"), facts=facts),
            Section(words("drill_steps"), tables=[table] if rows else []),
            Section(words("drill_safety"), safety),
        ],
        footer=words("made", time=words.time(made_ms), version=version),
    )
