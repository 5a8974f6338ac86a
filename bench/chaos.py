"""`make chaos`: the whole installation under constant load, and one fault after the other (bench/chaos_scenarios.py); writes
docs/RELIABILITY.md. A run may be stopped: `ARGS=--resume` goes on with what has no result yet, `ARGS='--only NAME'` plays one again.

`QUICK=1` or `ARGS='--kills N'`: `kill -9` of shipper, detector and one plain broker at random points under load; after each kill the
totals must equal the oracle's exactly.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from exfilguard.embedded.kafka import ApacheKafka
from tests.integration.pipeline import PARTITIONS, installation
from tests.integration.stack import settled_totals

from .chaos_bed import Bed
from .chaos_page import write_page
from .chaos_scenarios import SCENARIOS, Scenario
from .report import QUICK, RESULTS, Report, percentile

KILLS = 3 if QUICK else 200
SEED = 4
SETTLE_S = 120.0
RECOVER_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description="Break the installation and count.")
    parser.add_argument("--kills", type=int, metavar="N", help="the plain series, so many kills; the README's is 200")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this scenario; repeat it")
    parser.add_argument("--resume", action="store_true", help="leave out what the results have already")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every N-th scenario only, from the K-th on")
    parser.add_argument("--seconds", type=float, default=0.0, metavar="S", help="begin no scenario after this time")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="default: %(default)s")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    args = parser.parse_args()
    if args.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:24} {scenario.what}")
        return 0
    if args.kills or (QUICK and not args.only):
        return kills_of(args.kills or KILLS)
    return play(args)


RESULTS_FILE = RESULTS / "chaos-scenarios.json"


def results() -> dict[str, Any]:
    """By name, in the order of the list."""
    known: dict[str, Any] = orjson.loads(RESULTS_FILE.read_bytes()) if RESULTS_FILE.is_file() else {}
    return {s.name: known[s.name] for s in SCENARIOS if s.name in known}


def play(args: argparse.Namespace) -> int:
    """The scenarios, on one installation; each result is on disk as soon as it is there."""
    began = time.monotonic()
    known = results()
    if unknown := set(args.only) - {s.name for s in SCENARIOS}:
        print(f"error: no scenario {', '.join(sorted(unknown))}: see --list")
        return 2
    todo = [s for s in SCENARIOS if not args.only or s.name in args.only]
    part, parts = map(int, args.part.split("/"))
    todo = [s for s in todo[part - 1 :: parts] if not (args.resume and s.name in known)]
    RESULTS.mkdir(exist_ok=True)
    played: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="exfilguard-chaos-") as name:
        Path(name).chmod(0o711)
        bed = Bed(Path(name), args.seed)
        try:
            bed.start()
            bed.begin()
            bed.sleep(2.0)
            for scenario in todo:
                if args.seconds and time.monotonic() - began > args.seconds:
                    print("the time is over: go on with ARGS=--resume", flush=True)
                    break
                found = one(bed, scenario)
                played.append(found)
                known = results() | {scenario.name: found}  # another part may be played beside this one
                RESULTS_FILE.write_bytes(orjson.dumps(known, option=orjson.OPT_INDENT_2))
        finally:
            bed.stop()
    write_page(results())
    report = Report("chaos")
    report.facts = {"scenarios": played}
    ran = [f for f in played if not f["skipped"]]
    report.bar("scenarios_that_held", sum(f["ok"] for f in ran), len(ran), at_most=False)
    report.bar("rows_lost_beyond_stated_limits", sum(f["lost"] for f in ran if not f["may_lose"]), 0)
    report.bar("rows_counted_double", sum(f["double"] for f in ran), 0)
    report.bar("faults_that_should_tell_and_did_not", sum(bool(set(f["tells"]) - f["told"].keys()) for f in ran), 0)
    report.bar("statements_refused_wrongly", sum(len(f["refused"]) for f in ran), 0)
    return report.finish()


def one(bed: Bed, scenario: Scenario) -> dict[str, Any]:
    """Play it; what was found."""
    out: dict[str, Any] = {"name": scenario.name, "what": scenario.what, "may_lose": scenario.may_lose}
    if missing := scenario.needs(bed):
        print(f"{scenario.name}: left out: {missing}", flush=True)
        return {**out, "skipped": missing, "ok": False}
    broken, queries = sum(p.broken for p in bed.everybody), sum(p.queries for p in bed.everybody)
    refused = [len(p.refused) for p in bed.people]
    bed.expects = scenario.tells
    bed.hush()
    bed.begin()
    bed.sleep(1.0)
    bed.began = time.time()
    error = ""
    try:
        scenario.act(bed)
    except Exception as failed:  # the next scenario is played all the same
        error = f"{type(failed).__name__}: {failed}"[:200]
        print(f"{scenario.name}: {error}", flush=True)
    locked = bed.lock_stands()
    ended = time.monotonic()
    recovered = -1.0
    while time.monotonic() - ended < RECOVER_S:
        if bed.everything_counted():
            recovered = time.monotonic() - ended
            break
        bed.sleep(0.1)
    bed.sleep(2.0)
    found = bed.settle()
    locked = locked and bed.lock_stands()
    people = bed.people
    out |= found | {
        "skipped": "",
        "error": error,
        "broken": sum(p.broken for p in bed.everybody) - broken,
        "queries": sum(p.queries for p in bed.everybody) - queries,
        "refused": [state for p, before in zip(people, refused, strict=True) for state in p.refused[before:]],
        "recovery_s": round(recovered, 1),
        "longest_s": round(max(p.longest_s for p in people), 2),
        "lock": locked,
        "tells": list(scenario.tells),
        "silent": scenario.silent,
        "told": {name: round(after, 1) for name, after in bed.told().items()},
        "said": [re.sub(r"^\S+ \S+ ", "", line)[:200] for line in bed.said()][:3],
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    out["ok"] = bool(
        0 <= out["lost"] <= scenario.most_lost(bed)
        and not (out["double"] or out["windows_differ"] or out["archive_differs"] or out["refused"])
        and set(scenario.tells) <= out["told"].keys()
        and (not out["broken"] or scenario.breaks_sessions)
        and recovered >= 0
        and locked
        and not error
    )
    print(
        f"{scenario.name} {'ok' if out['ok'] else 'short'}: lost {out['lost']}, double {out['double']}, broken {out['broken']}, "
        f"refused {len(out['refused'])}, recovery {out['recovery_s']} s, longest {out['longest_s']} s, "
        f"told {out['told'] or 'nobody'}" + (f", not told: {missed}" if (missed := set(scenario.tells) - out["told"].keys()) else ""),
        flush=True,
    )  # fmt: skip
    return out


def kills_of(kills: int) -> int:
    """The plain series."""
    rng = random.Random(SEED)
    report = Report("chaos")
    killed: Counter[str] = Counter()
    wrong = 0
    recovery_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="exfilguard-chaos-") as name:
        broker = ApacheKafka(Path(name) / "kafka")
        broker.start()
        stack, load = installation(Path(name) / "data", broker)
        try:
            stack.start("shipper")
            stack.start("detector")
            stack.detector_ready()
            for number in range(kills):
                victim = "detector" if QUICK and number == 0 else rng.choice(("shipper", "detector", "broker"))
                killed[victim] += 1
                for _ in range(rng.randrange(1, 8)):
                    load.write(rng.randrange(300))
                    time.sleep(rng.random() * 0.05)
                if victim == "broker":
                    broker.kill()
                else:
                    stack.kill(victim)
                load.write(rng.randrange(300))
                time.sleep(rng.random() * 0.3)
                began = time.monotonic()
                if victim == "broker":
                    broker.start()
                else:
                    arguments = ("--worker", str(number + 2)) if victim == "detector" else ()
                    stack.start(victim, *arguments)
                load.write(rng.randrange(300))
                found = settled_totals(stack.config, PARTITIONS, load.equals, SETTLE_S)
                recovery_s.append(time.monotonic() - began)
                if not load.equals(found):
                    wrong += 1
                    print(f"kill {number} of {victim}: the totals differ from the oracle's", flush=True)
                if (number + 1) % 10 == 0:
                    print(f"{number + 1} kills {dict(killed)}, {load.events} events, {wrong} wrong", flush=True)
        finally:
            stack.stop()
            broker.stop()
    report.facts = {"killed": dict(killed), "events": load.events, "recovery_p50_s": percentile(recovery_s, 0.5)}
    report.bar("kills", kills, kills, at_most=False)
    report.bar("totals_unlike_the_oracle", wrong, 0)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
