"""The shipper: the spools of this host's relays to Kafka, and the verdicts back. A process of its own, kafka-python.

Rules:
- acks=all, idempotent where the broker allows it. One batch per spool in flight; what failed is sent again, the same to the
  byte, for as long as it takes. `(sidecar, epoch, seq)` lets the detector drop what arrived twice.
- A broker that is away costs nothing but room in the spool. A broker that forgot (the embedded one after a restart) shows by
  new topic ids: everything the spool still keeps is published again, and so are the standing verdicts.
- Four threads: shipping (the main one), watching the topics, following the verdicts, resolving patient columns.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import psycopg
from kafka import KafkaProducer
from kafka.errors import AuthorizationError, ClusterAuthorizationFailedError, KafkaError, UnsupportedVersionError

from ..config.schema import Config
from ..errors import CodecError
from ..events import signature
from ..events.codec import decode_verdict, encode_verdict
from ..events.topics import Topics
from ..events.verdict import LEVELS, Verdict
from ..runtime.clock import now_ms
from ..runtime.holding import hold
from ..runtime.kafka import (
    WATCH_RETRY_S,
    WATCH_S,
    RepeatedError,
    TopicWatch,
    certificate_figures,
    client_settings,
    compress_quickly,
    follow,
)
from ..runtime.process import hand_over_quickly, keep_memory, stop_on_signals
from ..runtime.stats import Snapshot, StatsServer, run_dir, short_path
from .bell import ANYTHING, sleeper
from .catalog import resolve_columns
from .lane import URGENT_BYTES, Lane
from .plan import OutFrame
from .verdict_table import VerdictTable

log = logging.getLogger(__name__)

IDLE_S = 0.25
"""So long at most it sleeps until a relay rings: a signal that came just before waits for it."""
VERDICTS_WAIT_MS = 1_000
LINKS_S = 1.0
MISSING_S = 0.1
"""A relay whose socket was not there is looked for again after this time."""
PAUSE_PER_CPU = 60
"""After a batch, so many times the CPU it took is waited for more (`kafka.linger_ms` at most): what publishing costs stays a
small share of a core, however many small events come. Events with many patients do not wait (Lane.urgent)."""
LARGE_BATCH = 500
"""Events. Behind a batch like this it is twice `linger_ms`: a batch costs about the same with ten events and with thousands."""
FULL_BYTES = 850_000
"""So much goes in one request. Twice `linger_ms` is not waited where it would be more."""
REST_PER_CPU = 4
"""But so long they wait too: a stream of them is sent in batches."""
REQUEST_BYTES = 950_000
"""A partition's frames of one batch go together, below what brokers take by default (message.max.bytes, 1 MB)."""
MAX_BACKOFF_S = 1.0
COLUMNS_S = 30.0
EXPIRE_S = 10.0
SEND_TIMEOUT_S = 15.0
DRAIN_S = 5.0
WAIT_S = 0.05


class RelayLink:
    """A connection to one relay's control socket; what is sent there is also on disk, so a lost line is no loss."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket: socket.socket | None = None

    def connected(self) -> bool:
        """Also notices a relay that has gone."""
        if self._socket is None:
            return False
        # The relay never answers: readable means closed. Not recv(): with a timeout set, Python waits before it asks.
        if select.select([self._socket], [], [], 0)[0]:
            self.close()
        return self._socket is not None

    @property
    def waitable(self) -> socket.socket | None:
        """Readable once the relay has gone."""
        return self._socket

    def connect(self) -> bool:
        if not self.path.exists():
            return False
        try:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            return False
        link.settimeout(1.0)
        try:
            with short_path(self.path) as address:
                link.connect(address)
        except OSError:
            link.close()
            return False
        self._socket = link
        return True

    def send(self, message: dict[str, Any]) -> None:
        if self._socket is not None:
            try:
                self._socket.sendall(orjson.dumps(message) + b"\n")
            except OSError:
                self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Relays:
    """All relays of this sidecar: each learns the whole state when it is met, then every change."""

    def __init__(self, config: Config) -> None:
        directory = run_dir(config.data_dir)
        self._links = [RelayLink(directory / f"relay-{n}.sock") for n in relay_numbers(config)]
        self._lock = threading.Lock()
        self.table = VerdictTable(Path(config.data_dir) / "verdicts.json")
        self._columns_path = Path(config.data_dir) / "columns.json"
        self.columns: list[dict[str, Any]] = []
        self._disk = RepeatedError("verdicts.json cannot be written", "free space, or fix its directory's permissions")

    def keep_connected(self) -> None:
        with self._lock:
            for link in self._links:
                if not link.connected() and link.connect():
                    for verdict in self.table.verdicts():
                        link.send({"verdict": orjson.loads(encode_verdict(verdict))})
                    for columns in self.columns:
                        link.send({"columns": columns})

    def wait(self) -> None:
        """Until a relay goes, or it is time to look for one that is missing."""
        with self._lock:
            found = [link.waitable for link in self._links]
        there = [link for link in found if link is not None]
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile by who met an error at it
            select.select(there, [], [], LINKS_S if len(there) == len(found) else MISSING_S)

    def learn(self, verdicts: list[Verdict]) -> None:
        with self._lock:
            new = [verdict for verdict in verdicts if self.table.apply(verdict)]
            if not new:
                return
            for verdict in new:  # enforcement first: the disk may be slow
                for link in self._links:
                    link.send({"verdict": orjson.loads(encode_verdict(verdict))})
            try:
                self.table.save()
                self._disk.worked()
            except OSError as error:
                self._disk.failed(error)

    def set_columns(self, columns: list[dict[str, Any]]) -> None:
        with self._lock:
            if columns == self.columns:
                return
            self.columns = columns
            with contextlib.suppress(OSError):  # they are resolved again at the next start
                self._columns_path.write_bytes(orjson.dumps(columns))
            for message in columns:
                for link in self._links:
                    link.send({"columns": message})


class VerdictFollower:
    """The verdicts topic from its beginning, for as long as the process lives."""

    def __init__(self, config: Config, watch: TopicWatch, relays: Relays, stop: threading.Event) -> None:
        self._config = config
        self._watch = watch
        self._relays = relays
        self._stop = stop
        self._topic = Topics(config.kafka.prefix).verdicts
        self.undecodable = 0

    def run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except (KafkaError, OSError, AssertionError) as error:
                log.warning("the verdicts cannot be followed (%s): trying again", type(error).__name__)
            self._stop.wait(0.5)

    def _follow(self) -> None:
        for portion in follow(self._config, self._watch, (self._topic,), self._stop, VERDICTS_WAIT_MS):
            verdicts: list[Verdict] = []
            for _, value in portion:
                try:
                    verdicts.append(decode_verdict(value))
                except CodecError:
                    self.undecodable += 1
            if verdicts:
                self._relays.learn(verdicts)


class Shipper:
    """Sends batches until told to stop."""

    def __init__(self, config: Config, stop: threading.Event) -> None:
        self.config = config
        self.stop = stop
        self.topics = Topics(config.kafka.prefix)
        data_dir = Path(config.data_dir)
        self.watch = TopicWatch(config, data_dir / "topics.json", (self.topics.queries, self.topics.verdicts))
        self.relays = Relays(config)
        self.follower = VerdictFollower(config, self.watch, self.relays, stop)
        boot = _boot_id()
        self.lanes = [
            Lane(
                data_dir / "spool" / str(n), config.tenant, f"{config.sidecar_id}-{n}", boot, config.kafka.frame_events
            )
            for n in relay_numbers(config)
        ]
        self._bell = sleeper(data_dir / "spool")
        self._key = config.kafka.frame_key.encode()
        self.frames = 0
        self.events = 0
        self.resends = 0
        self._certificates = certificate_figures(config)
        self._producer: KafkaProducer | None = None
        self._idempotent = True
        self._opened_for = 0  # partitions the lanes were opened for
        self._seen_generation = 0
        self._sent_at = 0.0
        self._used_before_s = time.process_time()

    # -- the main loop ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        backoff_s = 0.05
        next_expiry = drain_until = 0.0
        while True:
            now = time.monotonic()
            if self.stop.is_set():
                drain_until = drain_until or now + DRAIN_S
                if now > drain_until:
                    break
            seen = self._bell.arm(ANYTHING)
            try:
                sent = self._ship()
                backoff_s = 0.05
            except (KafkaError, OSError) as error:
                log.warning("Kafka did not take a batch (%s): it is sent again", type(error).__name__)
                self._drop_producer()
                self._wait(backoff_s)
                backoff_s = min(MAX_BACKOFF_S, backoff_s * 2)
                continue
            if now >= next_expiry:
                next_expiry = now + EXPIRE_S
                for lane in self.lanes:
                    lane.expire(self.config.spool.retain_ms)
            if sent:
                continue
            if self.stop.is_set():
                break
            self._bell.sleep(seen, IDLE_S)
        self._drop_producer()
        for lane in self.lanes:
            lane.close()

    def _pause(self, frames: list[OutFrame]) -> None:
        """While these are on their way: until there is enough for the next batch."""
        now, used_s = time.monotonic(), time.process_time() - self._used_before_s
        since_s, self._sent_at, self._used_before_s = now - self._sent_at, now, self._used_before_s + used_s
        most_s = self.config.kafka.linger_ms / 1000
        if sum(frame.events for frame in frames) >= LARGE_BATCH:
            most_s = max(most_s, min(2 * most_s, since_s * FULL_BYTES / sum(len(frame.value) for frame in frames)))
        until = now + min(most_s, used_s * PAUSE_PER_CPU)
        rest = now + min(most_s, used_s * REST_PER_CPU)
        while (left := until - time.monotonic()) > 0 and not self.stop.is_set():
            seen = self._bell.arm(URGENT_BYTES)
            if any(lane.more or lane.urgent() for lane in self.lanes):
                until = rest
                time.sleep(max(0.0, rest - time.monotonic()))
            else:
                self._bell.sleep(seen, left)

    def _wait(self, seconds: float) -> None:
        if self.stop.is_set():
            time.sleep(min(0.1, seconds))
        else:
            self.stop.wait(seconds)

    def _ship(self) -> int:
        """One batch of every lane, acknowledged; how many events that was. Raises KafkaError, OSError."""
        partitions = self.watch.partitions.get(self.topics.queries, 0)
        if not partitions:
            if not self.stop.is_set():
                self.stop.wait(0.02)
            return 0
        if partitions != self._opened_for:
            for lane in self.lanes:
                lane.open(partitions)
            self._opened_for = partitions
        if self.watch.generation != self._seen_generation:
            generation = self.watch.generation
            self._publish_again()
            self._seen_generation = generation
        batches = [(lane, frames) for lane in self.lanes if (frames := lane.take())]
        if not batches:
            return 0
        self._send([frame for _, frames in batches for frame in frames], self._pause)
        sent = 0
        for lane, frames in batches:
            lane.acknowledge()
            self.frames += len(frames)
            sent += sum(frame.events for frame in frames)
        self.events += sent
        return sent

    def _send(self, frames: list[OutFrame], meanwhile: Callable[[list[OutFrame]], None] | None = None) -> None:
        """All of them acknowledged by all replicas, or an error. Raises KafkaError."""
        producer = self._producer_now()
        futures = [
            producer.send(self.topics.queries, value=f.value, partition=f.partition, headers=self._signed(f))
            for f in frames
        ]
        deadline = time.monotonic() + SEND_TIMEOUT_S
        if meanwhile is not None:
            meanwhile(frames)  # to wait for the acknowledgement first would wake this thread once more for each batch
        for future in futures:
            future.get(timeout=max(0.1, deadline - time.monotonic()))

    def _signed(self, frame: OutFrame) -> list[tuple[str, bytes]]:
        if not self._key:
            return []
        return [(signature.HEADER, signature.sign(self._key, frame.partition, frame.value))]

    def _publish_again(self) -> None:
        """For a broker that forgot. Raises KafkaError."""
        self._tell_verdicts()
        for lane in self.lanes:
            for frames in lane.replay_all():
                self._send(frames)
                self.resends += len(frames)

    def _tell_verdicts(self) -> None:
        """By a producer of their own: an idempotent one is of no more use once it was refused, and where rights are given as in
        deploy/kafka only a detector may write verdicts, which then tells them. Raises KafkaError."""
        producer = self._new_producer(idempotent=False)
        try:
            sent = [
                producer.send(self.topics.verdicts, key=verdict.key.encode(), value=encode_verdict(verdict))
                for verdict in self.relays.table.verdicts()
            ]
            for future in sent:
                future.get(timeout=SEND_TIMEOUT_S)
        except AuthorizationError:
            log.info("the standing verdicts are not told again by this user, which may not write them")
        finally:
            producer.close(timeout=0.5)

    def _producer_now(self) -> KafkaProducer:
        if self._producer is None:
            try:
                self._producer = self._new_producer(idempotent=self._idempotent)
            except (ClusterAuthorizationFailedError, UnsupportedVersionError):
                log.warning("this broker allows no idempotent producer: duplicates are dropped by sequence number only")
                self._idempotent = False
                self._producer = self._new_producer(idempotent=False)
        return self._producer

    def _new_producer(self, *, idempotent: bool) -> KafkaProducer:
        return KafkaProducer(
            **client_settings(self.config),
            acks="all",
            enable_idempotence=idempotent,
            max_in_flight_requests_per_connection=1,
            linger_ms=0,  # frames are made here, and a batch is waited for whole
            batch_size=REQUEST_BYTES,
            compression_type=None if self.config.kafka.compression == "none" else self.config.kafka.compression,
            metrics_enabled=False,  # nobody reads them
            max_request_size=4 << 20,
            max_block_ms=5_000,
            request_timeout_ms=8_000,
            delivery_timeout_ms=12_000,
            allow_auto_create_topics=False,
        )

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError, OSError):
                producer.close(timeout=0.5)

    # -- the other threads ------------------------------------------------------------------------------------------

    def run_watch(self) -> None:
        while not self.stop.is_set():
            there = self.watch.look()
            self.stop.wait(WATCH_S if there else WATCH_RETRY_S)
        self.watch.close()

    def run_links(self) -> None:
        while not self.stop.is_set():
            self.relays.keep_connected()
            self.relays.wait()

    def run_columns(self) -> None:
        asked = [listener for listener in self.config.listener if listener.catalog_dsn and listener.patient_columns]
        while asked and not self.stop.is_set():
            found = []
            for listener in asked:
                try:
                    found.append({"listener": listener.name, **asdict(resolve_columns(listener))})
                except psycopg.Error as error:
                    code = error.sqlstate or type(error).__name__
                    log.warning("listener %s: catalog_dsn cannot be used (%s): columns go by name", listener.name, code)
                    found += [known for known in self.relays.columns if known["listener"] == listener.name]
            self.relays.set_columns(found)
            self.stop.wait(COLUMNS_S)

    def snapshot(self) -> Snapshot:
        now = now_ms()
        oldest = min((lane.oldest_ms for lane in self.lanes if lane.oldest_ms), default=0)
        waiting = sum(lane.waiting_bytes for lane in self.lanes)
        standing = Counter(str(v.level) for v in self.relays.table.verdicts() if v.in_force(now))
        levels: list[tuple[str, dict[str, str], float]] = [
            ("standing_verdicts", {"level": level}, standing[level]) for level in LEVELS[1:]
        ]
        return Snapshot(
            role="shipper",
            instance="0",
            values=[
                ("spool_bytes", {}, waiting),
                ("spool_oldest_seconds", {}, max(0, now - oldest) / 1000 if oldest and waiting else 0),
                ("spool_max_bytes", {}, self.config.spool.max_bytes * self.config.sidecar.workers),
                *levels,
                *self._certificates,
                *self.watch.figures(),
                ("frames_published_total", {}, self.frames),
                ("events_published_total", {}, self.events),
                ("frames_resent_total", {}, self.resends),
                ("spool_damaged_records_total", {}, sum(lane.damaged for lane in self.lanes)),
            ],
            details={"idempotent": self._idempotent, "verdicts": len(self.relays.table.verdicts())},
        )


def relay_numbers(config: Config) -> list[int]:
    """The relays there are, and were: one that was replaced (`exfilguard restart`) may still have sessions, or left events behind."""
    found = (Path(config.data_dir) / "spool").glob("*")
    return sorted({int(path.name) for path in found if path.name.isdecimal()} | set(range(config.sidecar.workers)))


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _begin(name: str, work: Callable[[], None]) -> None:
    """A thread without which the process is no use: an error that ends it ends all, and the supervisor starts it again."""

    def run() -> None:
        try:
            work()
        except Exception as error:
            log.error("the thread %r ended with %s: the shipper is started again", name, type(error).__name__)
            os._exit(1)

    threading.Thread(target=run, name=name, daemon=True).start()


def run_shipper(config: Config) -> int:
    """Run until SIGTERM, then send what is left for a few seconds. Returns the exit status."""
    hand_over_quickly()
    keep_memory()
    compress_quickly()
    stop = stop_on_signals()
    # One whose supervisor was killed sends for DRAIN_S what its relays leave: two would number different frames alike.
    while hold(run_dir(config.data_dir) / "shipper.lock") is None:
        if stop.wait(WAIT_S):
            return 0
    shipper = Shipper(config, stop)
    stats = StatsServer(run_dir(config.data_dir) / "shipper.stats", shipper.snapshot)
    for name in ("watch", "links", "columns"):
        _begin(name, getattr(shipper, f"run_{name}"))
    _begin("verdicts", shipper.follower.run)
    try:
        shipper.run()
    finally:
        stats.close()
    return 0
