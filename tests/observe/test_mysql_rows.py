"""The C loop over MySQL's rows against the observer's path row by row."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.observe import digests
from exfilguard.observe.estimate import patients_in
from exfilguard.observe.mysql.patients import OriginColumns, Reading, canonical
from exfilguard.observe.patients import Digester
from exfilguard.wire.mysql import _scan
from tests.wire import mysql_build as b

try:
    from exfilguard.observe.mysql import _rows
except ImportError:
    if os.environ.get("EXFILGUARD_REQUIRE_COMPILED") == "1":
        raise
    pytest.skip("no C compiler at installation", allow_module_level=True)

DIGESTER = Digester(b"0123456789abcdef")
KEY = DIGESTER.compiled
COLUMNS = [  # type, character set, flags: text, numbers of each size, bytes, ZEROFILL, UTF-16
    (253, 45, 0), (253, 54, 0), (254, 63, 0x80), (252, 63, 0), (1, 63, 0), (1, 63, 0x20), (2, 63, 0), (3, 63, 0), (3, 63, 0x20),
    (8, 63, 0), (8, 63, 0x20), (9, 63, 0), (13, 63, 0x60), (3, 63, 0x60), (12, 63, 0), (246, 63, 0),
]  # fmt: skip


def reading(*columns: tuple[int, int, int]) -> Reading:
    definitions = [b.column(f"c{i}", "patient", kind=k, charset=c, flags=f) for i, (k, c, f) in enumerate(columns)]
    return OriginColumns(["patient.id"]).reading(tuple(definitions), False)


TEXT = st.one_of(
    st.none(), st.binary(max_size=20), st.integers(-(2**63), 2**64).map(lambda n: b"%d" % n), st.just(b"00042"), st.just(b"000"),
    st.just(b"  7 "), st.just(b"4\x002\x00"), st.just(b"\x000\x007"), st.just(b"x" * 60 + b"\0" * 9), st.binary(min_size=16, max_size=16),
    st.just(b"q" * 300),
)  # fmt: skip


@given(
    st.lists(st.tuples(TEXT, TEXT), max_size=6),
    st.sampled_from(COLUMNS),
    st.integers(0, 1),
    st.integers(0, 5),
    st.integers(0, 30),
)
def test_text_rows(
    rows: list[tuple[bytes | None, bytes | None]], column: tuple[int, int, int], position: int, most: int, cut: int
) -> None:
    assert KEY is not None
    data = b.numbered(*[b.row(*row) for row in rows], b.eof())
    data = data[: len(data) - cut]
    read = reading(column, column)
    found = digests.DigestSet()
    pos, count, size = _rows.column(data, 0, most, position, b"", read.kinds[position], KEY, found)
    assert (pos, count, size) == _scan.skip_rows(data, 0, count)
    values = [row[position] for row in rows[:count]]
    field = read.fields[position]
    assert list(found) == list(
        dict.fromkeys(DIGESTER.digest(canonical(v, field, False)) for v in values if v is not None)
    )
    left = _scan.skip_rows(data, pos, 1)[1] if count < most else 0
    if left:  # only what it has no room for is left
        value = rows[count][position]
        assert value is not None
        assert len(value) > 64


@given(
    st.lists(st.lists(st.none() | st.binary(min_size=40, max_size=40), min_size=16, max_size=16), max_size=4),
    st.integers(0, 15),
)
def test_binary_rows(rows: list[list[bytes | None]], position: int) -> None:
    assert KEY is not None
    read = reading(*COLUMNS)

    def sent(i: int, value: bytes | None) -> bytes | None:
        size = read.sizes[i]
        if value is None:
            return None
        if size < 254:
            return value[:size]
        return b"\7" + value[:7] if size == 254 else b.text(value[: value[0] % 41])

    data = b.numbered(*[b.binary(*[sent(i, v) for i, v in enumerate(row)]) for row in rows], b.eof())
    found = digests.DigestSet()
    plain: list[bytes | None] = []
    pos, count, _ = _rows.column(data, 0, 99, position, read.sizes, read.kinds[position], KEY, found)
    assert count == len(rows)
    assert _scan.column_values(data, 0, 99, position, read.sizes, plain)[0] == pos
    field = read.fields[position]
    assert list(found) == list(
        dict.fromkeys(DIGESTER.digest(canonical(v, field, True)) for v in plain if v is not None)
    )


CELL = st.one_of(
    st.none(), st.text('abé09 ,;[{<"|\x1c', max_size=12).map(str.encode), st.just(b"y" * 200), st.just(b"1,2,3,4")
)


@given(st.lists(st.tuples(CELL, CELL), max_size=6), st.booleans(), st.booleans())
def test_rows_without_an_identifier(rows: list[tuple[bytes | None, ...]], expressions: bool, binary: bool) -> None:
    assert KEY is not None
    encoded = [b.binary(*[None if v is None else b.text(v) for v in row]) if binary else b.row(*row) for row in rows]
    data = b.numbered(*encoded, b.eof())
    sizes = b"\xff\xff" if binary else b""
    found = digests.DigestSet()
    pos, count, size, further = _rows.estimated(data, 0, 99, 2, sizes, expressions, KEY, found)
    assert (pos, count, size) == _scan.skip_rows(data, 0, count)
    assert list(found) == list(dict.fromkeys(DIGESTER.digest_row(row) for row in encoded[:count]))
    stands = [
        patients_in(row, expressions=expressions, keyed=OriginColumns(["patient.id"]).keyed) for row in rows[:count]
    ]
    assert not any(identifiers for identifiers, _ in stands)
    assert further == sum(n - 1 for _, n in stands)
    if count == len(rows):
        return
    assert any(cell is not None and set(cell) & set(b" ,;[{<|\x1c\1") for cell in rows[count]), (
        "a plain row is not left"
    )


@given(st.binary(max_size=80), st.integers(0, 3), st.sampled_from([b"", b"\4\xfe\xff\x08"]), st.integers(0, 3))
def test_anything(data: bytes, position: int, sizes: bytes, kind: int) -> None:
    assert KEY is not None
    found = digests.DigestSet()
    pos, count, _ = _rows.column(data, 0, 99, position, sizes, kind, KEY, found)
    assert _scan.skip_rows(data, 0, count)[0] == pos
    assert len(found) <= count
    pos, count, _, _ = _rows.estimated(data, 0, 99, position, sizes, True, KEY, found)
    assert _scan.skip_rows(data, 0, count)[0] == pos
