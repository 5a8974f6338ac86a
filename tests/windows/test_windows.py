"""The windows against an oracle that keeps every event and counts by definition.

slice      │ 56 │ 57 │ 58 │ 59 │ 60 │      W = 4 s, 4 slices: 1 s each
event           a    b         c
now = 60.5 ──────────────────────┴►        the window is 56..60: a, b, c
now = 62   ──────────────────────────►     58..62: c only (b left with its slice)
"""

from __future__ import annotations

import importlib.util
import os
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exfilguard.windows
from exfilguard.errors import SnapshotError
from exfilguard.windows import COMPILED, Totals, _core

WINDOWS = (10_000, 60_000, 300_000, 3_600_000, 86_400_000)


def interpreted() -> ModuleType:
    path = Path(exfilguard.windows.__file__).with_name("_core.py")
    spec = importlib.util.spec_from_file_location("exfilguard.windows._core_interpreted", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PLAIN = interpreted()
BOTH = pytest.mark.parametrize("core", [_core, PLAIN], ids=["installed", "interpreted"])
Event = tuple[int, int, int, int, tuple[int, ...]]


def oracle(events: list[Event], now: int, width: int, slices: int) -> Totals:
    """By definition, over all events so far that were not late when they came (`now` only grows with the newest)."""
    newest = 0
    rows = size = queries = 0
    kept = []
    for t, r, b, q, patients in events:
        newest = max(newest, t)
        if t * slices // width >= newest * slices // width - slices:
            kept.append((t, r, b, q, patients))
    low = max(now, newest) * slices // width - slices
    last: dict[int, int] = {}
    for t, r, b, q, _ in kept:
        if t * slices // width >= low:
            rows, size, queries = rows + r, size + b, queries + q
    for t, _, _, _, patients in kept:
        for p in patients:
            last[p] = max(last.get(p, 0), t)
    return Totals(rows, sum(t * slices // width >= low for t in last.values()), size, queries)


def feed(store: Any, events: list[Event]) -> None:
    for t, rows, size, queries, patients in events:
        store.add("a", t, rows, size, queries, tuple(f"{p:016x}" for p in patients))


EVENTS = st.lists(
    st.tuples(
        st.one_of(st.integers(10**6, 10**6 + 300), st.integers(10**6, 10**6 + 40_000), st.integers(0, 2 * 10**6)),
        st.integers(0, 50),
        st.integers(0, 1000),
        st.integers(0, 1),
        st.lists(st.integers(0, 12), max_size=4).map(tuple),
    ),
    max_size=60,
)


@BOTH
def test_estimated_patients_are_added_leave_with_their_slice_and_survive_a_snapshot(core: ModuleType) -> None:
    store = core.WindowStore((4_000, 60_000), slices=4)
    store.add("a", 10_000, 5, 0, 1, (f"{1:016x}",), 100)
    store.add("a", 12_000, 5, 0, 1, (f"{1:016x}",), 20)
    copy = core.WindowStore((4_000, 60_000), slices=4)
    copy.load("a", store.dump("a"))
    for held in (store, copy):
        assert [t.patients for t in held.totals("a")] == [121, 121]
        assert [t.patients for t in held.totals("a", 15_500)] == [21, 121]
        held.add("a", 20_000, 1, 0, 1, (), 7)
        assert [t.patients for t in held.totals("a")] == [7, 128]


@BOTH
@settings(max_examples=150, deadline=None)
@given(
    events=EVENTS,
    widths=st.sampled_from([(100, 1000), (997, 10_000, 60_000), (7,)]),
    slices=st.sampled_from([1, 4, 60]),
    ahead=st.integers(0, 5000),
    again=st.integers(0, 60),
)
def test_equals_the_oracle(
    core: ModuleType, events: list[Event], widths: tuple[int, ...], slices: int, ahead: int, again: int
) -> None:
    store = core.WindowStore(widths, slices)
    feed(store, events[:again])
    if again and "a" in store:  # through a snapshot in the middle
        data = store.dump("a")
        late = store.late_events
        store = core.WindowStore(widths, slices)
        store.load("a", data)
        store.late_events = late
        assert sorted(store.dump("a")) == sorted(data)
    feed(store, events[again:])
    newest = max((e[0] for e in events), default=0)
    for now in (0, newest, newest + ahead):
        assert list(store.totals("a", now)) == [oracle(events, now, w, slices) for w in widths]


@BOTH
@settings(max_examples=60, deadline=None)
@given(events=EVENTS)
def test_never_too_little_and_at_most_one_slice_too_much(core: ModuleType, events: list[Event]) -> None:
    events = sorted(events)
    width, slices = 10_000, 60
    store = core.WindowStore((width,), slices)
    feed(store, events)
    now = max((e[0] for e in events), default=0)
    got = store.totals("a", now)[0]

    def over(reach: float) -> Totals:
        inside = [e for e in events if e[0] > now - reach]
        return Totals(sum(e[1] for e in inside), len({p for e in inside for p in e[4]}), sum(e[2] for e in inside), sum(e[3] for e in inside))  # fmt: skip

    least, most = over(width), over(width + width / slices + 1)
    assert all(low <= value <= high for low, value, high in zip(least, got, most, strict=True))


@BOTH
def test_late_events_are_counted_and_in_no_window(core: ModuleType) -> None:
    store = core.WindowStore((100, 1000))
    store.add("a", 10_000, 5, 0, 1)
    store.add("a", 9_950, 1, 0, 1)  # in both
    store.add("a", 9_500, 1, 0, 1)  # in the long one only
    store.add("a", 1_000, 9, 0, 1)  # in none
    assert [t.rows for t in store.totals("a")] == [6, 7]
    assert store.late_events == 1


@BOTH
def test_saturation_counts_too_many_never_too_few(core: ModuleType) -> None:
    store = core.WindowStore((1000,), max_patients=3)
    for i in (1, 2, 3, 1, 4, 4):
        store.add("a", 50, 1, 0, 1, (f"{i:016x}",))
    assert store.totals("a")[0].patients == 5
    assert store.saturated("a")
    copy = core.WindowStore((1000,), max_patients=3)
    copy.load("a", store.dump("a"))
    assert copy.totals("a") == store.totals("a")
    assert copy.saturated("a")


@BOTH
def test_evict_and_drop(core: ModuleType) -> None:
    store = core.WindowStore((1000,), 10)
    store.add("old", 1_000, 1, 0, 1)
    store.add("new", 5_000, 1, 0, 1)
    assert store.evict(2_050) == []
    assert store.evict(5_000) == ["old"]
    assert list(store) == ["new"]
    store.drop("new")
    assert len(store) == 0
    assert store.totals("new") == [Totals(0, 0, 0, 0)]


@BOTH
def test_damaged_snapshots_are_refused(core: ModuleType) -> None:
    store = core.WindowStore(WINDOWS)
    rng = random.Random(5)
    for i in range(200):
        store.add("a", 10**12 + i * 997, 3, 10, 1, (f"{rng.getrandbits(64):016x}",))
    data = store.dump("a")
    fresh = core.WindowStore(WINDOWS)
    for size in range(len(data)):
        with pytest.raises(SnapshotError):
            fresh.load("a", data[:size])
    with pytest.raises(SnapshotError):
        fresh.load("a", data + b"x")
    with pytest.raises(SnapshotError):
        core.WindowStore((5,)).load("a", data)
    assert "a" not in fresh
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            fresh.load("a", bytes(damaged))
        except SnapshotError:
            continue
        fresh.add("a", 10**12 + 10**6, 1, 1, 1, ("00000000000000ff",))  # what was accepted can be used


@BOTH
def test_old_digests_are_forgotten(core: ModuleType) -> None:
    store = core.WindowStore((1000,), 60)
    for i in range(5_000):
        store.add("a", 10_000 + i * 10, 1, 0, 1, (f"{i:016x}",))
    assert len(store.dump("a")) < 10_000
    assert 100 <= store.totals("a")[0].patients <= 102


def test_bad_arguments() -> None:
    for windows, slices in (((), 60), ((0,), 60), ((10,), 0)):
        with pytest.raises(ValueError, match="positive"):
            _core.WindowStore(windows, slices)


def test_compiled_core_is_loaded_where_it_must_be() -> None:
    assert not PLAIN.COMPILED
    if os.environ.get("EXFILGUARD_REQUIRE_COMPILED") == "1":
        assert COMPILED, "exfilguard.windows._core was not compiled: is gcc there, did pip install build it?"
