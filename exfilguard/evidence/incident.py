"""The incident of one account: what happened when, from where, what was taken, what was decided, done and undone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from ..events.action import Action
from ..events.verdict import Level, Verdict, severity
from .document import Cell, Document, Section, Table
from .export import Decisions, decided
from .exposure import COLUMNS, Exposure, exposure
from .reader import ArchiveReader
from .words import Words

MAX_LINES = 120
"""Of the timeline and of each table in print; the JSON has everything."""
DECIDED_AFTER_MS = 366 * 86_400_000
"""What was decided and undone later belongs to the incident too."""


@dataclass(frozen=True, slots=True)
class SourceUse:
    """One address and application."""

    source: str
    application: str
    sessions: int
    statements: int
    rows: int
    first_ms: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of the timeline. `kind`: `login`, `verdict`, `action` ..; `detail` in plain words."""

    time_ms: int
    kind: str
    detail: str
    level: str = ""


@dataclass(slots=True)
class Incident:
    """See the module."""

    exposure: Exposure
    decisions: Decisions
    sources: list[SourceUse] = field(default_factory=list)
    timeline: list[Moment] = field(default_factory=list)
    state: Level = "none"
    """What stands at the end."""
    cut_ms: int = 0
    """When rows stopped: the last delivery after a cut or lock was decided, or the decision itself."""
    suspended_ms: int = 0

    @property
    def first_verdict(self) -> Verdict | None:
        """The first that cut or locked, else the first at all."""
        hard = [v for v in self.decisions.verdicts if severity(v.level) >= severity("cut")]
        found = hard or [v for v in self.decisions.verdicts if v.level != "none"]
        return found[0] if found else None

    def as_json(self) -> dict[str, Any]:
        return {
            "exposure": self.exposure.as_json(),
            "verdicts": [asdict(v) for v in self.decisions.verdicts],
            "actions": [asdict(a) for a in self.decisions.actions],
            "sources": [asdict(s) for s in self.sources],
            "timeline": [asdict(m) for m in self.timeline],
            "state": self.state,
            "cut_ms": self.cut_ms,
            "suspended_ms": self.suspended_ms,
        }


def incident(
    reader: ArchiveReader, ledger: Path, tenant: str, principal: str, from_ms: int, to_ms: int, now_ms: int
) -> Incident:
    """Raises EvidenceError."""
    taken = exposure(reader, tenant, principal, from_ms, to_ms)
    decisions = decided(ledger, tenant, principal, from_ms, to_ms + DECIDED_AFTER_MS)
    out = Incident(taken, decisions)
    table = reader.account(tenant, principal, from_ms, to_ms, COLUMNS)
    connection = duckdb.connect(":memory:", config={"threads": 2})
    connection.register("e", table)
    rows = connection.execute(
        "SELECT source, application, count(DISTINCT session), count(*) FILTER (kind = 'query'), sum(rows), min(time_ms), "
        "max(time_ms) FROM e GROUP BY 1, 2 ORDER BY sum(rows) DESC, min(time_ms)"
    ).fetchall()
    out.sources = [SourceUse(s, a, int(n), int(q), int(r), int(f), int(t)) for s, a, n, q, r, f, t in rows]
    out.timeline = _timeline(connection, taken, decisions)
    standing = decisions.verdicts[-1] if decisions.verdicts else None
    out.state = standing.level if standing is not None and standing.in_force(now_ms) else "none"
    first = out.first_verdict
    if first is not None and severity(first.level) >= severity("cut"):
        row = connection.execute(
            "SELECT max(time_ms) FROM e WHERE rows > 0 AND time_ms >= ? AND time_ms < ?",
            [first.issued_ms, first.issued_ms + 60_000],
        ).fetchone()
        out.cut_ms = int(row[0]) if row is not None and row[0] is not None else first.issued_ms
    done = [a for a in decisions.actions if a.operation == "lock" and a.outcome in ("done", "already") and a.verified]
    out.suspended_ms = done[0].ended_ms if done else 0
    out.exposure.skipped = dict(reader.skipped)
    return out


def _timeline(connection: duckdb.DuckDBPyConnection, taken: Exposure, decisions: Decisions) -> list[Moment]:
    """Every login would be too many: the same kind from the same address within a minute is one line."""
    rows = connection.execute(
        "SELECT kind, source, application, detail, min(time_ms), count(*) FROM e "
        "WHERE kind NOT IN ('query', 'progress') GROUP BY kind, source, application, detail, time_ms // 60000 ORDER BY 5"
    ).fetchall()
    out = []
    for kind, source, application, detail, time_ms, count in rows:
        words = [source, application, detail, f"× {count}" if count > 1 else ""]
        out.append(Moment(int(time_ms), kind, ", ".join(w for w in words if w)))
    if taken.first_ms:
        out.append(Moment(taken.first_ms, "first_read", ""))
        out.append(Moment(taken.last_ms, "last_read", ""))
    for v in decisions.verdicts:
        if v.level == "none":
            out.append(Moment(v.issued_ms, "lifted", f"{v.issuer}: {v.reason}", "none"))
            continue
        if v.crossed_ms and v.crossed_ms < v.issued_ms:
            out.append(Moment(v.crossed_ms, "crossed", v.reason))
        out.append(Moment(v.issued_ms, "verdict", f"{v.issuer}: {v.reason}", v.level))
    out += [Moment(a.ended_ms, "action", _said(a), f"{a.operation}/{a.hook}/{a.outcome}") for a in decisions.actions]
    out.sort(key=lambda m: m.time_ms)
    return out


def _said(action: Action) -> str:
    return ": ".join(part for part in (action.actor, action.reason or action.detail) if part)


# -- as a document --------------------------------------------------------------------------------------------------


def headline(taken: Exposure, words: Words, key: str) -> Cell:
    if not taken.rows and not taken.hidden_rows:
        return Cell(words("incident_nothing", account=taken.principal), "good")
    estimated = words("estimated_part", n=words.number(taken.estimated)) if taken.estimated else ""
    text = words(
        key,
        account=taken.principal,
        patients=words.number(len(taken.patients)),
        estimated=estimated,
        first=words.time(taken.first_ms),
        last=words.time(taken.last_ms),
    )
    return Cell(text, "bad" if taken.patients or taken.estimated else "")


def figures(taken: Exposure, words: Words) -> list[tuple[str, str]]:
    out = [(words.number(len(taken.patients)), words("identified"))]
    if taken.estimated:
        out.append((words.number(taken.estimated), words("estimated_long")))
    out.append((words.number(taken.rows + taken.hidden_rows), words("rows")))
    out.append((words.number(taken.statements), words("statements")))
    return out


def shapes_table(taken: Exposure, words: Words) -> Table:
    rows = []
    for use in taken.shapes[:MAX_LINES]:
        columns = ", ".join(use.columns) if use.columns else words("columns_unknown")
        rows.append(
            [
                Cell(use.query or words("unknown_text"), code=bool(use.query)),
                Cell(columns, code=bool(use.columns)),
                Cell(words.number(use.statements), number=True),
                Cell(words.number(use.rows + use.hidden_rows), number=True),
                Cell(words.number(use.patients), number=True),
                Cell(words.number(use.estimated), number=True),
            ]
        )
    headers = ["statement", "columns", "statements", "rows", "patients", "estimated"]
    return Table([words(h) for h in headers], rows, more(len(taken.shapes), words), [36, 27, 9, 10, 9, 9])


def more(count: int, words: Words) -> str:
    return words("and_more", n=words.number(count - MAX_LINES)) if count > MAX_LINES else ""


def counting_section(words: Words) -> Section:
    keys = ("how_counted_identified", "how_counted_estimated", "how_counted_asked")
    return Section(words("how_counted_title"), [Cell(words(key)) for key in keys])


def damaged_section(skipped: dict[str, str], words: Words) -> list[Section]:
    """Empty when every file was read."""
    if not skipped:
        return []
    rows = [[Cell(name, code=True), Cell(reason)] for name, reason in sorted(skipped.items())]
    text = Cell(words("damaged", n=len(skipped)), "bad")
    return [Section(words("damaged_title"), [text], tables=[Table([words("file"), words("detail")], rows)])]


def decisions_section(decisions: Decisions, words: Words) -> Section:
    rows = [
        [
            Cell(words.clock(v.issued_ms)),
            Cell(words.level(v.level), "bad" if severity(v.level) >= severity("cut") else ""),
            Cell(words.reason(v)),
            Cell(words.duration(v.window_ms) if v.window_ms else "–"),
            Cell(words.number(v.total), number=True),
            Cell(words.number(v.limit) if v.limit else "–", number=True),
            Cell(words.clock(v.expires_ms) if v.expires_ms else words("until_lifted")),
            Cell(v.issuer),
        ]
        for v in decisions.verdicts[:MAX_LINES]
    ]
    headers = ["time", "level", "reason", "window", "total", "limit", "expires", "by"]
    table = Table(
        [words(h) for h in headers], rows, more(len(decisions.verdicts), words), [13, 11, 28, 8, 8, 8, 13, 11]
    )
    return Section(
        words("decisions_title"), tables=[table] if rows else [], paragraphs=[] if rows else [Cell(words("none"))]
    )


def actions_section(actions: list[Action], words: Words) -> Section:
    rows = [
        [
            Cell(words.clock(a.ended_ms)),
            Cell(words.operation(a.operation)),
            Cell(a.hook),
            Cell(words.outcome(a.outcome), "bad" if a.outcome == "failed" else ""),
            Cell(words("yes") if a.verified else words("no")),
            Cell(_said(a)),
        ]
        for a in actions[:MAX_LINES]
    ]
    headers = ["time", "operation", "hook", "outcome", "verified", "detail"]
    table = Table([words(h) for h in headers], rows, more(len(actions), words), [14, 14, 12, 14, 9, 37])
    return Section(
        words("actions_title"), tables=[table] if rows else [], paragraphs=[] if rows else [Cell(words("none"))]
    )


def _undo_section(found: Incident, words: Words) -> Section:
    paragraphs = [
        Cell(words("undo_done", time=words.time(v.issued_ms), by=v.issuer, detail=v.reason), "good")
        for v in found.decisions.verdicts
        if v.level == "none"
    ]
    paragraphs += [
        Cell(words("undo_done", time=words.time(a.ended_ms), by=a.hook, detail=a.detail or a.outcome), "good")
        for a in found.decisions.actions
        if a.operation == "unlock" and a.outcome in ("done", "already")
    ]
    if found.state in ("cut", "lock", "throttle"):
        paragraphs.append(Cell(words("undo_open", account=found.exposure.principal), "warn"))
    else:
        paragraphs.append(Cell(words("undo_nothing")))
    return Section(words("undo_title"), paragraphs)


def _moment_row(moment: Moment, words: Words) -> list[Cell]:
    tone: Any = ""
    if moment.kind == "verdict":
        text, tone = (
            words("t_verdict", level=words.level(moment.level)),
            "bad" if moment.level in ("cut", "lock") else "warn",
        )
    elif moment.kind == "action":
        operation, hook, outcome = moment.level.split("/", 2)
        text = words("t_action", operation=words.operation(operation), hook=hook, outcome=words.outcome(outcome))
    else:
        key = f"t_{moment.kind}"
        known = (
            "login",
            "login_failed",
            "logout",
            "first_read",
            "last_read",
            "crossed",
            "lifted",
            "refused",
            "finding",
            "desynced",
        )
        text = words(key) if moment.kind in known else moment.kind
    return [Cell(words.clock(moment.time_ms)), Cell(text, tone), Cell(moment.detail)]


def document(found: Incident, words: Words, establishment: str, made_ms: int, version: str) -> Document:
    """The report."""
    taken = found.exposure
    first = found.first_verdict
    state = {"lock": "state_locked", "cut": "state_cut", "alert": "state_alert", "throttle": "state_throttle"}.get(
        found.state, "state_free"
    )
    facts = [
        (words("account"), Cell(taken.principal, code=True)),
        (words("period"), Cell(f"{words.time(taken.from_ms)} – {words.time(taken.to_ms)} ({words.zone()})")),
        (words("state_now"), Cell(words(state), "bad" if found.state in ("lock", "cut") else "")),
    ]
    if first is not None:
        crossed = first.crossed_ms or first.issued_ms
        facts.append((words("first_limit"), Cell(f"{words.time(crossed, precise=True)} – {words.reason(first)}")))
        facts.append(
            (words("decision"), Cell(f"{words.level(first.level)}, {words.time(first.issued_ms, precise=True)}"))
        )
        if found.cut_ms:
            facts.append((words("cut_after"), Cell(words.duration(max(0, found.cut_ms - crossed)))))
        if found.suspended_ms:
            facts.append((words("suspended_after"), Cell(words.duration(max(0, found.suspended_ms - crossed)))))
    timeline = Table(
        [words("time"), words("what"), words("detail")],
        [_moment_row(m, words) for m in found.timeline[:MAX_LINES]],
        more(len(found.timeline), words),
        [17, 28, 55],
    )
    sources = Table(
        [words(h) for h in ("source", "application", "sessions", "statements", "rows", "first", "last")],
        [
            [
                Cell(s.source or "–", code=True),
                Cell(s.application or "–"),
                Cell(words.number(s.sessions), number=True),
                Cell(words.number(s.statements), number=True),
                Cell(words.number(s.rows), number=True),
                Cell(words.clock(s.first_ms)),
                Cell(words.clock(s.last_ms)),
            ]
            for s in found.sources[:MAX_LINES]
        ],
        more(len(found.sources), words),
    )
    sections = [Section(words("summary"), facts=facts)]
    if found.state != "none" or taken.patients:
        sections.append(
            Section(
                words("next_title"), [Cell(words(k, account=taken.principal)) for k in ("next_1", "next_2", "next_3")]
            )
        )
    sections += [
        *damaged_section(taken.skipped, words),
        Section(words("timeline"), tables=[timeline]),
        Section(words("sources_title"), tables=[sources] if found.sources else []),
        Section(words("shapes_title"), tables=[shapes_table(taken, words)] if taken.shapes else []),
        decisions_section(found.decisions, words),
        actions_section(found.decisions.actions, words),
        _undo_section(found, words),
        counting_section(words),
    ]
    return Document(
        language=words.language,
        title=words("incident_title"),
        subtitle=f"{establishment or taken.tenant} · {taken.principal}",
        headline=headline(taken, words, "incident_headline"),
        figures=figures(taken, words),
        sections=sections,
        footer=words("made", time=words.time(made_ms), version=version),
    )
