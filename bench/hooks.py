"""`make bench-hooks`: lock/unlock cycles of every hook against its real server, which is killed at random, as is the responder.

Each cycle: an account (some disabled before) with an open session is locked by a verdict and given back. In about one cycle of
eight the server is killed with SIGKILL within the first moments and started again; in one of five the reconciler is thrown
away and made again from what is on record. After each step the truth is asked of the server itself: a fresh login, the old
session. The record is sealed as the responder seals it, and the chain is verified at the end.

    make bench-hooks                                    up to 1,000 cycles a hook, all hooks (about two hours)
    make bench-hooks QUICK=1                            some cycles of each kind of hook, without Keycloak
    make bench-hooks ARGS='postgres --seconds 300'      a part; the next run goes on, with a new server and another seed

What was done is in bench/results/hooks/NAME.json, one entry a run, and docs/benchmarks/hooks.md is made of it (bench/hooks_page.py).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from exfilguard.config.responder import ResponderConfig
from exfilguard.events.action import Action
from exfilguard.events.chain import ChainWriter, digest_of, link_of
from exfilguard.events.codec import decode_action, encode_action
from exfilguard.events.verdict import Verdict
from exfilguard.respond import reconcile
from exfilguard.respond.reconcile import Reconciler
from exfilguard.runtime.clock import now_ms
from tests.respond.labs import LABS, enterable, missing

from . import hooks_page
from .report import QUICK, Report

CYCLES = 8 if QUICK else 1_000
KILL_SHARE = {"keycloak": 1 / 100}
"""Of steps, two a cycle. Keycloak takes ten seconds and more to start again."""
KILL_SHARE_ELSE = 1 / 8
CRASH_SHARE = 1 / 5
DISABLED_SHARE = 1 / 10
SETTLE_S = 120.0
SEED = 20241119
LEFT_OUT = ("keycloak", "mediboard", "scim-pathless") if QUICK else ()
"""Keycloak takes ten seconds to start; the others are the same code as one that is not left out."""
POLL_S = 0.005


class Record:
    """The actions topic, in memory: sealed bytes, and what a new reconciler reads of them."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self._chain = ChainWriter("responder", "bench")

    async def add(self, action: Action) -> None:
        self.records.append(self._chain.seal(encode_action(action)))
        await asyncio.sleep(0)

    def broken(self) -> int:
        """Entries whose link is not the hash of the one before."""
        wrong, previous = 0, ""
        for number, record in enumerate(self.records):
            link = link_of(record)
            wrong += link is None or link.seq != number or link.prev != previous
            previous = digest_of(record)
        return wrong


class Soak:
    """One hook's cycles."""

    def __init__(self, lab: Any, seed: int) -> None:
        self.lab = lab
        self.hook = lab.hook(timeout_ms=5_000)
        self.random = random.Random(seed)
        self.record = Record()
        self.config = ResponderConfig(mass_lock_accounts=0, retries=1_000)
        self.wrong: list[str] = []
        self.cycles = self.kills = self.crashes = 0
        self.kill_share = KILL_SHARE.get(lab.name, KILL_SHARE_ELSE)
        self.lock_s: list[float] = []
        self.verdicts: dict[str, Verdict] = {}
        self.reconciler = self._reconciler()

    def _reconciler(self) -> Reconciler:
        return Reconciler([self.hook], self.config, self.record.add)

    async def run(self, cycles: int, seconds: float = math.inf) -> None:
        """Stops after so many cycles, or with the cycle in which the seconds are over."""
        until = time.monotonic() + seconds
        while self.cycles < cycles and time.monotonic() < until:
            await self._cycle(f"soak{self.cycles % 10}", self.cycles)
            self.cycles += 1

    async def _cycle(self, account: str, n: int) -> None:
        if n < 10:
            await asyncio.to_thread(self.lab.create, account)
        disabled = self.random.random() < DISABLED_SHARE
        old = await asyncio.to_thread(self.lab.login, account)
        if disabled:
            await asyncio.to_thread(self.lab.disable, account)
        began = time.monotonic()
        killed = await self._order(account, "lock")
        if not killed:
            self.lock_s.append(time.monotonic() - began)
        if await asyncio.to_thread(self.lab.login, account) is not None:
            self.wrong.append(f"{account}, cycle {n}: locked, and a fresh login works")
        if self.lab.sessions and old is not None and await asyncio.to_thread(old.alive):
            self.wrong.append(f"{account}, cycle {n}: locked, and the old session lives")
        await self._order(account, "none")
        works = await asyncio.to_thread(self.lab.login, account) is not None
        if works == disabled:
            self.wrong.append(f"{account}, cycle {n}: {'disabled' if disabled else 'open'} before, and now it is not")
        if disabled:
            await asyncio.to_thread(self.lab.enable, account)

    async def _order(self, account: str, level: Any) -> bool:
        """Returns when the hook has settled it; True when the server was killed meanwhile."""
        revision = max(now_ms(), 1 + max((v.revision for v in self.verdicts.values()), default=0))
        verdict = Verdict(
            tenant="bench", principal=account, level=level, revision=revision, issued_ms=revision, reason="soak",
            issuer="operator:bench", crossed_ms=now_ms(),
        )  # fmt: skip
        self.verdicts[verdict.key] = verdict
        self.reconciler.learn(verdict)
        kill = self.random.random() < self.kill_share
        work = asyncio.create_task(self._kill()) if kill else None
        if self.random.random() < CRASH_SHARE:
            await asyncio.sleep(self.random.random() * 0.05)
            await self._crash()
        deadline = time.monotonic() + SETTLE_S
        while not self._settled(verdict):
            if time.monotonic() > deadline:
                self.wrong.append(f"{account}: {level} was not settled within {SETTLE_S:.0f} s")
                break
            await asyncio.sleep(POLL_S)
        if work is not None:
            await work
            while not self._settled(verdict):  # a crash after the record and before the server's disk would show here
                await asyncio.sleep(POLL_S)
        return kill

    def _settled(self, verdict: Verdict) -> bool:
        account = self.reconciler.accounts.get(verdict.key)
        state = account.hooks[self.hook.name] if account is not None else None
        if state is None or state.working:
            return False
        return state.locked if verdict.level == "lock" else not (state.locked or state.started)

    async def _kill(self) -> None:
        await asyncio.sleep(self.random.random() * 0.03)
        self.kills += 1
        await asyncio.to_thread(self.lab.kill)
        await asyncio.sleep(self.random.random() * 0.3)
        await asyncio.to_thread(self.lab.again)

    async def _crash(self) -> None:
        """The responder dies and comes again: all it knows is on record."""
        self.crashes += 1
        self.reconciler.drop(list(self.reconciler.accounts))
        self.reconciler = self._reconciler()
        for record in list(self.record.records):
            self.reconciler.remember(decode_action(record))
        for verdict in self.verdicts.values():
            self.reconciler.learn(verdict)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-hooks")
    parser.add_argument("hooks", nargs="*", help=f"of {', '.join(LABS)}")
    parser.add_argument("--cycles", type=int, default=CYCLES, help="in all runs together; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of this run, a hook")
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    if unknown := set(args.hooks) - set(LABS):
        parser.error(f"no such hook: {', '.join(sorted(unknown))}")
    logging.disable(logging.CRITICAL)
    reconcile.MAX_BACKOFF_S = 1.0  # what is measured is the end state, not the patience
    report = Report("hooks")
    for name in args.hooks or [name for name in LABS if name not in LEFT_OUT]:
        runs = [] if QUICK else hooks_page.runs_of(name)
        left = args.cycles - sum(run["cycles"] for run in runs)
        if left > 0:
            if needed := missing(name):
                print(f"{name}: left out, not installed: {needed}", flush=True)
                continue
            run = _run(name, left, args.seconds, args.seed + len(runs))
            print(name, {key: value for key, value in run.items() if key != "lock_ms"}, flush=True)
            runs.append(run)
            if not QUICK:
                hooks_page.keep(name, runs)
        total = hooks_page.total(runs)
        report.bar(f"{name}_cycles", total["cycles"], args.cycles, at_most=False)
        report.bar(f"{name}_wrong_states", total["wrong_states"], 0)
        report.bar(f"{name}_chain_broken", total["chain_broken"], 0)
        report.facts[name] = total
    if not QUICK:
        hooks_page.write()
    return report.finish()


def _run(name: str, cycles: int, seconds: float, seed: int) -> dict[str, Any]:
    """One server's life; what came of it."""
    with tempfile.TemporaryDirectory(prefix="exfilguard-soak-") as directory:
        lab = LABS[name](enterable(Path(directory)))
        lab.start()
        began = time.monotonic()
        try:
            soak = asyncio.run(_soak(lab, cycles, seconds, seed))
        finally:
            lab.stop()
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "seed": seed, "cycles": soak.cycles,
        "seconds": round(time.monotonic() - began, 1), "server_kills": soak.kills, "responder_crashes": soak.crashes,
        "actions": len(soak.record.records), "chain_broken": soak.record.broken(), "wrong": soak.wrong,
        "lock_ms": sorted(round(1000 * s) for s in soak.lock_s),
    }  # fmt: skip


async def _soak(lab: Any, cycles: int, seconds: float, seed: int) -> Soak:
    soak = Soak(lab, seed)
    await soak.run(cycles, seconds)
    return soak


if __name__ == "__main__":
    raise SystemExit(main())
