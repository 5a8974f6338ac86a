"""The ladder over random policies, written as an operator would, and random findings: never more than the evidence, never a shared
account, and a person's word stands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from exfilguard.detect.judge import Judge
from exfilguard.detect.policy import UNITS, WINDOW_NAMES, WINDOWS_MS, Policy, load_policy
from exfilguard.events.verdict import LEVELS, Verdict, severity
from exfilguard.windows import Totals

NOW = 1_767_600_000_000
STEPS = ("alert", "throttle", "cut", "lock")
HONEY = "00000000deadbeef"
ACCOUNTS = ("dr.a", "pool", "samu", "batch")


@st.composite
def steps(draw: st.DrawFn) -> dict[str, int]:
    """Rising values for some of the steps."""
    names = [name for name in STEPS if draw(st.booleans())] or ["alert"]
    values = sorted(draw(st.lists(st.integers(1, 5_000), min_size=len(names), max_size=len(names), unique=True)))
    return dict(zip(names, values, strict=True))


def written(found: dict[str, int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in found.items())


@st.composite
def policies(draw: st.DrawFn) -> str:
    """One limit for each unit at most, so that no two contradict each other."""
    limits = [
        f'  {{ unit = "{unit}", window = "{draw(st.sampled_from(WINDOW_NAMES))}", {written(draw(steps()))} }},'
        for unit in UNITS
        if unit == "patients" or draw(st.booleans())
    ]
    return "\n".join(
        [
            'version = "p"',
            'default_class = "c"',
            f'max_level = "{draw(st.sampled_from(STEPS))}"',
            f'expiry = "{draw(st.integers(1, 90))}m"',
            f'step_down = "{draw(st.sampled_from(("expiry", "clear")))}"',
            f"lock_shared = {str(draw(st.booleans())).lower()}",
            'break_glass = ["samu"]',
            'shared = ["pool"]',
            f'honeytokens = ["{HONEY}"]',
            f'honeytoken_level = "{draw(st.sampled_from(LEVELS))}"',
            "[flags]",
            f'server_export = "{draw(st.sampled_from(LEVELS))}"',
            "[class.c]",
            f"surplus = {{ {written(draw(steps()))} }}",
            "limits = [",
            *limits,
            "]",
            "[[allowance]]",
            'account = "batch"',
            'reason = "a study"',
            'owner = "research"',
            "since = 2026-01-01",
            "expires = 2026-12-31",
            f"multiply = {draw(st.integers(2, 20))}",
        ]
    )


TOTALS = st.lists(
    st.builds(Totals, *(st.integers(0, 6_000) for _ in UNITS)), min_size=len(WINDOWS_MS), max_size=len(WINDOWS_MS)
)
SEEN = st.one_of(
    st.tuples(st.just("judge"), TOTALS),
    st.tuples(st.just("hour"), TOTALS),
    st.tuples(
        st.just("notable"), st.sampled_from([{"patients": [HONEY]}, {"asked": [HONEY]}, {"flags": ["server_export"]}])
    ),
    st.tuples(st.just("operator"), st.sampled_from(LEVELS)),
)
HISTORY = st.lists(st.tuples(st.sampled_from(ACCOUNTS), st.integers(0, 7_200_000), SEEN), max_size=25)


def budget(policy: Policy, principal: str, totals: list[Totals]) -> str:
    """The highest step that these totals exceed, naively."""
    times = max((a.multiply for a in policy.allowances if a.account == principal), default=1)
    reached = "none"
    for limit in policy.classes["c"].limits:
        for level, value in limit.steps:
            if totals[limit.window][UNITS.index(limit.unit)] > value * times:
                reached = max(reached, level, key=severity)
    return reached


def capped(policy: Policy, principal: str, level: str) -> str:
    cap = policy.max_level
    if principal in policy.break_glass:
        cap = "alert"
    if principal in policy.shared and not policy.lock_shared:
        cap = min(cap, "cut", key=severity)
    return min(level, cap, key=severity)


@settings(max_examples=120, deadline=None)
@given(policies(), HISTORY)
def test_no_step_without_evidence_no_shared_account_suspended_and_a_persons_word_stands(
    text: str, history: list[tuple[str, int, tuple[str, Any]]]
) -> None:
    policy = load_policy(text, "policy.toml")
    judge = Judge(policy, "clinic", "detector:1")
    standing: dict[str, Verdict] = {}
    profiles: dict[str, bytes] = {}
    taken: dict[str, int] = {}
    now = NOW
    for principal, later, (kind, what) in history:
        now += later
        previous = standing.get(principal)
        evidence: str
        if kind == "operator":
            standing[principal] = Verdict(
                "clinic", principal, what, max(now, previous.revision + 1 if previous else 0), now, "said so", "operator:eva",
                expires_ms=now + 3_600_000,
            )  # fmt: skip
            continue
        if kind == "judge":
            verdict = judge.judge(principal, what, now, previous, now)
            evidence = budget(policy, principal, what)
        elif kind == "hour":
            hour = now // 3_600_000
            before = profiles.get(principal)
            profiles[principal], verdict = judge.hour(principal, before, hour, what, now, previous)
            taken[principal] = taken.get(principal, 0) + what[4].patients
            # The surplus is never more than what was taken in all: a step beyond that has no evidence.
            surplus = [level for level, value in policy.classes["c"].surplus if value < taken[principal]]
            evidence = max(["alert", *surplus], key=severity) if max(what[3].patients, taken[principal]) else "none"
        else:
            event = {"time_ms": now, "kind": "query", "rows": 1, **what}
            verdict = judge.notable(principal, event, "", now, previous)
            evidence = policy.flags.get("server_export", "none") if "flags" in what else policy.honeytoken_level
        if verdict is None:
            if previous is None and kind in ("judge", "notable"):
                assert capped(policy, principal, evidence) == "none"  # what is seen is said
            continue
        if verdict.level == "none":
            assert (policy.step_down, kind) == ("clear", "hour")
            assert previous is not None
            assert severity(previous.level) <= severity("throttle")
            assert not previous.issuer.startswith("operator:")
            standing[principal] = verdict
            continue
        assert severity(verdict.level) <= severity(capped(policy, principal, evidence))
        assert principal != "samu" or verdict.level == "alert"
        assert principal != "pool" or verdict.level != "lock" or policy.lock_shared
        assert principal != "pool" or verdict.level != "cut" or verdict.scope == "session"
        assert verdict.total > verdict.limit
        assert f"{verdict.total:,}" in verdict.reason
        assert verdict.expires_ms > now
        assert previous is None or verdict.revision > previous.revision
        if previous is not None and (previous.in_force(now) or previous.issuer.startswith("operator:")):
            holds = now < previous.expires_ms
            assert not (holds and previous.issuer.startswith("operator:"))
            assert not holds or severity(verdict.level) > severity(
                previous.level
            )  # nothing is lowered, nothing repeated
        standing[principal] = verdict


@settings(max_examples=60, deadline=None)
@given(policies())
def test_nothing_taken_nothing_said(text: str) -> None:
    judge = Judge(load_policy(text, "policy.toml"), "clinic", "detector:1")
    nothing = [Totals(0, 0, 0, 0)] * len(WINDOWS_MS)
    profile = None
    for day in range(3):
        now = NOW + day * 86_400_000
        assert judge.judge("dr.a", nothing, now, None, now) is None
        profile, verdict = judge.hour("dr.a", profile, now // 3_600_000, nothing, now, None)
        assert verdict is None
        assert judge.notable("dr.a", {"time_ms": now, "kind": "query", "rows": 0}, "", now, None) is None
        assert judge.cross("source", "10.0.0.1", nothing, [(f"dr.{n}", 0.2) for n in range(5)], now) == []


def test_another_policy_keeps_what_was_learnt() -> None:
    text = (
        'version = "{}"\ndefault_class = "c"\n[class.c]\nlimits = [ {{ unit = "rows", window = "1h", alert = {} }} ]\n'
    )
    judge = Judge(load_policy(text.format("one", 100), "p"), "clinic", "detector:1")
    totals = [Totals(150, 0, 0, 0)] * len(WINDOWS_MS)
    first = judge.judge("a", totals, NOW, None, NOW)
    assert first is not None
    assert first.policy == "one"
    judge._surplus["a"] = 7.0
    judge.follow(load_policy(text.format("two", 200), "p"))
    assert judge.judge("a", totals, NOW, None, NOW) is None
    assert judge.thresholds("a", NOW)[3][0] == (200,)
    verdict = judge.judge("a", [replace_rows(t, 300) for t in totals], NOW, first, NOW + 1)
    assert verdict is None  # an alert stands already
    assert judge._surplus == {"a": 7.0}
    later = replace(first, expires_ms=NOW + 1)
    again = judge.judge("a", [replace_rows(t, 300) for t in totals], NOW + 2, later, NOW + 2)
    assert again is not None
    assert again.policy == "two"


def replace_rows(totals: Totals, rows: int) -> Totals:
    return totals._replace(rows=rows)
