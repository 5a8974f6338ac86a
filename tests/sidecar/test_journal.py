"""What is not recorded is counted, where an operator sees it."""

from __future__ import annotations

from pathlib import Path

from exfilguard.sidecar.journal import MAX_NAMES, Counters, Journal
from exfilguard.sidecar.spool import SpoolReader

SEGMENT = 1 << 12


def test_an_event_larger_than_a_segment_is_counted_as_lost_and_the_next_one_is_recorded(tmp_path: Path) -> None:
    journal, counters = Journal("clinic", tmp_path / "0", SEGMENT, 1 << 20), Counters()
    for size in (10, SEGMENT, 20):
        journal.put(counters, "dpi", "ana", 1000 + size, b"x" * size)
    assert counters.spool_gap == 1
    assert journal.recorded == 2
    assert [len(r.payload) for r in SpoolReader(tmp_path / "0").read(10, 1 << 20)] == [10, 20]


def test_the_names_of_columns_that_were_told_are_bounded(tmp_path: Path) -> None:
    journal, columns = Journal("clinic", tmp_path / "0", SEGMENT, 1 << 20), tuple([f"c{n}" for n in range(100)])
    for n in range(2 * MAX_NAMES // len(columns)):
        assert not journal.told(f"{n:016x}", columns[: n % 2])
        assert not journal.told(f"{n:016x}", columns)
    assert sum(map(len, journal._shapes.values())) <= MAX_NAMES
    assert journal.told(f"{0:016x}", columns)
    assert not journal.told(f"{n:016x}", columns)
