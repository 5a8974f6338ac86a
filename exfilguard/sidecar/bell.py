"""The bell between the relays of a host and its shipper (_bell.pyx), or what is done without one: look again and again."""

from __future__ import annotations

import time
from pathlib import Path

try:
    from . import _bell
except ImportError:  # no C compiler at installation
    _bell = None  # type: ignore[assignment]

ANYTHING = 1
"""For `arm`: every event rings."""
LOOK_S = 0.008
COMPILED_BELL = _bell is not None


class NoBell:
    """Sleeps shortly."""

    def arm(self, least: int) -> int:
        return least

    def disarm(self) -> None:
        return

    def sleep(self, seen: int, seconds: float) -> None:
        time.sleep(min(seconds, LOOK_S))


def sleeper(directory: Path) -> _bell.Bell | NoBell:
    """The shipper's, for all spools below `directory`."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return ringer(directory) or NoBell()


def ringer(directory: Path) -> _bell.Bell | None:
    """A relay's. None without a compiler, or on a full disk: what is spooled then waits for the shipper's own look."""
    if _bell is None:
        return None
    try:
        return _bell.Bell(directory / "bell")
    except OSError:
        return None
