"""The local budget against all that was charged, written down."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exfilguard.sidecar.budget import MAX_ACCOUNTS, SLICES, LocalBudget

WINDOW_MS = 60_000
SLICE_MS = WINDOW_MS // SLICES
ROWS, PATIENTS = 1_000_000, 100_000

Charge = tuple[int, str, int, tuple[str, ...], int]

STEPS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 3 * SLICE_MS), st.integers(0, 2 * WINDOW_MS)),
        st.sampled_from(["anna", "bert"]),
        st.integers(0, 50),
        st.lists(st.sampled_from([f"{n:016x}" for n in range(12)]), max_size=5).map(tuple),
        st.integers(0, 9),
    ),
    max_size=60,
)


@given(STEPS)
def test_a_budget_counts_at_least_its_window_and_at_most_a_slice_more(steps: list[Charge]) -> None:
    budget = LocalBudget(ROWS, PATIENTS, WINDOW_MS)
    charged: list[Charge] = []
    now = 1_795_500_000_000
    for later, principal, rows, patients, estimated in steps:
        now += later

        def taken(within_ms: int, now: int = now, principal: str = principal) -> tuple[int, set[str], int]:
            found = [c for c in charged if c[1] == principal and now - c[0] < within_ms]
            return sum(c[2] for c in found), {p for c in found for p in c[3]}, sum(c[4] for c in found)

        least, most = taken(WINDOW_MS), taken(WINDOW_MS + SLICE_MS)
        known = set(budget.known_patients(principal, now))
        assert least[1] <= known <= most[1]
        assert least[0] <= ROWS - (budget.rows_left(principal, now) or 0) <= most[0]
        guessed = PATIENTS - (budget.patients_left(principal, now) or 0) - len(known)
        assert least[2] <= guessed <= most[2]
        budget.charge(principal, rows, patients, estimated, now)
        charged.append((now, principal, rows, patients, estimated))


def test_a_flood_of_names_is_bounded_and_counted_together() -> None:
    budget = LocalBudget(10, 10, WINDOW_MS)
    for n in range(MAX_ACCOUNTS + 5):
        budget.charge(f"user {n}", 1, (), 0, 1_000)
    assert budget.rows_left("user 0", 1_000) == 9
    assert budget.rows_left(f"user {MAX_ACCOUNTS}", 1_000) == 5
    assert budget.rows_left("somebody new", 1_000) == 5
    later = 1_000 + 2 * WINDOW_MS
    assert budget.rows_left("somebody new", later) == 10
    budget.charge("somebody new", 3, (), 0, later)
    assert budget.rows_left("somebody else", later) == 10


def test_no_limit_is_none_and_a_limit_that_was_passed_leaves_nothing() -> None:
    budget = LocalBudget(10, 0, WINDOW_MS)
    budget.charge("anna", 25, (), 0, 1_000)
    assert (budget.rows_left("anna", 1_000), budget.patients_left("anna", 1_000)) == (0, None)
    assert budget.rows_left("anna", 1_000 + WINDOW_MS + SLICE_MS) == 10


def test_a_clock_that_was_set_back_keeps_nothing_longer_in_the_window() -> None:
    """An account at its limit was refused for as much longer as the clock was set back."""
    budget = LocalBudget(100, 10, WINDOW_MS)
    now = 1_795_500_000_000
    budget.charge("anna", 90, ("a", "b"), 0, now)
    now -= 3_600_000
    assert (budget.rows_left("anna", now), budget.patients_left("anna", now)) == (10, 8)
    budget.charge("anna", 5, ("c",), 0, now + WINDOW_MS // 2)
    assert budget.rows_left("anna", now + WINDOW_MS + 2 * SLICE_MS) == 95
    assert budget.patients_left("anna", now + WINDOW_MS + 2 * SLICE_MS) == 9
    assert budget.rows_left("anna", now + 2 * WINDOW_MS) == 100


def test_names_that_take_nothing_have_no_place() -> None:
    """Whoever tries to log in gives a name, with no password."""
    budget = LocalBudget(10, 10, WINDOW_MS)
    for n in range(MAX_ACCOUNTS + 5):
        assert budget.rows_left(f"tried {n}", 1_000) == 10
        assert budget.patients_left(f"tried {n}", 1_000) == 10
        assert not budget.known_patients(f"tried {n}", 1_000)
        budget.charge(f"tried {n}", 0, (), 0, 1_000)
    budget.charge("anna", 3, (), 0, 1_000)
    assert budget.rows_left("anna", 1_000) == 7
    assert budget.rows_left("bert", 1_000) == 10
