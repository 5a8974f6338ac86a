"""The compiled loops over MySQL's rows, the same source interpreted, and a naive reading: one behaviour."""

from __future__ import annotations

import os
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.wire.mysql import _scan
from exfilguard.wire.mysql.messages import packet
from tests.wire import mysql_build as b
from tests.wire.interpreted import interpreted

PLAIN = interpreted(_scan)
BOTH = pytest.mark.parametrize("scan", [_scan, PLAIN], ids=["installed", "interpreted"])


def test_the_interpreted_one_is_interpreted_and_the_other_compiled() -> None:
    assert not PLAIN.COMPILED
    if os.environ.get("EXFILGUARD_REQUIRE_COMPILED") == "1":
        assert _scan.COMPILED, "exfilguard.wire.mysql._scan was not compiled: is gcc there, did pip install build it?"


@BOTH
def test_skip_rows(scan: ModuleType) -> None:
    rows = b.numbered(b.row("1"), b.row(None, "x" * 300), b"\xfe" * 3, b.eof())
    end = len(b.numbered(b.row("1"), b.row(None, "x" * 300)))
    assert scan.skip_rows(rows, 0, 1 << 30) == (end, 2, end - 8)
    assert scan.skip_rows(rows, 0, 1) == (6, 1, 2)
    assert scan.skip_rows(rows[: end - 1], 0, 9)[1] == 1
    assert scan.skip_rows(packet(0, b.err()), 0, 9) == (0, 0, 0)
    assert scan.skip_rows(b"\0\0\0\0x", 0, 9) == (0, 0, 0)


@BOTH
def test_a_row_that_does_not_hold_its_values(scan: ModuleType) -> None:
    row = b.row("1", "abc")
    for end in range(len(row)):
        assert scan.row_values(row[:end], 0, end, 1, b"") is None
    for wrong in (b"\xff", b"\xfc\1", b"\xfe" + b"\xff" * 8, b"\xfd\xff\xff\xff"):
        assert scan.row_values(wrong, 0, len(wrong), 0, b"") is None
    binary = b.binary(b"\1\0\0\0", b"\1a")
    assert scan.row_values(binary, 0, len(binary), 1, b"\4\xff") == [b"\1\0\0\0", b"a"]
    assert scan.row_values(binary, 0, len(binary), 2, b"\4\xff") is None
    assert scan.row_values(b"\1" + binary[1:], 0, len(binary), 1, b"\4\xff") is None
    assert scan.row_values(binary[:-1], 0, len(binary) - 1, 1, b"\4\xff") is None


@BOTH
def test_the_length_of_some_columns_of_a_row_of_which_the_beginning_is_there(scan: ModuleType) -> None:
    row = b.row("1", None, "x" * 300, "y" * 70_000, "z")
    whole = len(row)
    assert scan.computed_bytes(row, 0, whole, whole, (0, 2, 4), b"") == 302
    assert scan.computed_bytes(row, 0, whole, whole, (1, 3), b"") == 70_000
    assert scan.computed_bytes(b"head" + row[:400], 4, 404, whole, (2, 3), b"") == 70_300, "its length was told"
    assert scan.computed_bytes(row[:400], 0, 400, whole, (4,), b"") == 2, "unseen, behind another's"
    assert scan.computed_bytes(row[:4], 0, 4, whole, (2,), b"") == whole - 3, "unseen"
    binary = b.binary(b"\1\0\0\0", None, b"\4abcd", b"\xfc\x2c\1" + b"x" * 300)
    assert scan.computed_bytes(binary, 0, len(binary), len(binary), (0, 1, 3), b"\4\4\xfe\xff") == 304
    assert scan.computed_bytes(binary, 0, len(binary), len(binary), (2,), b"\4\4\xfe\xff") == 4
    assert scan.computed_bytes(b"\1", 0, 1, 90, (0,), b"\4") == 90, "no row"


CELL = st.one_of(st.none(), st.binary(max_size=12), st.just(b"y" * 260), st.just(b"z" * 70_000))


@given(
    st.lists(st.lists(CELL, min_size=3, max_size=3), max_size=5),
    st.integers(0, 2),
    st.integers(0, 6),
    st.integers(0, 40),
)
def test_text_rows(rows: list[list[bytes | None]], column: int, most: int, cut: int) -> None:
    data = b.numbered(*[b.row(*row) for row in rows], b.eof())
    data = data[: len(data) - cut]
    found: list[list[bytes | None]] = [[], []]
    results = [
        scan.column_values(data, 0, most, column, b"", out) for scan, out in zip((_scan, PLAIN), found, strict=True)
    ]
    assert results[0] == results[1]
    assert found[0] == found[1] == [row[column] for row in rows[: results[0][1]]]
    assert results[0] == _scan.skip_rows(data, 0, most)
    for row in rows:
        whole = b.row(*row)
        assert _scan.row_values(whole, 0, len(whole), 2, b"") == PLAIN.row_values(whole, 0, len(whole), 2, b"") == row


SIZES = bytes((4, 254, 255, 8))


@given(
    st.lists(
        st.tuples(
            st.none() | st.binary(min_size=4, max_size=4), st.none() | st.binary(max_size=12), CELL,
            st.none() | st.binary(min_size=8, max_size=8),
        ),
        max_size=5,
    ),
    st.integers(0, 3),
    st.integers(0, 40),
)  # fmt: skip
def test_binary_rows(rows: list[tuple[bytes | None, ...]], column: int, cut: int) -> None:
    def encoded(row: tuple[bytes | None, ...]) -> bytes:
        dated = None if row[1] is None else bytes((len(row[1]),)) + row[1]
        return b.binary(row[0], dated, None if row[2] is None else b.text(row[2]), row[3])

    data = b.numbered(*map(encoded, rows), b.eof())
    data = data[: len(data) - cut]
    found: list[list[bytes | None]] = [[], []]
    results = [
        scan.column_values(data, 0, 99, column, SIZES, out) for scan, out in zip((_scan, PLAIN), found, strict=True)
    ]
    assert results[0] == results[1]
    assert found[0] == found[1] == [row[column] for row in rows[: results[0][1]]]
    for row in rows:
        whole = encoded(row)
        expected = list(row)
        assert _scan.row_values(whole, 0, len(whole), 3, SIZES) == expected
        assert PLAIN.row_values(whole, 0, len(whole), 3, SIZES) == expected


@given(st.binary(max_size=80), st.integers(0, 3), st.sampled_from([b"", SIZES]))
def test_anything(data: bytes, column: int, sizes: bytes) -> None:
    found: list[list[bytes | None]] = [[], []]
    results = [
        scan.column_values(data, 0, 99, column, sizes, out) for scan, out in zip((_scan, PLAIN), found, strict=True)
    ]
    assert results[0] == results[1]
    assert found[0] == found[1]
    assert _scan.row_values(data, 0, len(data), column, sizes) == PLAIN.row_values(data, 0, len(data), column, sizes)
    assert _scan.skip_rows(data, 0, 99) == PLAIN.skip_rows(data, 0, 99)
