"""Statements that differ only in their numbers: what is remembered of one is what the plain way says of each."""

from __future__ import annotations

import os
import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from exfilguard.observe import templates
from exfilguard.observe.asked import AskedColumns
from exfilguard.observe.effects import may_matter
from exfilguard.observe.statement import normalise_bytes
from exfilguard.observe.templates import MAX_NUMBERS, MAX_SKELETON, Templates, plain_skeleton

COLUMNS = ["dpi.patients.patient_id", "dpi.visits.visit_id", "dpi.ids.value[kind=3]"]

if os.environ.get("EXFILGUARD_REQUIRE_COMPILED") == "1":
    assert templates.skeleton is not None

PIECES = st.sampled_from(
    [
        *"abp_0123456789.,;()=*-+$/:<>@ \n",
        *("select ", "SELECT * FROM patients ", "from visits v ", "patients p", "ids ", "where ", "patient_id", "p.patient_id"),
        *("v.visit_id", "value", "kind = 3", "=", " = 42", " = -7", " in (1, 2, 03)", " = any (array[4,5])", "::int", "--", "/*", "*/"),
        *("'", '"', "'12'", "$1", "$$", "t5", "5t", "1.5", "1e5", "e", "7000000001", "set ", "set_config(", "; ", "é", "\\", "\0"),
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=25).map(lambda pieces: "".join(pieces).encode())


@given(TEXTS)
@example(b"1 " * MAX_NUMBERS + b"1")
@example(b"1 " * (MAX_NUMBERS + 1))
@example(b"x" * (MAX_SKELETON + 1))
@settings(max_examples=800)
def test_a_skeleton_is_what_the_expressions_say(sql: bytes) -> None:
    if templates.skeleton is not None:
        assert templates.skeleton(sql) == plain_skeleton(sql)


@given(
    TEXTS, st.lists(st.sampled_from([b"0", b"9", b"42", b"7000000001", b"00123456789012345"]), min_size=1, max_size=6)
)
@example(b"SELECT * FROM patients WHERE patient_id = 1 OR patient_id IN (1, 2)", [b"9", b"9", b"0"])
@example(b"SELECT n FROM patients p WHERE p.patient_id = -1", [b"42"])
@example(b"SELECT v FROM ids WHERE value = 5 AND kind = 3", [b"42"])
@settings(max_examples=800, deadline=None)
def test_texts_of_one_key_are_read_alike(sql: bytes, numbers: list[bytes]) -> None:
    asked = AskedColumns(COLUMNS)
    known = Templates(asked)
    turn = iter(numbers * 200)
    other = re.sub(rb"(?<![0-9A-Za-z_.$])[0-9]+(?![0-9A-Za-z_.$])", lambda _: next(turn), sql)
    for text in (sql, other, sql):
        found = known.find(text)
        if found is None:
            continue
        template, values = found
        plan = asked.plan(text)
        assert template.values(values) == (plan.resolve() if plan is not None else [])
        assert template.shape == normalise_bytes(text)
        assert not may_matter(text)


def test_the_common_statement_has_a_template() -> None:
    known = Templates(AskedColumns(COLUMNS))
    for number in (b"1", b"77"):
        found = known.find(b"SELECT nom FROM patients WHERE patient_id = " + number)
        assert found is not None
        assert found[0].values(found[1]) == [number]
    assert len(known._known) == 1


def test_what_is_remembered_is_bounded() -> None:
    known = Templates(None)
    for n in range(templates.MAX_TEMPLATES + 5):
        known.find(b"SELECT a%d" % n)
    assert len(known._known) <= templates.MAX_TEMPLATES
