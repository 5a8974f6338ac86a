"""A report as data: what it says, before it is HTML, PDF or JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["", "good", "bad", "warn", "todo"]
"""`todo`: a human must complete it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One value. `code`: shown as it is, in a fixed-width face."""

    text: str
    tone: Tone = ""
    code: bool = False
    number: bool = False


Row = list[Cell]


@dataclass(slots=True)
class Table:
    """`widths`: shares of the line, for print; empty: as it falls."""

    headers: list[str]
    rows: list[Row]
    note: str = ""
    widths: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Section:
    """A heading and what is under it, in this order."""

    title: str
    paragraphs: list[Cell] = field(default_factory=list)
    facts: list[tuple[str, Cell]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


@dataclass(slots=True)
class Document:
    """`headline`: the one sentence that somebody reads who reads no further."""

    language: str
    title: str
    subtitle: str
    headline: Cell
    figures: list[tuple[str, str]]
    """(value, what it is), large, under the headline; at most four."""
    sections: list[Section]
    footer: str
