"""What should not come, comes: each has a stated effect, is counted, and stops nothing."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from exfilguard.detect.judge import Judge
from exfilguard.detect.policy import load_policy
from exfilguard.events.codec import MAX_NAME_CHARS, decode_verdict, encode_verdict
from exfilguard.events.verdict import Verdict
from exfilguard.stream.engine import AHEAD_MS, BACK_MS, Engine

from .test_engine import NOW, POLICY, event, frame, new

HONEY = """
version = "honey"
default_class = "c"
honeytokens = ["00000000000000aa"]
[class.c]
limits = [ { unit = "rows", window = "24h", alert = 1_000_000 } ]
"""


def rows(engine: Engine, account: str = "t/p") -> list[int]:
    return [t.rows for t in engine.store.totals(account)]


def test_a_newer_frame_broken_json_wrong_types_and_negative_counts_go_to_the_dead_letters_and_the_next_is_counted() -> (
    None
):
    engine = new()
    good = orjson.loads(frame(0, event("p", 1)))
    bad = [
        orjson.dumps(good | {"v": 2}),
        frame(0, event("p", 1))[:-7],
        orjson.dumps(good | {"events": [event("p", 1) | {"rows": "many"}]}),
        orjson.dumps(good | {"events": [event("p", 1) | {"rows": -1}]}),
        orjson.dumps(good | {"events": [event("p", 1) | {"time_ms": 1e99}]}),
        orjson.dumps(good | {"events": [event("p", 1), event("p", 1) | {"kind": {}}]}),
        orjson.dumps(good | {"events": [event("p", 1) | {"patients": ["x" * 16]}]}),
        orjson.dumps(good | {"events": [event("p", 1) | {"source": 7}]}),
        b"\xff" * 100,
        b"",
    ]
    for offset, value in enumerate(bad):
        assert engine.feed(offset, value, NOW).reason, value
    assert len(engine.store) == 0
    assert not engine.feed(len(bad), frame(0, event("p", 3)), NOW).reason
    assert rows(engine)[-1] == 3


def test_an_event_from_the_future_counts_as_of_now_and_wipes_nothing() -> None:
    engine = new()
    engine.feed(0, frame(0, event("p", 5, time_ms=NOW)), NOW)
    for seq, ahead in enumerate((AHEAD_MS + 1, 10**9, 10**12, (1 << 53) - 1 - NOW), 1):
        engine.feed(seq, frame(seq, event("p", 1, time_ms=NOW + ahead)), NOW)
    assert rows(engine) == [9] * 7
    assert engine.future_events == 4
    assert engine.store.newest_ms("t/p") == NOW


def test_an_event_a_little_ahead_is_believed() -> None:
    engine = new()
    engine.feed(0, frame(0, event("p", 5, time_ms=NOW + AHEAD_MS)), NOW)
    assert engine.future_events == 0
    assert engine.store.newest_ms("t/p") == NOW + AHEAD_MS


def test_a_clock_that_was_set_back_goes_on_from_where_it_stood() -> None:
    """
    its clock   NOW ──► NOW+1s   │ set back by an hour
    events      5        5       │  7 (NOW+2s - 1h)   7 (NOW+12s - 1h)
    counted at  NOW      NOW+1s  │  NOW+1s            NOW+11s
    """
    engine, hour = new(), 3_600_000
    engine.feed(0, frame(0, event("p", 5, time_ms=NOW)), NOW)
    engine.feed(1, frame(1, event("p", 5, time_ms=NOW + 1_000)), NOW + 1_000)
    engine.feed(2, frame(2, event("p", 7, time_ms=NOW + 2_000 - hour)), NOW + 2_000)
    assert rows(engine)[0] == 17
    engine.feed(3, frame(3, event("p", 7, time_ms=NOW + 12_000 - hour)), NOW + 12_000)
    assert engine.clock_jumps == 1
    assert engine.store.newest_ms("t/p") == NOW + 11_000
    # Set right again: its times would now be an hour ahead, so the correction ends.
    engine.feed(4, frame(4, event("p", 1, time_ms=NOW + 20_000)), NOW + 20_000)
    assert engine.store.newest_ms("t/p") == NOW + 20_000
    assert engine.future_events == 0


def test_frames_that_come_late_keep_their_own_time() -> None:
    engine = new()
    engine.feed(0, frame(0, event("p", 1, time_ms=NOW)), NOW)
    engine.feed(1, frame(3, event("p", 1, time_ms=NOW + BACK_MS * 5)), NOW + BACK_MS * 5)
    engine.feed(2, frame(2, event("p", 1, time_ms=NOW + 1_000)), NOW + BACK_MS * 5)  # was missing, comes out of order
    assert engine.clock_jumps == 0
    assert rows(engine)[0] == 1
    assert rows(engine)[-1] == 3


def test_older_than_the_longest_window_is_counted_as_late() -> None:
    engine = new()
    engine.feed(0, frame(0, event("p", 1, time_ms=NOW)), NOW)
    engine.feed(1, frame(0, event("p", 9, time_ms=NOW - 40 * 86_400_000), sidecar="other"), NOW)
    assert engine.late_events == 1
    assert rows(engine) == [1] * 7


def test_absurd_counts_stop_at_a_bound_and_never_run_over() -> None:
    engine = new()
    most = (1 << 53) - 1
    for seq in range(3):
        big = event("p", 0) | {"rows": most, "hidden_rows": most, "bytes": most, "patients_estimated": most}
        engine.feed(seq, frame(seq, *[big] * 400), NOW)
    for total in engine.store.totals("t/p"):
        assert all(0 < value <= 1 << 63 for value in total)
    assert min(rows(engine)) > 1 << 50


def test_a_flood_of_new_accounts_is_bounded_counted_together_and_alarmed() -> None:
    engine = Engine(lambda tenant: Judge(POLICY, tenant, "d"), {}, 1_000, max_accounts=1_000)
    offset = 0
    for start in range(0, 20_000, 500):
        names = [event(f"flood{n}", 1) for n in range(start, start + 500)]
        assert not engine.feed(offset, frame(offset, *names), NOW).reason
        offset += 1
    assert len(engine.store) <= 1_001
    assert engine.refused_accounts == 19_000
    assert rows(engine, "t/(others)")[-1] == 19_000
    assert sum(rows(engine, account)[-1] for account in engine.store) == 20_000
    engine.feed(offset, frame(offset, event("flood1", 1)), NOW)  # who was there goes on being told apart
    assert rows(engine, "t/flood1")[-1] == 2


def test_a_million_new_accounts_stay_within_their_memory() -> None:
    engine = Engine(lambda tenant: Judge(POLICY, tenant, "d"), {}, 65_536, max_accounts=60_000)
    before = resident()
    for offset in range(200):
        names = [event(f"u{offset}-{n}", 1, (n,)) for n in range(500)]
        engine.feed(offset, frame(offset, *names), NOW + offset)
    assert engine.refused_accounts == 40_000
    assert (resident() - before) / 60_000 < 4_096


def resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({"flags": ["copy"]}, "flag"),
        ({"kind": "finding", "detail": "x"}, "finding"),
        ({"patients": ["00000000000000aa"]}, "honeytoken"),
        ({"asked": ["00000000000000AA"]}, "honeytoken"),
        ({"source": "10.0.0.2"}, "new_source"),
        ({"application": "psql"}, "new_application"),
    ],
)
def test_single_events_that_matter_reach_the_judge(extra: dict[str, Any], why: str) -> None:
    judge = Judge(load_policy(HONEY, "honey"), "t", "d")
    told: list[tuple[str, str, dict[str, Any]]] = []

    def notable(principal: str, event: Any, why: str, now_ms: int, previous: Verdict | None) -> None:
        told.append((principal, why, event))

    judge.notable = notable  # type: ignore[method-assign]
    engine = Engine(lambda tenant: judge, {}, 1_000)
    usual = event("p", 1) | {"source": "10.0.0.1", "application": "dpi"}
    engine.feed(0, frame(0, usual, usual), NOW)
    assert told == []  # the first source of an account is no news
    engine.feed(1, frame(1, usual | extra), NOW)
    assert [(p, w) for p, w, _ in told] == [("p", why)]
    assert told[0][2] == usual | extra
    engine.feed(2, frame(2, usual | extra), NOW)
    assert len(told) == (1 if why.startswith("new_") else 2)


def test_a_name_too_long_to_be_told_again_is_for_the_dead_letters() -> None:
    """A verdict says it three times, a sum and a checkpoint each have it: beyond a megabyte no broker takes them, ever."""
    engine, good = new(), orjson.loads(frame(0, event("p", 1)))
    long, fits = "x" * (MAX_NAME_CHARS + 1), "\N{WHITE SMILING FACE}" * MAX_NAME_CHARS
    bad = [good | {name: long} for name in ("tenant", "sidecar", "epoch")]
    bad += [good | {"events": [event("p", 1) | {name: long}]} for name in ("principal", "source", "fingerprint")]
    for offset, value in enumerate(bad):
        assert "characters" in engine.feed(offset, orjson.dumps(value), NOW).reason
    assert not engine.feed(len(bad), frame(0, event(fits, 3), event("p", 3)), NOW).reason
    assert rows(engine, f"t/{fits}")[-1] == rows(engine)[-1] == 3


def test_a_verdict_is_a_record_that_a_broker_takes_whatever_a_frame_says() -> None:
    engine = new()
    finding = event("\x01" * MAX_NAME_CHARS, 0, kind="finding") | {"detail": "\x01" * 500_000}
    (verdict,) = engine.feed(0, frame(0, finding), NOW).verdicts
    assert len(encode_verdict(verdict)) < 50_000


def test_invented_epochs_and_gaps_keep_no_checkpoint_from_being_written_and_drive_out_no_other_sidecar() -> None:
    engine = new()
    engine.feed(0, frame(0, event("p", 1), sidecar="honest-0"), NOW)
    for n in range(1, 9_001):
        engine.feed(n, frame(0, sidecar=f"stolen-{n % 9}", epoch=f"{n:032x}"), NOW + n)
    for n in range(30):
        for seq in range(0, 2_000, 2):
            engine.feed(engine.next_offset, frame(seq, sidecar="stolen-0", epoch=f"gaps {n}"), NOW + 10_000)
    checkpoint = engine.begin_checkpoint()
    assert checkpoint is not None
    assert len(checkpoint.marker[1]) < 800_000
    assert engine.feed(engine.next_offset, frame(0, event("p", 1), sidecar="honest-0"), NOW).duplicate


@pytest.mark.parametrize("time_ms", [NOW + 3_600_000, (1 << 53) - 1])
def test_a_finding_from_the_future_is_of_now(time_ms: int) -> None:
    """The verdict's own time was the event's: an incident's report could not be made of a year that no calendar has."""
    finding = event("p", 0, kind="finding", time_ms=time_ms) | {"detail": "a context that does not hold"}
    (verdict,) = new().feed(0, frame(0, finding), NOW).verdicts
    assert verdict.crossed_ms == NOW


def test_a_verdict_can_be_read_whatever_was_counted() -> None:
    """Beyond 2**53 its readers left it out: whose account was in forged frames was locked by nobody any more."""
    engine = new()
    (verdict,) = engine.feed(0, frame(0, *[event("p", 1 << 49) for _ in range(100)]), NOW).verdicts
    assert rows(engine)[0] > 1 << 53
    assert decode_verdict(encode_verdict(verdict)) == verdict
