"""One relay worker's spool on its way to Kafka: what was planned, what is in flight, what may be deleted."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from ..events.codec import frame_head
from .plan import (
    FRAME_BYTES,
    Batch,
    Head,
    OutFrame,
    PlanWriter,
    make_frames,
    plan_path,
    plans,
    read_plan,
)
from .spool import (
    COMPILED_FRAMES,
    Position,
    RawRecord,
    SpoolReader,
    delete_segment,
    done_path,
    pending_bytes,
    segments,
)

log = logging.getLogger(__name__)

BATCH_RECORDS = 8_000
BATCH_BYTES = 2 << 20
URGENT_BYTES = 1_500
"""An event of this length tells of about fifty patients or more."""


class Lane:
    """Batches of a spool, one in flight at a time: `take`, send, `acknowledge`.

    A batch that was taken is in the plan on disk; until it is acknowledged the next `take`, of this shipper or of the one
    that comes after a crash, gives the same frames again, equal to the byte.
    """

    def __init__(self, directory: Path, tenant: str, sidecar: str, boot: str, frame_events: int) -> None:
        self.directory = directory
        self.tenant = tenant
        self.sidecar = sidecar
        self.boot = boot
        self.frame_events = frame_events
        self.oldest_ms = 0
        """Time of the oldest event that Kafka has not acknowledged; 0 when there is none."""
        self.unplanned = 0
        """Batches sent without a plan, because the disk was full."""
        self._partitions = 1
        self._plan = PlanWriter(directory, self._fresh_head())
        self._reader = SpoolReader(directory)
        self._unsent: list[OutFrame] = []
        self._peeked = 0

    @property
    def damaged(self) -> int:
        """Records left out because their checksum was wrong."""
        return self._reader.damaged

    @property
    def waiting_bytes(self) -> int:
        """Bytes of records that are not acknowledged."""
        sending = sum(len(frame.value) for frame in self._unsent)
        return sending + pending_bytes(self.directory, self._reader.position)

    def _fresh_head(self) -> Head:
        return self._head(secrets.token_hex(8), [0] * self._partitions)

    def _head(self, epoch: str, seqs: list[int]) -> Head:
        return Head(epoch, self.boot, self._partitions, self.frame_events, 0, seqs, FRAME_BYTES)

    # -- recovery ---------------------------------------------------------------------------------------------------

    def open(self, partitions: int) -> None:
        """Find where the last shipper stood. `partitions`: of the queries topic as it is now."""
        self._partitions = partitions
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._plan.close()
        self._plan = PlanWriter(self.directory, self._fresh_head())
        self._unsent = []
        known = plans(self.directory)
        self._reader.close()
        self._reader = SpoolReader(self.directory)
        if known:
            self._resume(*known[-1])

    def _resume(self, number: int, path: Path) -> None:
        batches = read_plan(path)
        if path == done_path(self.directory, number):
            self._reader.position = Position(number + 1, 0)
            for batch in batches:
                batch.acknowledged = True
        else:
            self._reader.position = Position(number, batches[-1].end if batches else 0)
        if not batches:
            return
        head = batches[-1].head
        if head.partitions != self._partitions:
            log.warning("the queries topic has another number of partitions: a new epoch of frames begins")
            if waiting := [b.start for b in batches if not b.acknowledged]:
                self._reader.position = Position(number, waiting[0])
            return
        seqs = list(head.seqs)
        try:
            for batch, frames, after in self._replay(number, batches):
                seqs = after
                if not batch.acknowledged:
                    self._unsent += frames
        except FileNotFoundError:  # which numbers its frames had cannot be told
            log.warning("segment %d of %s is gone: a new epoch of frames begins", number, self.directory)
            return
        if head.boot == self.boot:
            self._plan.head = self._head(head.epoch, seqs)
        else:
            log.info("the machine was restarted: a new epoch of frames begins")
        if self._unsent:
            with contextlib.suppress(OSError):  # to note there that it was acknowledged
                self._plan.open(number, self._reader.position.offset)

    def _replay(self, number: int, batches: list[Batch]) -> Iterator[tuple[Batch, list[OutFrame], list[int]]]:
        """The frames of a segment's batches, made again, and the sequence numbers behind each. Raises FileNotFoundError."""
        reader = SpoolReader(self.directory)
        head: Head | None = None
        seqs: list[int] = []
        for batch in batches:
            if batch.head is not head:
                head, seqs = batch.head, list(batch.head.seqs)
            reader.position = Position(number, batch.start)
            records: list[RawRecord] = []
            while part := reader.take(BATCH_RECORDS, BATCH_BYTES, until=batch.end):
                records += part
            yield batch, make_frames(records, self.tenant, self.sidecar, head, seqs), list(seqs)
        reader.close()

    def replay_all(self) -> Iterator[list[OutFrame]]:
        """Everything that is kept, batch by batch, as it was sent before: for a broker that forgot."""
        for number, path in plans(self.directory):
            with contextlib.suppress(FileNotFoundError):  # deleted by its writer meanwhile, to make room
                for batch, frames, _ in self._replay(number, read_plan(path)):
                    if batch.head.partitions <= self._partitions:
                        yield frames

    # -- shipping ---------------------------------------------------------------------------------------------------

    def take(self) -> list[OutFrame]:
        """The next batch; the same one until it is acknowledged; empty when there is nothing to send."""
        if self._unsent:
            return self._unsent
        before, damaged = self._reader.position, self._reader.damaged
        self._peeked = 0
        seqs = list(self._plan.head.seqs)
        frames = self._read(self._plan.head, seqs)
        if not frames:
            self.oldest_ms = 0
            return []
        head = self._plan.head
        segment, end = self._reader.position
        start = before.offset if before.segment == segment else 0
        try:
            self._write_plan(segment, start, end)
        except OSError:
            self._write_plan_somehow(segment, start, end)
        if self._plan.head is not head:  # a new epoch: these frames say the old one
            self._reader.position, self._reader.damaged = Position(segment, start), damaged
            seqs = list(self._plan.head.seqs)
            frames = self._read(self._plan.head, seqs)
        self._plan.head.seqs = seqs
        self._unsent = frames
        return frames

    def _read(self, head: Head, seqs: list[int]) -> list[OutFrame]:
        """The next records as frames; counts `seqs` on."""
        if not COMPILED_FRAMES:
            records = self._reader.take(BATCH_RECORDS, BATCH_BYTES)
            self.oldest_ms = records[0][1] if records else 0
            return make_frames(records, self.tenant, self.sidecar, head, seqs)
        prefix = frame_head(self.tenant, self.sidecar, head.epoch)
        self.oldest_ms, framed = self._reader.take_frames(
            BATCH_RECORDS, BATCH_BYTES, head.frame_events, head.frame_bytes, prefix, seqs
        )
        return [OutFrame(*frame) for frame in framed]

    @property
    def more(self) -> bool:
        """Behind the batch that was taken last there is another one already."""
        return self._reader.more

    def urgent(self) -> bool:
        """Something lies there that should not wait until there is more: a batch's worth, or an event with many patients."""
        start = self._reader.position.offset
        self._peeked, longest = self._reader.peek(self._peeked if self._peeked > start else start)
        return longest >= URGENT_BYTES or self._peeked - start >= BATCH_BYTES // 2

    def _write_plan(self, segment: int, start: int, end: int) -> None:
        plan = self._plan
        if plan.segment != segment:
            plan.close()
            self._finish_before(segment)
            plan.open(segment, start)
        plan.batch(end)

    def _write_plan_somehow(self, segment: int, start: int, end: int) -> None:
        """The disk is full, or can only be read. Acknowledged segments are given up first; with none left, shipping goes on without a
        plan, under a new epoch: a crash just now may count these events twice, and loses none."""
        with contextlib.suppress(OSError):
            while held := [n for n in segments(self.directory) if done_path(self.directory, n).exists()]:
                delete_segment(self.directory, held[0])
                with contextlib.suppress(OSError):
                    self._write_plan(segment, start, end)
                    return
        log.error(
            "%s cannot be written to: frames are published without a recovery plan; free space, or see why it is read-only",
            self.directory,
        )
        self.unplanned += 1
        self._plan.close()
        self._plan = PlanWriter(self.directory, self._fresh_head())

    def acknowledge(self) -> None:
        """Kafka has all of what was taken."""
        self._unsent = []
        with contextlib.suppress(OSError):  # unwritten, it only means that a crash sends the batch once more
            self._plan.acknowledged()

    def _finish_before(self, segment: int) -> None:
        """Every earlier segment is acknowledged whole: only one batch is ever in flight."""
        for number in segments(self.directory):
            if number >= segment:
                break
            if plan_path(self.directory, number).exists():
                plan_path(self.directory, number).rename(done_path(self.directory, number))
            elif not done_path(self.directory, number).exists():
                done_path(self.directory, number).touch(mode=0o600)

    def expire(self, retain_ms: int) -> None:
        """Delete what was acknowledged longer ago. The newest stays: it holds the sequence numbers."""
        limit = time.time() - retain_ms / 1000
        with contextlib.suppress(
            OSError
        ):  # deleted by its writer meanwhile; a directory that cannot be read or changed now
            done = [n for n in segments(self.directory) if done_path(self.directory, n).exists()]
            for number in done[:-1]:
                if done_path(self.directory, number).stat().st_mtime < limit:
                    delete_segment(self.directory, number)

    def close(self) -> None:
        self._plan.close()
        self._reader.close()
