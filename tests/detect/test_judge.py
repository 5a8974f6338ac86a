"""Totals against limits, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exfilguard.detect.judge import Judge
from exfilguard.detect.policy import WINDOWS_MS, default_policy, load_policy
from exfilguard.events.verdict import Verdict
from exfilguard.windows import Totals

POLICY = """
version = "t1"
default_class = "c"
expiry = "30m"
break_glass = ["samu"]
shared = ["pool"]
session_share = 700
throttle_rows_per_s = 50
[class.c]
limits = [
  { unit = "patients", window = "5m", alert = 10, throttle = 20, cut = 40, lock = 100 },
  { unit = "rows", window = "10s", lock = 1000 },
]
[class.wide]
limits = [ { unit = "rows", window = "1h", alert = 1_000_000 } ]
[accounts]
"w*" = "wide"
"w2" = "c"
[[allowance]]
account = "batch"
reason = "nightly coding run"
owner = "medical information"
since = 2001-09-01
expires = 2001-09-09
hours = "01:00-02:00"
multiply = 10
[[allowance]]
account = "etl"
reason = "warehouse load"
owner = "data warehouse"
since = 2001-09-01
expires = 2002-09-01
class = "wide"
"""
NOW = 1_000_000_000_000  # 2001-09-09 01:46:40 UTC


def totals(rows: int = 0, patients: int = 0) -> list[Totals]:
    return [Totals(rows, patients, 0, 0)] * len(WINDOWS_MS)


def judge(
    principal: str = "a", now: int = NOW, previous: Verdict | None = None, extra: str = "", **counts: int
) -> Verdict | None:
    policy = load_policy(extra + POLICY, "t")
    return Judge(policy, "clinic", "detector:1").judge(principal, totals(**counts), now, previous, now - 5)


@pytest.mark.parametrize(
    ("patients", "level"),
    [(10, None), (11, "alert"), (20, "alert"), (21, "throttle"), (41, "cut"), (100, "cut"), (101, "lock")],
)
def test_ladder(patients: int, level: str | None) -> None:
    verdict = judge(patients=patients)
    assert (verdict.level if verdict else None) == level


def test_a_verdict_explains_itself() -> None:
    verdict = judge(patients=101)
    assert verdict is not None
    assert verdict.reason == "a took 101 patients in 5m; the lock limit of class c is 100"
    assert (verdict.total, verdict.limit, verdict.unit, verdict.window_ms) == (101, 100, "patients", 300_000)
    assert (verdict.expires_ms - NOW, verdict.crossed_ms, verdict.policy) == (1_800_000, NOW - 5, "t1")
    assert verdict.key == "clinic/a"


def test_the_larger_excess_is_told() -> None:
    verdict = judge(patients=101, rows=5000)
    assert verdict is not None
    assert verdict.unit == "rows"


def test_only_upwards_and_again_after_expiry() -> None:
    first = judge(patients=50)
    assert first is not None
    assert judge(patients=60, previous=first) is None
    assert judge(patients=15, previous=first) is None
    second = judge(patients=150, previous=first, now=NOW)
    assert second is not None
    assert second.level == "lock"
    assert second.revision == first.revision + 1
    assert judge(patients=50, previous=first, now=first.expires_ms) is None  # nothing more was taken
    again = judge(patients=51, previous=first, now=first.expires_ms)
    assert again is not None
    assert again.level == "cut"
    assert again.expires_ms - again.issued_ms == 2 * (first.expires_ms - first.issued_ms)


def test_a_step_that_comes_again_and_again_stands_longer_up_to_a_bound() -> None:
    verdict = judge(patients=50)
    lengths = []
    for patients in range(51, 60):
        assert verdict is not None
        verdict = judge(patients=patients, previous=verdict, now=verdict.expires_ms, extra='longest_expiry = "5h"\n')
        assert verdict is not None
        lengths.append((verdict.expires_ms - verdict.issued_ms) // 60_000)
    assert lengths == [60, 120, 240, 300, 300, 300, 300, 300, 300]


def test_an_alert_that_goes_on_does_not_flap() -> None:
    first = judge(patients=12)
    assert first is not None
    later = first.expires_ms
    assert judge(patients=13, previous=first, now=later) is None  # the same, hours later
    assert judge(patients=19, previous=first, now=later) is not None  # grown by half
    assert judge(patients=13, previous=first, now=first.issued_ms + 86_400_000) is not None  # a day later
    assert judge(patients=25, previous=first, now=first.issued_ms + 1) is not None  # a higher step, at once


def test_an_operator_decides_until_it_expires() -> None:
    lifted = replace(judge(patients=101), level="none", issuer="operator:eva", expires_ms=NOW + 1000)  # type: ignore[type-var]
    assert judge(patients=500, previous=lifted) is None
    assert judge(patients=500, previous=lifted, now=NOW + 1000) is not None
    alerted = replace(lifted, level="alert")
    assert judge(patients=500, previous=alerted) is None
    forever = replace(lifted, level="lock", expires_ms=0)
    assert judge(patients=500, previous=forever, now=NOW * 2) is None


def test_break_glass_is_never_more_than_alerted() -> None:
    verdict = judge("samu", patients=9999)
    assert verdict is not None
    assert verdict.level == "alert"


def test_shared_accounts_lose_sessions_not_the_account() -> None:
    verdict = judge("pool", patients=9999)
    assert verdict is not None
    assert (verdict.level, verdict.scope, verdict.session_rows) == ("cut", "session", 700)
    allowed = judge("pool", patients=9999, extra="lock_shared = true\n")
    assert allowed is not None
    assert (allowed.level, allowed.scope) == ("lock", "principal")


def test_max_level_caps_everything() -> None:
    verdict = judge(patients=9999, extra='max_level = "throttle"\n')
    assert verdict is not None
    assert (verdict.level, verdict.throttle_rows_per_s) == ("throttle", 50)


def test_exact_account_wins_over_pattern() -> None:
    assert judge("w1", patients=9999) is None
    assert judge("w2", patients=9999) is not None


def test_allowances_hold_in_their_hours_until_they_expire() -> None:
    assert judge("batch", patients=1000, rows=5000) is not None
    assert judge("batch", patients=90, rows=5000) is None  # ten times the limits, at 01:46 UTC
    assert judge("batch", patients=90, now=NOW + 3_600_000) is not None  # 02:46
    assert judge("batch", patients=90, now=NOW + 86_400_000) is not None  # expired
    assert judge("etl", patients=9999, rows=5000) is None


def test_a_search_by_yes_and_no_shows_in_the_queries() -> None:
    """`count(*) WHERE name LIKE 'A%'` delivers no patient and asks for none by an identifier."""
    built_in = Judge(default_policy(), "clinic", "detector:1")
    searched = [
        Totals(rows=n, patients=0, bytes=8 * n, queries=n) for n in (60, 300, 1_500, 20_001, 20_001, 20_001, 20_001)
    ]
    for account in ("dr.a", "sec.b", "dba.c"):
        verdict = built_in.judge(account, searched, NOW, None, NOW)
        assert verdict is not None
        assert (verdict.level, verdict.unit, verdict.total) == ("alert", "queries", 20_001)
