"""The compiled loops and the same source interpreted: one behaviour."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.wire.postgres import _scan
from tests.wire import build as b
from tests.wire.interpreted import interpreted

PLAIN = interpreted(_scan)
BOTH = pytest.mark.parametrize("scan", [_scan, PLAIN], ids=["installed", "interpreted"])


def test_the_interpreted_one_is_interpreted() -> None:
    assert not PLAIN.COMPILED


@BOTH
def test_skip_rows(scan: ModuleType) -> None:
    data = b"??" + b.row(b"1") + b.row(None, b"\xff" * 300) + b.row() + b.complete("SELECT 3")
    end = len(data) - len(b.complete("SELECT 3"))
    size = end - 2 - 15
    assert scan.skip_rows(data, 2, ord("D"), 1 << 30) == (end, 3, size)
    assert scan.skip_rows(data, 2, ord("D"), 1) == (2 + len(b.row(b"1")), 1, len(b.row(b"1")) - 5)
    assert scan.skip_rows(data, 2, ord("d"), 9) == (2, 0, 0)
    assert scan.skip_rows(data[: end - 1], 2, ord("D"), 9)[1] == 2
    assert scan.skip_rows(b"D\0\0\0\3", 0, ord("D"), 9) == (0, 0, 0)


@BOTH
def test_row_values(scan: ModuleType) -> None:
    data = b.row(b"1", None, b"", b"x" * 300)
    assert scan.row_values(data, 5, len(data), 3) == [b"1", None, b"", b"x" * 300]
    assert scan.row_values(data, 5, len(data), 0) == [b"1"]
    assert scan.row_values(data, 5, len(data), 4) is None
    assert scan.row_values(data, 5, len(data) - 1, 3) is None
    assert scan.row_values(b"", 0, 0, 0) is None


CELL = st.one_of(st.none(), st.binary(max_size=12))


@BOTH
@given(st.lists(st.lists(CELL, max_size=5), max_size=8), st.integers(0, 4), st.integers(0, 9), st.integers(0, 40))
def test_column_values_are_what_row_values_says(
    scan: ModuleType, rows: list[list[bytes | None]], column: int, most: int, short: int
) -> None:
    """In bulk as row by row: as many whole rows as may pass, up to the first that has no such column."""
    data = b"".join(b.row(*cells) for cells in rows)
    data = data[: max(0, len(data) - short)]
    expected: list[bytes | None] = []
    pos = size = 0
    for cells in rows[:most]:
        after = pos + len(b.row(*cells))
        values = PLAIN.row_values(data, pos + 5, after, column) if after <= len(data) else None
        if values is None:
            break
        expected.append(values[column])
        size += after - pos - 5
        pos = after
    out: list[bytes | None] = []
    assert scan.column_values(data, 0, ord("D"), most, column, out) == (pos, len(expected), size)
    assert out == expected


@given(st.binary(max_size=60), st.integers(0, 3))
def test_parity_on_any_bytes(data: bytes, last: int) -> None:
    assert _scan.row_values(data, 0, len(data), last) == PLAIN.row_values(data, 0, len(data), last)
    framed = b"D\0\0\0" + data
    assert _scan.skip_rows(framed, 0, ord("D"), 9) == PLAIN.skip_rows(framed, 0, ord("D"), 9)
    found: tuple[list[bytes | None], list[bytes | None]] = ([], [])
    results = [
        scan.column_values(framed, 0, ord("D"), 9, last, out) for scan, out in zip((_scan, PLAIN), found, strict=True)
    ]
    assert results[0] == results[1]
    assert found[0] == found[1]
