"""docs/benchmarks/detect.md and its plots, generated from a full run."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exfilguard.cli.svg import INK, Drawing

from ..report import Report
from .attacks import SPEEDS, WIRE, WIRE_ROWS_PER_S
from .clinic import PATIENTS
from .guard import VERDICT_MS
from .play import BUDGET_PATIENTS, SERVICE_BUDGET_PATIENTS

OURS, THEIRS, BAD, GREY = "#0b6e4f", "#8a5a00", "#c4314b", "#5b6b78"
LIMIT = PATIENTS * 0.005


def _below(count: int, mean: float) -> float:
    """P(X <= count) of a Poisson distribution."""
    if mean <= 0:
        return 1.0
    return sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count + 1))


def _solve(fits: Callable[[float], bool], high: float) -> float:
    low = 0.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return (low + high) / 2


def upper(count: int) -> float:
    """Upper end of the exact 95 % interval of a Poisson count (Garwood 1936)."""
    return _solve(lambda mean: _below(count, mean) > 0.025, count * 2 + 20.0)


def lower(count: int) -> float:
    """Lower end of it."""
    return 0.0 if not count else _solve(lambda mean: 1 - _below(count - 1, mean) < 0.025, float(count))


def write(folder: Path, report: Report) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "detect-frontier.svg").write_text(frontier(report), encoding="utf-8")
    (folder / "detect-speeds.svg").write_text(speeds(report), encoding="utf-8")
    (folder / "detect.md").write_text(text(report), encoding="utf-8")


# -- plots --------------------------------------------------------------------------------------------------------------


def frontier(report: Report) -> str:
    """False cuts against the worst theft: lower left is better."""
    facts = report.facts
    points = [("ExfilGuard, built-in policy", facts["act_days"], facts["worst_delivered"], OURS)]
    points += [(name, r["false_days"], r["worst_delivered"], THEIRS) for name, r in facts["rivals"].items()]
    drawing = Drawing(900, 460, "Normal work stopped by mistake, and the worst theft: lower left is better")
    left, right, top, base = 90, 40, 50, 400

    def x(days: float) -> float:
        per = 1e4 * days / facts["account_days"]
        return left + (900 - left - right) * math.log10(1 + per) / 4.2

    def y(patients: float) -> float:
        return base - (base - top) * (math.log10(max(100, patients)) - 2) / 4

    for power in range(2, 7):
        drawing.line(left, y(10**power), 900 - right, y(10**power))
        drawing.text(left - 8, y(10**power) + 4, f"{10**power:,}", anchor="end", colour=GREY, size=11)
    for per in (0, 1, 10, 100, 1_000, 10_000):
        at = left + (900 - left - right) * math.log10(1 + per) / 4.2
        drawing.line(at, top, at, base)
        drawing.text(at, base + 18, f"{per:,}", anchor="middle", colour=GREY, size=11)
    drawing.line(left, y(LIMIT), 900 - right, y(LIMIT), BAD, 1.5, "6 4")
    drawing.text(900 - right, y(LIMIT) - 6, "0.5 % of all patients", anchor="end", colour=BAD, size=11)
    drawing.text(
        left, base + 40, "account-days with a false cut or lock, per 10,000 account-days (logarithmic)", colour=INK
    )
    drawing.text(left, top - 8, "patients delivered by the worst attack (logarithmic)", colour=INK)
    placed: list[tuple[float, float]] = []
    for name, days, patients, colour in points:
        px, py = x(days), y(patients)
        drawing.dot(px, py, 7 if colour == OURS else 6, colour, f"{name}: {days} account-days, {patients:,} patients")
        ty = py + 4
        while any(abs(ty - oy) < 15 and abs(px - ox) < 260 for ox, oy in placed):
            ty += 15
        placed.append((px, ty))
        end = px > 620
        drawing.text(
            px + (-12 if end else 12), ty, name, anchor="end" if end else "start", colour=colour, bold=colour == OURS
        )
    return drawing.svg()


def speeds(report: Report) -> str:
    """Patients delivered by each attack, by speed."""
    drawing = Drawing(
        900,
        480,
        f"Patients delivered before the cut, by the thief's speed: every attack, the worst of {len(report.facts['theft_seeds'])} clinics",
    )
    left, right, top, base = 90, 30, 60, 420
    width = (900 - left - right) / len(SPEEDS)

    def y(patients: float) -> float:
        return base - (base - top) * (math.log10(max(10, patients)) - 1) / 5

    for power in range(1, 7):
        drawing.line(left, y(10**power), 900 - right, y(10**power))
        drawing.text(left - 8, y(10**power) + 4, f"{10**power:,}", anchor="end", colour=GREY, size=11)
    drawing.line(left, y(LIMIT), 900 - right, y(LIMIT), BAD, 1.5, "6 4")
    drawing.line(900 - right - 150, 44, 900 - right - 125, 44, BAD, 1.5, "6 4")
    drawing.text(900 - right, 48, "0.5 % of all patients", anchor="end", colour=BAD, size=11)
    by_speed: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for theft in worst_of(report.facts["thefts"]):
        if theft["way"] != "honeytoken":
            by_speed[theft["speed"]].append(theft)
    for n, speed in enumerate(SPEEDS):
        middle = left + width * (n + 0.5)
        label = "at once" if speed == WIRE else f"{speed:,} a day"
        drawing.text(middle, base + 18, label, anchor="middle", colour=GREY, size=11)
        found = by_speed[speed]
        for i, theft in enumerate(found):
            px = middle + width * 0.7 * ((i + 0.5) / max(1, len(found)) - 0.5)
            never = theft["cut_ms"] < 0
            drawing.dot(
                px,
                y(theft["delivered"]),
                3.2,
                BAD if never else OURS,
                f"{theft['title']}: {theft['delivered']:,}",
                hollow=not theft["bar"],
            )
        others = sorted(
            max(n if n >= 0 else -n - 1 for n in (min(t["rivals"].values(), key=lambda v: v if v >= 0 else 10**9),))
            for t in report.facts["thefts"]
            if t["speed"] == speed and t.get("rivals")
        )
        if others:
            middle_of = others[len(others) // 2]
            drawing.line(middle - width * 0.35, y(middle_of), middle + width * 0.35, y(middle_of), THEIRS, 2)
    drawing.dot(left + 4, base + 44, 4, OURS)
    drawing.text(left + 14, base + 48, "cut")
    drawing.dot(left + 60, base + 44, 4, BAD)
    drawing.text(left + 70, base + 48, "not cut in ten days")
    drawing.dot(left + 210, base + 44, 4, OURS, hollow=True)
    drawing.text(left + 220, base + 48, "beyond the bars")
    drawing.line(left + 330, base + 44, left + 355, base + 44, THEIRS, 2)
    drawing.text(left + 362, base + 48, "the best of the others' rules, median over the attacks")
    return drawing.svg()


# -- text ---------------------------------------------------------------------------------------------------------------


def worst_of(thefts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each attack at each speed in the clinic where it brought most, in the order of the catalogue."""
    worst: dict[tuple[str, int], dict[str, Any]] = {}
    for theft in thefts:
        key = (theft["name"], theft["speed"])
        if key not in worst or (theft["cut_ms"] < 0, theft["delivered"]) > (
            worst[key]["cut_ms"] < 0,
            worst[key]["delivered"],
        ):
            worst[key] = theft
    return list(worst.values())


def _after(ms: int) -> str:
    if ms < 0:
        return "never"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    if ms < 5_400_000:
        return f"{ms / 60_000:.0f} min"
    return f"{ms / 3_600_000:.0f} h" if ms < 172_800_000 else f"{ms / 86_400_000:.1f} days"


def text(report: Report) -> str:
    facts = report.facts
    low, high = facts["false_alerts_per_100_interval_95"]
    lines = [
        "# What the detectors find, and what they cost",
        "",
        "Generated by `make bench-detect` (a full run); do not edit. What is played, with its sources, and what it does not show:",
        "[bench/exfilbench/README.md](../../bench/exfilbench/README.md). Held-out seeds "
        f"{', '.join(map(str, facts['seeds']))} (normal traffic) and {', '.join(map(str, facts['theft_seeds']))} (thieves); the policy was tuned on others.",
        "",
        "| bar | value | must be | |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {b['name'].replace('_', ' ')} | {b['value']:g} | {b['bar']:g} | {'ok' if b['ok'] else '**short**'} |"
        for b in report.bars
    ]
    lines += [
        "",
        f"Normal traffic: {facts['events']:,} events, {facts['account_days']:,} days of work of {facts['accounts']:,} accounts. "
        f"{facts['alert_days']} account-days with an alert (95 % interval {low} to {high} per 100), {facts['act_days']} with a cut or a "
        f"lock (at most {facts['false_cuts_per_10000_upper_95']} per 10,000 with 97.5 % confidence), {facts['lock_days']} with a lock.",
        "",
        "![False cuts against the worst theft](detect-frontier.svg)",
        "",
        "![Patients delivered by speed](detect-speeds.svg)",
        "",
        "## The rules of others, on the same events",
        "",
        "| rule | account-days it would have stopped | worst theft (patients) | thefts it never stopped |",
        "| --- | --- | --- | --- |",
        f"| ExfilGuard | {facts['act_days']:,} | {facts['worst_delivered']:,} | {sum(t['cut_ms'] < 0 for t in facts['thefts'] if t['bar'])} |",
    ]
    lines += [
        f"| {name} | {r['false_days']:,} | {r['worst_delivered']:,} | {r['never']} |"
        for name, r in facts["rivals"].items()
    ]
    lines += [
        "",
        f"The rules are asked in the first thieves' clinic ({facts['theft_seeds'][0]}). One that stops nobody by mistake because it hardly "
        "stops anybody counts as better on that axis all the same.",
    ]
    lines += [
        "",
        "## Every attack",
        "",
        f"The sidecar's local budget stands at {BUDGET_PATIENTS:,} patients in 10 minutes on the users' listener and at "
        f"{SERVICE_BUDGET_PATIENTS:,} in 6 hours on that of interfaces and batches (`enforce`); a verdict takes {VERDICT_MS} ms from the "
        "event to the cut. Worst of the seeds; `no bar`: told for honesty, see the README.",
        "",
        "| attack | speed | patients delivered | first alert | cut | by |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for t in worst_of(facts["thefts"]):
        name, speed = t["name"], t["speed"]
        label = "at once" if speed == WIRE else f"{speed:,} a day"
        label = "one read" if t["way"] == "honeytoken" else label
        lines.append(
            f"| {name}{'' if t['bar'] or t['way'] == 'honeytoken' else ' (no bar)'} | {label} | {t['delivered']:,} | {_after(t['alert_ms'])} | "
            f"{_after(t['cut_ms'])} | {', '.join(t['detectors'])} |"
        )
    lines += [
        "",
        "## The dumps in `observe`",
        "",
        f"Without a local budget the verdict through Kafka has to stop a result that runs at {WIRE_ROWS_PER_S:,} rows a second: the thief "
        "keeps what the wire carried until then. This is what `enforce` is for.",
        "",
        "| attack | patients delivered | share |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {t['name']} | {t['delivered']:,} | {100 * t['delivered'] / PATIENTS:.2f} % |"
        for t in facts["dumps_in_observe"]
    ]
    lines += [
        "",
        "## What was said of normal work",
        "",
        "| detector, step and role | verdicts | for example |",
        "| --- | --- | --- |",
    ]
    said: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for run in facts["normal"]:
        said.update(run["said"])
        examples = run["sentences"] | examples
    lines += [f"| {kind} | {count:,} | {examples[kind]} |" for kind, count in said.most_common()]
    return "\n".join(lines) + "\n"
