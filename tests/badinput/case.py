"""One bad message: who says it, when, and what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["client", "server"]
End = Literal["", "close", "reset", "half-close"]

CANARY = "Dupont-7F3A"
"""A literal in the statements, and a value in the results: never to be found in a log."""


@dataclass(frozen=True, slots=True)
class Case:
    """`data` is said by `side` in `phase`, which then does `end`."""

    phase: str
    side: Side
    what: str
    data: bytes
    end: End = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """How far a conversation has come: pieces said in turn, each having arrived before the next. `>` client, `<` server."""

    steps: tuple[tuple[str, bytes], ...]
    connected: bool = True
    """The guard has reached the database by then."""
