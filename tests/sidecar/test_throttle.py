"""The throttle: N records a second for a principal, however many sessions it has, and no longer than the verdict stands."""

from __future__ import annotations

import math
from collections import defaultdict
from heapq import heappop, heappush

from hypothesis import given
from hypothesis import strategies as st

from exfilguard.sidecar.throttle import Throttle

PORTIONS = st.lists(st.tuples(st.integers(0, 7), st.integers(1, 500)), min_size=1, max_size=200)


@given(portions=PORTIONS, rate=st.integers(1, 5_000))
def test_no_number_of_sessions_is_faster_than_the_rate(portions: list[tuple[int, int]], rate: int) -> None:
    """Each session waits as it is told, then takes its next portion: all rows but each session's last are within the rate."""
    throttle = Throttle(rate, 0)
    waiting: dict[int, list[int]] = defaultdict(list)
    for session, rows in portions:
        waiting[session].append(rows)
    total, end_ms, largest = 0, 0, {session: max(rows) for session, rows in waiting.items()}
    steps = [(0, session, False) for session in sorted(waiting)]  # in the order of time
    while steps:
        # It asks, with no rows, and waits for what the others took; then it takes its portion, and waits for that.
        at_ms, session, asked = heappop(steps)
        rows = waiting[session].pop(0) if asked else 0
        total, end_ms = total + rows, max(end_ms, at_ms) if rows else end_ms
        if waiting[session]:
            heappush(steps, (at_ms + math.ceil(1000 * throttle.take(rows, at_ms)), session, not asked))
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


def test_nobody_waits_until_a_clock_that_was_set_back_is_where_it_was() -> None:
    throttle = Throttle(100, 0)
    assert throttle.take(200, 3_600_000) == 2.0
    assert throttle.take(0, 1_000) == 2.0
    assert throttle.take(100, 2_000) == 2.0
    assert throttle.take(0, 1_999) == 2.001
