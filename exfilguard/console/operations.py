"""What the pages can do to an account. The commands of the same names do the same; `cli/console.py` brings the two together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

Deed = Literal["ack", "unlock", "allow", "extend", "lock", "break_glass"]
DEEDS: tuple[Deed, ...] = get_args(Deed)


@dataclass(frozen=True, slots=True)
class Order:
    """One click that acts."""

    deed: Deed
    principal: str
    by: str
    source: str
    """Address of the person's browser."""
    reason: str
    lasts_ms: int
    """For allow, extend and lock; 0: until lifted."""


class Operations(Protocol):
    """Carries an order out. Blocking: called in a thread. Raises ExfilGuardError with what to do."""

    def carry_out(self, order: Order) -> str:
        """One sentence on what has changed."""


class Dossiers(Protocol):
    """Makes what a person downloads about an incident. Blocking. Raises ExfilGuardError."""

    def make(self, tenant: str, principal: str, opened_ms: int, until_ms: int, language: str) -> tuple[bytes, str, str]:
        """(content, media type, file name)."""
