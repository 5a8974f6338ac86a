"""The windows against an oracle that keeps every event and counts by definition.

slice      │ 56 │ 57 │ 58 │ 59 │ 60 │      W = 4 s, 4 slices: 1 s each
event           a    b         c
now = 60.5 ──────────────────────┴►        the window is 56..60: a, b, c
now = 62   ──────────────────────────►     58..62: c only (b left with its slice)
"""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilguard.errors import SnapshotError
from exfilguard.windows import COMPILED, Totals, WindowStore

WINDOWS = (10_000, 60_000, 300_000, 3_600_000, 86_400_000)
Event = tuple[int, int, int, int, tuple[int, ...]]


def oracle(events: list[Event], now: int, width: int, slices: int, longest: int | None = None) -> Totals:
    """By definition, over all events so far that were not late when they came (`now` only grows with the newest)."""
    newest = 0
    rows = size = queries = 0
    kept = []
    reach = longest or width
    for t, r, b, q, patients in events:
        newest = max(newest, t)
        if t * slices // reach >= newest * slices // reach - slices:
            kept.append((t, t * slices // width >= newest * slices // width - slices, r, b, q, patients))
    low = max(now, newest) * slices // width - slices
    last: dict[int, int] = {}
    for t, inside, r, b, q, patients in kept:
        if inside and t * slices // width >= low:
            rows, size, queries = rows + r, size + b, queries + q
        for p in patients:
            last[p] = max(last.get(p, 0), t)
    return Totals(rows, sum(t * slices // width >= low for t in last.values()), size, queries)


def feed(store: WindowStore, events: list[Event]) -> None:
    for t, rows, size, queries, patients in events:
        store.add("a", t, rows, size, queries, tuple(f"{p:016x}" for p in patients))


EVENTS = st.lists(
    st.tuples(
        st.one_of(st.integers(10**6, 10**6 + 300), st.integers(10**6, 10**6 + 40_000), st.integers(0, 2 * 10**6)),
        st.one_of(st.integers(0, 50), st.integers(0, 1 << 40)),
        st.integers(0, 1000),
        st.integers(0, 1),
        st.lists(st.integers(0, 12), max_size=4).map(tuple),
    ),
    max_size=60,
)


def test_estimated_patients_are_added_leave_with_their_slice_and_survive_a_snapshot() -> None:
    store = WindowStore((4_000, 60_000), slices=4)
    store.add("a", 10_000, 5, 0, 1, (f"{1:016x}",), 100)
    store.add("a", 12_000, 5, 0, 1, (f"{1:016x}",), 20)
    copy = WindowStore((4_000, 60_000), slices=4)
    copy.load("a", store.dump("a"))
    for held in (store, copy):
        assert [t.patients for t in held.totals("a")] == [121, 121]
        assert [t.patients for t in held.totals("a", 15_500)] == [21, 121]
        held.add("a", 20_000, 1, 0, 1, (), 7)
        assert [t.patients for t in held.totals("a")] == [7, 128]


@settings(max_examples=300, deadline=None)
@given(
    events=EVENTS,
    widths=st.sampled_from([(100, 1000), (997, 10_000, 60_000), (7,), (60_000, 100)]),
    slices=st.sampled_from([1, 4, 32, 60]),
    ahead=st.integers(0, 5000),
    again=st.integers(0, 60),
)
def test_equals_the_oracle(events: list[Event], widths: tuple[int, ...], slices: int, ahead: int, again: int) -> None:
    store = WindowStore(widths, slices)
    feed(store, events[:again])
    if again and "a" in store:  # through a snapshot in the middle
        data = store.dump("a")
        store = WindowStore(widths, slices)
        store.load("a", data)
        assert sorted(store.dump("a")) == sorted(data)
    feed(store, events[again:])
    newest = max((e[0] for e in events), default=0)
    for now in (0, newest, newest + ahead):
        assert list(store.totals("a", now)) == [oracle(events, now, w, slices, max(widths)) for w in widths]


@settings(max_examples=100, deadline=None)
@given(events=EVENTS, slices=st.sampled_from([4, 32, 60]))
def test_never_too_little_and_at_most_one_slice_too_much(events: list[Event], slices: int) -> None:
    events = sorted(events)
    width = 10_000
    store = WindowStore((width,), slices)
    feed(store, events)
    now = max((e[0] for e in events), default=0)
    got = store.totals("a", now)[0]

    def over(reach: float) -> Totals:
        inside = [e for e in events if e[0] > now - reach]
        return Totals(sum(e[1] for e in inside), len({p for e in inside for p in e[4]}), sum(e[2] for e in inside), sum(e[3] for e in inside))  # fmt: skip

    least, most = over(width), over(width + width / slices + 1)
    assert all(low <= value <= high for low, value, high in zip(least, got, most, strict=True))


@settings(max_examples=150, deadline=None)
@given(
    events=EVENTS,
    old=st.sampled_from([((10_000, 60_000), 60), ((997, 60_000), 4), ((86_400_000,), 32)]),
    new=st.sampled_from([((10_000, 60_000, 600_000), 32), ((1_000, 30_000), 4)]),
)
def test_other_windows_take_a_snapshot_over_and_never_count_too_little(
    events: list[Event], old: tuple[tuple[int, ...], int], new: tuple[tuple[int, ...], int]
) -> None:
    events = sorted(events)
    if not events:
        return
    before, after = WindowStore(*old), WindowStore(*new)
    feed(before, events)
    after.load("a", before.dump("a"), *old)
    now = events[-1][0]
    for width, got in zip(new[0], after.totals("a"), strict=True):
        reach = min(width, max(old[0]))
        inside = [e for e in events if e[0] > now - reach]
        assert got.rows >= sum(e[1] for e in inside)
        assert got.patients >= len({p for e in inside for p in e[4]})
        assert got.rows <= sum(e[1] for e in events)
        assert got.patients <= len({p for e in events for p in e[4]})


def test_late_events_are_counted_and_in_no_window() -> None:
    store = WindowStore((100, 1000))
    store.add("a", 10_000, 5, 0, 1)
    store.add("a", 9_950, 1, 0, 1)  # in both
    store.add("a", 9_500, 1, 0, 1)  # in the long one only
    store.add("a", 1_000, 9, 0, 1)  # in none
    assert [t.rows for t in store.totals("a")] == [6, 7]
    assert store.late_events == 1


def test_evict_and_drop() -> None:
    store = WindowStore((1000,), 10)
    store.add("old", 1_000, 1, 0, 1)
    store.add("new", 5_000, 1, 0, 1)
    assert store.evict(2_050) == ([], [], 0)
    assert store.evict(5_000) == (["old"], [0], 0)
    assert list(store) == ["new"]
    store.drop("new")
    assert len(store) == 0
    assert store.totals("new") == [Totals(0, 0, 0, 0)]


def test_an_account_that_was_quiet_for_weeks_keeps_its_long_window() -> None:
    day = 86_400_000
    store = WindowStore((10_000, 7 * day, 30 * day))
    store.add("a", 100 * day, 5, 0, 1, (f"{1:016x}", f"{2:016x}"))
    store.evict(129 * day)
    store.add("a", 129 * day, 1, 0, 1, (f"{2:016x}", f"{3:016x}"))
    assert store.totals("a") == [Totals(1, 2, 0, 1), Totals(1, 2, 0, 1), Totals(6, 3, 0, 2)]
    assert store.totals("a", 131 * day)[2] == Totals(1, 2, 0, 1)


def test_accounts_come_and_go_without_mixing() -> None:
    """Many names through the hash table, deletions included: each finds its own."""
    rng = random.Random(3)
    store, naive = WindowStore((1000,)), dict[str, int]()
    for _ in range(30_000):
        key = f"t/{rng.randrange(3_000)}"
        if rng.random() < 0.3:
            store.drop(key)
            naive.pop(key, None)
        else:
            rows = rng.randrange(1, 9)
            store.add(key, 500, rows, 0, 1)
            naive[key] = naive.get(key, 0) + rows
    assert {key: store.totals(key)[0].rows for key in store} == naive
    assert len(store) == len(naive)


@pytest.mark.parametrize("sliding", [False, True])
def test_damaged_snapshots_are_refused(sliding: bool) -> None:
    made = {"max_patients": 20, "precision": 4} if sliding else {}
    store = WindowStore(WINDOWS, **made)
    rng = random.Random(5)
    for i in range(100):
        store.add("a", 10**12 + i * 997, 3, 10, 1, (f"{rng.getrandbits(64):016x}",))
    data = store.dump("a")
    fresh = WindowStore(WINDOWS, **made)
    for size in range(len(data)):
        with pytest.raises(SnapshotError):
            fresh.load("a", data[:size])
    with pytest.raises(SnapshotError):
        fresh.load("a", data + b"x")
    assert "a" not in fresh
    fresh.add("b", 10**12, 7, 0, 1)
    accepted = 0
    for _ in range(2_000):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            fresh.load("b", bytes(damaged))
        except SnapshotError:
            if not accepted:
                assert fresh.totals("b")[0].rows == 7
            continue
        accepted += 1
        fresh.add("b", 10**12 + 10**6, 1, 1, 1, ("00000000000000ff",))  # what was accepted can be used
        fresh.totals("b", 10**12 + 10**7)
        fresh.dump("b")


def test_old_digests_are_forgotten() -> None:
    store = WindowStore((1000,), 60)
    for i in range(5_000):
        store.add("a", 10_000 + i * 10, 1, 0, 1, (f"{i:016x}",))
    assert len(store.dump("a")) < 10_000
    assert 100 <= store.totals("a")[0].patients <= 102


def test_bad_arguments() -> None:
    for windows, slices in (((), 60), ((0,), 60), ((10,), 0), ((36 * 86_400_000,), 32)):
        with pytest.raises(ValueError, match=r"positive|35 days"):
            WindowStore(windows, slices)


def test_compiled_core_is_loaded_where_it_must_be() -> None:
    if os.environ.get("EXFILGUARD_REQUIRE_COMPILED") == "1":
        assert COMPILED, "exfilguard.windows._core was not compiled: is gcc there, did pip install build it?"


def test_without_a_compiler_counting_is_refused_with_the_remedy() -> None:
    program = (
        "import sys; sys.modules['exfilguard.windows._core'] = None\n"
        "from exfilguard.windows import COMPILED, Totals, WindowStore\n"
        "assert not COMPILED and Totals(1, 2, 3, 4)\n"
        "WindowStore((1000,))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "install a C compiler" in done.stderr


def test_limits_that_come_back_are_those_that_they_were() -> None:
    """A policy that is changed and changed back: the place of what nobody uses any more goes to another ladder."""
    store = WindowStore((1_000,), 4)
    number = store.number("t/a")
    store.add("t/a", 1_000, 50, 0, 1)

    def over(rows: int) -> bool:
        return store.set_limits(number, (((rows,), (), (), ()),), 1_000)

    assert [over(rows) for rows in (10_001, 2, 10_003, 10_004, 10_005)] == [False, True, False, False, False]
    assert over(2)
    assert [over(rows) for rows in (*range(40, 60), *range(40, 60))] == 2 * [*(10 * [True]), *(10 * [False])]
