"""Distinct patients: exact to a bound, then within 2 % of the exact count, in every window, however the time goes."""

from __future__ import annotations

import array
import random

import pytest

from exfilguard.windows import Totals, WindowStore, estimate

NOW = 1_795_000_000_000
WINDOWS = (10_000, 60_000, 3_600_000, 86_400_000)


def mixed(n: int) -> int:
    return (n * 0x9E3779B97F4A7C15 + 0x1234567) % (1 << 64)


def fill(store: WindowStore, sightings: list[tuple[int, int]]) -> None:
    number = store.number("a")
    count = len(sightings)
    zero = array.array("q", [0]) * count
    store.add_many(
        array.array("I", [number]) * count,
        array.array("q", [t for t, _ in sightings]),
        zero,
        zero,
        array.array("Q", [mixed(p) for _, p in sightings]),
    )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("patients", [2_000, 40_000, 300_000])
def test_sliding_counts_are_within_two_percent_of_the_exact_ones(seed: int, patients: int) -> None:
    rng = random.Random(seed * 1_000 + patients)
    times = sorted(NOW + int(rng.random() ** 3 * 80_000_000) for _ in range(patients * 3 // 2))
    sightings = [(t, rng.randrange(patients)) for t in times]
    sliding, exact = WindowStore(WINDOWS, max_patients=100), WindowStore(WINDOWS, max_patients=10_000_000)
    for store in (sliding, exact):
        fill(store, sightings)
    assert sliding.saturated("a")
    assert not exact.saturated("a")
    copy = WindowStore(WINDOWS, max_patients=100)
    copy.load("a", sliding.dump("a"))
    for ahead in (0, 5_000, 1_800_000, 20_000_000):
        at = times[-1] + ahead
        for got, same, true in zip(sliding.totals("a", at), copy.totals("a", at), exact.totals("a", at), strict=True):
            assert got == same
            assert abs(got.patients - true.patients) <= max(2, 0.02 * true.patients)
            assert got._replace(patients=0) == true._replace(patients=0)


def test_the_change_from_exact_to_sliding_loses_nobody() -> None:
    store = WindowStore(WINDOWS, max_patients=5_000)
    for n in range(12_000):
        store.add("a", NOW + n, 1, 0, 1, (f"{mixed(n):016x}",), 1 if n % 10 == 0 else 0)
        if n in (4_998, 5_000, 6_000, 11_999):
            expected = n + 1 + n // 10 + 1
            assert store.totals("a")[-1].patients == pytest.approx(expected, rel=0.02)
            assert store.saturated("a") == (n >= 5_000)


def test_seen_again_is_not_counted_again_when_sliding() -> None:
    store = WindowStore(WINDOWS, max_patients=10)
    sightings = [(NOW + n, n % 3_000) for n in range(30_000)]
    fill(store, sightings)
    assert store.totals("a")[-1].patients == pytest.approx(3_000, rel=0.02)


def test_registers_add_up_over_stores_and_forms() -> None:
    """An exact and a sliding account's registers are of one kind: their union is the distinct of both."""
    exact, sliding = WindowStore(WINDOWS, 32, 100_000, 13), WindowStore(WINDOWS, 32, 10, 13)
    fill(exact, [(NOW, n) for n in range(6_000)])
    fill(sliding, [(NOW, n) for n in range(4_000, 12_000)])
    found = [store.registers(store.number("a"), 3, NOW, 13) for store in (exact, sliding)]
    assert estimate(found) == pytest.approx(12_000, rel=0.035)
    assert estimate([found[0], found[0]]) == estimate([found[0]])
    with pytest.raises(ValueError, match="precision"):
        estimate([found[0], found[1][:100]])


def test_memory_of_an_account_is_bounded_whatever_it_reads() -> None:
    store = WindowStore(WINDOWS, max_patients=1_000)
    fill(store, [(NOW + n // 50, n) for n in range(200_000)])
    size = len(store.dump("a"))
    fill(store, [(NOW + 4_000 + n // 50, 200_000 + n) for n in range(400_000)])
    assert len(store.dump("a")) < 2 * size
    assert store.totals("a", NOW + 40 * 86_400_000) == [Totals(0, 0, 0, 0)] * 4


def test_a_finer_sketch_is_folded_into_a_coarser_one() -> None:
    fine, coarse, direct = (WindowStore(WINDOWS, 32, 10, p) for p in (15, 12, 12))
    for store in (fine, direct):
        fill(store, [(NOW + n * 20, n) for n in range(50_000)])
    coarse.load("a", fine.dump("a"))
    for got, expected in zip(coarse.totals("a"), direct.totals("a"), strict=True):
        assert got == expected
