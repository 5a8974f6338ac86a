"""The compiled loops of the observer against their twins in plain Python."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exfilguard.observe import estimate, statement

try:
    from exfilguard.observe import _hot
except ImportError:
    _hot = None  # type: ignore[assignment]


def test_the_compiled_loops_are_loaded() -> None:
    if os.environ.get("EXFILGUARD_REQUIRE_COMPILED") == "1":
        assert _hot is not None, "exfilguard.observe._hot was not compiled: is gcc there, did pip install build it?"


if _hot is None:
    pytest.skip("no C compiler at installation", allow_module_level=True)

PIECES = st.sampled_from(
    [
        *"abExXnNuU_09.,;()'\"$/*-+&\\ \n\t\x1c\0|=",
        *(
            "''",
            '""',
            "/*",
            "*/",
            "--",
            "$$",
            "$a$",
            "$1",
            "E'",
            "e'\\'",
            "b'",
            "U&'",
            'u&"',
            "1e-5",
            "1e+",
            ".5",
            "1.2.3",
        ),
        *(
            "select ",
            "(1, 2)",
            ", (3)",
            "('a'),",
            '"plain"',
            '"x y"',
            "values (1,'b'),(2,'c')",
            "?",
            "é",
            "\x85",
            "\xa0",
        ),
    ]
)


@given(st.lists(PIECES, max_size=30).map("".join), st.booleans())
@example("e'a''b\\", False)
@example("SELECT 'it''s", False)
@example('u&"a" "b', False)
@example("1e-5e+3 .5.5e-1x", False)
@example("$a$ $b$ $a$ x $c", False)
@example("/* /* */ x */ y /*", False)
@example("insert into t values (1, 'a'), (2, 'b'), (3, NULL)", False)
@settings(max_examples=1500)
def test_a_shape_is_what_the_expressions_say(sql: str, backslashes: bool) -> None:
    assert statement.normalise_bytes(sql.encode(), backslashes) == statement.normalise(sql, backslashes)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_text_have_the_same_shape(sql: bytes) -> None:
    assert statement.normalise_bytes(sql) == statement.normalise(sql.decode("utf-8", "replace"))


def test_most_shapes_are_the_compiled_ones() -> None:
    assert _hot.shape(b"SELECT a, b FROM t WHERE id = 42 AND n = 'x'") == (
        "select a , b from t where id = ? and n = ?",
        False,
    )
    found = _hot.shape("SELECT a FROM \"prénoms\" WHERE nom = 'Lefèvre' AND x = $é$ -- côté".encode())
    assert found is None
    found = _hot.shape("SELECT a FROM \"prénoms\" WHERE nom = 'Lefèvre' AND x = $e$é$e$ -- côté".encode())
    assert found == ('select a from "?" where nom = ? and x = ?', False)
    assert _hot.shape("SELECT é".encode()) is None


CELLS = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([b"1", b"a-f", b",", b" ", b";", b"|", b"\n", b"\x1c", b"[", b"}", b'"', b"12"]), max_size=12).map(b"".join),
)  # fmt: skip


@given(CELLS)
def test_what_cannot_be_a_list_is_none(cell: bytes) -> None:
    if estimate._LIST.fullmatch(cell) is not None:
        assert _hot.may_be_list(cell) or len(estimate._ITEM.findall(cell)) < estimate.MIN_LIST
