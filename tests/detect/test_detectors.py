"""Single events, sums over accounts, the tenant's own rate, and how the judge brings a habit to a verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exfilguard.detect.judge import Judge
from exfilguard.detect.policy import DAY, HOUR, WEEK, WINDOWS_MS, default_policy, load_policy
from exfilguard.events.verdict import Verdict
from exfilguard.windows import Totals

NOW = 1_767_600_000_000
HONEY = "00000000deadbeef"
POLICY = f"""
version = "d1"
default_class = "person"
honeytokens = ["{HONEY}"]
shared = ["pool"]
break_glass = ["samu"]
[flags]
server_export = "cut"
copy = "alert"
aggregate = "none"
[habit]
days = 5
[drift]
deviations = {{ alert = 3, cut = 6 }}
persistence = 2
tenant_deviations = 4
tenant_share = 50
[cross.source]
min_accounts = 3
max_accounts = 6
share = 10
exempt = ["machine"]
limits = [
  {{ unit = "patients", window = "1h", alert = 100, cut = 200 }},
  {{ unit = "patients", window = "7d", alert = 1_000, cut = 2_000 }},
]
[cross.shape]
min_accounts = 3
max_accounts = 6
share = 10
limits = [ {{ unit = "patients", window = "7d", alert = 1_000, cut = 2_000 }} ]
[class.person]
day = {{ typical = 50, spread = 20 }}
surplus = {{ alert = 100, cut = 250, lock = 5_000 }}
limits = [ {{ unit = "patients", window = "24h", alert = 10_000 }} ]
[class.admin]
privileged = true
limits = [ {{ unit = "patients", window = "24h", alert = 10_000 }} ]
[class.machine]
limits = [ {{ unit = "patients", window = "24h", alert = 10_000 }} ]
[accounts]
"adm*" = "admin"
"svc*" = "machine"
[[allowance]]
account = "svc_backup"
reason = "nightly dump"
owner = "IT"
since = 2026-01-01
expires = 2026-06-30
flags = ["copy"]
"""


@pytest.fixture
def judge() -> Judge:
    return Judge(load_policy(POLICY, "p"), "clinic", "detector:1")


def totals(**counts: int) -> list[Totals]:
    return [Totals(0, counts.get("patients", 0), 0, 0)] * len(WINDOWS_MS)


def day(patients: int) -> list[Totals]:
    out = [Totals(0, 0, 0, 0)] * len(WINDOWS_MS)
    out[HOUR] = Totals(0, patients // 5, 0, 0)
    for window in (DAY, WEEK, WEEK + 1):
        out[window] = Totals(0, patients, 0, 0)
    return out


# -- single events ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["patients", "asked"])
def test_one_honeytoken_is_enough(judge: Judge, field: str) -> None:
    event = {"kind": "query", "time_ms": NOW, field: ["0" * 16, HONEY], "rows": 1}
    verdict = judge.notable("dr.x", event, "honeytoken", NOW, None)
    assert verdict is not None
    assert (verdict.level, verdict.detector, verdict.total) == ("lock", "honeytoken", 1)
    assert verdict.reason == "dr.x read 1 honeytoken patient, which nobody has a reason to open; 1 read is enough"
    shared = judge.notable("pool", event, "honeytoken", NOW, None)
    assert shared is not None
    assert (shared.level, shared.scope) == ("cut", "session")
    glass = judge.notable("samu", event, "honeytoken", NOW, None)
    assert glass is not None
    assert glass.level == "alert"


def test_flags_as_the_policy_says_and_an_allowance_by_name(judge: Judge) -> None:
    event = {"kind": "query", "time_ms": NOW, "flags": ["copy"], "rows": 1_500}
    told = judge.notable("dr.x", event, "flag", NOW, None)
    assert told is not None
    assert (told.level, told.reason) == ("alert", "dr.x ran a COPY or dump (1,500 rows; policy: copy)")
    assert judge.notable("svc_backup", event, "flag", NOW, None) is None
    assert judge.notable("dr.x", event | {"flags": ["aggregate"]}, "flag", NOW, None) is None
    both = judge.notable("svc_backup", event | {"flags": ["copy", "server_export"]}, "flag", NOW, None)
    assert both is not None
    assert both.level == "cut"


def test_newcomers_matter_at_privileged_accounts_only(judge: Judge) -> None:
    event = {"kind": "query", "time_ms": NOW, "source": "10.9.9.9", "application": "psql"}
    verdict = judge.notable("adm1", event, "new_source", NOW, None)
    assert verdict is not None
    assert verdict.reason == "adm1, a privileged account, used source 10.9.9.9 for the first time"
    assert judge.notable("adm1", event, "new_application", NOW, None) is not None
    assert judge.notable("dr.x", event, "new_source", NOW, None) is None
    again = judge.notable("adm1", event, "new_source", NOW + 1, verdict)
    assert again is None


def test_a_finding_of_the_sidecar_is_told(judge: Judge) -> None:
    verdict = judge.notable(
        "dr.x", {"kind": "finding", "time_ms": NOW, "detail": "statement too long"}, "finding", NOW, None
    )
    assert verdict is not None
    assert (verdict.level, verdict.detector) == ("alert", "finding")


# -- sums over accounts -------------------------------------------------------------------------------------------------


def test_accounts_behind_one_source_are_cut_together(judge: Judge) -> None:
    people = [("a", 0.4), ("b", 0.35), ("svc1", 0.2), ("c", 0.05)]
    verdicts = judge.cross("source", "10.1.1.1", totals(patients=250), people, NOW, {})
    assert [(v.principal, v.level, v.detector) for v in verdicts] == [("a", "cut", "cross"), ("b", "cut", "cross")]
    assert "4 accounts together took 250 patients in 1h from source 10.1.1.1, 40% of them by a" in verdicts[0].reason
    assert judge.cross("source", "10.1.1.1", totals(patients=260), people, NOW + 5, {}) == []  # said already


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_few_accounts_and_application_servers_are_no_crossing(judge: Judge, count: int) -> None:
    people = [(f"a{i}", 1 / count) for i in range(count)]
    assert judge.cross("source", "10.1.1.1", totals(patients=9_999), people, NOW, {}) == []


def test_a_dimension_without_a_rule_says_nothing(judge: Judge) -> None:
    assert judge.cross("tenant", "abc", totals(patients=9_999), [("a", 0.5), ("b", 0.3), ("c", 0.2)], NOW, {}) == []
    assert judge.cross_from("tenant") == 0
    assert judge.cross_from("source") == 100


def week(patients: int, month: int = 0) -> list[Totals]:
    out = [Totals(0, 0, 0, 0)] * len(WINDOWS_MS)
    out[WEEK], out[WEEK + 1] = Totals(0, patients, 0, 0), Totals(0, month or patients, 0, 0)
    return out


def test_what_grew_over_days_must_come_from_accounts_beyond_their_habit(judge: Judge) -> None:
    people = [("a", 0.4), ("b", 0.3), ("c", 0.3)]
    assert judge.cross("source", "10.1.1.1", week(2_500), people, NOW, {}) == []
    for name, today in (("a", 40), ("b", 130), ("c", 130), ("d", 130)):
        profile, _ = live(judge, name, [40] * 10)
        live(judge, name, [today], profile, 10)
    assert judge.cross("source", "10.1.1.1", week(2_500), people, NOW, {}) == []  # two of three
    people = [("a", 0.3), ("b", 0.3), ("c", 0.2), ("d", 0.2)]
    found = judge.cross("source", "10.1.1.1", week(2_500), people, NOW, {})
    assert [(v.principal, v.level) for v in found] == [(name, "cut") for name in "abcd"]


def test_a_screen_in_use_for_weeks_is_no_thiefs_tool(judge: Judge) -> None:
    people = [("a", 0.4), ("b", 0.3), ("c", 0.3)]
    for name, _ in people:
        profile, _ = live(judge, name, [40] * 10)
        live(judge, name, [130], profile, 10)
    assert judge.cross("shape", "aa" * 8, week(2_500, 9_000), people, NOW, {}) == []
    young = judge.cross("shape", "aa" * 8, week(2_500), people, NOW, {})
    assert {v.level for v in young} == {"alert"}  # the installation is new: so is every screen
    live(judge, "tenant:clinic", [4_000] * 20)
    grown = judge.cross("shape", "bb" * 8, week(2_500), people, NOW + 1, {})
    assert {v.level for v in grown} == {"cut"}


# -- own past -----------------------------------------------------------------------------------------------------------

START = NOW // 3_600_000 // 168 * 168 + 96  # a Monday midnight


def live(
    judge: Judge, name: str, counts: list[int], profile: bytes | None = None, first: int = 0
) -> tuple[bytes, list[Verdict]]:
    """A day after the other, closed at 10 and at 17 h."""
    out: list[Verdict] = []
    previous = None
    for n, count in enumerate(counts, first):
        for at in (10, 17):
            hour = START + n * 24 + at
            profile, verdict = judge.hour(name, profile, hour, day(count * at // 17), (hour + 1) * 3_600_000, previous)
            if verdict is not None:
                out.append(verdict)
                previous = verdict
    assert profile is not None
    return profile, out


def test_a_slow_extraction_climbs_the_ladder_and_says_so(judge: Judge) -> None:
    profile, calm = live(judge, "dr.x", [40, 45, 38, 42, 40] * 5)
    assert calm == []
    _, verdicts = live(judge, "dr.x", [140] * 5, profile, 25)
    steps = [v.level for v in verdicts if v.detector == "drift"]
    assert list(dict.fromkeys(steps)) == ["alert", "cut"]  # the cut comes again: more was taken after it had expired
    cut = next(v for v in verdicts if v.level == "cut")
    assert cut.reason.startswith("dr.x took ")
    assert "patients beyond its habit in" in cut.reason
    assert "the cut step is 250" in cut.reason


def test_a_closed_hour_counts_once(judge: Judge) -> None:
    profile, _ = judge.hour("dr.x", None, START, day(40), NOW, None)
    assert judge.hour("dr.x", profile, START, day(4_000), NOW, None) == (profile, None)


def test_while_the_tenant_drifts_less_is_enough(judge: Judge) -> None:
    _, tenant = live(judge, "tenant:clinic", [4_000, 4_050, 3_980, 4_010, 4_000] * 5)
    assert (tenant, judge.tenant_surplus) == ([], None)
    profile, _ = live(judge, "dr.x", [40, 45, 38, 42, 40] * 5)
    _, alone = live(judge, "dr.x", [110] * 3, profile, 25)
    house, _ = live(judge, "tenant:clinic", [4_000, 4_050, 3_980, 4_010, 4_000] * 5)
    live(judge, "tenant:clinic", [4_600] * 4, house, 25)
    assert judge.tenant_surplus is not None
    _, together = live(judge, "dr.x", [110] * 3, profile, 25)
    assert {v.level for v in alone} == {"alert"}
    assert together[-1].level == "cut"
    assert "while the whole tenant is" in together[-1].reason


def test_a_persons_pardon_begins_anew(judge: Judge) -> None:
    profile, _ = live(judge, "dr.x", [40] * 25)
    profile, verdicts = live(judge, "dr.x", [140] * 4, profile, 25)
    assert verdicts[-1].level == "cut"
    pardon = replace(
        verdicts[-1], level="none", issuer="operator:eva", issued_ms=verdicts[-1].issued_ms + 1, expires_ms=1 << 50
    )
    hour = START + 29 * 24 + 10
    _, after = judge.hour("dr.x", profile, hour, day(60), hour * 3_600_000, replace(pardon, expires_ms=1))
    assert after is None


# -- the rest of the contract -------------------------------------------------------------------------------------------


def test_thresholds_are_the_least_that_matters() -> None:
    judge = Judge(default_policy(), "clinic", "d")
    thresholds = judge.thresholds("dr.x", NOW, None)
    assert len(thresholds) == len(WINDOWS_MS)
    assert thresholds[DAY] == ((), (450, 800, 1_500), (), ())
    assert thresholds[0] == ((), (), (), ())
    for window, row in enumerate(thresholds):
        for unit, ladder in enumerate(row):
            for least in ladder[:1]:
                counts = [[0, 0, 0, 0] for _ in WINDOWS_MS]
                counts[window][unit] = least
                assert judge.judge("dr.x", [Totals(*c) for c in counts], NOW, None, NOW) is None
                counts[window][unit] += 1
                assert judge.judge("dr.x", [Totals(*c) for c in counts], NOW, None, NOW) is not None


def test_a_backlog_is_judged_by_the_hour_of_the_work() -> None:
    text = (
        POLICY
        + """
[[allowance]]
account = "dr.n"
reason = "night duty"
owner = "IT"
since = 2026-01-01
expires = 2026-06-30
hours = "01:00-03:00"
multiply = 5
"""
    )
    judge = Judge(load_policy(text, "p"), "clinic", "d")
    at_two = NOW // 86_400_000 * 86_400_000 + 2 * 3_600_000
    later = at_two + 7 * 3_600_000
    assert judge.judge("dr.n", totals(patients=20_000), later, None, at_two) is None
    assert judge.judge("dr.n", totals(patients=20_000), later, None, later) is not None


def test_step_down_clears_an_alert_when_the_policy_wants_it() -> None:
    judge = Judge(load_policy('step_down = "clear"\n' + POLICY, "p"), "clinic", "d")
    alert = judge.judge("dr.x", totals(patients=20_000), NOW, None, NOW)
    assert alert is not None
    profile, cleared = judge.hour("dr.x", None, NOW // 3_600_000, day(10), NOW + 1_000, alert)
    assert cleared is not None
    assert (cleared.level, cleared.revision > alert.revision) == ("none", True)
    cut = replace(alert, level="cut")
    assert judge.hour("dr.x", profile, NOW // 3_600_000 + 1, day(10), NOW + 1_000, cut)[1] is None
