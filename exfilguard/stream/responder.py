"""The responder: verdicts in, lock-out hooks, actions out. A Faust agent around `respond/reconcile.py`.

What should be (the newest verdict) and what was done (the actions topic) are both read from Kafka when a partition is taken
over, so a crash at any point is made good: a `started` action, written before a hook changes anything, holds what to restore.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence
from typing import Any

from aiokafka.errors import KafkaError
from faust.types import TP

from ..config.schema import Config
from ..errors import BrokerError, CodecError
from ..events.action import MASS_LOCK, Action
from ..events.chain import ChainWriter
from ..events.codec import decode_action, decode_verdict, encode_action
from ..events.topics import Topics
from ..respond.build import build_hooks
from ..respond.hook import Hook
from ..respond.reconcile import Reconciler
from ..runtime.kafka import TopicWatch, certificate_figures
from ..runtime.policy_file import NeverLocked, PolicyFile
from ..runtime.stats import Snapshot, StatsServer, run_dir
from ..runtime.tasks import spawn
from .app import Producer, make_app, new_loop, read_partition, run_app, wait_for_topics
from .masslock import PARTITION, SharedMassLock

log = logging.getLogger(__name__)

RESPONDER_WAIT_MS = 30
"""The sidecar has cut the account by then; its suspension may be a moment later."""
KAFKA_RETRY_S = 0.2


class Responder:
    """One process's part of Kafka around its Reconciler. Everything runs on its one event loop."""

    def __init__(self, config: Config, hooks: Sequence[Hook]) -> None:
        self.config = config
        self.topics = Topics(config.kafka.prefix)
        self.mass_lock = SharedMassLock(config, self._claim, self._decided)
        self.reconciler = Reconciler(hooks, config.responder, self._record, self.mass_lock)
        self.keys: dict[int, set[str]] = {}
        """partition -> keys of its accounts"""
        self.restored: set[int] = set()
        """Partitions of which all that is on record has been read. Faust delivers verdicts before that, too."""
        self._certificates = certificate_figures(config)
        self._producer = Producer(config)
        self._chain = ChainWriter("responder", secrets.token_hex(8))
        self._sealing = asyncio.Lock()

    async def assigned(self, partitions: set[int]) -> None:
        for gone in self.keys.keys() - partitions:
            self.restored.discard(gone)
            self.reconciler.drop(self.keys.pop(gone))
        for partition in partitions - self.keys.keys():
            self.keys[partition] = set()
            spawn(self._take_over(partition), f"restore of partition {partition}")

    async def _take_over(self, partition: int) -> None:
        held = self.keys[partition]
        while self.keys.get(partition) is held:
            try:
                async for record in read_partition(self.config, self.topics.actions, partition, 0):
                    with contextlib.suppress(CodecError):
                        self._remember(held, decode_action(record.value))
                async for record in read_partition(self.config, self.topics.verdicts, partition, 0):
                    self.learn(partition, record.value, begin=False)
                if self.keys.get(partition) is not held:
                    return
                self.restored.add(partition)
                for key in list(held):
                    self.reconciler.begin(key)
                log.info("partition %d: %d accounts with a verdict", partition, len(held))
                return
            except (KafkaError, BrokerError, OSError) as error:
                log.warning("partition %d cannot be restored yet (%s)", partition, type(error).__name__)
                await asyncio.sleep(KAFKA_RETRY_S)

    def _remember(self, held: set[str], action: Action) -> None:
        if action.hook == MASS_LOCK and action.outcome != "held":
            return  # on this partition for all accounts
        if action.tenant == self.config.tenant:
            held.add(action.key)
            self.reconciler.remember(action)

    def learn(self, partition: int, value: bytes | None, *, begin: bool = True) -> None:
        """A verdict from the topic."""
        held = self.keys.get(partition)
        if held is None or value is None:
            return
        try:
            verdict = decode_verdict(value)
        except CodecError as error:
            log.error("a verdict on the topic cannot be read: %s", error)
            return
        if verdict.tenant == self.config.tenant:
            held.add(verdict.key)
            self.reconciler.learn(verdict, begin=begin and partition in self.restored)

    async def tick(self) -> None:
        """Every second: locks that have expired, and hooks that are due again."""
        while True:
            await asyncio.sleep(1.0)
            self.reconciler.tick()

    def _decided(self) -> None:
        self.reconciler.tick()

    async def _claim(self, action: Action) -> None:
        await self._record(action, PARTITION)

    async def _record(self, action: Action, partition: int | None = None) -> None:
        async with self._sealing:  # the next link only once this one is on the topic: a kill leaves no hole
            record = self._chain.seal(encode_action(action))
            while True:
                try:
                    producer = await self._producer.ready()
                    key = action.key.encode()
                    await producer.send_and_wait(self.topics.actions, key=key, value=record, partition=partition)
                    return
                except (KafkaError, OSError) as error:
                    log.warning("an action was not recorded yet (%s): trying again", type(error).__name__)
                    await asyncio.sleep(KAFKA_RETRY_S)

    def snapshot(self) -> Snapshot:
        out, reconciler = Snapshot(role="responder", instance="0"), self.reconciler
        for (operation, hook, outcome), count in list(reconciler.attempts.items()):
            name = "lockouts_total" if operation == "lock" else "unlocks_total"
            out.values.append((name, {"hook": hook, "outcome": outcome}, count))
        out.values += [
            ("locked_accounts", {}, reconciler.locked_accounts),
            ("held_accounts", {}, reconciler.held_accounts),
            ("mass_lock_stops_total", {}, reconciler.stops),
        ]
        out.values += self._certificates
        out.histograms = [("lockout_seconds", {}, reconciler.lockout.cumulative(), reconciler.lockout.total)]
        out.details = {"hooks": [hook.name for hook in reconciler.hooks], "partitions": sorted(self.keys)}
        return out


def run_responder(config: Config) -> int:
    """Run until SIGTERM. Returns the exit status."""
    hooks = build_hooks(config.responder, NeverLocked(PolicyFile(config.detector.policy)))
    if not any(hook.suspends for hook in hooks):
        log.warning("no hook is configured: accounts are cut at the sidecar but not suspended where they live")
    topics = Topics(config.kafka.prefix)
    wait_for_topics(TopicWatch(config, needs=(topics.verdicts, topics.actions)))
    new_loop()
    app = make_app(config, "responder", max(RESPONDER_WAIT_MS, config.kafka.fetch_wait_ms))
    responder = Responder(config, hooks)
    source = app.topic(responder.topics.verdicts, value_serializer="raw", key_serializer="raw")

    @app.on_partitions_assigned.connect
    async def on_assigned(_: Any, assigned: set[TP], **__: Any) -> None:
        await responder.assigned({tp.partition for tp in assigned if tp.topic == responder.topics.verdicts})

    @app.agent(source)
    async def respond(stream: Any) -> None:
        async for event in stream.events():
            responder.learn(event.message.partition, event.message.value)

    app.task(responder.tick)
    app.task(responder.mass_lock.run)
    stats = StatsServer(run_dir(config.data_dir) / "responder.stats", responder.snapshot)
    try:
        return run_app(app)
    finally:
        stats.close()
