"""The ledger: every verdict and action in the order it was archived, one line each, each line holding the hash of the last.

    {"n":0,"prev":"","time_ms":..,"type":"genesis","ledger":ID,"key":KEY ID}
    {"n":1,"prev":SHA-256 of line 0,"time_ms":..,"type":"verdict","from":[TOPIC,PARTITION,OFFSET,TOPIC ID],
     "record":"{..}"}

Types: `genesis`, `verdict`, `action`, `gap` (offsets that were gone before they were read: compaction, retention, or somebody),
`unreadable` (a record that is neither), `repair`. `record` is the text as it lay on the topic, its writer's own chain in it (events/chain.py). A hash is of a line's bytes without
its newline. Files are `ledger-<first n>.jsonl`, a new one each month (UTC) or beyond MAX_FILE_BYTES. A checkpoint, in
`checkpoints.jsonl` and wherever else it is copied to, is a signed statement of how far the ledger was and what its last hash was.

What a crash leaves is at most one line without its newline: it is dropped at the next start, and a `repair` entry says so.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from ..errors import EvidenceError
from ..events.chain import digest_of
from .signing import Signer

MAX_FILE_BYTES = 64 << 20
CHECKPOINTS = "checkpoints.jsonl"
PUBLIC_KEY = "public-key.pem"
ANCHOR = "anchor.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`hash` of entry `n`, signed. `number` counts checkpoints from 0."""

    ledger: str
    number: int
    n: int
    hash: str
    time_ms: int
    key: str
    signature: str = ""

    def signed_bytes(self) -> bytes:
        body = asdict(self)
        del body["signature"]
        return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)

    def encoded(self) -> bytes:
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS)


def checkpoint_from(line: bytes) -> Checkpoint | None:
    """None when the line is no checkpoint."""
    try:
        body = orjson.loads(line)
        found = Checkpoint(**body)
    except (orjson.JSONDecodeError, TypeError):
        return None
    numbers = (found.number, found.n, found.time_ms)
    texts = (found.ledger, found.hash, found.key, found.signature)
    if any(type(v) is not int or v < 0 for v in numbers) or not all(isinstance(v, str) for v in texts):
        return None
    return found


@dataclass(frozen=True, slots=True)
class Line:
    """One line as it stands in a file. `whole`: it ends with a newline."""

    file: str
    number: int
    """Of the line in its file, from 1."""
    data: bytes
    whole: bool


def files_of(directory: Path) -> list[Path]:
    """The ledger's files in their order."""
    return sorted(directory.glob("ledger-*.jsonl"))


def lines_of(directory: Path) -> Iterator[Line]:
    """Every line of the ledger. Raises OSError."""
    for path in files_of(directory):
        with path.open("rb") as file:
            for number, data in enumerate(file, 1):
                yield Line(path.name, number, data.removesuffix(b"\n"), data.endswith(b"\n"))


def month_of(time_ms: int) -> str:
    """`2026-11` (UTC)."""
    return dt.datetime.fromtimestamp(time_ms // 1000, dt.UTC).strftime("%Y-%m")


class Ledger:
    """Opened by its one writer. Everything appended is on disk when `append` returns."""

    def __init__(self, directory: Path, signer: Signer, now_ms: int) -> None:
        """Reads the whole ledger once: what it holds is never appended again. Raises EvidenceError."""
        self.directory = directory
        self._signer = signer
        self.id = ""
        self.entries = 0
        """Number of the next entry."""
        self.head = ""
        """Hash of the last one."""
        self.positions: dict[tuple[str, int], tuple[str, int]] = {}
        """(topic, partition) -> (topic id, next offset), as the entries say."""
        self.revisions: dict[str, int] = {}
        """tenant/principal -> newest verdict's revision: a standing verdict that is published again is known by it."""
        self.unreadable = 0
        """Lines found that are no entries: `exfilguard audit verify` says which."""
        self._seen: set[bytes] = set()
        self._checkpoints = 0
        self._checkpointed = -1
        self._file: Path | None = None
        self._month = ""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._load()
        dropped = self._drop_torn_line()
        (directory / PUBLIC_KEY).write_bytes(signer.verifier.pem())
        if not self.entries:
            self.id = secrets.token_hex(8)
            self.append([{"type": "genesis", "ledger": self.id, "key": signer.verifier.key_id}], now_ms)
        if dropped:
            self.append([{"type": "repair", "dropped_bytes": dropped}], now_ms)

    def _load(self) -> None:
        try:
            for line in lines_of(self.directory):
                if not line.whole:
                    continue
                self.head = digest_of(line.data)
                self.entries += 1
                try:
                    self._learn(orjson.loads(line.data))
                except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
                    self.unreadable += 1
            for data in self._checkpoint_lines():
                found = checkpoint_from(data)
                if found is not None:
                    self._checkpoints = max(self._checkpoints, found.number + 1)
                    self._checkpointed = max(self._checkpointed, found.n)
        except OSError as error:
            raise EvidenceError(f"{self.directory}: the ledger cannot be read: {error.strerror}") from None

    def _checkpoint_lines(self) -> list[bytes]:
        path = self.directory / CHECKPOINTS
        return path.read_bytes().splitlines() if path.is_file() else []

    def _learn(self, entry: dict[str, Any]) -> None:
        self.entries = int(entry["n"]) + 1
        self._month = month_of(entry["time_ms"])
        if entry["type"] == "genesis":
            self.id = entry["ledger"]
        self._index(entry)

    def _index(self, entry: dict[str, Any]) -> None:
        if "from" in entry:
            topic, partition, offset, topic_id = entry["from"]
            self.positions[(topic, partition)] = (topic_id, offset + 1)
        if "record" not in entry:
            return
        self._seen.add(bytes.fromhex(digest_of(entry["record"].encode())))
        if entry["type"] == "verdict":
            body = orjson.loads(entry["record"])
            key = f"{body.get('tenant')}/{body.get('principal')}"
            self.revisions[key] = max(self.revisions.get(key, 0), int(body.get("revision", 0)))

    def _drop_torn_line(self) -> int:
        files = files_of(self.directory)
        if not files:
            return 0
        self._file = files[-1]
        data = self._file.read_bytes()
        torn = len(data) - (data.rfind(b"\n") + 1)
        if torn:
            os.truncate(self._file, len(data) - torn)
        return torn

    def knows(self, record: bytes) -> bool:
        """True when this very record is in the ledger: it was delivered twice."""
        return bytes.fromhex(digest_of(record)) in self._seen

    def append(self, entries: Sequence[dict[str, Any]], now_ms: int) -> None:
        """Each entry has `type` and its own fields; number, hash and time are added here. Raises OSError.

        When writing fails, nothing of it counts and the same entries may be appended again.
        """
        if not entries:
            return
        n, head, out = self.entries, self.head, []
        for entry in entries:
            line = orjson.dumps({"n": n, "prev": head, "time_ms": now_ms, **entry})
            head = digest_of(line)
            out.append(line)
            n += 1
        path = self._file_for(now_ms)
        size = path.stat().st_size if path.is_file() else 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            try:
                _write_all(descriptor, b"\n".join(out) + b"\n")
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        for entry in entries:
            self._index(entry)
        self._file, self._month = path, month_of(now_ms)
        self.entries, self.head = n, head

    def _file_for(self, now_ms: int) -> Path:
        current = self._file
        if current is None or month_of(now_ms) != self._month or current.stat().st_size > MAX_FILE_BYTES:
            return self.directory / f"ledger-{self.entries:012d}.jsonl"
        return current

    def checkpoint(self, now_ms: int) -> Checkpoint | None:
        """A new signed checkpoint, on disk; None when nothing was appended since the last. Raises OSError."""
        last = self.entries - 1
        if last <= self._checkpointed:
            return None
        key = self._signer.verifier.key_id
        unsigned = Checkpoint(self.id, self._checkpoints, last, self.head, now_ms, key)
        made = Checkpoint(
            self.id, self._checkpoints, last, self.head, now_ms, key, self._signer.sign(unsigned.signed_bytes())
        )
        append_line(self.directory / CHECKPOINTS, made.encoded())
        self._checkpoints += 1
        self._checkpointed = last
        return made

    def prune(self, before_ms: int, now_ms: int) -> int:
        """Delete whole files whose entries are all older than `before_ms`; a signed anchor says where the rest begins.

        Returns the number of files deleted. Raises OSError.
        """
        files = files_of(self.directory)
        gone = 0
        for path, following in pairwise(files):
            last = path.read_bytes().rstrip(b"\n").rpartition(b"\n")[2]
            try:
                if orjson.loads(last)["time_ms"] >= before_ms:
                    break
            except (orjson.JSONDecodeError, KeyError, TypeError):
                break  # altered: what is evidence of that stays
            first = int(following.stem.removeprefix("ledger-"))
            anchor = Checkpoint(self.id, 0, first - 1, digest_of(last), now_ms, self._signer.verifier.key_id)
            signed = Checkpoint(**{**asdict(anchor), "signature": self._signer.sign(anchor.signed_bytes())})
            replace_file(self.directory / ANCHOR, signed.encoded())
            path.unlink()
            gone += 1
        return gone


def append_line(path: Path, line: bytes) -> None:
    """One line more, on disk when this returns. A line that was torn before is ended first. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    torn = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        _write_all(descriptor, (b"\n" if torn else b"") + line + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """All of the file or what was there before, whatever happens in between. Raises OSError."""
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """A renamed or created file is there after a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
