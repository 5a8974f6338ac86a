"""COPY TO STDOUT's texts, and which of their columns is a patient's identifier."""

from __future__ import annotations

import pytest

from exfilguard.observe.copy_rows import BINARY, CSV, TEXT
from exfilguard.observe.copy_statement import MAX_CACHED, MAX_SQL_BYTES, Copies, Copy, byte_by_byte, copies
from exfilguard.observe.copy_tables import CopyTables, table_of

INT4 = 23


def only(sql: str) -> Copy | None:
    (found,) = copies(sql.encode())
    return found


def copy(table: str = "t", schema: str = "", columns: tuple[str, ...] | None = None, **said: object) -> Copy:
    csv = said.get("format") == "csv"
    values: dict[str, object] = {
        "query": False, "format": "text", "delimiter": ord("," if csv else "\t"), "null": b"" if csv else b"\\N", "header": False,
        "quote": ord('"'), "escape": ord('"'), **said,
    }  # fmt: skip
    return Copy(schema, table, columns, **values)  # type: ignore[arg-type]


UNDERSTOOD = {
    "COPY t TO STDOUT": copy(),
    "copy T to stdout;": copy(),
    "COPY t TO STDIN": copy(),
    "/* c */ COPY -- c\n t TO STDOUT": copy(),
    'COPY "T" TO STDOUT': copy("T"),
    "COPY s.t TO STDOUT": copy(schema="s"),
    'COPY db."S""s".t TO STDOUT': copy(schema='S"s'),
    'COPY t (a, "B") TO STDOUT': copy(columns=("a", "B")),
    "COPY BINARY t TO STDOUT": copy(format="binary"),
    "COPY binary TO STDOUT": copy("binary"),
    "COPY t TO STDOUT BINARY": copy(format="binary"),
    "COPY t TO STDOUT WITH BINARY": copy(format="binary"),
    "COPY t TO STDOUT (FORMAT binary)": copy(format="binary"),
    "COPY t TO STDOUT WITH (FORMAT 'csv')": copy(format="csv"),
    'COPY t TO STDOUT (FORMAT "text")': copy(),
    "COPY t TO STDOUT CSV": copy(format="csv"),
    "COPY t TO STDOUT WITH CSV HEADER": copy(format="csv", header=True),
    "COPY t TO STDOUT (FORMAT csv, HEADER)": copy(format="csv", header=True),
    "COPY t TO STDOUT (HEADER on)": copy(header=True),
    "COPY t TO STDOUT (FORMAT csv, HEADER 1)": copy(format="csv", header=True),
    "COPY t TO STDOUT (FORMAT csv, HEADER false)": copy(format="csv"),
    "COPY t TO STDOUT (FORMAT csv, HEADER 'off')": copy(format="csv"),
    "COPY t TO STDOUT DELIMITER '|'": copy(delimiter=ord("|")),
    "COPY t TO STDOUT DELIMITER AS E'\\x7c' NULL AS ''": copy(delimiter=ord("|"), null=b""),
    "COPY t TO STDOUT USING DELIMITERS '|'": copy(delimiter=ord("|")),
    "COPY t TO STDOUT DELIMITERS '|' WITH NULL 'n'": copy(delimiter=ord("|"), null=b"n"),
    "COPY t TO STDOUT (DELIMITER $$;$$, NULL 'it''s', FORMAT csv)": copy(format="csv", delimiter=ord(";"), null=b"it's"),
    "COPY t TO STDOUT (FORMAT csv, QUOTE '''', ESCAPE '\\')": copy(format="csv", quote=ord("'"), escape=ord("\\")),
    "COPY t TO STDOUT (FORMAT csv, QUOTE '!')": copy(format="csv", quote=ord("!"), escape=ord("!")),
    "COPY t TO STDOUT CSV QUOTE AS '!' ESCAPE '\\' FORCE QUOTE a, b": copy(format="csv", quote=ord("!"), escape=ord("\\")),
    "COPY t TO STDOUT CSV FORCE QUOTE *": copy(format="csv"),
    "COPY t TO STDOUT (FORMAT csv, FORCE_QUOTE *)": copy(format="csv"),
    "COPY t TO STDOUT (FORMAT csv, FORCE_QUOTE (a, b), ENCODING 'LATIN1')": copy(format="csv"),
    "COPY t TO STDOUT ENCODING 'utf8'": copy(),
    "COPY (SELECT a, b FROM t) TO STDOUT": copy(columns=("a", "b"), query=True),
    "COPY (SELECT * FROM s.t) TO STDOUT": copy(schema="s", query=True),
    "COPY (SELECT p.* FROM t AS p) TO STDOUT": copy(query=True),
    "COPY (SELECT ALL t.a AS x, b y FROM ONLY t WHERE a IN (SELECT 1 UNION SELECT 2) ORDER BY 1 LIMIT 5) TO STDOUT CSV":
        copy(columns=("a", "b"), query=True, format="csv"),
    "COPY (SELECT DISTINCT p.a FROM t p FOR UPDATE) TO STDOUT": copy(columns=("a",), query=True),
}  # fmt: skip
LEFT = [
    "COPY t FROM STDIN", "COPY t TO '/tmp/x'", "COPY t TO PROGRAM 'cat'", "COPY t", "COPY", "SELECT 1", "COPY t TO STDOUT WITH",
    "COPY t TO STDOUT (FORMAT json)", "COPY t TO STDOUT (OIDS)", "COPY t TO STDOUT WITH OIDS", "COPY t TO STDOUT (DELIMITER '||')",
    "COPY t TO STDOUT (HEADER match)", "COPY t TO STDOUT (FREEZE)", "COPY t TO STDOUT (FORMAT csv", "COPY t TO STDOUT ()",
    "COPY t TO STDOUT (FORMAT csv) x", "COPY t TO STDOUT (DELIMITER U&'!007c')", 'COPY U&"t" TO STDOUT', 'COPY "é" TO STDOUT',
    "COPY t TO STDOUT (ENCODING 'SJIS')", "COPY t TO STDOUT ENCODING 'big5'", "COPY a.b.c.d TO STDOUT", "COPY t TO STDOUT QUOTE E'\\n'",
    "COPY (SELECT a, upper(b) FROM t) TO STDOUT", "COPY (SELECT a FROM t, u) TO STDOUT", "COPY (SELECT a FROM t JOIN u ON true) TO STDOUT",
    "COPY (SELECT a FROM t NATURAL JOIN u) TO STDOUT", "COPY (SELECT a FROM t UNION SELECT 1) TO STDOUT",
    "COPY (SELECT a FROM t ORDER BY 1 UNION SELECT 1) TO STDOUT", "COPY (SELECT a FROM (SELECT 1) AS t) TO STDOUT",
    "COPY (WITH t AS (SELECT 1 AS a) SELECT a FROM t) TO STDOUT", "COPY (SELECT a, * FROM t) TO STDOUT", "COPY (SELECT u.a FROM t) TO STDOUT",
    "COPY (SELECT a FROM t GROUP BY a) TO STDOUT", "COPY (SELECT DISTINCT ON (a) a FROM t) TO STDOUT", "COPY (SELECT 1) TO STDOUT",
    "COPY (SELECT a FROM t AS t (b)) TO STDOUT", "COPY (SELECT a::int FROM t) TO STDOUT", "COPY (SELECT (a) FROM t) TO STDOUT",
    "COPY (TABLE t) TO STDOUT", "COPY (DELETE FROM t RETURNING a) TO STDOUT", "COPY (SELECT a FROM f(1)) TO STDOUT",
    "COPY (SELECT a FROM t TABLESAMPLE system (1)) TO STDOUT", "COPY (SELECT a FROM t", "COPY (SELECT a[1] FROM t) TO STDOUT",
]  # fmt: skip


@pytest.mark.parametrize("sql", UNDERSTOOD)
def test_a_text_that_is_understood(sql: str) -> None:
    assert only(sql) == UNDERSTOOD[sql]


@pytest.mark.parametrize("sql", LEFT)
def test_a_text_that_is_left(sql: str) -> None:
    assert only(sql) is None


def test_the_statements_of_one_text_are_told_apart() -> None:
    text = b"SET x = ';'; ; COPY t TO STDOUT; /* ; */ SELECT 1; COPY u TO STDOUT;"
    assert copies(text) == (None, copy(), None, copy("u"))
    known = Copies()
    assert [known.find(text, n) for n in range(6)] == [None, copy(), None, copy("u"), None, None]
    assert copies(b"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; COPY t TO STDOUT") == ()


def test_a_backslash_in_a_literal_is_what_the_session_says() -> None:
    text = b"COPY t TO STDOUT (DELIMITER '\\x7c')"
    assert copies(text) == (None,)
    assert copies(text, backslashes=True) == (copy(delimiter=ord("|")),)


def test_what_is_kept_is_bounded() -> None:
    known = Copies()
    for n in range(2 * MAX_CACHED):
        known.find(b"COPY t%d TO STDOUT" % n, 0)
    assert len(known._known) <= MAX_CACHED
    assert known.find(b"COPY t TO STDOUT" + b" " * MAX_SQL_BYTES, 0) is None


@pytest.mark.parametrize("encoding", ["SJIS", "GB18030", "shift_jis_2004", "Big5", "WIN-949"])
def test_an_encoding_with_ascii_inside_its_characters(encoding: str) -> None:
    assert not byte_by_byte(encoding)
    assert byte_by_byte("UTF8")


def answer(columns: int, binary: bool = False) -> bytes:
    return bytes([binary, 0, columns]) + bytes([0, binary]) * columns


TABLES = [
    ["dpi", "patient", 4, 5, [["id", 23, 1, 1]]],
    ["dpi", "couple", 3, 3, [["un", 23, 0, 0], ["deux", 20, 2, 2]]],
    ["dpi", "calcul", 2, 3, [["cle", 25, -1, 1]]],
    ["a", "double", 2, 2, [["id", 23, 0, 0]]],
    ["b", "double", 2, 2, []],
    ["a", "pareil", 2, 2, [["id", 23, 0, 0]]],
    ["b", "pareil", 2, 2, [["id", 23, 0, 0]]],
]


@pytest.mark.parametrize(
    ("sql", "columns", "places"),
    [
        ("COPY patient TO STDOUT", 4, (1,)),
        ("COPY dpi.patient TO STDOUT", 4, (1,)),
        ("COPY other.patient TO STDOUT", 4, None),
        ("COPY patient TO STDOUT", 5, None),
        ("COPY patient (nom, ville, id) TO STDOUT", 3, (2,)),
        ("COPY patient (nom, ville, id) TO STDOUT", 2, None),
        ("COPY patient (nom, ville) TO STDOUT", 2, None),
        ("COPY (SELECT * FROM patient) TO STDOUT", 5, (1,)),
        ("COPY (SELECT nom AS id, id AS nom FROM patient) TO STDOUT", 2, (1,)),
        ("COPY couple TO STDOUT", 3, (0, 2)),
        ("COPY couple (deux, un) TO STDOUT", 2, (0, 1)),
        ("COPY calcul TO STDOUT", 2, None),
        ("COPY (SELECT * FROM calcul) TO STDOUT", 3, (1,)),
        ("COPY double TO STDOUT", 2, None),
        ("COPY a.double TO STDOUT", 2, (0,)),
        ("COPY pareil TO STDOUT", 2, (0,)),
        ("COPY unknown TO STDOUT", 2, None),
    ],
)
def test_the_place_of_the_identifier(sql: str, columns: int, places: tuple[int, ...] | None) -> None:
    tables = CopyTables([table_of(table) for table in TABLES])
    form = tables.form(sql.encode(), 0, "UTF8", backslashes=False, answer=answer(columns))
    assert (form.positions if form is not None else None) == places
    if form is not None:
        assert form.columns == columns
        assert form.position == (places[0] if places is not None and len(places) == 1 else -1)


def test_the_answer_must_be_of_the_form_that_was_asked_for() -> None:
    tables = CopyTables([table_of(table) for table in TABLES])

    def kind(sql: str, said: bytes, encoding: str = "UTF8") -> int | None:
        form = tables.form(sql.encode(), 0, encoding, backslashes=False, answer=said)
        return form.kind if form is not None else None

    assert kind("COPY patient TO STDOUT", answer(4)) == TEXT
    assert kind("COPY patient TO STDOUT CSV", answer(4)) == CSV
    assert kind("COPY patient TO STDOUT BINARY", answer(4, True)) == BINARY
    assert kind("COPY patient TO STDOUT BINARY", answer(4)) is None
    assert kind("COPY patient TO STDOUT", answer(4, True)) is None
    assert kind("COPY patient TO STDOUT", b"\0\0") is None
    assert kind("COPY patient TO STDOUT", answer(4), "SJIS") is None
    assert CopyTables([]).form(b"COPY patient TO STDOUT", 0, "UTF8", backslashes=False, answer=answer(4)) is None


@pytest.mark.parametrize("bad", [[], ["s", "t", 1, 1], ["s", "t", 1, 1, [["id", 1]]], ["s", "t", "x", 1, []], None])
def test_a_table_that_is_none(bad: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        table_of(bad)  # type: ignore[arg-type]
