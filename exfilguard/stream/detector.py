"""The detector: frames in, windows, verdicts out. A Faust agent around `engine.Engine`, one per partition.

    assigned ──► restore from the snapshots topic ──► read on to the end of the partition ──► frames as Faust delivers them
                                                                                                   │
    checkpoint every second ◄────────────────────────────────── engine ◄───────────────────────────┘
                                                                   └──► verdicts, published in order beside it

A verdict is acknowledged by the broker before anything of a checkpoint that contains its cause is written: a crash issues it again,
never loses it. Frames do not wait for that, unless UNACKNOWLEDGED verdicts do.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import secrets
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiokafka.errors import KafkaError
from faust.types import TP

from ..config.schema import Config
from ..detect.judge import Judge
from ..detect.policy import DAY_MS, HOUR, WINDOW_NAMES, Policy
from ..detect.profile import Profiles
from ..errors import BrokerError, CodecError
from ..events.chain import ChainWriter
from ..events.codec import decode_verdict, encode_verdict
from ..events.signature import signature_of
from ..events.topics import Topics, principal_hash
from ..events.verdict import Verdict
from ..runtime.clock import now_ms
from ..runtime.frame_keys import KeyFiles
from ..runtime.kafka import WATCH_S, TopicWatch, certificate_figures
from ..runtime.policy_file import PolicyFile
from ..runtime.stats import Histogram, Snapshot, StatsServer, run_dir
from ..runtime.tasks import spawn
from ..windows import COMPILED
from .app import Producer, follow, make_app, new_loop, read_partition, run_app, wait_for_topics
from .checkpoint import Restore
from .engine import Engine, Fed
from .skew import Skew
from .standings import EVERY_S, Standings
from .sums import Publisher, Sums

log = logging.getLogger(__name__)

LATENCY_BOUNDS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 60.0)
RETRY_S = 0.2
EVICT_S = 60.0
SUMS_S = 1.0
UNACKNOWLEDGED = 1_000
"""Verdicts that may wait for the broker before frames do."""
HOUR_MS = 3_600_000
DEAD_LETTER_BYTES = 900_000
"""So much of a record is kept: brokers take a megabyte by default, and what was compressed may have been more."""
DEAD_LETTERS_PER_S = 100
"""So many are kept, and told of one by one: each is waited for, a thousand times as long as it takes to see that a record cannot be
read, and whoever writes 100,000 of them in a megabyte must not make all other frames wait. What is not kept is counted, and lies on the
queries topic for as long as that holds it."""
SNAPSHOT_BYTES_PER_S = 10_000_000
"""A large checkpoint puts the next one off, so that snapshots never take more than this."""


COUNTERS = {
    "events": "events_processed_total",
    "gaps": "frames_gap_total",
    "duplicates": "frames_duplicate_total",
    "unusual_frames": "frames_unusual_total",
    "late_events": "events_late_total",
    "future_events": "events_future_total",
    "clock_jumps": "clock_jumps_total",
    "refused_accounts": "accounts_refused_total",
}
"""What each engine counts, and the metric it adds to."""


@dataclass(slots=True)
class Held:
    """A partition this worker owns."""

    engine: Engine
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """A frame, or a portion of a checkpoint: one at a time."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class Detector:
    """One worker's state. Everything runs on its one event loop."""

    def __init__(self, config: Config, worker: str, watch: TopicWatch) -> None:
        self.config = config
        self.worker = worker
        self.watch = watch
        self.topics = Topics(config.kafka.prefix)
        self.policy_file = PolicyFile(config.detector.policy)
        self._announced: dict[tuple[str, int], int] = {}
        """Allowances that end soon -> when that was last said."""
        self.standing: dict[str, Verdict] = {}
        self.held: dict[int, Held] = {}
        self.parked: dict[int, Engine] = {}
        """Engines of partitions that were taken away: used again when nobody else moved them on."""
        self.latency = Histogram(LATENCY_BOUNDS_S)
        self.verdicts: dict[str, int] = defaultdict(int)
        self.deadletters = self._unkept = 0
        self._letters = DEAD_LETTERS_PER_S
        """That may still be kept in this second."""
        self.reread = 0
        self.snapshot_bytes = 0
        self._judges: dict[str, Judge] = {}
        self._profiles = Profiles()
        self._producer = Producer(config)
        self._snapshots = Producer(config)  # a verdict must not wait behind a large checkpoint
        self._chain = ChainWriter(f"detector:{worker}", secrets.token_hex(8))
        self._unsaid: deque[Verdict] = deque()
        """Not acknowledged yet, in their order."""
        self._said = self._acknowledged = 0
        """How many verdicts there were, and how many of them are acknowledged."""
        self._more, self._settled = asyncio.Event(), asyncio.Event()
        self._known = asyncio.Event()
        self.sums = Sums()
        self._retired: dict[str, int] = dict.fromkeys(COUNTERS, 0)  # of engines that are gone
        self._largest: list[tuple[str, list[Any]]] = []
        self._standings = Standings(config, worker, self.judge_of, self._producer)
        self._active: list[tuple[str, list[Any]]] = []
        """Accounts seen lately, with their windows."""
        self._lag = 0
        self.skew = Skew()
        self._certificates = certificate_figures(config)
        self.key_files = KeyFiles(config)
        self.app: Any = None

    @property
    def policy(self) -> Policy:
        """In force now."""
        return self.policy_file.policy

    # -- partitions -------------------------------------------------------------------------------------------------

    def judge_of(self, tenant: str) -> Judge:
        judge = self._judges.get(tenant)
        if judge is None:
            judge = self._judges[tenant] = Judge(self.policy, tenant, f"detector:{self.worker}", self._profiles)
        return judge

    def new_engine(self, partition: int) -> Engine:
        keys = self.key_files.keys
        return Engine(
            self.judge_of,
            self.standing,
            self.config.detector.max_patients,
            max_accounts=self.config.detector.max_accounts,
            seed=secrets.randbits(64),  # names that collide cannot be prepared
            refusal=None if keys is None else partial(keys.refusal, partition),
        )

    async def assigned(self, partitions: set[int]) -> None:
        """Faust gave us these; returns at once, the restore runs in the background and frames wait for it."""
        for partition in partitions - self.held.keys():
            self.held[partition] = Held(self.new_engine(partition))
            spawn(self._take_over(partition, self.held[partition]), f"restore of partition {partition}")
        for partition in self.held.keys() - partitions:
            gone = self.held.pop(partition)
            if gone.ready.is_set():
                self.parked[partition] = gone.engine

    async def _take_over(self, partition: int, held: Held) -> None:
        while self.held.get(partition) is held:
            try:
                await self._producer.ready()
                await self._known.wait()
                async with held.lock:
                    held.engine = await self._restore(partition)
                    await self._read_on(partition, held.engine, None)
                    if (parked := self.parked.pop(partition, None)) not in (None, held.engine):
                        self._retire(parked)
                    held.ready.set()
                log.info(
                    "partition %d: %d accounts, from offset %d",
                    partition,
                    len(held.engine.store),
                    held.engine.next_offset,
                )
                return
            except (KafkaError, BrokerError, OSError) as error:
                log.warning("partition %d cannot be restored yet (%s: %s)", partition, type(error).__name__, error)
                await asyncio.sleep(RETRY_S)

    async def _restore(self, partition: int) -> Engine:
        restore = Restore()
        async for record in read_partition(self.config, self.topics.snapshots, partition, 0):
            restore.add(record.key, record.value)
        parked = self.parked.get(partition)
        if parked is not None and restore.checkpoint <= parked.checkpoint:
            if not restore.checkpoint:
                parked.forgotten()  # the broker lost the snapshots, and the log with them
            return parked
        engine = self.new_engine(partition)
        restore.fill(engine)
        if restore.damaged:
            log.error("partition %d: %d snapshot records could not be read", partition, restore.damaged)
        return engine

    def _retire(self, engine: Engine) -> None:
        for name in COUNTERS:
            self._retired[name] += getattr(engine, name)

    async def _read_on(self, partition: int, engine: Engine, until: int | None) -> None:
        """Read the partition ourselves, from where the engine stands."""
        async for record in read_partition(self.config, self.topics.queries, partition, engine.next_offset, until):
            self.reread += 1
            value = record.value or b""  # Kafka has records without one
            fed = engine.feed(record.offset, value, now_ms(), signature=signature_of(record.headers), skip_gap=True)
            await self._act(partition, record.offset, value, fed)

    # -- frames -----------------------------------------------------------------------------------------------------

    async def handle(self, partition: int, offset: int, value: bytes, sent_ms: int = 0, signature: bytes = b"") -> None:
        """One record from Faust. Returns when it is counted; its verdicts are published beside the next ones. `sent_ms`: the
        producer's clock when it sent it, 0 when the broker put its own time there."""
        held = self.held.get(partition)
        if held is None:
            return  # taken away meanwhile: its new owner reads this record
        await held.ready.wait()
        async with held.lock:
            fed = held.engine.feed(offset, value, now_ms(), signature=signature)
            if fed.read_first is not None:
                log.warning(
                    "partition %d: offsets %d to %d were skipped: read again", partition, fed.read_first, offset
                )
                await self._insist(self._read_on, partition, held.engine, offset)
                fed = held.engine.feed(offset, value, now_ms(), signature=signature, skip_gap=True)
            if not (fed.reason or fed.duplicate) and self._is_last(partition, offset):
                sidecar, newest_ms = held.engine.last_frame()
                self.skew.note(sidecar, sent_ms or newest_ms, now_ms())
            await self._act(partition, offset, value, fed)

    def _is_last(self, partition: int, offset: int) -> bool:
        """True when the partition held nothing more when this record was fetched."""
        try:
            end = self.app.consumer.highwater(TP(self.topics.queries, partition))
        except (KeyError, AssertionError, RuntimeError, AttributeError):
            return False  # between two assignments
        return end is not None and offset + 1 >= end

    async def _insist(self, work: Any, *arguments: Any) -> None:
        while True:
            try:
                await work(*arguments)
                return
            except (KafkaError, BrokerError, OSError) as error:
                log.warning("Kafka did not answer (%s): trying again", type(error).__name__)
                await asyncio.sleep(RETRY_S)

    async def _act(self, partition: int, offset: int, value: bytes, fed: Fed) -> None:
        if fed.reason:
            self.deadletters += 1
            self._letters -= 1
        if fed.reason and self._letters < 0:
            self._unkept += 1
        elif fed.reason:
            log.error("partition %d offset %d: %s: sent to %s", partition, offset, fed.reason, self.topics.deadletter)
            headers = [
                ("reason", fed.reason.encode()),
                ("source", f"{self.topics.queries}/{partition}/{offset}".encode()),
            ]
            if len(value) > DEAD_LETTER_BYTES:
                headers.append(("bytes", b"%d" % len(value)))
                value = value[:DEAD_LETTER_BYTES]
            await self._insist(self._publish, self.topics.deadletter, None, value, headers)
        await self._say(fed.verdicts)

    async def _say(self, verdicts: list[Verdict]) -> None:
        """They stand from now on, and are published in this order; `acknowledged` waits for that."""
        for verdict in verdicts:
            self.standing[verdict.key] = verdict
            self._unsaid.append(verdict)
        if verdicts:
            self._said += len(verdicts)
            self._more.set()
            await self.acknowledged(self._said - UNACKNOWLEDGED)

    async def acknowledged(self, count: int | None = None) -> None:
        """Returns when so many verdicts are on the topic since the start; without `count`, all that there were until now."""
        wanted = self._said if count is None else count
        while self._acknowledged < wanted:
            await self._settled.wait()

    async def publish_verdicts(self) -> None:
        """One after the other: the next link of the chain only once this one is on the topic, so that a kill leaves no hole."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._unsaid:
                verdict = self._unsaid[0]
                record = self._chain.seal(encode_verdict(verdict))
                await self._insist(self._publish, self.topics.verdicts, verdict.key.encode(), record, None)
                self._unsaid.popleft()
                self._acknowledged += 1
                self._settled.set()  # wakes all who wait now
                self._settled.clear()
                self.verdicts[verdict.level] += 1
                self.latency.observe(max(0, now_ms() - verdict.crossed_ms) / 1000)
                log.warning("%s: %s", verdict.level, verdict.reason)

    async def _publish(
        self, topic: str, key: bytes | None, value: bytes, headers: list[tuple[str, bytes]] | None
    ) -> None:
        producer = await self._producer.ready()
        await producer.send_and_wait(topic, key=key, value=value, headers=headers)

    # -- in the background ------------------------------------------------------------------------------------------

    async def follow_verdicts(self) -> None:
        """What stands, whoever issued it: an operator's word is known here within milliseconds."""
        while True:
            generation = self.watch.generation
            try:
                async for records in follow(
                    self.config, self.topics.verdicts, self.watch.partitions[self.topics.verdicts]
                ):
                    for record in records:
                        if record is None:
                            self._known.set()
                        elif record.value is not None:
                            self._learn(record.value)
                    if self.watch.generation != generation:
                        break
            except (KafkaError, OSError) as error:
                log.warning("the verdicts cannot be followed (%s): trying again", type(error).__name__)
                await asyncio.sleep(RETRY_S)

    async def follow_sums(self) -> None:
        """Everybody's parts of the sums over accounts; verdicts on the accounts whose partitions are held here."""
        while True:
            generation = self.watch.generation
            self.sums = Sums()
            try:
                async for records in follow(self.config, self.topics.sums, self.watch.partitions[self.topics.sums]):
                    for record in records:
                        if record is not None:
                            try:
                                self.sums.add(record.key, record.value)
                            except CodecError as error:
                                log.error("%s/%d: %s", self.topics.sums, record.offset, error)
                    if records and records[-1] is None:  # not while the past is read again
                        await self._say(self.sums.judge(self.judge_of, self._owns, self.standing, now_ms()))
                    if self.watch.generation != generation:
                        break
            except (KafkaError, OSError) as error:
                log.warning("the sums cannot be followed (%s): trying again", type(error).__name__)
                await asyncio.sleep(RETRY_S)

    def _owns(self, tenant: str, principal: str) -> bool:
        partitions = self.watch.partitions[self.topics.queries]
        held = self.held.get(principal_hash(tenant, principal) % partitions)
        return held is not None and held.ready.is_set()

    async def publish_sums(self) -> None:
        publishers: dict[int, Publisher] = {}
        generation, hour = self.watch.generation, now_ms() // HOUR_MS
        while True:
            await asyncio.sleep(SUMS_S)
            if self.watch.generation != generation:
                publishers, generation = {}, self.watch.generation
            ready = {partition: held.engine for partition, held in self.held.items() if held.ready.is_set()}
            publishers = {p: publishers.get(p) or Publisher(p) for p in ready}
            try:
                producer = await self._producer.ready()
                for partition, engine in ready.items():
                    for key, value in publishers[partition].records(engine, self.judge_of, now_ms()):
                        await producer.send(self.topics.sums, key=key, value=value)
            except (KafkaError, OSError) as error:
                log.warning("the sums were not published (%s): trying again", type(error).__name__)
                publishers = {}
            if now_ms() // HOUR_MS > hour:
                self.sums.close_hour(self.judge_of, ready.values(), hour, now_ms())
                hour = now_ms() // HOUR_MS

    def _learn(self, value: bytes) -> None:
        try:
            verdict = decode_verdict(value)
        except CodecError as error:
            log.error("a verdict on the topic cannot be read: %s", error)
            return
        known = self.standing.get(verdict.key)
        if known is None or known.revision < verdict.revision:
            self.standing[verdict.key] = verdict

    async def checkpoints(self) -> None:
        while True:
            pause_s = self.config.detector.snapshot_ms / 1000
            written = 0
            for partition, held in list(self.held.items()):
                if held.ready.is_set():
                    written += await self._checkpoint(partition, held)
            await asyncio.sleep(max(pause_s, written / SNAPSHOT_BYTES_PER_S))

    async def _checkpoint(self, partition: int, held: Held) -> int:
        async with held.lock:
            checkpoint = held.engine.begin_checkpoint()
        if checkpoint is None:
            return 0
        try:
            producer = await self._snapshots.ready()
            sent = []
            while True:
                # Between two portions frames have their turn.
                async with held.lock:
                    records = held.engine.next_records(checkpoint)
                # What these accounts have counted is not counted again after a restore: its verdicts must be there before.
                await self.acknowledged()
                if not records:
                    break
                sent += [
                    await producer.send(self.topics.snapshots, key=key, value=value, partition=partition)
                    for key, value in records
                ]
                await asyncio.sleep(0)
            if sent:
                await asyncio.gather(*sent)
            key, value = checkpoint.marker
            await producer.send_and_wait(self.topics.snapshots, key=key, value=value, partition=partition)
            for needless, _ in held.engine.written(checkpoint):
                await producer.send(self.topics.snapshots, key=needless, value=None, partition=partition)
        except (KafkaError, OSError) as error:
            held.engine.unwritten(checkpoint)
            log.warning("partition %d: a checkpoint was not written (%s)", partition, type(error).__name__)
        self.snapshot_bytes += checkpoint.nbytes
        return checkpoint.nbytes

    async def publish_standings(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._standings.publish(self._active)

    async def upkeep(self) -> None:
        evicted = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            now = now_ms()
            self._refill_letters()
            active = []
            for held in list(self.held.values()):
                held.engine.keep(now)
                for portion in held.engine.active(now):
                    active += portion
                    await asyncio.sleep(0)
            self._largest = heapq.nlargest(
                self.config.exporter.top_accounts, active, key=lambda item: item[1][HOUR].rows
            )
            self._active = active
            self._lag = self._measure_lag()
            self._reload_policy()
            self.key_files.reload()
            self._announce_allowances(now)
            if time.monotonic() - evicted > EVICT_S:
                # A part of the accounts each second until all were looked at.
                looked = [held.engine.evict(now) for held in self.held.values()]
                evicted = time.monotonic() if all(looked) else evicted

    def _refill_letters(self) -> None:
        if self._unkept:
            log.error("%d further records could not be read and were not kept", self._unkept)
        self._letters, self._unkept = DEAD_LETTERS_PER_S, 0

    def _reload_policy(self) -> None:
        """A policy file that changed is used from the next event on; what the judges remember stays."""
        if self.policy_file.reload():
            for judge in self._judges.values():
                judge.follow(self.policy)
            for engine in [held.engine for held in self.held.values()] + list(self.parked.values()):
                engine.refresh()

    def _announce_allowances(self, now: int) -> None:
        """Once a day for each that ends within a week: its owner decides whether it is still needed."""
        ending = {(a.account, a.expires_ms): a for a in self.policy.ending(now)}
        self._announced = {key: said for key, said in self._announced.items() if key in ending}
        for key, allowance in ending.items():
            if now - self._announced.get(key, 0) >= DAY_MS:
                self._announced[key] = now
                log.warning(
                    "the allowance of %s (%s) ends in %d hours: ask %s whether it is still needed",
                    allowance.account,
                    allowance.reason,
                    (allowance.expires_ms - now) // 3_600_000,
                    allowance.owner,
                )

    def _measure_lag(self) -> int:
        lag = 0
        for partition, held in self.held.items():
            try:
                end = self.app.consumer.highwater(TP(self.topics.queries, partition))
            except (KeyError, AssertionError, RuntimeError, AttributeError):
                continue  # between two assignments
            lag += max(0, (end or 0) - held.engine.next_offset)
        return lag

    async def _tell_standing(self) -> None:
        """The verdicts as they are, once more: sidecars do it too, where they may. Who has them does not look at them again."""
        producer = await self._producer.ready()
        sent = [
            await producer.send(self.topics.verdicts, key=verdict.key.encode(), value=encode_verdict(verdict))
            for verdict in list(self.standing.values())
        ]
        await asyncio.gather(*sent)

    async def watch_topics(self) -> None:
        """A broker that forgot: our windows stay, the log is read from its new beginning, known frames are dropped, and what stands is
        told again."""
        seen = self.watch.generation
        while True:
            await asyncio.sleep(WATCH_S)
            await asyncio.to_thread(self.watch.look)
            if self.watch.generation == seen:
                continue
            seen = self.watch.generation
            await self._insist(self._tell_standing)
            for partition, held in list(self.held.items()):
                if held.ready.is_set():
                    async with held.lock:
                        held.engine.forgotten()
                        await self._insist(self._read_on, partition, held.engine, None)

    def snapshot(self) -> Snapshot:
        engines = [held.engine for held in list(self.held.values())] + list(self.parked.values())
        out = Snapshot(role="detector", instance=self.worker)
        out.values = [
            *(
                (metric, {}, self._retired[name] + sum(getattr(e, name) for e in engines))
                for name, metric in COUNTERS.items()
            ),
            ("deadletters_total", {}, self.deadletters),
            ("policy_refused_total", {}, self.policy_file.refused),
            ("allowances_ending", {}, len(self.policy.ending(now_ms()))),
            ("window_accounts", {}, sum(len(e.store) for e in engines)),
            ("consumer_lag_records", {}, self._lag),
        ]
        out.values += [("verdicts_total", {"level": level}, count) for level, count in list(self.verdicts.items())]
        out.values += self._certificates
        out.values += self.watch.figures()
        out.values += self.key_files.figures()
        most = self.skew.largest(self.config.exporter.top_accounts, now_ms())
        out.values += [("clock_skew_seconds", {"sidecar": sidecar}, seconds) for sidecar, seconds in most]
        for account, totals in self._largest:
            tenant, _, name = account.partition("/")
            for window, total in zip(WINDOW_NAMES, totals, strict=True):
                labels = {"tenant": tenant, "account": name, "window": window}
                out.values.append(("account_window_records", labels, total.rows))
        out.histograms = [("event_to_verdict_seconds", {}, self.latency.cumulative(), self.latency.total)]
        out.details = {
            "partitions": sorted(self.held),
            "ready": bool(self.held) and all(held.ready.is_set() for held in list(self.held.values())),
            "compiled": COMPILED,
            "policy": self.policy.version,
            "accounts": sum(len(e.store) for e in engines),
            "snapshot_bytes": self.snapshot_bytes,
        }
        return out


def run_detector(config: Config, worker: str) -> int:
    """Run until SIGTERM. Returns the exit status."""
    topics = Topics(config.kafka.prefix)
    watch = TopicWatch(
        config,
        needs=(topics.queries, topics.verdicts, topics.snapshots, topics.sums, topics.standings, topics.deadletter),
    )
    wait_for_topics(watch)
    new_loop()
    app = make_app(config, "detector", config.kafka.fetch_wait_ms)
    detector = Detector(config, worker, watch)
    detector.app = app
    source = app.topic(detector.topics.queries, value_serializer="raw", key_serializer="raw")

    @app.on_partitions_assigned.connect
    async def on_assigned(_: Any, assigned: set[TP], **__: Any) -> None:
        await detector.assigned({tp.partition for tp in assigned if tp.topic == detector.topics.queries})

    @app.agent(source)
    async def judge(stream: Any) -> None:
        async for event in stream.events():
            message = event.message
            sent_ms = int(message.timestamp * 1000) if message.timestamp and not message.timestamp_type else 0
            await detector.handle(
                message.partition, message.offset, message.value or b"", sent_ms, signature_of(message.headers)
            )

    for work in (
        detector.publish_verdicts,
        detector.follow_verdicts,
        detector.follow_sums,
        detector.publish_sums,
        detector.publish_standings,
        detector.checkpoints,
        detector.upkeep,
        detector.watch_topics,
    ):
        app.task(work)
    stats = StatsServer(run_dir(config.data_dir) / f"detector-{worker}.stats", detector.snapshot)
    try:
        return run_app(app)
    finally:
        stats.close()
