"""Statements that differ only in their literals: what is remembered of one is what the plain way says of each."""

from __future__ import annotations

import os
import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from exfilguard.observe import templates
from exfilguard.observe.asked import AskedColumns
from exfilguard.observe.classify import Classifier
from exfilguard.observe.completed import SELECTS
from exfilguard.observe.effects import effects
from exfilguard.observe.mysql import statement as mysql_statement
from exfilguard.observe.mysql.answers import moves
from exfilguard.observe.patients import PatientColumns
from exfilguard.observe.statement import normalise_bytes
from exfilguard.observe.templates import MAX_LITERALS, MAX_SKELETON, Templates, plain_skeleton
from exfilguard.observe.words import word_set

COLUMNS = ["dpi.patients.patient_id", "dpi.visits.visit_id", "dpi.ids.value[kind=3]"]
PATIENTS = PatientColumns(COLUMNS[:2])
TRACKED = {"exfilguard.user", "role", "session_authorization", "@exfilguard_user"}
MARK = re.compile(rb"[\0\1]")

if os.environ.get("EXFILGUARD_REQUIRE_COMPILED") == "1":
    assert templates.skeleton is not None

PIECES = st.sampled_from(
    [
        *"abp_0123456789.,;()=*-+$/:<>@ \n",
        *("select ", "SELECT * FROM patients ", "from visits v ", "patients p", "ids ", "where ", "patient_id", "p.patient_id"),
        *("v.visit_id", "value", "kind = 3", "=", " = 42", " = -7", " in (1, 2, 03)", " = any (array[4,5])", "::int", "--", "/*", "*/"),
        *("'", '"', "'12'", "$1", "$$", "t5", "5t", "1.5", "1e5", "e", "7000000001", "set ", "set_config(", "; ", "é", "\\", "\0"),
        *("''", "'Lefèvre'", "'it''s'", "'l\\'été'", " = 'x'", " IN ('a', 2, 'c')", "'patient_id = 5'", "'SELECT 1'", "' patients '"),
        *("E'", "_utf8'", "U&", '"a b"', '"patient_id"', "`patients`", "`", "``", '""', "#", "/*!", "/*M!", "/* x */", "-- x\n", "\1", "$a"),
        *("'{1,2}'", "'00000000-0000-0000-0000-00000000000A'", "INSERT INTO t ", "update ", "'@exfilguard_user'", "= any('", ":=", "outfile", "'é outfile'", "/* dblink */", '"12"', '= "x"', 'IN ("a""b",'),
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=25).map(lambda pieces: "".join(pieces).encode())
NUMBERS = st.lists(st.sampled_from([b"0", b"9", b"42", b"7000000001", b"00123456789012345"]), min_size=1, max_size=6)
STRINGS = st.lists(
    st.sampled_from(
        [b"''", b"'9'", b"'a''b'", b"'{7,8}'", b"'x = 5;'", b"'--'", b"'/*'", b"'\xc3\xa9\"`#$$@'", b"'7000000001'"]
    ),
    min_size=1,
    max_size=6,
)


@given(TEXTS, st.booleans(), st.booleans())
@example(b"1 " * MAX_LITERALS + b"1", False, False)
@example(b"1 " * (MAX_LITERALS + 1), False, False)
@example(b"'' " * (MAX_LITERALS + 1), False, False)
@example(b"x" * (MAX_SKELETON + 1), False, False)
@example(b"x" * MAX_SKELETON, True, False)
@example(b"x" * (MAX_SKELETON - 2) + b"/**/", True, False)
@example(b"x" * (MAX_SKELETON - 1) + b"/**/", True, False)
@example(b"'" + b"x" * MAX_SKELETON + b"'", True, True)
@example(b'"' + b"x" * MAX_SKELETON + b'"', False, False)
@settings(max_examples=2_000)
def test_a_skeleton_is_what_the_expressions_say(sql: bytes, mysql: bool, escapes: bool) -> None:
    if templates.skeleton is not None:
        words, doubted = Templates(AskedColumns(COLUMNS)).words, Classifier("mysql").doubted
        for given in ((), (word_set([]),), (words,), (words, doubted)):
            assert templates.skeleton(sql, mysql, escapes, *given) == plain_skeleton(sql, mysql, escapes, *given)


@given(TEXTS, NUMBERS, STRINGS, st.booleans())
@example(b"SELECT * FROM patients WHERE patient_id = 1 OR patient_id IN (1, 2)", [b"9", b"9", b"0"], [b"''"], False)
@example(b"SELECT n FROM patients p WHERE p.patient_id = -1", [b"42"], [b"''"], True)
@example(b"SELECT v FROM ids WHERE value = 5 AND kind = 3", [b"42"], [b"''"], False)
@example(b"SELECT v FROM patients WHERE patient_id IN ('a', 3, 'b')", [b"42"], [b"'{1,2}'", b"'a''b'"], False)
@settings(max_examples=2_000, deadline=None)
def test_texts_of_one_key_are_read_alike(sql: bytes, numbers: list[bytes], strings: list[bytes], mysql: bool) -> None:
    engine = "mysql" if mysql else "postgresql"
    asked = AskedColumns(COLUMNS, engine)
    known = mysql_statement.templates(asked) if mysql else Templates(asked)
    skeleton = plain_skeleton(sql, mysql, mysql, word_set([]))
    if skeleton is None:
        return
    digits, texts = iter(numbers * 60), iter(strings * 60)
    other = MARK.sub(lambda mark: next(texts if mark[0] == b"\1" else digits), skeleton[0])
    for text in (sql, other, sql):
        found = known.find(text, mysql)
        if found is None:
            continue
        template, literals, end = found
        own, comment = text[:end], text[end:]
        assert not comment or re.fullmatch(rb"/\*.*\*/[\s;]*", comment, re.DOTALL)
        plan = asked.plan(own)
        assert template.values(literals) == (plan.resolve() if plan is not None else [])
        assert template.shape == (mysql_statement.normalise_bytes if mysql else normalise_bytes)(text)
        assert not any(effects(text.decode("utf-8", "replace"), TRACKED, engine))
        assert PATIENTS.mentioned_in(template.key) == PATIENTS.mentioned_in(own)
        assert (SELECTS.search(template.key) is None) == (SELECTS.search(own) is None)
        assert moves(own) or not moves(template.key)  # a string moves nothing


def test_the_common_statement_has_a_template() -> None:
    for mysql in (False, True):
        known = Templates(AskedColumns(COLUMNS), mysql=mysql)
        for number, name, comment in ((b"1", b"'Durand'", b" "), (b"77", "'Lefèvre'".encode(), b" /*user='x'*/;")):
            found = known.find(
                b"SELECT nom FROM patients WHERE nom = " + name + b" AND patient_id = " + number + comment, mysql
            )
            assert found is not None
            assert found[0].values(found[1]) == [number]
        assert len(known._known) == 1


def test_a_string_that_may_be_a_query_is_read_each_time() -> None:
    known = Templates(AskedColumns(COLUMNS))
    assert known.find(b"SELECT query_to_xml('x', true, true, '')") is not None
    for text in (b"TABLE patients", b"select 1", b"from visits", b"patient_id = 5"):
        assert known.find(b"SELECT query_to_xml('" + text + b"', true, true, '')") is None


def test_a_transaction_ends_by_template_where_no_setting_names_a_user() -> None:
    for sql in (b"COMMIT", b"rollback to savepoint a1;", b"BEGIN ISOLATION LEVEL SERIALIZABLE", b"release a"):
        assert Templates(None, settings=False).find(sql) is not None
    assert Templates(None).find(b"COMMIT") is None
    for sql in (b"COMMIT; SELECT 1", b"SET ROLE x", b"EXECUTE a", b"CALL p('x')", b"DO 'x'"):
        assert Templates(None, settings=False).find(sql) is None


def test_what_the_server_may_read_otherwise_is_read_each_time_where_words_matter() -> None:
    for engine in ("mysql", "postgresql"):
        known = Templates(AskedColumns(COLUMNS), mysql=engine == "mysql", doubted=Classifier(engine).doubted)
        assert known.find(b"SELECT 'x' FROM outfile") is not None
        for text in (
            "SELECT 'é' FROM outfile",
            "SELECT 'é outfile'",
            "SELECT 1 FROM outfile /* x */",
            "SELECT 1 /* load_file */",
        ):
            assert known.find(text.encode(), True) is None, text
        assert known.find("SELECT 'é' FROM t".encode()) is not None
    assert known.find(b"SELECT '\\' into outfile '", True) is None


def test_what_is_remembered_is_bounded() -> None:
    known = Templates(None)
    for n in range(templates.MAX_TEMPLATES + 5):
        known.find(b"SELECT a%d" % n)
    assert len(known._known) <= templates.MAX_TEMPLATES
