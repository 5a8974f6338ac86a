"""The responder: verdicts in, lock-out hooks, actions out. A Faust agent; one reconciler per account.

What should be (the newest verdict) and what was done (the actions topic) are both read from Kafka when a partition is taken
over, so a crash at any point is made good: a `started` action, written before a hook changes anything, holds what to restore.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.errors import KafkaError
from faust.types import TP

from ..config.schema import Config
from ..detect.policy import policy_at
from ..errors import BrokerError, CodecError, HookError, HookRefused
from ..events.action import Action, Operation, Outcome
from ..events.chain import ChainWriter
from ..events.codec import decode_action, decode_verdict, encode_action
from ..events.topics import Topics
from ..events.verdict import Verdict
from ..respond.hook import Hook, HookResult
from ..respond.postgres import PostgresHook
from ..runtime.clock import now_ms
from ..runtime.kafka import TopicWatch
from ..runtime.stats import Histogram, Snapshot, StatsServer, run_dir
from ..runtime.tasks import spawn
from .app import Producer, make_app, new_loop, read_partition, run_app, wait_for_topics

log = logging.getLogger(__name__)

LOCKOUT_BOUNDS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0)
RESPONDER_WAIT_MS = 30
"""The sidecar has cut the account by then; its suspension may be a moment later."""
BACKOFF_S = 0.2
MAX_BACKOFF_S = 5.0
AGAIN_S = 60.0
"""An account that could not be suspended is tried again this often while its verdict stands."""
KAFKA_RETRY_S = 0.2


def hooks_of(config: Config) -> list[Hook]:
    """The configured hooks."""
    policy = policy_at(config.detector.policy)
    if not config.responder.postgres.dsn:
        return []
    return [PostgresHook(config.responder.postgres, policy.never_locked)]


@dataclass(slots=True)
class HookState:
    """One hook and one account."""

    locked: bool = False
    undo: dict[str, Any] = field(default_factory=dict)
    started: bool = False
    """A lock was begun and its end is not on record: it may have taken effect."""
    settled: int = 0
    """Revision of the verdict that this hook has dealt with for good."""


@dataclass(slots=True)
class Account:
    """What should be and what was done."""

    verdict: Verdict | None = None
    hooks: dict[str, HookState] = field(default_factory=lambda: defaultdict(HookState))
    working: bool = False
    not_before: float = 0.0


class Responder:
    """One process's state. Everything runs on its one event loop."""

    def __init__(self, config: Config, hooks: Sequence[Hook]) -> None:
        self.config = config
        self.hooks = hooks
        self.topics = Topics(config.kafka.prefix)
        self.accounts: dict[int, dict[str, Account]] = {}
        """partition -> key -> account"""
        self.attempts: dict[tuple[Operation, str, Outcome], int] = defaultdict(int)
        self.lockout = Histogram(LOCKOUT_BOUNDS_S)
        self._producer = Producer(config)
        self._chain = ChainWriter("responder", secrets.token_hex(8))

    # -- what should be ---------------------------------------------------------------------------------------------

    async def assigned(self, partitions: set[int]) -> None:
        for gone in self.accounts.keys() - partitions:
            del self.accounts[gone]
        for partition in partitions - self.accounts.keys():
            self.accounts[partition] = {}
            spawn(self._take_over(partition), f"restore of partition {partition}")

    async def _take_over(self, partition: int) -> None:
        held = self.accounts[partition]
        while self.accounts.get(partition) is held:
            try:
                async for record in read_partition(self.config, self.topics.actions, partition, 0):
                    self._remember(held, record.value)
                async for record in read_partition(self.config, self.topics.verdicts, partition, 0):
                    self.learn(partition, record.value, begin=False)
                for key in list(held):
                    self._begin(held, key)
                log.info("partition %d: %d accounts with a verdict", partition, len(held))
                return
            except (KafkaError, BrokerError, OSError) as error:
                log.warning("partition %d cannot be restored yet (%s)", partition, type(error).__name__)
                await asyncio.sleep(KAFKA_RETRY_S)

    @staticmethod
    def _remember(held: dict[str, Account], value: bytes) -> None:
        try:
            action = decode_action(value)
        except CodecError as error:
            log.error("an action on the topic cannot be read: %s", error)
            return
        state = held.setdefault(action.key, Account()).hooks[action.hook]
        if action.operation == "lock":
            if action.outcome == "started":
                state.started, state.undo = True, action.undo
            elif action.outcome in ("done", "already"):
                state.locked, state.started, state.settled = True, False, action.verdict_revision
            elif action.outcome in ("refused", "dry_run"):
                state.started, state.settled = False, action.verdict_revision
        elif action.outcome in ("done", "already"):
            state.locked = state.started = False
            state.settled = action.verdict_revision

    def learn(self, partition: int, value: bytes | None, *, begin: bool = True) -> None:
        """A verdict from the topic."""
        held = self.accounts.get(partition)
        if held is None or value is None:
            return
        try:
            verdict = decode_verdict(value)
        except CodecError as error:
            log.error("a verdict on the topic cannot be read: %s", error)
            return
        if verdict.tenant != self.config.tenant:
            return
        account = held.setdefault(verdict.key, Account())
        if account.verdict is None or account.verdict.revision < verdict.revision:
            account.verdict = verdict
            account.not_before = 0.0
            if begin:
                self._begin(held, verdict.key)

    async def tick(self) -> None:
        """Every second: locks that have expired, and hooks that are due again."""
        while True:
            await asyncio.sleep(1.0)
            for held in list(self.accounts.values()):
                for key in list(held):
                    self._begin(held, key)

    # -- what is done -----------------------------------------------------------------------------------------------

    def _wanted(self, account: Account) -> Operation:
        verdict = account.verdict
        stands = verdict is not None and verdict.in_force(now_ms())
        return (
            "lock"
            if stands and verdict is not None and verdict.level == "lock" and verdict.scope == "principal"
            else "unlock"
        )

    def _due(self, account: Account) -> list[Hook]:
        """Hooks whose state is not what it should be."""
        if account.verdict is None:
            return []
        wanted, revision = self._wanted(account), account.verdict.revision
        out = []
        for hook in self.hooks:
            state = account.hooks[hook.name]
            if wanted == "lock":
                if not state.locked and state.settled < revision:
                    out.append(hook)
            elif state.locked or state.started:
                out.append(hook)
        return out

    def _begin(self, held: dict[str, Account], key: str) -> None:
        account = held[key]
        if not account.working and time.monotonic() >= account.not_before and self._due(account):
            account.working = True
            spawn(self._reconcile(account), "lock-out")

    async def _reconcile(self, account: Account) -> None:
        failures = 0
        try:
            while (due := self._due(account)) and account.verdict is not None:
                wanted, verdict = self._wanted(account), account.verdict
                worked = [await self._attempt(hook, account.hooks[hook.name], wanted, verdict) for hook in due]
                if all(worked):
                    continue
                failures += 1
                if failures > self.config.responder.retries:
                    account.not_before = time.monotonic() + AGAIN_S
                    log.error("%s: %s failed %d times; again in %.0f s", verdict.key, wanted, failures, AGAIN_S)
                    return
                await asyncio.sleep(min(MAX_BACKOFF_S, BACKOFF_S * 2**failures))
        finally:
            account.working = False

    async def _attempt(self, hook: Hook, state: HookState, operation: Operation, verdict: Verdict) -> bool:
        """True when this hook has dealt with the verdict, for good or by refusing."""
        began_ms = now_ms()
        try:
            if operation == "lock":
                if not state.started:
                    state.undo = await hook.before(verdict.principal)
                    await self._record(
                        hook, operation, verdict, began_ms, HookResult("started", verified=False), state.undo
                    )
                    state.started = True
                result = await hook.lock(verdict.principal)
            else:
                result = await hook.unlock(verdict.principal, state.undo)
        except HookRefused as error:
            result = HookResult("refused", verified=False, detail=str(error))
        except HookError as error:
            result = HookResult("failed", verified=False, detail=str(error))
        self.attempts[(operation, hook.name, result.outcome)] += 1
        if result.outcome in ("done", "already"):
            state.locked = operation == "lock"
            if operation == "lock":
                self.lockout.observe(max(0, now_ms() - verdict.crossed_ms) / 1000)
        if result.outcome != "failed":
            state.started, state.settled = False, verdict.revision
            if operation == "unlock":
                state.locked = False
        level = logging.ERROR if result.outcome == "failed" else logging.WARNING
        log.log(level, "%s %s by %s: %s: %s", operation, verdict.key, hook.name, result.outcome, result.detail)
        await self._record(hook, operation, verdict, began_ms, result, state.undo)
        return result.outcome != "failed"

    async def _record(
        self,
        hook: Hook,
        operation: Operation,
        verdict: Verdict,
        began_ms: int,
        result: HookResult,
        undo: dict[str, Any],
    ) -> None:
        action = Action(
            tenant=verdict.tenant,
            principal=verdict.principal,
            hook=hook.name,
            operation=operation,
            outcome=result.outcome,
            verified=result.verified,
            verdict_revision=verdict.revision,
            started_ms=began_ms,
            ended_ms=now_ms(),
            detail=result.detail,
            undo=undo,
        )
        record = self._chain.seal(encode_action(action))
        while True:
            try:
                producer = await self._producer.ready()
                await producer.send_and_wait(self.topics.actions, key=action.key.encode(), value=record)
                return
            except (KafkaError, OSError) as error:
                log.warning("an action was not recorded yet (%s): trying again", type(error).__name__)
                await asyncio.sleep(KAFKA_RETRY_S)

    def snapshot(self) -> Snapshot:
        out = Snapshot(role="responder", instance="0")
        for (operation, hook, outcome), count in list(self.attempts.items()):
            name = "lockouts_total" if operation == "lock" else "unlocks_total"
            out.values.append((name, {"hook": hook, "outcome": outcome}, count))
        locked = sum(
            any(state.locked for state in list(account.hooks.values()))
            for held in list(self.accounts.values())
            for account in list(held.values())
        )
        out.values.append(("locked_accounts", {}, locked))
        out.histograms = [("lockout_seconds", {}, self.lockout.cumulative(), self.lockout.total)]
        out.details = {"hooks": [hook.name for hook in self.hooks], "partitions": sorted(self.accounts)}
        return out


def run_responder(config: Config) -> int:
    """Run until SIGTERM. Returns the exit status."""
    hooks = hooks_of(config)
    if not hooks:
        log.warning("no hook is configured: accounts are cut at the sidecar but not suspended where they live")
    wait_for_topics(TopicWatch(config))
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
    stats = StatsServer(run_dir(config.data_dir) / "responder.stats", responder.snapshot)
    try:
        return run_app(app)
    finally:
        stats.close()
