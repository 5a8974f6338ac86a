"""`make bench-detect`: exfilbench, the built-in policy and the rules of others on the same normal and stolen traffic.

The full run (20 to 30 minutes of one core) keeps its parts under bench/results/detect.parts/, by a digest of the code and the policy they
came from, and takes up where it was stopped; `--seconds N` stops by itself, exit status 75 while something is left. It writes
docs/benchmarks/detect.md with its plots. `--fresh` begins anew. QUICK=1: a smaller clinic, fewer thieves, one seed of its own.
`--seed N` plays training seed N instead of the held-out ones: for tuning; nothing is written to docs.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import multiprocessing
import os
import shutil
import time
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cache, partial
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

HELD_OUT_SEEDS = (301,) if QUICK else (209, 210, 211, 212)
"""Nobody looks at the full ones before the policy is what it will be; which were used up: exfilbench/README.md."""
SIZE = SMALL if QUICK else Size()
NORMAL_DAYS = 56 if QUICK else 60
WARM_DAYS = 28 if QUICK else 42
MIN_ACCOUNT_DAYS = 1_500 if QUICK else 30_000
SHARE_BAR = 0.5
ROOT = Path(__file__).parents[1]
FRAME_EVENTS = 50
LEFT = 75
"""Exit status: stopped at its time limit, run again."""
STOP = [float("inf")]
"""Monotonic time after which no part and no attack begins; set once, before the parts' processes."""


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


def thefts(seed: int, *, with_rivals: bool) -> list[dict[str, Any]] | None:
    """Every attack into the same clinic, each from the same state of the detector: a process of its own plays each. None: stopped.
    Small clinics: an attack is one against many accounts all the same, and there are 98."""
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
    so_far = _part_path("so-far", seed)
    out: list[dict[str, Any]] = json.loads(so_far.read_text(encoding="utf-8")) if so_far.is_file() else []
    done = {theft["title"] for theft in out}
    for attack in attacks:
        if attack.title in done:
            continue
        if time.monotonic() > STOP[0]:
            return None
        out.append(
            _forked(lambda attack=attack: _theft(seed, attack, guard, days, rivals if with_rivals else None))
            | {"seed": seed}
        )
        so_far.write_text(json.dumps(out), encoding="utf-8")
    out.append(_forked(lambda: _honeytoken(guard, days)) | {"seed": seed})
    return out


def _by_prefix(working: Collection[str], everybody: Sequence[str]) -> dict[str, list[str]]:
    """Who works, by the beginning of the name; everybody where nobody of a kind does."""
    out = {}
    for prefix in PREFIXES:
        names = sorted(name for name in everybody if name.startswith(f"{prefix}."))
        out[prefix] = [name for name in names if name in working] or names
    return out


def _theft(
    seed: int, attack: Attack, guard: Guard, days: list[list[Event]], rivals: FalseAlarms | None
) -> dict[str, Any]:
    start = start_of(MONDAY_MS + WARM_DAYS * DAY_MS, attack)
    after = [e for today in days[: horizon_days(attack)] for e in today if e["time_ms"] >= start]
    accounts = set(attack.accounts)
    # The owners go on working. The rest of the clinic too where it could hide the thief: where accounts or screens are shared.
    alone = len(accounts) == 1 and attack.shape == TOOL
    beside = [e for e in after if e["principal"] in accounts] if alone else after
    before = [e for e in days[0] if e["time_ms"] < start]
    feed_day(guard, before)
    others: dict[str, int] = {}
    if rivals is not None and attack.bar:
        for event in before:
            rivals.see(event)
        others = _rivals(seed, attack, start, beside, _hourly(after), rivals)
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

WORK = {
    "normal": normal,
    "first thefts": partial(thefts, with_rivals=True),  # rivals are asked in the first clinic
    "thefts": partial(thefts, with_rivals=False),
    "observed": observed,
}
MADE_FROM = (
    "bench/exfilbench/*.py",
    "exfilguard/detect/*.py",
    "exfilguard/detect/*.toml",
    "exfilguard/windows/_*.[hp]*",
    "exfilguard/stream/engine.py",
)


@cache
def _parts() -> Path:
    """Where the parts of this state of policy, detector and generator are: no part of another state is ever taken up."""
    digest = hashlib.sha256()
    for pattern in MADE_FROM:
        for path in sorted(ROOT.glob(pattern)):
            if path.name != "page.py":
                digest.update(path.read_bytes())
    return RESULTS / "detect.parts" / digest.hexdigest()[:16]


def _part_path(kind: str, seed: int) -> Path:
    _parts().mkdir(parents=True, exist_ok=True)
    return _parts() / f"{'quick' if QUICK else 'full'}-{kind.replace(' ', '-')}-{seed}.json"


def _part(job: tuple[str, int]) -> tuple[str, int, Any]:
    """(kind, seed, result); None as result: stopped before its end."""
    kind, seed = job
    path = _part_path(kind, seed)
    if path.is_file():
        return kind, seed, json.loads(path.read_text(encoding="utf-8"))
    if time.monotonic() > STOP[0]:
        return kind, seed, None
    began = time.monotonic()
    result = WORK[kind](seed)
    if result is not None:
        path.write_text(json.dumps(result), encoding="utf-8")
    print(f"{kind} of seed {seed}: {time.monotonic() - began:.0f} s{'' if result else ', to be continued'}", flush=True)
    return kind, seed, result


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.detect", description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="forget the parts of an earlier run")
    parser.add_argument("--seed", type=int, default=0, help="a training seed instead of the held-out ones")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long, to be run again")
    args = parser.parse_args()
    STOP[0] = time.monotonic() + args.seconds
    seeds = (args.seed,) if args.seed else HELD_OUT_SEEDS
    if args.fresh or QUICK:
        shutil.rmtree(_parts(), ignore_errors=True)
    jobs = [("first thefts", seeds[0]), *(("thefts", seed) for seed in seeds[1:])]
    jobs += [*(("normal", seed) for seed in seeds), ("observed", seeds[0])]
    with multiprocessing.get_context("fork").Pool(min(os.cpu_count() or 1, len(jobs))) as pool:
        parts = pool.map(_part, jobs, chunksize=1)
    left = sum(result is None for _, _, result in parts)
    if left:
        print(f"{left} of {len(jobs)} parts are not played to their end: run it again")
        return LEFT
    found: dict[str, list[Any]] = {kind: [r for k, _, r in parts if k == kind] for kind in WORK}
    report = Report("detect")
    stolen = [theft for run in found["first thefts"] + found["thefts"] for theft in run]
    judge(report, found["normal"], stolen, found["observed"][0])
    if not QUICK and not args.seed:
        page.write(ROOT / "docs" / "benchmarks", report)
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
    token = max((t for t in stolen if t["way"] == "honeytoken"), key=lambda t: (t["cut_ms"] < 0, t["delivered"]))
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
        "worst_theft": worst["title"], "theft_seeds": sorted({t["seed"] for t in stolen}), "worst_delivered": worst["delivered"], "rivals": rivals, "thefts": stolen, "dumps_in_observe": dumps, "normal": quiet,
        "observe_worst_share_pct": round(100 * max(t["delivered"] for t in dumps) / page.PATIENTS, 2),
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
