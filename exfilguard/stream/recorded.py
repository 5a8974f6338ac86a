"""Recorded events, wherever they lie, as frames in the order of their times: what `exfilguard replay` reads.

A recording is a file with one frame a line, as on the queries topic; a line may begin with its partition and a tab. `(sidecar, epoch,
seq)` is gapless per partition only, so each frame's sidecar is told apart by its partition before one engine reads them all.
A line may also be one QueryEvent alone; such events belong to the tenant that is named.
"""

from __future__ import annotations

import gzip
import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

import orjson

from ..errors import ExfilGuardError
from ..events.codec import encode_frame, frame_head

EVENTS_PER_FRAME = 200
FRAME_MS = 5_000
"""Events that come without a frame get one that holds no more time than this: its end is the detector's clock."""


class Recording(Protocol):
    """Frames of one partition after the other, or of all of them mixed."""

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """(partition, frame), each partition's in its order. Raises ExfilGuardError."""
        ...


@dataclass(frozen=True, slots=True)
class Block:
    """Many events of one tenant in the order of their times, as one frame: judged as the frames that `Framer` would make of them."""

    tenant: str
    frame: bytes


@runtime_checkable
class Ordered(Recording, Protocol):
    """A recording that knows its tenants and the order of its events, so that nothing has to be kept."""

    def blocks(self) -> Iterator[Block]:
        """One tenant after the other. Raises ExfilGuardError."""
        ...


class FileRecording:
    """Lines of frames or of events; `.gz` is read too."""

    def __init__(self, path: str, tenant: str = "replay") -> None:
        self.path = path
        self.tenant = tenant

    def frames(self) -> Iterator[tuple[int, bytes]]:
        framer = Framer(frame_head(self.tenant, "recording", "1"))
        try:
            with _open(self.path) as lines:
                for line in lines:
                    line = line.strip()
                    if not line:
                        continue
                    partition, _tab, frame = line.partition(b"\t") if line[:1].isdigit() else (b"0", b"", line)
                    if b'"events"' in frame[:400] or b'"v"' in frame[:8]:
                        yield int(partition), frame
                    elif full := framer.add(_first_time(frame), frame):
                        yield 0, full
        except (OSError, EOFError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no recording: one frame a line is expected"
            raise ExfilGuardError(f"{self.path}: cannot be read: {reason}") from None
        if rest := framer.rest():
            yield 0, rest


class Framer:
    """Events that come one after the other become frames, at most EVENTS_PER_FRAME and FRAME_MS each."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._events: list[bytes] = []
        self._began = 0
        self._seq = 0

    def add(self, time_ms: int, event: bytes) -> bytes | None:
        """The frame before this event, if it is finished."""
        full = None
        if self._events and (len(self._events) == EVENTS_PER_FRAME or not 0 <= time_ms - self._began < FRAME_MS):
            full = self.rest()
        if not self._events:
            self._began = time_ms
        self._events.append(event)
        return full

    def rest(self) -> bytes | None:
        """What is not in a frame yet."""
        if not self._events:
            return None
        frame = encode_frame(self._head, self._seq, self._events)
        self._events, self._seq = [], self._seq + 1
        return frame


def _open(path: str) -> IO[bytes]:
    return gzip.open(path, "rb") if path.endswith(".gz") else Path(path).open("rb")  # type: ignore[return-value]


def in_order(recording: Recording) -> Iterator[bytes | Block]:
    """All frames by the time of their first event, each partition's order kept, sidecars told apart by partition; or the blocks of a
    recording that has them."""
    if isinstance(recording, Ordered):
        yield from recording.blocks()
        return
    by_partition: dict[int, list[bytes]] = {}
    for partition, frame in recording.frames():
        by_partition.setdefault(partition, []).append(frame)
    streams = [_timed(partition, frames) for partition, frames in by_partition.items()]
    if len(streams) == 1:
        yield from (frame for _, frame in streams[0])
    else:
        yield from (frame for _, frame in heapq.merge(*streams, key=lambda item: item[0]))


def _timed(partition: int, frames: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    newest, sidecar = 0, b'"sidecar":"%d/' % partition
    for frame in frames:
        newest = max(newest, _first_time(frame))
        yield newest, frame.replace(b'"sidecar":"', sidecar, 1)


_TIME = re.compile(rb'"time_ms":\s*(\d{1,18})')


def _first_time(frame: bytes) -> int:
    """Without decoding the whole; 0 for what the engine will refuse anyway."""
    found = _TIME.search(frame)
    return int(found[1]) if found else 0


def last_time(frame: bytes | Block) -> int:
    """The newest event's time of a frame; 0 when it has none or cannot be read."""
    frame = frame.frame if isinstance(frame, Block) else frame
    at = frame.rfind(b'"time_ms":')
    found = _TIME.match(frame, at) if at >= 0 else None
    return int(found[1]) if found else 0


def save(frames: Iterator[tuple[int, bytes]], path: str) -> int:
    """Write a recording; how many frames."""
    count = 0
    with open(path, "wb") as file:
        for partition, frame in frames:
            file.write(b"%d\t%b\n" % (partition, orjson.dumps(orjson.Fragment(frame))))
            count += 1
    return count
