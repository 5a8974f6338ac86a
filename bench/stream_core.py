"""The core's part of `make bench-stream`: windows alone, memory, and what one frame costs before Kafka and Faust come into it."""

from __future__ import annotations

import array
import itertools
import random
import subprocess
import sys
import time
from typing import Any

from crc32c import crc32c

from exfilguard.detect.judge import Judge
from exfilguard.detect.policy_reader import read
from exfilguard.events.signature import sign
from exfilguard.stream.engine import Engine
from exfilguard.windows import WindowStore

from .load import ACCOUNTS, FRAME_EVENTS, TENANT, Frames, account
from .report import QUICK, Report
from .stream_worker import POLICY, now_ms, resident

FIVE_WINDOWS_MS = (10_000, 60_000, 300_000, 3_600_000, 86_400_000)
CORE_EVENTS = 1_000_000 if QUICK else 2_000_000
FEED_FRAMES = 400 if QUICK else 2_000
KEPT: list[Any] = []


def core(report: Report, bodies: list[list[bytes]]) -> None:
    rng = random.Random(1)
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(ACCOUNTS)))
    names = list(range(ACCOUNTS))
    rng.shuffle(names)
    numbers = array.array("I", rng.choices(names, cum_weights=weights, k=CORE_EVENTS))
    start_ms = time.time_ns() // 1_000_000
    times = array.array("q", (start_ms + n // 1_000 for n in range(CORE_EVENTS)))  # a million events a second
    rows = array.array("q", (n % 50 for n in range(CORE_EVENTS)))
    size = array.array("q", (n % 50 * 180 for n in range(CORE_EVENTS)))
    patients = array.array("Q", ((n * 31 + i % 20) * 0x9E3779B97F4A7C15 % (1 << 64) for i, n in enumerate(numbers)))
    rates: dict[str, float] = {}
    for label, digests in (("core", None), ("core_with_patients", patients)):
        store = WindowStore(FIVE_WINDOWS_MS)
        for n in range(ACCOUNTS):
            store.number(f"{TENANT}/{account(n)}")
        began = time.process_time()  # one thread that only computes: its CPU time, whoever else is on the machine
        store.add_many(numbers, times, rows, size, digests)
        rates[label] = CORE_EVENTS / (time.process_time() - began)
        del store
    report.bar("core_events_per_s", rates["core"], 5_000_000, at_most=False)
    report.facts["core_with_one_patient_an_event_per_s"] = rates["core_with_patients"]
    report.facts["frame_ns_per_event"] = frame_costs(bodies)
    # In a process of its own: what Python gave back before would be taken again.
    command = [sys.executable, "-c", "from bench.stream_core import memory; memory()"]
    full, busy = map(float, subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split())
    report.bar("bytes_per_account_every_slice_full", full, 4_096)
    report.facts["bytes_per_account_active_every_15_minutes"] = busy


def memory() -> None:
    """Prints resident bytes per account: active in every slice of every window (the most it can be), and every 15 minutes."""
    every_slice = sorted({n for width in FIVE_WINDOWS_MS for n in range(0, width, max(1, width // 32))}, reverse=True)
    for moments in (every_slice, list(range(26 * 3_600_000, 0, -900_000))):
        accounts = 20_000
        store = WindowStore(FIVE_WINDOWS_MS)
        ones = array.array("q", [1]) * accounts
        before = resident()
        numbers = array.array("I", (store.number(f"{TENANT}/{account(n)}") for n in range(accounts)))
        for back in moments:
            store.add_many(numbers, array.array("q", [1_800_000_000_000 - back]) * accounts, ones, ones)
        print((resident() - before) / accounts, flush=True)
        KEPT.append(store)  # the next one must not move into its memory


SIGNING_KEY = bytes(64)


def frame_costs(bodies: list[list[bytes]]) -> dict[str, float]:
    """CPU nanoseconds an event, without Kafka and Faust: a frame's checksum, its signature (which `feed` does not look at here), reading
    it, and all of `Engine.feed`."""
    judge = Judge(read(POLICY, "bench"), TENANT, "bench")
    engine, frames = Engine(lambda tenant: judge, {}, 65_536), Frames(bodies, "0")
    spent = dict.fromkeys(("checksum", "signature", "read", "feed"), 0.0)
    warm = len(bodies)
    for n in range(warm + FEED_FRAMES):
        value = frames.next(now_ms())
        moments = [time.process_time()]
        crc32c(value)
        moments.append(time.process_time())
        sign(SIGNING_KEY, 0, value)
        moments.append(time.process_time())
        engine._counter.read(value)
        moments.append(time.process_time())
        engine.feed(n, value, now_ms())
        moments.append(time.process_time())
        if n >= warm:  # all accounts are there
            for name, begin, end in zip(spent, moments, moments[1:], strict=False):
                spent[name] += end - begin
    return {name: seconds * 1e9 / (FEED_FRAMES * FRAME_EVENTS) for name, seconds in spent.items()}
