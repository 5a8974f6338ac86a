"""The throttle: N records a second for a principal, however many sessions it has, and no longer than the verdict stands."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from exfilguard.sidecar.throttle import Throttle

PORTIONS = st.lists(st.tuples(st.integers(0, 7), st.integers(1, 500)), min_size=1, max_size=200)


@given(portions=PORTIONS, rate=st.integers(1, 5_000))
def test_no_number_of_sessions_is_faster_than_the_rate(portions: list[tuple[int, int]], rate: int) -> None:
    """Each session waits as it is told, then takes its next portion: all rows but each session's last are within the rate."""
    throttle = Throttle(rate, 0)
    ready_ms = dict.fromkeys(range(8), 0)
    total, end_ms, largest = 0, 0, dict.fromkeys(range(8), 0)
    for session, rows in portions:
        # It asks, with no rows, and waits for what the others took; then it takes its portion, and waits for that.
        at_ms = ready_ms[session] + math.ceil(1000 * throttle.take(0, ready_ms[session]))
        ready_ms[session] = at_ms + math.ceil(1000 * throttle.take(rows, at_ms))
        total, end_ms = total + rows, max(end_ms, at_ms)
        largest[session] = max(largest[session], rows)
    assert total <= rate * end_ms / 1000 + sum(largest.values())


def test_a_portion_is_paid_for_before_the_next_whoever_takes_it() -> None:
    throttle = Throttle(200, 0)
    assert throttle.take(1_000, 0) == 5.0
    assert throttle.take(0, 1_000) == 4.0  # a new session waits for it too
    assert throttle.take(100, 1_000) == 4.5
    assert throttle.take(0, 60_000) == 0.0  # nothing is saved up
    assert throttle.take(100, 60_000) == 0.5


def test_it_ends_with_its_verdict() -> None:
    throttle = Throttle(1, 10_000)
    assert throttle.take(1_000, 4_000) == 6.0
    assert throttle.take(1_000, 10_000) == 0.0
