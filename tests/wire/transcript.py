"""Recorded conversations: what a client and a server said, in order, as text.

A file is lines `> bytes` (client) and `< bytes` (server), each one piece as it was read from the socket; printable ASCII as
itself, everything else as `\\xNN`; `#` lines say where it comes from. Synthetic data only. `make transcripts` records them
anew from the driver scenarios.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "transcripts"
Step = tuple[str, bytes]

_ESCAPED = re.compile(rb"\\\\|\\x([0-9a-f]{2})")


def encode(data: bytes) -> str:
    return "".join("\\\\" if b == 92 else chr(b) if 32 <= b < 127 else f"\\x{b:02x}" for b in data)


def decode(text: str) -> bytes:
    return _ESCAPED.sub(lambda m: bytes([int(m[1], 16)]) if m[1] else b"\\", text.encode("ascii"))


def load(path: Path) -> list[Step]:
    lines = path.read_text(encoding="ascii").splitlines()
    return [(line[0], decode(line[2:])) for line in lines if line[:1] in "<>" and line]


def save(path: Path, steps: Iterable[Step], origin: str) -> None:
    path.parent.mkdir(exist_ok=True)
    lines = [f"# {origin}", *(f"{side} {encode(data)}" for side, data in steps)]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def shortened(steps: list[Step], max_bytes: int) -> list[Step]:
    """The conversation up to the last ReadyForQuery before `max_bytes`."""
    end = size = 0
    for i, (side, data) in enumerate(steps):
        size += len(data)
        if size > max_bytes:
            return steps[:end]
        if side == "<" and data[-6:-1] == b"Z\0\0\0\x05":
            end = i + 1
    return steps


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.txt"))
