"""What a protocol gives to be fuzzed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Input:
    """One conversation of pieces: (`>` from the client or `<` from the server, bytes), and what the guard would allow of it."""

    steps: tuple[tuple[str, bytes], ...]
    allowed_rows: int | None = None
    allowed_patients: int | None = None


class Target(Protocol):
    """One protocol's parsers."""

    name: str

    def make(self, rng: random.Random) -> Input:
        """An input from the recorded conversations, mutated."""

    def run(self, given: Input) -> None:
        """Feed it. Raises AssertionError where an invariant does not hold; any other exception is a crash."""


class Hang(Exception):
    """An input took far too much processor time."""
