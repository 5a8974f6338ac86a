"""What an observer of either engine says of one portion of the server's bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..events.query import QueryEvent

QUERY_CANCELED = "57014"
"""SQLSTATE given to a statement whose session ended before its result did."""


@dataclass(slots=True)
class Result:
    """What one portion of the server's bytes held."""

    events: list[QueryEvent] = field(default_factory=list)
    rows: int = 0
    new_patients: tuple[str, ...] = ()
    """Digests seen in this portion."""
    estimated: int = 0
    """Further patients in this portion, by estimate (see estimate.py)."""
    cut_at: int | None = None
    """Forward only the bytes before this offset: what follows is over the allowance."""
    hold_at: int | None = None
    """Keep the bytes from this offset back, and show them again with what comes next."""
    tail: bytes = b""
    """Forward this behind the cut: the part of what was cut there that may still pass."""
    stop_at: int | None = None
    """What follows this offset is charged to somebody else: show it again, with that principal's allowance."""
    patches: list[tuple[int, int, bytes]] = field(default_factory=list)
    """(from, to, bytes to forward instead), in order: the guard's own error in place of the server's."""
