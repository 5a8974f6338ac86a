"""`exfilguard archive`: queries, verdicts and actions from Kafka into the archive and the ledger. One process, kafka-python.

    queries ──► ArchiveWriter ──commit──► Parquet files + manifest (with the position)
    verdicts, actions ──► Ledger ──► a line each, on disk at once; signed checkpoints, also elsewhere
                             └──► SIEM (best effort, see siem.py)

Positions are kept in what they are positions of, never in Kafka: a kill at any point reads again what was not yet on disk, and
what is on disk is known (`(sidecar, epoch, seq)`; the record's hash). A broker that is away costs nothing but time; one that
forgot its topics shows by their ids and is read from its beginning. A full disk is waited for: nothing is read meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from ..config.schema import Config
from ..errors import CodecError
from ..events.chain import link_of
from ..events.codec import decode_action, decode_frame, decode_verdict
from ..events.signature import signature_of
from ..events.topics import Topics
from ..evidence.archive import ArchiveWriter
from ..evidence.ledger import PUBLIC_KEY, Ledger, append_line, replace_file
from ..evidence.signing import Signer, signer_at, signer_from
from ..runtime.clock import now_ms
from ..runtime.frame_keys import KeyFiles
from ..runtime.kafka import WATCH_RETRY_S, WATCH_S, RepeatedError, TopicWatch, client_settings
from ..runtime.process import die_with_parent, stop_on_signals
from ..runtime.standstill import Standstill
from ..runtime.stats import Snapshot, StatsServer, run_dir
from .siem import SiemSender, sender_of

log = logging.getLogger(__name__)

POLL_MS = 200
MAX_BUFFERED = 100_000
"""Events in memory before a commit is made early."""
UPKEEP_S = 5.0
EXPIRE_S = 3_600.0
DISK_RETRY_S = 2.0
DRAIN_S = 3.0


def signer_of(config: Config) -> Signer:
    """The configured key, or one made once and kept in the data directory. Raises EvidenceError."""
    if config.archive.signing_key:
        return signer_from(config.archive.signing_key)
    return signer_at(Path(config.data_dir) / "audit.key")


class Archiver:
    """One process's state. Everything but the SIEM's connection happens in one thread."""

    def __init__(self, config: Config, siem: SiemSender | None) -> None:
        """Raises EvidenceError."""
        self.config = config
        self.topics = Topics(config.kafka.prefix)
        self.writer = ArchiveWriter(Path(config.archive_dir), config.archive.retention_ms)
        if self.writer.trouble:
            log.error("%s", self.writer.trouble)
        self.ledger = Ledger(Path(config.archive_dir) / "ledger", signer_of(config), now_ms())
        if self.ledger.unreadable:
            log.error("%d lines of the ledger cannot be read: run `exfilguard audit verify`", self.ledger.unreadable)
        self.siem = siem
        self.watch = TopicWatch(config, needs=(self.topics.queries, self.topics.verdicts, self.topics.actions))
        self.key_files = KeyFiles(config)
        self.archived = 0
        self.unreadable = 0
        self.lag = 0
        self.checkpointed_ms = now_ms()
        self._consumer: Any = None
        self._read: dict[tuple[str, int], int] = {}
        """(topic, partition) of verdicts and actions -> next offset, what is not appended included."""
        self._revisions: dict[str, int] = {}
        """As the ledger's, what is not appended included."""
        self._held: list[dict[str, Any]] = []
        """Entries read and not appended: the disk was full."""
        self._watched = self._upkept = self._committed = 0.0
        self._expired = -EXPIRE_S
        self._kafka = RepeatedError(f"Kafka at {config.kafka.bootstrap} cannot be read", "it is tried again")
        self._disk = RepeatedError("the archive cannot be written", "free space on its disk; nothing is lost meanwhile")
        self._elsewhere = RepeatedError(
            "a checkpoint cannot be copied to archive.checkpoint_dir", "it is in the ledger's directory only"
        )

    # -- the loop ---------------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                if not self._connected():
                    stop.wait(WATCH_RETRY_S)
                    continue
                self._standstill.check()
                batches = self._consumer.poll(timeout_ms=POLL_MS, max_records=2_000)
                self._kafka.worked()
            except (KafkaError, OSError) as error:
                self._kafka.failed(error)
                self._disconnect()
                stop.wait(WATCH_RETRY_S)
                continue
            try:
                self._take(batches)
                self._work()
                self._disk.worked()
            except OSError as error:
                self._disk.failed(error)
                stop.wait(DISK_RETRY_S)
        self.finish()

    def finish(self) -> None:
        """What the topics still hold and what was read goes to disk, and the ledger is signed."""
        try:
            self._drain()
            self._append()
            self.archived += self.writer.commit(now_ms())
            self._checkpoint()
        except OSError as error:
            self._disk.failed(error)
        self._disconnect()
        self.watch.close()
        self.writer.close()

    def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_S
        with contextlib.suppress(KafkaError):
            while self._consumer is not None and time.monotonic() < deadline:
                batches = self._consumer.poll(timeout_ms=POLL_MS, max_records=2_000)
                self._take(batches)
                if not batches and self._measure_lag() == 0:
                    return

    def _connected(self) -> bool:
        """True when the consumer stands where the archive and the ledger end. Raises KafkaError."""
        now = time.monotonic()
        if self._consumer is not None and now - self._watched < WATCH_S:
            return True
        self._watched = now
        before = dict(self.watch.partitions)
        ids = dict(self.watch.ids)
        if not self.watch.look():
            return self._consumer is not None
        if self._consumer is not None and before == self.watch.partitions and ids == self.watch.ids:
            return True
        self._disconnect()
        self._consumer = KafkaConsumer(
            **client_settings(self.config),
            enable_auto_commit=False,
            group_id=None,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=self.config.kafka.fetch_wait_ms,
            fetch_max_bytes=16 << 20,
            allow_auto_create_topics=False,
        )
        self.writer.begin(self.watch.ids[self.topics.queries])
        self._read = {
            key: offset
            for key, (topic_id, offset) in self.ledger.positions.items()
            if topic_id == self.watch.ids.get(key[0])
        }
        self._held = []
        self._revisions = dict(self.ledger.revisions)
        assigned = [
            TopicPartition(topic, n)
            for topic in (self.topics.queries, self.topics.verdicts, self.topics.actions)
            for n in range(self.watch.partitions[topic])
        ]
        self._consumer.assign(assigned)
        for at in assigned:
            offsets = self.writer.offsets.get(at.partition, 0) if at.topic == self.topics.queries else 0
            self._consumer.seek(at, offsets or self._read.get((at.topic, at.partition), 0))
        self._standstill = Standstill(self._consumer)
        return True

    def _disconnect(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(KafkaError, OSError):
                consumer.close()

    # -- records ----------------------------------------------------------------------------------------------------

    def _take(self, batches: dict[Any, list[Any]]) -> None:
        for at, records in batches.items():
            for record in records:
                if at.topic == self.topics.queries:
                    self._frame(at.partition, record.offset, record.value, signature_of(record.headers))
                else:
                    self._decision(at.topic, at.partition, record.offset, record.value)
        self._append()

    def _frame(self, partition: int, offset: int, value: bytes | None, signature: bytes) -> None:
        value, keys = value or b"", self.key_files.keys
        try:
            frame = decode_frame(value)
            if keys is not None and (why := keys.refusal(partition, frame.tenant, frame.sidecar, value, signature)):
                raise CodecError(why)
        except CodecError as error:
            self.unreadable += 1
            log.error("partition %d offset %d: %s: left out of the archive", partition, offset, error)
            self.writer.skip(partition, offset)
            return
        if self.writer.add(partition, offset, frame) and self.siem is not None:
            self.siem.frame(frame)

    def _decision(self, topic: str, partition: int, offset: int, value: bytes | None) -> None:
        """A verdict or an action: an entry of the ledger, unless it is in already."""
        expected = self._read.get((topic, partition), 0)
        self._read[(topic, partition)] = offset + 1
        if offset < expected:
            return
        place = [topic, partition, offset, self.watch.ids[topic]]
        if offset > expected:
            self._held.append(
                {"type": "gap", "from": [*place[:2], offset - 1, place[3]], "first": expected, "last": offset - 1}
            )
        if value is None or self.ledger.knows(value) or any(entry.get("raw") == value for entry in self._held):
            return
        kind = "verdict" if topic == self.topics.verdicts else "action"
        try:
            text = value.decode()
            verdict = decode_verdict(value) if kind == "verdict" else None
            action = decode_action(value) if kind == "action" else None
            linked = link_of(value) is not None
        except (CodecError, UnicodeDecodeError) as error:
            self.unreadable += 1
            log.error("%s/%d offset %d cannot be read: %s", topic, partition, offset, error)
            self._held.append({"type": "unreadable", "from": place, "hex": value[:4_096].hex()})
            return
        if verdict is not None:
            known = self._revisions.get(verdict.key, -1)
            if not linked and verdict.revision <= known:
                return  # a standing verdict that a sidecar published again
            self._revisions[verdict.key] = max(known, verdict.revision)
        self._held.append({"type": kind, "from": place, "record": text, "raw": value})
        if self.siem is not None:
            if verdict is not None:
                self.siem.verdict(verdict)
            if action is not None:
                self.siem.action(action)

    def _append(self) -> None:
        """Raises OSError; the entries are kept for the next time."""
        if self._held:
            entries = [{k: v for k, v in entry.items() if k != "raw"} for entry in self._held]
            self.ledger.append(entries, now_ms())
            self._held = []

    # -- time -------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        now = time.monotonic()
        due = now - self._committed >= self.config.archive.commit_ms / 1000
        if (due and self.writer.offsets != self.writer.manifest.offsets) or self.writer.buffered > MAX_BUFFERED:
            self.archived += self.writer.commit(now_ms())
            self._committed = now
        if now_ms() - self.checkpointed_ms >= self.config.archive.checkpoint_ms:
            self._checkpoint()
        if now - self._upkept >= UPKEEP_S:
            self._upkept = now
            self.lag = self._measure_lag()
            self.key_files.reload()
            if not self.writer.buffered and (said := self.writer.compact(now_ms())):
                log.info("%s", said)
        if now - self._expired >= EXPIRE_S:
            self._expired = now
            before_ms = now_ms() - self.config.archive.retention_ms
            gone = self.writer.expire(now_ms())
            files = self.ledger.prune(before_ms, now_ms())
            if gone or files:
                log.info("retention: %d files of events and %d of the ledger are no longer kept", len(gone), files)

    def _checkpoint(self) -> None:
        made = self.ledger.checkpoint(now_ms())
        self.checkpointed_ms = now_ms()
        if made is None or not self.config.archive.checkpoint_dir:
            return
        elsewhere = Path(self.config.archive.checkpoint_dir)
        try:
            append_line(elsewhere / f"{self.ledger.id}.checkpoints.jsonl", made.encoded())
            replace_file(
                elsewhere / f"{self.ledger.id}.{PUBLIC_KEY}", (self.ledger.directory / PUBLIC_KEY).read_bytes()
            )
            self._elsewhere.worked()
        except OSError as error:
            self._elsewhere.failed(error)

    def _measure_lag(self) -> int:
        lag = 0
        for at in self._consumer.assignment():
            end = self._consumer.highwater(at)
            if end is not None:
                lag += max(0, end - self._consumer.position(at))
        return lag

    def snapshot(self) -> Snapshot:
        manifest = self.writer.manifest
        out = Snapshot(role="archive", instance="0")
        out.values = [
            ("archive_events_total", {}, self.archived),
            ("archive_bytes", {}, sum(entry.nbytes for entry in list(manifest.files.values()))),
            ("archive_lag_records", {}, self.lag),
            ("archive_missing_records", {}, self.writer.missing_frames),
            ("archive_damaged_files", {}, len(manifest.damaged)),
            ("ledger_entries_total", {}, self.ledger.entries),
            ("ledger_checkpoint_age_seconds", {}, max(0, now_ms() - self.checkpointed_ms) / 1000),
            *self.watch.figures(),
            *self.key_files.figures(),
        ]
        if self.siem is not None:
            out.values += [
                ("siem_messages_total", {"outcome": "sent"}, self.siem.sent),
                ("siem_messages_total", {"outcome": "dropped"}, self.siem.dropped),
            ]
        out.details = {"dir": str(self.writer.root), "commit": manifest.commit, "events": manifest.events}
        return out


def run_archiver(config: Config) -> int:
    """Run until SIGTERM. Returns the exit status. Raises EvidenceError."""
    die_with_parent()
    stop = stop_on_signals()
    siem = sender_of(config)
    archiver = Archiver(config, siem)
    stats = StatsServer(run_dir(config.data_dir) / "archive.stats", archiver.snapshot)
    log.info("archive at %s, %d events so far", archiver.writer.root, archiver.writer.manifest.events)
    try:
        archiver.run(stop)
    finally:
        stats.close()
        if siem is not None:
            siem.close()
    return 0
