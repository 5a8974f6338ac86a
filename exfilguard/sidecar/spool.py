"""The spool: an append-only queue on disk between the relay (one writer) and the shipper (one reader).

Segments of a fixed size, `000000000001.seg`, reserved on disk when they are made and written through a memory map: an append
is a memory copy, and what was appended survives a `kill -9` of either side (not a power cut: nothing here waits for the
disk). Each record:

    0        4        8        12              20
    ├────────┼────────┼────────┼───────────────┼─────────────┐   little endian
    │ length │ crc32  │  hash  │    time_ms    │   payload   │   length 0: nothing here yet
    └────────┴────────┴────────┴───────────────┴─────────────┘   length 0xFFFFFFFF: go on in the next segment

The length is written last, so a reader never sees half a record; where it sees half a length (the bytes lie in two cache lines, and
it looks just then), the checksum does not agree, and it looks again. The reader keeps, beside each segment, what it did with it
(shipper's plan); a segment whose plan is called `.done` was acknowledged whole and may be deleted to make room.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..errors import SpoolFull
from ..runtime.stats import DISK_TROUBLE
from . import _records
from .bell import ringer

try:
    from . import _frames
except ImportError:
    _frames = None  # type: ignore[assignment]
try:
    from . import _segment
except ImportError:  # no C compiler at installation
    _segment = None  # type: ignore[assignment]

HEADER = struct.Struct("<IIIQ")
_LENGTH = struct.Struct("<I")
_SEALED = _records.SEALED
LOOKS = 4
"""A writer seals a segment before it begins the next one. One that could not is noticed once in so many looks: the reader
does not list a directory each time it finds nothing."""
RETRY_S = 0.5
"""After a failure to make room, the next attempt waits this long: a full disk must not cost every query a system call."""


class Position(NamedTuple):
    """Where a reader stands."""

    segment: int
    offset: int


RawRecord = tuple[int, int, bytes]
Framed = tuple[int, bytes, int]
"""A frame's partition, its bytes as they are sent, and how many events are in it."""


class Record(NamedTuple):
    """One spooled event: the hash that chooses its partition, its time, and its encoded bytes."""

    hash: int
    time_ms: int
    payload: bytes


def segment_path(directory: Path, number: int) -> Path:
    return directory / f"{number:012d}.seg"


def done_path(directory: Path, number: int) -> Path:
    """Exists once Kafka has acknowledged the whole segment."""
    return directory / f"{number:012d}.done"


def segments(directory: Path) -> list[int]:
    """Numbers of the segments there, oldest first."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(int(entry.name[:12]) for entry in os.scandir(directory) if entry.name.endswith(".seg"))
    return []


def delete_segment(directory: Path, number: int) -> None:
    """The segment first: a crash in between leaves a note without a segment, which is harmless."""
    segment_path(directory, number).unlink(missing_ok=True)
    done_path(directory, number).unlink(missing_ok=True)


def pending_bytes(directory: Path, position: Position) -> int:
    """Bytes of records from `position` on: whole segments by their size, the newest by walking its lengths."""
    ahead = [n for n in segments(directory) if n >= position.segment]
    total = 0
    for number in ahead:
        start = position.offset if number == position.segment else 0
        with contextlib.suppress(OSError, ValueError), open(segment_path(directory, number), "rb") as file:
            if number != ahead[-1]:
                total += os.fstat(file.fileno()).st_size - start
                continue
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as newest:
                total += _records.peek(newest, start)[0] - start
    return total


def _checksum(hashed: int, time_ms: int, payload: bytes) -> int:
    return zlib.crc32(payload, (hashed ^ time_ms) & 0xFFFFFFFF)


def _write_length(target: mmap.mmap, at: int, length: int) -> None:
    """All four bytes at once; `pack_into` writes one after the other."""
    target[at : at + _LENGTH.size] = _LENGTH.pack(length)


class SpoolWriter:
    """The relay's end. One writer per directory."""

    def __init__(self, directory: Path, segment_bytes: int, max_bytes: int, bells: Path | None = None) -> None:
        """`bells`: where the bell of a shipper is that sleeps until something is appended (bell.py)."""
        self.directory = directory
        self.segment_bytes = segment_bytes
        self.max_bytes = max_bytes
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._map: mmap.mmap | None = None
        self._compiled: _segment.Segment | None = None
        self._bell = ringer(bells) if bells is not None else None
        self._offset = 0
        self._not_before = 0.0
        held = segments(directory)
        self._number = held[-1] if held else 0
        if held:
            try:
                self._seal(held[-1])
            except OSError as error:
                # Nothing can be written now: what comes is a gap, as on a full disk. A reader goes on behind a segment without its
                # seal as soon as there is another one.
                if error.errno not in DISK_TROUBLE:
                    raise

    def append(self, hashed: int, time_ms: int, payload: bytes) -> None:
        """Raises SpoolFull when there is no room, ValueError when one event is larger than a segment."""
        if self._compiled is not None:
            end = self._compiled.append(self._offset, hashed, time_ms, payload)
            if end:
                self._offset = end
                return
        size = HEADER.size + len(payload)
        if size + _LENGTH.size > self.segment_bytes:
            raise ValueError("an event larger than a segment")
        target = self._map
        if target is None or self._offset + size + _LENGTH.size > self.segment_bytes:
            target = self._next_segment()
        at = self._offset
        target[at + HEADER.size : at + size] = payload
        crc = _checksum(hashed, time_ms, payload)
        HEADER.pack_into(target, at, 0, crc, hashed, time_ms)
        _write_length(target, at, len(payload))
        self._offset = at + size
        if self._bell is not None:
            self._bell.heard(len(payload))

    @property
    def bytes(self) -> int:
        """Bytes on disk, acknowledged or not."""
        return len(segments(self.directory)) * self.segment_bytes

    def _next_segment(self) -> mmap.mmap:
        now = time.monotonic()
        if now < self._not_before:
            raise SpoolFull("the spool is full")
        try:
            self._make_room()
            created = self._create_somehow(self._number + 1)
        except OSError as error:
            self._not_before = now + RETRY_S
            raise SpoolFull(f"the spool's disk: {error.strerror}") from None
        except SpoolFull:
            self._not_before = now + RETRY_S
            raise
        self._seal_current()
        self._number += 1
        self._map, self._offset = created, 0
        self._compiled = _segment.Segment(created, self._bell) if _segment is not None else None
        return created

    def _seal_current(self) -> None:
        if self._compiled is not None:
            self._compiled.release()
            self._compiled = None
        if self._map is not None:
            _write_length(self._map, self._offset, _SEALED)
            self._map.close()
            self._map = None

    def _make_room(self) -> None:
        held = segments(self.directory)
        while held and (len(held) + 1) * self.segment_bytes > self.max_bytes:
            if not done_path(self.directory, held[0]).exists():
                raise SpoolFull("the spool is full")
            delete_segment(self.directory, held.pop(0))

    def _create_somehow(self, number: int) -> mmap.mmap:
        """On a full disk, what is acknowledged and only kept for a broker that forgets is given up first."""
        while True:
            try:
                return self._create(number)
            except OSError:
                done = [n for n in segments(self.directory) if done_path(self.directory, n).exists()]
                if not done:
                    raise
                delete_segment(self.directory, done[0])

    def _create(self, number: int) -> mmap.mmap:
        # Under another name until its space is reserved: a reader never maps a file that is still growing.
        path = segment_path(self.directory, number)
        growing = path.with_suffix(".new")
        descriptor = os.open(growing, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self.segment_bytes)
            created = mmap.mmap(descriptor, self.segment_bytes)
            growing.rename(path)
        except OSError:
            growing.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return created

    def _seal(self, number: int) -> None:
        """Close the segment of a writer that died."""
        with open(segment_path(self.directory, number), "r+b") as file:
            if not os.fstat(file.fileno()).st_size:
                return  # a crash of the machine took all of it
            old = mmap.mmap(file.fileno(), 0)
        with old:
            at = _records.peek(old, 0)[0]
            if at + _LENGTH.size <= len(old):
                _write_length(old, at, _SEALED)

    def close(self) -> None:
        self._seal_current()


COMPILED_FRAMES = _frames is not None
"""`take_frames` can be used."""


class SpoolReader:
    """The shipper's end: reads from a position, and goes from segment to segment."""

    def __init__(self, directory: Path, position: Position | None = None) -> None:
        self.directory = directory
        self.position = position or Position(0, 0)
        """Where the next record is, or will be."""
        self.damaged = 0
        """Records that failed their checksum, and were left out."""
        self._map: mmap.mmap | None = None
        self._mapped = -1
        self._quiet = 0
        """Looks in a row that found nothing."""
        self.more = False
        """What was taken last ended at a bound: the next records are there."""

    def read(self, max_records: int, max_bytes: int, until: int | None = None) -> list[Record]:
        """Records from here on, all of one segment; empty when nothing is there yet. Moves the position.

        `until`: an offset in this segment where to stop, when the same records must be read again. Raises FileNotFoundError
        when it is gone: the next one's records are others.
        """
        return [Record(*raw) for raw in self.take(max_records, max_bytes, until)]

    def take(self, max_records: int, max_bytes: int, until: int | None = None) -> list[RawRecord]:
        """`read` for those who read many: plain tuples."""
        out: list[RawRecord] = []

        def work(source: mmap.mmap, at: int, limit: int) -> tuple[int, int, bool, bool]:
            end, damaged, more = _records.take(source, at, limit, max_records, max_bytes, out)
            return end, damaged, more, bool(out)

        self._walk(until, work)
        return out

    def take_frames(
        self,
        max_records: int,
        max_bytes: int,
        frame_events: int,
        frame_bytes: int,
        prefix: bytes,
        seqs: list[int],
    ) -> tuple[int, list[Framed]]:
        """`take`, and the records as the frames that _records.group and codec.encode_frame make of them: (time of the first one,
        frames). `seqs`: of each partition, the next sequence number; counted on. Where compiled."""
        oldest, out = 0, list[Framed]()

        def work(source: mmap.mmap, at: int, limit: int) -> tuple[int, int, bool, bool]:
            nonlocal oldest, out
            end, damaged, more, oldest, out = _frames.frames(
                source, at, limit, max_records, max_bytes, len(seqs), frame_events, frame_bytes, prefix, seqs
            )
            return end, damaged, more, bool(out)

        self._walk(None, work)
        return oldest, out

    def _walk(self, until: int | None, work: Callable[[mmap.mmap, int, int], tuple[int, int, bool, bool]]) -> None:
        """From segment to segment until `work` has found something: (its end, damaged records, more behind it, found)."""
        found = self.more = False
        while until is None or self.position.offset < until:
            source = self._open(self.position.segment, only=until is not None)
            if source is None:
                break
            segment, at = self.position  # the segment may be gone: then this is the next one's beginning
            end, damaged, more, found = work(source, at, until or len(source))
            self.position = Position(segment, end)
            self.damaged += damaged
            if found or more:
                self.more = more
                break
            if until is not None:
                break
            length = _LENGTH.unpack_from(source, end)[0] if end + _LENGTH.size <= len(source) else _SEALED
            self._quiet += 1
            if length == 0 and self._quiet % LOOKS != 1:
                break
            if not self._sealed(segment, end, length):
                break
        if found:
            self._quiet = 0

    def peek(self, offset: int) -> tuple[int, int]:
        """What lies behind `offset` of the current segment: (offset of its end so far, length of the longest record)."""
        if self._map is None or self._mapped != self.position.segment:
            return offset, 0
        found: tuple[int, int] = _records.peek(self._map, max(offset, self.position.offset))
        return found

    def _sealed(self, segment: int, at: int, length: int) -> bool:
        """Move to the next segment when this one has ended; False when its writer may still append."""
        following = [n for n in segments(self.directory) if n > segment]
        if not following:
            return False
        # The writer seals before it makes the next segment, so whatever was appended here is visible by now.
        if length == 0 and self._map is not None and _LENGTH.unpack_from(self._map, at)[0] not in (0, _SEALED):
            return True
        if length not in (0, _SEALED):
            self.damaged += 1  # a length that cannot be: the rest of the segment cannot be found
        self.position = Position(following[0], 0)
        return True

    def _open(self, segment: int, only: bool) -> mmap.mmap | None:
        if self._mapped == segment:
            return self._map
        self.close()
        found = self._map_of(segment)
        if found is None:
            if only:
                raise FileNotFoundError(
                    errno.ENOENT, "this segment is gone", str(segment_path(self.directory, segment))
                )
            for following in segments(self.directory):
                if following > segment and (found := self._map_of(following)) is not None:
                    segment = following
                    self.position = Position(segment, 0)
                    break
            else:
                return None
        self._map, self._mapped = found, segment
        return found

    def _map_of(self, segment: int) -> mmap.mmap | None:
        """None for a segment that is gone, or of which a crash of the machine left no byte."""
        with contextlib.suppress(FileNotFoundError), open(segment_path(self.directory, segment), "rb") as file:
            if os.fstat(file.fileno()).st_size:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return None

    def close(self) -> None:
        if self._map is not None:
            self._map.close()
        self._map, self._mapped = None, -1
