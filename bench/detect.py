"""`make bench-detect`: exfilbench, the built-in policy and the rules of others on the same normal and stolen traffic.

The full run (about a quarter of an hour of two free cores) keeps its parts under bench/results/detect.parts/ and takes up where it was stopped;
`--fresh` begins anew. It writes docs/benchmarks/detect.md with its plots. QUICK=1: a smaller clinic, fewer thieves, one seed.
`--seed N` plays training seed N instead of the held-out ones: for tuning; nothing is written to docs.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import shutil
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from exfilguard.events.verdict import severity

from .exfilbench import page
from .exfilbench.attacks import PREFIXES, TOOL, WIRE, Attack, catalogue, honeytoken, honeytoken_step, steps
from .exfilbench.clinic import DAY_MS, MONDAY_MS, SMALL, Clinic, Event, Size
from .exfilbench.guard import VERDICT_MS, Guard
from .exfilbench.play import Outcome, horizon_days, play, start_of
from .exfilbench.policy import bench_policy
from .exfilbench.rivals import BY_DATABASE, RIVALS, FalseAlarms, Rule
from .report import QUICK, RESULTS, Report

TRAINING_SEEDS = (1, 2, 3)
HELD_OUT_SEEDS = (201,) if QUICK else (201, 202, 203, 204)
CHUNKS = 1 if QUICK else 2
SIZE = SMALL if QUICK else Size()
NORMAL_DAYS = 56 if QUICK else 60
WARM_DAYS = 28 if QUICK else 42
MIN_ACCOUNT_DAYS = 1_500 if QUICK else 30_000
SHARE_BAR = 0.5
PARTS = RESULTS / "detect.parts"
FRAME_EVENTS = 50


def feed_day(guard: Guard, events: list[Event]) -> list[Any]:
    """A day of normal traffic; a frame does not span more than ten minutes."""
    out: list[Any] = []
    start = 0
    for i, event in enumerate(events):
        if i - start >= FRAME_EVENTS or event["time_ms"] - events[start]["time_ms"] > 600_000:
            out += guard.feed(events[start:i])
            start = i
    if start < len(events):
        out += guard.feed(events[start:])
    return out


def normal(seed: int) -> dict[str, Any]:
    """A clinic without a thief: what was said of whom, by us and by the rivals."""
    clinic, guard, rivals = Clinic(seed, NORMAL_DAYS, SIZE), Guard(bench_policy(small=SIZE is SMALL)), FalseAlarms()
    role = {p.login: p.role for p in clinic.people}
    account_days: Counter[str] = Counter()
    alert_days: set[tuple[str, int]] = set()
    act_days: set[tuple[str, int]] = set()
    lock_days: set[tuple[str, int]] = set()
    said: Counter[str] = Counter()
    sentences: dict[str, str] = {}
    events = 0
    for day in range(NORMAL_DAYS):
        today = clinic.day(day)
        events += len(today)
        account_days.update(role[name] for name in {e["principal"] for e in today})
        for event in today:
            rivals.see(event)
        for verdict in feed_day(guard, today):
            if verdict.level == "none":
                continue
            key = (verdict.principal, day)
            kind = f"{verdict.detector} {verdict.level}, {role[verdict.principal]}"
            said[kind] += 1
            sentences.setdefault(kind, verdict.reason)
            alert_days.add(key)
            if severity(verdict.level) >= severity("cut"):
                act_days.add(key)
            if verdict.level == "lock":
                lock_days.add(key)
    return {
        "seed": seed, "events": events, "accounts": len(clinic.people), "account_days": sum(account_days.values()),
        "by_role": dict(account_days), "alert_days": len(alert_days), "act_days": len(act_days), "lock_days": len(lock_days),
        "alerts_by_role": dict(Counter(role[name] for name, _ in alert_days)), "said": dict(said), "sentences": sentences,
        "rivals": rivals.counts(),
    }  # fmt: skip


def thefts(part: int) -> list[dict[str, Any]]:
    """Every CHUNKS-th attack into the same clinic, each from the same state of the detector: a process of its own plays each.
    `part`: 100 * seed + chunk. Small clinics: an attack is one against many accounts all the same, and there are 220."""
    seed, chunk = divmod(part, 100)
    clinic, guard, rivals = Clinic(seed, WARM_DAYS + 11, SMALL), Guard(bench_policy(small=True)), FalseAlarms()
    for day in range(WARM_DAYS):
        today = clinic.day(day)
        feed_day(guard, today)
        for event in today:
            rivals.see(event)
    guard.standing.clear()
    days = [clinic.day(day) for day in range(WARM_DAYS, WARM_DAYS + 11)]
    working = set.intersection(*({e["principal"] for e in today} for today in days[:2]))
    attacks = catalogue(_by_prefix(working, [p.login for p in clinic.people]), quick=QUICK)
    partial = PARTS / f"{'quick' if QUICK else 'full'}-partial-{part}.json"
    out: list[dict[str, Any]] = json.loads(partial.read_text(encoding="utf-8")) if partial.is_file() else []
    done = {theft["title"] for theft in out}
    for attack in attacks[chunk::CHUNKS]:
        if attack.title in done:
            continue
        out.append(_forked(lambda attack=attack: _theft(seed, attack, guard, days, rivals)))
        PARTS.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(out), encoding="utf-8")
        print(f"  {attack.title}: {out[-1]['delivered']:,} patients", flush=True)
    if not chunk and not any(theft["way"] == "honeytoken" for theft in out):
        out.append(_forked(lambda: _honeytoken(guard, days)))
    return out


def _by_prefix(working: Collection[str], everybody: Sequence[str]) -> dict[str, list[str]]:
    """Who works, by the beginning of the name; everybody where nobody of a kind does."""
    out = {}
    for prefix in PREFIXES:
        names = sorted(name for name in everybody if name.startswith(f"{prefix}."))
        out[prefix] = [name for name in names if name in working] or names
    return out


def _theft(seed: int, attack: Attack, guard: Guard, days: list[list[Event]], rivals: FalseAlarms) -> dict[str, Any]:
    start = start_of(MONDAY_MS + WARM_DAYS * DAY_MS, attack)
    after = [e for today in days[: horizon_days(attack)] for e in today if e["time_ms"] >= start]
    accounts = set(attack.accounts)
    # The owners go on working. The rest of the clinic too where it could hide the thief: where accounts or screens are shared.
    alone = len(accounts) == 1 and attack.shape == TOOL
    beside = [e for e in after if e["principal"] in accounts] if alone else after
    before = [e for e in days[0] if e["time_ms"] < start]
    feed_day(guard, before)
    for event in before:
        rivals.see(event)
    others = {} if not attack.bar else _rivals(seed, attack, start, beside, _hourly(after), rivals)
    result = _as_dict(play(guard, attack, steps(attack, start, seed), beside, enforce=True))
    result["rivals"] = others
    return result


def observed(seed: int) -> list[dict[str, Any]]:
    """The dumps at wire speed once more, in `observe`: the verdict through Kafka alone."""
    clinic, guard = Clinic(seed, WARM_DAYS + 2, SMALL), Guard(bench_policy(small=True))
    for day in range(WARM_DAYS):
        feed_day(guard, clinic.day(day))
    guard.standing.clear()
    today = clinic.day(WARM_DAYS)
    start = start_of(MONDAY_MS + WARM_DAYS * DAY_MS, honeytoken())
    feed_day(guard, [e for e in today if e["time_ms"] < start])
    beside = [e for e in today if e["time_ms"] >= start]
    attacks = [
        a
        for a in catalogue({prefix: [f"{prefix}.000"] * 60 for prefix in PREFIXES})
        if a.speed == WIRE and a.accounts == ("dpi_export",)
    ]
    return [
        _forked(lambda a=a: _as_dict(play(guard, a, steps(a, start, seed), beside, enforce=False))) for a in attacks
    ]


def _honeytoken(guard: Guard, days: list[list[Event]]) -> dict[str, Any]:
    attack = honeytoken()
    start = start_of(MONDAY_MS + WARM_DAYS * DAY_MS, attack)
    feed_day(guard, [e for e in days[0] if e["time_ms"] < start])
    reads = [honeytoken_step(attack, start + i * 60_000) for i in range(5)]
    return _as_dict(play(guard, attack, reads, [], enforce=False))


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    attack = outcome.attack
    return {
        "name": attack.name, "title": attack.title, "speed": attack.speed, "way": attack.way, "bar": attack.bar,
        "accounts": len(attack.accounts), "delivered": outcome.delivered, "alert_ms": outcome.alert_ms, "cut_ms": outcome.cut_ms,
        "detectors": outcome.detectors, "reasons": outcome.reasons[:1] + outcome.reasons[-1:], "local": outcome.spent_local,
    }  # fmt: skip


def _hourly(events: list[Event]) -> list[Event]:
    """The whole clinic's rows by hour, for the rule that looks at the database as one."""
    rows: Counter[int] = Counter()
    for event in events:
        rows[event["time_ms"] // 3_600_000] += event["rows"]
    return [
        {"time_ms": hour * 3_600_000 + 1, "rows": n, "principal": "", "session": "", "kind": "query"}
        for hour, n in sorted(rows.items())
    ]


def _rivals(
    seed: int, attack: Attack, start: int, beside: list[Event], hourly: list[Event], alarms: FalseAlarms
) -> dict[str, int]:
    """Patients delivered before each rival acts on every account of the attack; -1: it never does."""
    rules: list[Rule] = copy.deepcopy(alarms.rules)
    acted: list[dict[str, int]] = [{} for _ in rules]
    delivered = [0] * len(rules)
    accounts = set(attack.accounts)
    clinic = iter(sorted(beside + hourly, key=lambda e: e["time_ms"]))
    ahead = next(clinic, None)
    for at, account, event, count in steps(attack, start, seed):
        while ahead is not None and ahead["time_ms"] < at:
            for rule, hits in zip(rules, acted, strict=True):
                if (ahead["principal"] == "") is not (rule.name in BY_DATABASE):
                    continue
                if len(hits) < len(accounts) and rule.see(ahead) and ahead["principal"]:
                    hits.setdefault(ahead["principal"], ahead["time_ms"] + VERDICT_MS)
            ahead = next(clinic, None)
        for i, (rule, hits) in enumerate(zip(rules, acted, strict=True)):
            if at < hits.get(account, at + 1):
                delivered[i] += count
                if rule.see(event):
                    for name in accounts if rule.name in BY_DATABASE else (account,):
                        hits.setdefault(name, at + VERDICT_MS)
        if all(len(hits) == len(accounts) and at > max(hits.values()) for hits in acted):
            break
    return {
        rule.name: n if len(hits) == len(accounts) else -n - 1
        for rule, hits, n in zip(rules, acted, delivered, strict=True)
    }


def _forked(work: Any) -> Any:
    """`work()` in a child that has a copy of all state and leaves ours alone."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(receiver)
            with os.fdopen(sender, "w") as file:
                json.dump(work(), file)
            status = 0
        finally:
            os._exit(status)
    os.close(sender)
    with os.fdopen(receiver) as file:
        text = file.read()
    os.waitpid(child, 0)
    if not text:
        raise SystemExit("a part of the benchmark failed: see above")
    return json.loads(text)


# -- parts --------------------------------------------------------------------------------------------------------------

WORK = {"normal": normal, "thefts": thefts, "observed": observed}


def _part(job: tuple[str, int]) -> tuple[str, int, Any]:
    kind, seed = job
    path = PARTS / f"{'quick' if QUICK else 'full'}-{kind}-{seed}.json"
    if path.is_file():
        return kind, seed, json.loads(path.read_text(encoding="utf-8"))
    began = time.monotonic()
    result = WORK[kind](seed)
    PARTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result), encoding="utf-8")
    print(f"{kind} of seed {seed}: {time.monotonic() - began:.0f} s", flush=True)
    return kind, seed, result


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.detect", description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="forget the parts of an earlier run")
    parser.add_argument("--seed", type=int, default=0, help="a training seed instead of the held-out ones")
    parser.add_argument("--only", choices=sorted(WORK), help="play this part only, and stop")
    parser.add_argument(
        "--part", help="play one part, as normal:101, and stop; a run without it takes up what is there"
    )
    args = parser.parse_args()
    if args.part:
        kind, _, seed = args.part.partition(":")
        _part((kind, int(seed)))
        return 0
    seeds = (args.seed,) if args.seed else HELD_OUT_SEEDS
    if args.fresh or QUICK or args.seed:
        shutil.rmtree(PARTS, ignore_errors=True)
    theft_seeds = seeds[:1]
    jobs = [("normal", s) for s in seeds] + [("thefts", 100 * s + c) for s in theft_seeds for c in range(CHUNKS)]
    jobs.append(("observed", seeds[0]))
    jobs = [job for job in jobs if args.only in (None, job[0])]
    jobs.sort(key=lambda job: job[0] != "thefts")  # the longest first
    with multiprocessing.get_context("fork").Pool(min(os.cpu_count() or 1, len(jobs))) as pool:
        parts = pool.map(_part, jobs, chunksize=1)
    if args.only:
        return 0
    found: dict[str, list[Any]] = {kind: [r for k, _, r in parts if k == kind] for kind in WORK}
    report = Report("detect")
    judge(report, found["normal"], [t for run in found["thefts"] for t in run], found["observed"][0])
    if not QUICK and not args.seed:
        page.write(Path(__file__).parents[1] / "docs" / "benchmarks", report)
    return report.finish()


def judge(
    report: Report, quiet: list[dict[str, Any]], stolen: list[dict[str, Any]], dumps: list[dict[str, Any]]
) -> None:
    """The bars."""
    account_days = sum(n["account_days"] for n in quiet)
    acts, alerts = sum(n["act_days"] for n in quiet), sum(n["alert_days"] for n in quiet)
    locks = sum(n["lock_days"] for n in quiet)
    barred = [t for t in stolen if t["bar"]]
    worst = max(barred, key=lambda t: t["delivered"])
    token = next(t for t in stolen if t["way"] == "honeytoken")
    report.bar("worst_theft_share_pct", round(100 * worst["delivered"] / page.PATIENTS, 3), SHARE_BAR)
    report.bar("thefts_never_cut", sum(t["cut_ms"] < 0 for t in barred), 0)
    report.bar("honeytoken_reads_until_lock", token["delivered"] if token["cut_ms"] >= 0 else 99, 1)
    for name, way in (("enumeration", "ID enumeration"), ("json_agg", "json_agg of identifiers")):
        mine = max(t["delivered"] for t in barred if t["name"] == way and t["speed"] == WIRE)
        plain = max(t["delivered"] for t in barred if t["name"] == "one big SELECT")
        report.bar(f"{name}_against_plain_dump", round(mine / plain, 3), 1.0)
    report.bar("normal_account_days", account_days, MIN_ACCOUNT_DAYS, at_most=False)
    report.bar("false_cuts_and_locks_per_10000", round(1e4 * acts / account_days, 2), 1.0)
    report.bar("false_alerts_per_100", round(100 * alerts / account_days, 2), 1.0)
    ours = (acts, worst["delivered"])
    rivals = {}
    for rule in RIVALS:
        name = rule().name
        false = sum(n["rivals"][name] for n in quiet)
        taken = [t["rivals"][name] for t in barred if t["rivals"]]
        most = max(n if n >= 0 else -n - 1 for n in taken)
        rivals[name] = {"false_days": false, "worst_delivered": most, "never": sum(n < 0 for n in taken)}
    report.bar(
        "rivals_as_good_on_either_axis",
        sum(not (ours[0] <= r["false_days"] and ours[1] < r["worst_delivered"]) for r in rivals.values()),
        0,
    )
    report.facts |= {
        "seeds": [n["seed"] for n in quiet], "events": sum(n["events"] for n in quiet), "accounts": sum(n["accounts"] for n in quiet),
        "account_days": account_days, "alert_days": alerts, "act_days": acts, "lock_days": locks,
        "false_cuts_per_10000_upper_95": round(1e4 * page.upper(acts) / account_days, 2),
        "false_alerts_per_100_interval_95": [round(100 * page.lower(alerts) / account_days, 2), round(100 * page.upper(alerts) / account_days, 2)],
        "worst_theft": worst["title"], "worst_delivered": worst["delivered"], "rivals": rivals, "thefts": stolen, "dumps_in_observe": dumps, "normal": quiet,
        "observe_worst_share_pct": round(100 * max(t["delivered"] for t in dumps) / page.PATIENTS, 2),
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
