"""What the data protection officer needs: the exposure report, and a draft of the notification of GDPR article 33.

The draft follows the items of article 33(3) and the questions of the French authority's form; whatever only a human knows is
marked, and information may follow in phases (article 33(4)). https://gdpr-info.eu/art-33-gdpr/
"""

from __future__ import annotations

from dataclasses import dataclass

from .document import Cell, Document, Section, Table
from .exposure import Exposure, columns_taken
from .incident import (
    MAX_LINES,
    Incident,
    actions_section,
    counting_section,
    damaged_section,
    decisions_section,
    figures,
    headline,
    more,
    shapes_table,
)
from .resolve import Resolution
from .words import Words

DEADLINE_MS = 72 * 3_600_000


@dataclass(frozen=True, slots=True)
class Establishment:
    """Of the `[report]` section."""

    name: str = ""
    address: str = ""
    dpo: str = ""


def _or_todo(text: str, words: Words) -> Cell:
    return Cell(text) if text else Cell(words("to_complete"), "todo")


def exposure_document(
    taken: Exposure,
    resolution: Resolution | None,
    csv_name: str,
    words: Words,
    who: Establishment,
    made_ms: int,
    version: str,
) -> Document:
    """Which patients, which columns, from when to when."""
    columns = columns_taken(taken.shapes)
    paragraphs = []
    if resolution is None:
        paragraphs.append(Cell(words("resolution_none")))
    else:
        identified = len(taken.patients)
        done = {"found": identified - len(resolution.unknown), "of": identified, "candidates": resolution.candidates}
        paragraphs.append(Cell(words("resolution_done", **{k: words.number(v) for k, v in done.items()})))
        if resolution.packed:
            paragraphs.append(Cell(words("resolution_packed", n=words.number(len(resolution.packed)))))
        if resolution.unknown:
            paragraphs.append(Cell(words("resolution_unknown", n=words.number(len(resolution.unknown))), "warn"))
    if csv_name:
        paragraphs.append(Cell(words("resolution_csv", file=csv_name)))
    # Where all were taken with the same columns, these are said once, above.
    alike = len({p.columns for p in taken.patients}) <= 1
    headers = ["digest", "first", "last", "times"] + ([] if alike else ["columns"])
    rows = [
        [
            Cell(p.digest, code=True),
            Cell(words.clock(p.first_ms)),
            Cell(words.clock(p.last_ms)),
            Cell(words.number(p.times), number=True),
            *([] if alike else [Cell(", ".join(p.columns) or words("columns_unknown"))]),
        ]
        for p in taken.patients[:MAX_LINES]
    ]
    widths = [34, 27, 27, 12] if alike else [19, 18, 18, 8, 37]
    patients = Table([words(h) for h in headers], rows, more(len(taken.patients), words), widths)
    facts = [
        (words("account"), Cell(taken.principal, code=True)),
        (words("period"), Cell(f"{words.time(taken.from_ms)} – {words.time(taken.to_ms)} ({words.zone()})")),
        (words("first"), Cell(words.time(taken.first_ms))),
        (words("last"), Cell(words.time(taken.last_ms))),
        (words("identified"), Cell(words.number(len(taken.patients)))),
        (words("estimated_long"), Cell(words.number(taken.estimated))),
        (words("asked_long"), Cell(words.number(len(taken.asked)))),
    ]
    text = ", ".join(columns) or words("none" if not taken.rows else "columns_unknown")
    return Document(
        language=words.language,
        title=words("exposure_title"),
        subtitle=f"{who.name or taken.tenant} · {taken.principal}",
        headline=headline(taken, words, "exposure_headline"),
        figures=figures(taken, words),
        sections=[
            Section(words("summary"), facts=facts),
            *damaged_section(taken.skipped, words),
            Section(
                words("columns_title"),
                [Cell(text, code=bool(columns))],
                tables=[shapes_table(taken, words)] if taken.shapes else [],
            ),
            Section(words("resolution_title"), paragraphs),
            Section(words("list_title"), tables=[patients] if taken.patients else []),
            counting_section(words),
        ],
        footer=words("made", time=words.time(made_ms), version=version),
    )


def draft(found: Incident, words: Words, who: Establishment, made_ms: int, version: str) -> Document:
    """The notification. `aware`: the first alert's time; the 72 hours run from it unless the officer knows better."""
    taken, first = found.exposure, found.first_verdict
    aware_ms = first.issued_ms if first is not None else made_ms
    deadline = words.time(aware_ms + DEADLINE_MS)
    todo = Cell(words("to_complete"), "todo")
    columns = ", ".join(columns_taken(taken.shapes)) or words("columns_unknown")
    sources = ", ".join(dict.fromkeys(s.source for s in found.sources if s.source)) or words("none")
    measures = [
        f"{words.level(v.level)} ({words.time(v.issued_ms)})" for v in found.decisions.verdicts if v.level != "none"
    ]
    measures += [
        f"{words.operation(a.operation)}, {a.hook}: {words.outcome(a.outcome)} ({words.time(a.ended_ms)})"
        for a in found.decisions.actions
        if a.outcome in ("done", "already")
    ]
    ended = found.cut_ms or taken.last_ms
    sections = [
        Section(
            words("n1"),
            facts=[
                (words("controller"), _or_todo(who.name, words)),
                (words("postal"), _or_todo(who.address, words)),
                (words("dpo"), _or_todo(who.dpo, words)),
                (words("others_involved"), todo),
                (words("notice_kind"), Cell(words("notice_kind_initial"))),
            ],
        ),
        Section(
            words("n2"),
            facts=[
                (words("began"), Cell(words.time(taken.first_ms))),
                (words("ended"), Cell(words.time(ended))),
                (words("ongoing"), todo),
                (words("aware"), Cell(words.time(aware_ms), "todo")),
                (
                    words("aware_how"),
                    Cell(words("aware_by", reason=words.reason(first))) if first is not None else todo,
                ),
                (words("notice_deadline"), Cell(deadline, "bad" if made_ms > aware_ms + DEADLINE_MS else "warn")),
                (words("late"), todo if made_ms > aware_ms + DEADLINE_MS else Cell("–")),
            ],
        ),
        Section(
            words("n3"),
            facts=[
                (words("nature"), Cell(words("nature_text", account=taken.principal))),
                (words("origin"), Cell(words("origin_text", sources=sources), "todo")),
            ],
        ),
        Section(
            words("n4"),
            facts=[
                (words("people_category"), Cell(words("people_patients"))),
                (
                    words("people_number"),
                    Cell(
                        words(
                            "people_number_text",
                            n=words.number(len(taken.patients)),
                            estimated=words.number(taken.estimated),
                        )
                    ),
                ),
                (words("records_number"), Cell(words("records_text", n=words.number(taken.rows + taken.hidden_rows)))),
                (words("data_categories"), Cell(words("data_health", columns=columns))),
                ("", Cell(words("data_qualify"), "todo")),
                (words("cross_border"), todo),
            ],
        ),
        Section(words("n5"), [Cell(words("consequences"), "todo")]),
        Section(
            words("n6"),
            facts=[
                (words("measures_before"), Cell(words("measures_before_text"))),
                (words("measures_taken"), Cell(" ; ".join(measures[:12]) or words("none"))),
                (words("measures_proposed"), Cell(words("measures_proposed_text"), "todo")),
            ],
        ),
        Section(words("n7"), [Cell(words("inform"), "todo")]),
        Section(words("n8"), [Cell(words("other_duties"), "todo")]),
        *damaged_section(taken.skipped, words),
        decisions_section(found.decisions, words),
        actions_section(found.decisions.actions, words),
        counting_section(words),
    ]
    return Document(
        language=words.language,
        title=words("notice_title"),
        subtitle=f"{who.name or taken.tenant} · {taken.principal}",
        headline=Cell(words("notice_headline", deadline=deadline)),
        figures=figures(taken, words),
        sections=sections,
        footer=words("made", time=words.time(made_ms), version=version),
    )
