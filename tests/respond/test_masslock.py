"""The mass-lock stop that several responders share: one log, read by all in its order, late and after a crash."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from exfilguard.config.responder import ResponderConfig
from exfilguard.config.schema import Config
from exfilguard.events.action import MASS_LOCK, Action
from exfilguard.respond.reconcile import Reconciler
from exfilguard.stream.masslock import SharedMassLock

from .test_reconcile import FakeHook, verdict

WINDOW_MS = 60_000


class Log:
    """Partition 0: records in the order in which they came, each reader at its own place."""

    def __init__(self, seed: int) -> None:
        self.records: list[Action] = []
        self.random = random.Random(seed)

    async def write(self, action: Action) -> None:
        await asyncio.sleep(self.random.random() * 0.01)
        self.records.append(action)


class Process:
    """A responder: its reconciler, its part of the accounts, its reader of the log."""

    def __init__(self, log: Log, config: Config, hook: FakeHook, own: list[Action]) -> None:
        self.log, self.own, self.position = log, own, 0
        self.shared = SharedMassLock(config, log.write, lambda: self.reconciler.tick())
        self.reconciler = Reconciler([hook], config.responder, self.record, self.shared)
        for action in own:
            self.reconciler.remember(action)
        self.reading = asyncio.create_task(self.read())

    async def record(self, action: Action) -> None:
        await asyncio.sleep(0.001)
        self.own.append(action)

    async def read(self) -> None:
        while True:
            await asyncio.sleep(self.log.random.random() * 0.02)
            until = self.log.random.randint(self.position, len(self.log.records))
            for action in self.log.records[self.position : until]:
                self.shared.read(action)
            self.position = until
            if until == len(self.log.records):
                self.shared.caught_up = True
            if self.shared.caught_up:
                self.reconciler.tick()

    async def kill(self) -> None:
        self.reading.cancel()
        self.reconciler.drop(list(self.reconciler.accounts))
        await asyncio.sleep(0)


def test_several_processes_suspend_no_more_than_one_may() -> None:
    for seed in range(5):
        asyncio.run(_several(seed))


async def _several(seed: int) -> None:
    config = Config(tenant="t", responder=ResponderConfig(mass_lock_accounts=5, mass_lock_window_ms=WINDOW_MS))
    log, hook = Log(seed), FakeHook("h")
    records: list[list[Action]] = [[], [], []]
    processes = [Process(log, config, hook, own) for own in records]
    accounts = [f"a{n}" for n in range(24)]
    log.random.shuffle(accounts)
    known: list[list[Any]] = [[], [], []]
    for n, account in enumerate(accounts):
        known[n % 3].append(verdict(account))
        processes[n % 3].reconciler.learn(known[n % 3][-1])
        if n in (7, 15):  # one dies, whatever it was about, and comes again
            which = log.random.randrange(3)
            await asyncio.sleep(log.random.random() * 0.03)
            await processes[which].kill()
            processes[which] = Process(log, config, hook, records[which])
            for one in known[which]:
                processes[which].reconciler.learn(one)

    def settled() -> bool:
        held = sum(p.reconciler.held_accounts for p in processes)
        return held == 19 and sum(p.reconciler.locked_accounts for p in processes) == 5

    for _ in range(1_000):
        if settled():
            break
        await asyncio.sleep(0.01)
    assert settled(), (seed, hook.open)
    await asyncio.sleep(0.1)
    assert sum(state is False for state in hook.open.values()) == 5
    assert all(a.outcome in ("claimed", "released") and a.hook == MASS_LOCK for a in log.records)
    # An operator's word is never held, and not counted.
    processes[0].reconciler.learn(verdict("x", issuer="operator:anna"))
    for _ in range(500):
        if hook.open.get("x") is False:
            break
        await asyncio.sleep(0.01)
    assert hook.open["x"] is False
    for process in processes:
        await process.kill()


def _claim(account: str, at_ms: int, outcome: Any = "claimed", tenant: str = "t") -> Action:
    return Action(tenant, account, MASS_LOCK, "lock", outcome, False, 1, at_ms, at_ms)


@pytest.mark.parametrize("skew_ms", [0, 30_000])
def test_the_window_moves_and_other_tenants_do_not_count(skew_ms: int) -> None:
    async def play() -> None:
        config = Config(tenant="t", responder=ResponderConfig(mass_lock_accounts=2, mass_lock_window_ms=WINDOW_MS))
        shared = SharedMassLock(config, Log(1).write, lambda: None)
        assert shared.admits(verdict("a"), 0) is None, "nothing is known before the record has been read"
        shared.caught_up = True
        shared.read(_claim("other", 1_000, tenant="elsewhere"))
        shared.read(_claim("a", 1_000 + skew_ms))
        shared.read(_claim("b", 2_000))
        shared.read(_claim("c", 3_000))
        assert [shared.admits(verdict(name), 0) for name in "abc"] == [True, True, False]
        assert shared.admits(verdict("a", revision=2), 0) is None, "a new verdict is claimed anew, and costs nothing"
        shared.read(_claim("nobody", 4_000))
        shared.read(_claim("b", 5_000, "released"))
        shared.read(_claim("d", 6_000))
        assert shared.admits(verdict("d"), 0) is True
        shared.read(_claim("e", 7_000))
        assert shared.admits(verdict("e"), 0) is False
        shared.read(_claim("f", 1_000 + skew_ms + WINDOW_MS))
        assert shared.admits(verdict("f"), 0) is True
        await asyncio.sleep(0.02)

    asyncio.run(play())


def test_an_account_that_one_hook_does_not_know_and_another_suspends_is_counted() -> None:
    async def play() -> None:
        database, application = FakeHook("database"), FakeHook("application")
        database.refuse = {f"a{n}" for n in range(9)}
        application.hang_s = 0.03
        made = Reconciler([database, application], ResponderConfig(mass_lock_accounts=2), _nowhere)
        for n in range(9):
            made.learn(verdict(f"a{n}"))
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        assert sum(state is False for state in application.open.values()) == 2
        assert made.held_accounts == 7

    asyncio.run(play())


async def _nowhere(action: Action) -> None:
    return None
