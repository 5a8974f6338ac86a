"""Patients that a statement asks for, in every way of writing it."""

from __future__ import annotations

import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.events.query import Engine
from exfilguard.observe.asked import MAX_ASKED, AskedColumns, parse_column

COLUMNS = ["patient.id", "dpi.sejour.patient_id", "DicomIdentifiers.value[tagGroup=16,tagElement=32]"]

LITERALS = {
    "SELECT nom FROM patient WHERE id = 7": [b"7"],
    "select nom from patient p where p.id=7 and p.nom = 'x'": [b"7"],
    'SELECT "p"."nom" FROM "patient" AS "p" WHERE "p"."id" = 7': [b"7"],
    "SELECT nom FROM public.patient WHERE patient.id IN (1, 2,'3')": [b"1", b"2", b"3"],
    "SELECT * FROM sejour s JOIN ward w ON w.id = s.ward_id WHERE s.patient_id = '12'::int": [b"12"],
    "SELECT * FROM ward WHERE id = 9": [],
    "SELECT * FROM ward w JOIN patient p ON p.ward_id = w.id WHERE w.id = 9": [],
    "SELECT * FROM ward, patient WHERE id = 9": [b"9"],
    "UPDATE patient SET nom = 'x' WHERE id = 5": [b"5"],
    "SELECT nom FROM patient WHERE id = ANY ('{4,5}'::int[])": [b"4", b"5"],
    "SELECT nom FROM patient WHERE id = ANY (ARRAY[4, 5])": [b"4", b"5"],
    "SELECT nom FROM patient WHERE id = 'A1B2C3D4-0000-1111-2222-333344445555'": [b"a1b2c3d4000011112222333344445555"],
    "SELECT nom FROM patient WHERE identity = 5": [],
    "SELECT nom FROM patient WHERE id > 5": [],
    "SELECT instance FROM DicomIdentifiers WHERE tagGroup=16 AND tagElement=32 AND value='P-1'": [b"P-1"],
    "SELECT instance FROM DicomIdentifiers WHERE tagGroup=8 AND tagElement=32 AND value='X'": [],
    "SELECT instance FROM DicomIdentifiers WHERE value='X'": [],
}


@pytest.mark.parametrize("sql", LITERALS)
def test_literals(sql: str) -> None:
    plan = AskedColumns(COLUMNS).plan(sql.encode())
    assert (plan.resolve() if plan is not None else []) == LITERALS[sql]


def array(*numbers: int) -> bytes:
    return struct.pack("!iiIii", 1, 0, 23, len(numbers), 1) + b"".join(struct.pack("!ii", 4, n) for n in numbers)


def test_parameters_text_binary_and_arrays() -> None:
    asked = AskedColumns(COLUMNS)
    plan = asked.plan(b"SELECT nom FROM patient WHERE id = $2 AND nom = $1")
    assert plan is not None
    given = {1: (0, b"x", 0), 2: (0, b"42", 0)}
    assert plan.resolve(given.get) == [b"42"]
    for value, oid in ((struct.pack("!i", 42), 23), (struct.pack("!q", 42), 20), (struct.pack("!i", 42), 0)):
        assert plan.resolve({2: (1, value, oid)}.get) == [b"42"]
    assert plan.resolve({2: (1, None, 23)}.get) == []
    assert plan.resolve(None) == []
    several = asked.plan(b"SELECT nom FROM patient WHERE id = ANY($1)")
    assert several is not None
    assert several.resolve({1: (1, array(1, 2, 3), 1007)}.get) == [b"1", b"2", b"3"]
    assert several.resolve({1: (0, b"{1,2,3}", 1007)}.get) == [b"1", b"2", b"3"]
    eav = asked.plan(b"SELECT instance FROM DicomIdentifiers WHERE tagGroup=$1 AND tagElement=$2 AND value=$3")
    assert eav is not None
    assert eav.resolve({1: (0, b"16", 0), 2: (0, b"32", 0), 3: (0, b"P-9", 0)}.get) == [b"P-9"]
    assert eav.resolve({1: (0, b"16", 0), 2: (0, b"33", 0), 3: (0, b"P-9", 0)}.get) == []


def test_mysql_counts_its_marks() -> None:
    plan = AskedColumns(COLUMNS, "mysql").plan(
        b"SELECT `nom` FROM `patient` WHERE nom = '?' AND prenom = ? AND `id` IN (?, ?) /* ? */"
    )
    assert plan is not None
    assert plan.values == (2, 3)


def test_mysql_quotes_text_in_double_quotes_too() -> None:
    asked = AskedColumns(COLUMNS, "mysql")
    plan = asked.plan(b"""SELECT nom FROM patient WHERE id IN ("7", '8') OR id = "9\\"1""" + b'"')
    assert plan is not None
    assert plan.values[:2] == (b"7", b"8")
    assert len(plan.values) == 3
    assert AskedColumns(COLUMNS).plan(b'SELECT nom FROM patient WHERE id = "other"') is None


def test_bounds() -> None:
    asked = AskedColumns(COLUMNS)
    plan = asked.plan(b"SELECT nom FROM patient WHERE id IN (" + b",".join(b"%d" % n for n in range(5_000)) + b")")
    assert plan is not None
    assert len(plan.resolve()) == MAX_ASKED
    for number in range(10_000):
        asked.plan(b"SELECT nom FROM patient WHERE id = %d" % number)
    assert len(asked._cache) <= 4_096


def test_a_column_that_is_none() -> None:
    for text in ("id", "a.b[c]", "a b.c"):
        with pytest.raises(ValueError, match=r"write"):
            parse_column(text)


def test_a_long_number_that_goes_on_as_a_word() -> None:
    """Found by `make fuzz`: it was taken for one of our own marks."""
    sql = b"SELECT nom FROM patient WHERE id = 0000000004000000000000n"
    asked = AskedColumns(COLUMNS)
    assert asked.plan(sql) == asked._read(sql)


WORDS = st.sampled_from(
    ["SELECT nom ", "FROM patient ", "FROM patient p ", "JOIN sejour s ", "WHERE id = ", "AND p.id IN (", "s.patient_id=", "7", "-12", "042",
     "1.5", "1e5", "4000000000000n ", "x3", ", ", ")", " OR ", " = ANY (ARRAY[", "]", "id", "= ", "FROM DicomIdentifiers ", "tagGroup=16 ", "value=", "--", "/*9*/"]
)  # fmt: skip


@given(
    st.lists(WORDS, max_size=14).map(lambda words: "".join(words).encode()), st.sampled_from(["postgresql", "mysql"])
)
def test_a_text_of_numbers_is_planned_as_any_other(sql: bytes, engine: Engine) -> None:
    asked = AskedColumns(COLUMNS, engine)
    other = re.sub(rb"\b\d+\b", lambda match: match[0] + b"5", sql)
    for text in (sql, other, sql):
        assert asked.plan(text) == (asked._read(text) if any(name in text.lower() for name in asked._names) else None)
