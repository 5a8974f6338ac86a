"""The C loops of MySQL's statements and rows against their plain twins."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exfilguard.observe.mysql import statement

try:
    from exfilguard.observe.mysql import _hot
except ImportError:
    if os.environ.get("EXFILGUARD_REQUIRE_COMPILED") == "1":
        raise
    pytest.skip("no C compiler at installation", allow_module_level=True)

PIECES = st.sampled_from(
    [
        *"abxBnN_ \t\n'\"`@$.,;:()?*/-#+=<>!\\0159eE{}",
        "''", "''''", "'a''b'", r"'a\'b'", '"x"', '"y\\"z"', "`a`", "`a b`", "``", "`a``b`", "`_é`", "--", "-- ", "--\t",
        "/*", "*/", "/*!", "/*M!", "/*!50001 ", "/*M!100103", "0x1F", "0xg", "x'1f'", "X'1F'", "b'01'", "_utf8mb4'x'",
        "_utf8mb4 'x'", "_a_b'x'", "@a", "@@global.x", "@@@", "1e5", "1.5", ".5", "1.5.3", "12ab", "1.5ab", "0b01", "$1", "a$b",
        "select", "SELECT ", " from ", " IN (1, 2, 'x')", "(1,2),(3,4)", "VALUES (?, ?), (?, ?)", "é", "\x1c", "\x00",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=25).map("".join))
@example("SELECT c FROM sbtest1 WHERE id=4711")
@example("/*! STRAIGHT_JOIN */ 'open")
@example("'ends in \\")
@example("# only a comment")
@example("a--")
def test_shape(sql: str) -> None:
    found = _hot.shape(sql.encode())
    if found is None:
        return
    text, lists = found
    assert (statement._fold(text) if lists else text) == statement._shape(sql, statement._PLAIN)


def test_a_usual_statement_is_not_left_to_the_plain_twin() -> None:
    for sql in (
        b"SELECT c FROM sbtest1 WHERE id=4711",
        b"SELECT `p`.`id`, p.nom FROM `patient` AS p WHERE p.nom = 'O''Hara' AND p.id IN (1, 2, 0x1F) -- by name",
        b"INSERT INTO t VALUES (?, ?), (?, ?) /* batch */",
        b"SET @user = 'x', @@session.sql_mode = \"\"",
        b"SELECT /*!40001 SQL_NO_CACHE */ * FROM t LIMIT 1.5",
        "SELECT id FROM `prénoms` WHERE nom = 'Lefèvre' /* côté œil */".encode(),
    ):
        text, lists = _hot.shape(sql) or ("", False)
        assert text
        assert (statement._fold(text) if lists else text) == statement._shape(sql.decode(), statement._PLAIN)
        assert statement.normalise_bytes(sql) == statement.normalise(sql.decode())
