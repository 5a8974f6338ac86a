"""Which frames were made of a segment's records: written before they are sent, so that they can be made again exactly.

One file per spool segment, `000000000001.plan`, lines of JSON:

    {"epoch":..,"boot":..,"partitions":4,"frame_events":500,"start":0,"seqs":[12,0,7,31],"frame_bytes":900000}     a head: rules and numbers
    [1840]                                                                          a batch: records up to this offset
    "ok"                                                                            the batch above was acknowledged

Framing is a pure function of the records and the head, so a batch that was in flight when the shipper died, or that a broker
forgot, is sent again with the same (sidecar, epoch, seq), and the detector drops what it has seen. When the whole segment is
acknowledged the file is renamed to `.done`.

`boot`: after a reboot nothing proves that the last lines reached the disk, so a new epoch begins: at worst one batch is
counted twice, never lost.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from ..events.codec import encode_frame, frame_head
from ._records import group
from .spool import RawRecord, done_path, segments

FRAME_BYTES = 900_000
"""A frame is closed at this size: brokers refuse records beyond 1 MB by default."""
EARLIER_FRAME_BYTES = 512 << 10
"""What it was where a plan does not say it."""


@dataclass(slots=True)
class Head:
    """The rules by which records become frames, and each partition's next sequence number."""

    epoch: str
    boot: str
    partitions: int
    frame_events: int
    start: int
    seqs: list[int]
    frame_bytes: int = EARLIER_FRAME_BYTES


@dataclass(slots=True)
class Batch:
    """Records `start` to `end` of a segment under a head."""

    head: Head
    start: int
    end: int
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class OutFrame:
    """One Kafka record."""

    partition: int
    value: bytes
    events: int


def make_frames(records: Sequence[RawRecord], tenant: str, sidecar: str, head: Head, seqs: list[int]) -> list[OutFrame]:
    """The frames of a batch, each partition's in order. Advances `seqs`."""
    prefix = frame_head(tenant, sidecar, head.epoch)
    out: list[OutFrame] = []
    for partition, events in group(records, head.partitions, head.frame_events, head.frame_bytes):
        out.append(OutFrame(partition, encode_frame(prefix, seqs[partition], events), len(events)))
        seqs[partition] += 1
    return out


def plan_path(directory: Path, segment: int) -> Path:
    return directory / f"{segment:012d}.plan"


def read_plan(path: Path) -> list[Batch]:
    """The batches of one segment. A line that was cut short is left out: its batch was never sent."""
    batches: list[Batch] = []
    head: Head | None = None
    start = 0
    for line in path.read_bytes().splitlines():
        try:
            entry: Any = orjson.loads(line)
            if isinstance(entry, dict):
                head = Head(**entry)
                start = head.start
            elif entry == "ok":
                batches[-1].acknowledged = True
            elif head is not None:
                (end,) = entry
                if batches and not batches[-1].acknowledged and batches[-1].start >= start:
                    batches.pop()  # planned anew, from there on, for another number of partitions
                if batches:
                    batches[-1].acknowledged = True  # one at a time is in flight: this one was planned after that
                batches.append(Batch(head, start, end, acknowledged=False))
                start = end
        except (orjson.JSONDecodeError, TypeError, ValueError, IndexError):
            continue
    return batches


@dataclass(slots=True)
class PlanWriter:
    """Appends to the plan of the segment being shipped."""

    directory: Path
    head: Head
    segment: int = -1
    _file: Any = field(default=None)
    _torn: bool = False
    """The last line may have been cut short: the disk was full."""

    def open(self, segment: int, offset: int) -> None:
        """Go to a segment; what was planned there before stays, the head as it now is follows. Raises OSError."""
        self._file = open(plan_path(self.directory, segment), "ab", buffering=0)  # noqa: SIM115
        self.head.start = offset
        # The newline ends a line that a crash may have cut short.
        self._write(b"\n" + orjson.dumps(self.head) + b"\n")
        self.segment = segment

    def batch(self, end: int) -> None:
        """Before it is sent. Raises OSError."""
        self._write(b"[%d]\n" % end)

    def acknowledged(self) -> None:
        """What was planned last. Raises OSError."""
        if self._file is not None:
            self._write(b'"ok"\n')

    def _write(self, line: bytes) -> None:
        if self._torn:
            line = b"\n" + line  # else it would be lost with what was cut short, and what it tells of is sent
        self._torn = True
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn = False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self.segment = None, -1


def plans(directory: Path) -> list[tuple[int, Path]]:
    """The segments there that have a plan, finished or not, oldest first."""
    found = []
    for number in segments(directory):
        for path in (done_path(directory, number), plan_path(directory, number)):
            if path.exists():
                found.append((number, path))
                break
    return found
