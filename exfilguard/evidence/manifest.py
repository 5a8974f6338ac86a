"""The archive's manifest: which files belong to it, and up to where the topics are in them. Replaced whole, by a rename.

A commit is: write new files, sync them, replace the manifest. Killed before the rename, the new files belong to nobody and are
deleted at the next start, and Kafka is read again from the old position; after it, everything is in. So each frame is in the
archive exactly once. The manifest before is kept beside it: should the newest be damaged, the one before is whole, and what it
does not know is read again from Kafka. Files that are no longer listed are deleted only GARBAGE_MS later: a report that runs
may be reading them, and the manifest before may list them.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ..errors import EvidenceError
from .ledger import replace_file

NAME = "manifest.json"
BEFORE = "manifest.before.json"
VERSION = 1
GARBAGE_MS = 600_000


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One Parquet file. `kind`: `events` or `shapes`. Times in milliseconds since the epoch, both included."""

    kind: str
    tenant: str
    day: str
    """`2026-11-24` (UTC); empty for shapes."""
    rows: int
    nbytes: int
    min_ms: int
    max_ms: int
    sha256: str
    footer: str
    """SHA-256 of the footer alone: checked whenever the file is opened."""
    merged: bool = False
    """Result of a compaction."""


@dataclass(slots=True)
class Manifest:
    """See the module."""

    commit: int = 0
    topic_id: str = ""
    """Of the queries topic that `offsets` are of."""
    offsets: dict[int, int] = field(default_factory=dict)
    """partition -> next offset."""
    sources: list[Any] = field(default_factory=list)
    files: dict[str, FileEntry] = field(default_factory=dict)
    garbage: dict[str, int] = field(default_factory=dict)
    """path -> when it was taken off the list."""
    damaged: dict[str, str] = field(default_factory=dict)
    """path -> what is wrong: files that a compaction met. They are kept, listed and never read again."""
    events: int = 0
    """Events ever archived."""
    duplicates: int = 0

    def encoded(self) -> bytes:
        body = {**asdict(self), "v": VERSION, "offsets": {str(p): n for p, n in self.offsets.items()}}
        data = orjson.dumps(body)
        return orjson.dumps({"sha256": hashlib.sha256(data).hexdigest()}) + b"\n" + data + b"\n"


def _decoded(data: bytes) -> Manifest:
    head, _, body = data.partition(b"\n")
    body = body.removesuffix(b"\n")
    try:
        if orjson.loads(head)["sha256"] != hashlib.sha256(body).hexdigest():
            raise ValueError("its checksum is wrong")
        raw = orjson.loads(body)
        version = raw.pop("v")
        if version != VERSION:
            raise EvidenceError(f"the archive has format {version}, this release reads {VERSION}: upgrade first")
        raw["offsets"] = {int(p): n for p, n in raw["offsets"].items()}
        raw["files"] = {path: FileEntry(**entry) for path, entry in raw["files"].items()}
        return Manifest(**raw)
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"it cannot be read ({type(error).__name__})") from None


def load(root: Path) -> tuple[Manifest, str]:
    """(manifest, what was wrong with the newest one). Empty for an archive that does not exist yet. Raises EvidenceError."""
    wrong = ""
    found_any = False
    for name in (NAME, BEFORE):
        path = root / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise EvidenceError(f"{path}: cannot be read: {error.strerror}: check its owner and the disk") from None
        found_any = True
        try:
            return _decoded(data), wrong
        except ValueError as error:
            wrong = wrong or f"{path}: {error}; the one before is used"
    if found_any:
        raise EvidenceError(f"{root}: neither {NAME} nor {BEFORE} can be read: restore one of them from a backup")
    return Manifest(), ""


def save(root: Path, manifest: Manifest) -> None:
    """Raises OSError; then the manifest before is still in force."""
    path = root / NAME
    if path.is_file():
        replace_file(root / BEFORE, path.read_bytes())
    replace_file(path, manifest.encoded())
