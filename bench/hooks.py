"""`make bench-hooks`: lock/unlock cycles of every hook against its real server, which is killed at random, as is the responder.

Each cycle: an account (some disabled before) with an open session is locked by a verdict and given back. In about one cycle of
eight the server is killed with SIGKILL within the first moments and started again; in one of five the reconciler is thrown
away and made again from what is on record. After each step the truth is asked of the server itself: a fresh login, the old
session. The record is sealed as the responder seals it, and the chain is verified at the end.

    make bench-hooks                          1,000 cycles a hook, all hooks (about an hour)
    make bench-hooks QUICK=1                  some cycles of each kind of hook, without Keycloak
    make bench-hooks ARGS='postgres mysql --cycles 200'
"""

from __future__ import annotations

import argparse
import asyncio
import logging
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

from .report import QUICK, Report, percentile

CYCLES = 8 if QUICK else 1_000
KILL_SHARE = 1 / 8
CRASH_SHARE = 1 / 5
DISABLED_SHARE = 1 / 10
SETTLE_S = 120.0
SEED = 20241119
LEFT_OUT = ("keycloak", "mediboard", "scim-pathless") if QUICK else ()
"""Keycloak takes ten seconds to start again; the others are the same code as one that is not left out."""


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
        self.kills = self.crashes = 0
        self.lock_s: list[float] = []
        self.verdicts: dict[str, Verdict] = {}
        self.reconciler = self._reconciler()

    def _reconciler(self) -> Reconciler:
        return Reconciler([self.hook], self.config, self.record.add)

    async def run(self, cycles: int) -> None:
        for n in range(cycles):
            await self._cycle(f"soak{n % 10}", n)

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
        kill = self.random.random() < KILL_SHARE
        work = asyncio.create_task(self._kill()) if kill else None
        if self.random.random() < CRASH_SHARE:
            await asyncio.sleep(self.random.random() * 0.05)
            await self._crash()
        deadline = time.monotonic() + SETTLE_S
        while not self._settled(verdict):
            if time.monotonic() > deadline:
                self.wrong.append(f"{account}: {level} was not settled within {SETTLE_S:.0f} s")
                break
            await asyncio.sleep(0.002)
        if work is not None:
            await work
            while not self._settled(verdict):  # a crash after the record and before the server's disk would show here
                await asyncio.sleep(0.002)
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
    parser.add_argument("--cycles", type=int, default=CYCLES)
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    if unknown := set(args.hooks) - set(LABS):
        parser.error(f"no such hook: {', '.join(sorted(unknown))}")
    logging.disable(logging.CRITICAL)
    reconcile.MAX_BACKOFF_S = 1.0  # what is measured is the end state, not the patience
    report = Report("hooks")
    for name in args.hooks or [name for name in LABS if name not in LEFT_OUT]:
        if needed := missing(name):
            print(f"{name}: left out, not installed: {needed}", flush=True)
            continue
        with tempfile.TemporaryDirectory(prefix="exfilguard-soak-") as directory:
            lab = LABS[name](enterable(Path(directory)))
            lab.start()
            try:
                asyncio.run(_soak(name, lab, args, report))
            finally:
                lab.stop()
    return report.finish()


async def _soak(name: str, lab: Any, args: argparse.Namespace, report: Report) -> None:
    soak, began = Soak(lab, args.seed), time.monotonic()
    await soak.run(args.cycles)
    report.bar(f"{name}_cycles", args.cycles, args.cycles, at_most=False)
    report.bar(f"{name}_wrong_states", len(soak.wrong), 0)
    report.bar(f"{name}_chain_broken", soak.record.broken(), 0)
    report.facts[name] = {
        "server_kills": soak.kills, "responder_crashes": soak.crashes, "actions": len(soak.record.records),
        "lock_verified_p50_ms": round(1000 * percentile(soak.lock_s, 0.5), 1),
        "lock_verified_p99_ms": round(1000 * percentile(soak.lock_s, 0.99), 1),
        "seconds": round(time.monotonic() - began, 1), "wrong": soak.wrong[:10],
    }  # fmt: skip
    print(name, report.facts[name], flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
