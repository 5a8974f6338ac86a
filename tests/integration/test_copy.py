"""Identifiers in COPY, against a real PostgreSQL: the same patients as a SELECT shows, in each form, by psql, psycopg and pg_dump."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, LiteralString

import orjson
import psycopg
import pytest

from exfilguard.sidecar.catalog import resolve_columns
from tests.wire import build as b

from .conftest import PATIENTS, Hospital
from .guarded import Guarded, Relay
from .stack import clean_environment, connect, listener, wait_for

ROWS = 40
VALUES = {
    "of_int": ("int", "n % 25 - 5"),
    "of_bigint": ("bigint", "n % 25 * 10000000000"),
    "of_uuid": ("uuid", "md5((n % 25)::text)::uuid"),
    "of_text": ("text", "E'a\\tb\\\\ \"c\", ''d''\\n' || n % 25"),
    "of_varchar": ("varchar(40)", "'P' || n % 25"),
    "of_char": ("char(12)", "'P' || n % 25"),
    "of_domain": ("copie.numero", "n % 25"),
}
DDL = """
CREATE SCHEMA copie;
CREATE DOMAIN copie.court AS int CHECK (value > -1000);
CREATE DOMAIN copie.numero AS copie.court;
""" + "".join(
    f"""
CREATE TABLE copie.{table} (jete int, note text, fait text GENERATED ALWAYS AS (coalesce(note, '') || '+') STORED, ident {kind}, fin text);
INSERT INTO copie.{table} (note, ident, fin)
  SELECT E'le \\t"mot", \\\\ \\n dit', CASE WHEN n % 10 <> 9 THEN {value} END, repeat('x', n) FROM generate_series(1, {ROWS}) AS n;
ALTER TABLE copie.{table} DROP COLUMN jete;
"""
    for table, (kind, value) in VALUES.items()
)
FORMS = [
    "", "(FORMAT csv)", "(FORMAT csv, HEADER, FORCE_QUOTE *)", "(FORMAT csv, DELIMITER ';', QUOTE '''', ESCAPE '\\', NULL 'rien')",
    "(DELIMITER '|', NULL '')", "CSV HEADER QUOTE AS '!'", "(FORMAT binary)", "BINARY",
]  # fmt: skip


@pytest.fixture
def tables(hospital: Hospital) -> Iterator[Hospital]:
    with connect(hospital.admin_dsn) as admin:
        admin.execute(DDL)
        admin.execute(
            "GRANT USAGE ON SCHEMA copie TO dpi_export; GRANT SELECT ON ALL TABLES IN SCHEMA copie TO dpi_export"
        )
        admin.execute("GRANT TEMPORARY ON DATABASE dpi TO dpi_export")
        yield hospital
        admin.execute("DROP SCHEMA copie CASCADE")


Knowing = Callable[..., Guarded]


@pytest.fixture
def knowing(tables: Hospital, relay: Relay, tmp_path: Path) -> Knowing:
    """Starts a relay that knows the catalog, as the shipper tells it."""

    def start(**changes: Any) -> Guarded:
        changes["patient_columns"] = ["patient.id", *(f"copie.{table}.ident" for table in VALUES)]
        changes["catalog_dsn"] = tables.dsn("exfilguard_catalog")
        made = listener(tables.upstream, **changes)
        (tmp_path / "data").mkdir(exist_ok=True)
        found = [{"listener": made.name, **asdict(resolve_columns(made))}]
        (tmp_path / "data" / "columns.json").write_bytes(orjson.dumps(found))
        return relay(**changes)

    return start


OTHER_NAMES = (
    ("PREPARE q AS SELECT md5(id::text) FROM patient WHERE id <= 200", "EXECUTE q"),
    ("DECLARE c CURSOR WITH HOLD FOR SELECT md5(id::text) FROM patient WHERE id <= 200", "FETCH ALL FROM c"),
    ("CREATE TEMP VIEW v AS SELECT id AS x, nir AS y FROM patient WHERE id <= 200", "SELECT y, x FROM v"),
    (
        "CREATE FUNCTION pg_temp.f() RETURNS SETOF text LANGUAGE sql AS 'SELECT md5(id::text) FROM patient WHERE id <= 200'",
        "SELECT * FROM pg_temp.f()",
    ),
)


@pytest.mark.parametrize("prepare", [False, True])
def test_patients_that_are_read_under_another_name_are_estimated(knowing: Knowing, prepare: bool) -> None:
    guarded = knowing()
    for makes, reads in OTHER_NAMES:
        before = len(guarded.events())
        with connect(guarded.dsn()) as through:
            through.execute(makes, prepare=prepare)  # type: ignore[call-overload]
            assert len(through.execute(reads, prepare=prepare).fetchall()) == 200  # type: ignore[call-overload]
        events = wait_for(lambda: (found := guarded.events()[before:])[-1]["kind"] == "logout" and found)  # noqa: B023
        assert len({digest for event in events for digest in event.get("patients", ())}) == 200, reads


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_a_copy_of_what_the_session_made_is_of_patients(knowing: Knowing, mode: str) -> None:
    guarded = knowing(mode=mode, budget_patients=1_000_000, budget_rows=1_000_000)
    with connect(guarded.dsn()) as through:
        through.execute("CREATE TEMP VIEW v AS SELECT id AS x, nir AS y FROM patient WHERE id <= 200")
        with through.cursor().copy("COPY (SELECT y, x FROM v) TO STDOUT") as rows:
            assert len(list(rows.rows())) == 200
    events = wait_for(lambda: (found := guarded.events())[-1]["kind"] == "logout" and found)
    told = [e for e in events if e.get("patients_by") == "estimate"]
    assert sum(len(e.get("patients", ())) + e.get("patients_estimated", 0) for e in told) == 200


def sent(raw: socket.socket, messages: bytes) -> bytes:
    """What the server answers."""
    raw.sendall(messages)
    seen = b""
    while not seen.endswith(b.READY):
        seen += raw.recv(1 << 16)
    return seen


PUT_IN_PLACE = {
    "a block prepares another statement of its name": (
        "SELECT x, y FROM decoy",
        b.parse("", "DO $$ BEGIN EXECUTE 'DEALLOCATE s'; EXECUTE 'PREPARE s AS SELECT id AS x, nir AS y FROM patient LIMIT 50'; END $$")
        + b.bind("", "") + b.execute("") + b.SYNC,
    ),
    "a table of the session's own had the table's name": (
        "SELECT id AS x, nir AS y FROM patient LIMIT 50",
        b.query("DROP TABLE pg_temp.patient"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", PUT_IN_PLACE)
def test_what_is_executed_may_not_be_what_was_described(knowing: Knowing, how: str) -> None:
    sql, between = PUT_IN_PLACE[how]
    guarded = knowing()
    with connect(guarded.dsn()) as through, socket.socket(fileno=os.dup(through.fileno())) as raw:
        through.execute("CREATE TEMP TABLE decoy (x bigint, y text)")
        through.execute("CREATE TEMP TABLE patient (id bigint, nir text)")
        raw.settimeout(20)
        sent(raw, b.parse("s", sql) + b.describe("S", "s") + b.SYNC)
        if "decoy" in sql:
            sent(raw, b.query("DROP TABLE pg_temp.patient"))
        sent(raw, between)
        assert b"SELECT 50\0" in sent(raw, b.bind("", "s") + b.execute("") + b.SYNC)
    events = wait_for(lambda: (found := guarded.events())[-1]["kind"] == "logout" and found)
    assert len({digest for event in events for digest in event.get("patients", ())}) == 50


@pytest.mark.parametrize(
    "makes",
    [
        "CREATE TEMP TABLE t AS SELECT string_agg(p::text, ' ') AS x FROM patient AS p",
        "SELECT string_agg('x', '') FROM patient",
    ],
)
def test_patients_in_one_cell_of_a_megabyte_end_at_the_budget(knowing: Knowing, makes: str) -> None:
    """Packed in the query itself, or before into a table."""
    guarded = knowing(mode="enforce", budget_patients=100, budget_window_ms=60_000)
    reads = "SELECT x FROM t" if "TABLE" in makes else "SELECT string_agg(p::text, ' ') FROM patient AS p"
    with connect(guarded.dsn()) as through:
        through.execute(makes)
        with pytest.raises(psycopg.Error, match="local budget"):
            through.execute(reads)


def copied(connection: psycopg.Connection[Any], statement: str) -> list[bytes]:
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        return [bytes(part) for part in copy]


class Told:
    """What the relay's events say of each statement, in order."""

    def __init__(self, guarded: Guarded) -> None:
        self.statements: list[tuple[set[str], int, int, str]] = []
        """(digests, further patients by estimate, rows, how patients were found)."""
        digests: set[str] = set()
        estimated = rows = 0
        for event in guarded.events():
            digests |= set(event.get("patients", ()))
            estimated += event.get("patients_estimated", 0)
            rows += event.get("rows", 0)
            if event["kind"] == "query":
                self.statements.append((digests, estimated, rows, event.get("patients_by", "")))
                digests, estimated, rows = set(), 0, 0


def told(guarded: Guarded, statements: int) -> list[tuple[set[str], int, int, str]]:
    wait_for(lambda: len(Told(guarded).statements) >= statements, message="all statements are spooled")
    return Told(guarded).statements


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_each_form_shows_the_patients_that_a_select_shows(knowing: Knowing, mode: str) -> None:
    guarded = knowing(mode=mode, budget_patients=1_000_000 if mode == "enforce" else 0)
    asked = 0
    with connect(guarded.dsn()) as through:
        for table in VALUES:
            for binary in (False, True):
                through.execute(f"SELECT ident FROM copie.{table}".encode(), binary=binary).fetchall()
            for what in (f"copie.{table}", f"copie.{table} (fin, ident)", f"(SELECT * FROM copie.{table} AS t WHERE true)",
                         f"(SELECT t.note, t.ident AS x FROM copie.{table} t ORDER BY note LIMIT 1000)"):  # fmt: skip
                for form in FORMS:
                    copied(through, f"COPY {what} TO STDOUT {form}")
            asked += 2 + 4 * len(FORMS)
        found = told(guarded, asked)
    assert len(found) == asked
    for at, table in enumerate(VALUES):
        of_table = found[at * asked // len(VALUES) : (at + 1) * asked // len(VALUES)]
        first = of_table[0]
        assert len(first[0]) > 15, table
        for each in of_table:
            assert each == first, (table, of_table.index(each))
        assert first[1:] == (0, ROWS, "origin")


def test_psql_and_pg_dump(knowing: Knowing, tmp_path: Path) -> None:
    guarded = knowing()
    server = guarded.hospital.server.bin
    script = tmp_path / "script.sql"
    script.write_text(
        "SET search_path = copie;\nSELECT ident FROM of_uuid;\n"
        f"\\copy of_uuid TO '{tmp_path}/a' CSV HEADER\n\\copy (SELECT note, ident FROM of_uuid) TO '{tmp_path}/b' (FORMAT binary)\n"
        "COPY of_uuid (ident) TO STDOUT; SELECT 1; COPY of_uuid TO STDOUT WITH DELIMITER ',';\n",
        "utf-8",
    )
    environment = clean_environment()
    subprocess.run(
        [server / "psql", guarded.dsn(), "-q", "-f", script], check=True, capture_output=True, env=environment
    )
    assert len((tmp_path / "a").read_text("utf-8").splitlines()) > ROWS
    wait_for(lambda: sum(len(s[0]) > 0 for s in Told(guarded).statements) == 5)
    first, *copies = [s for s in Told(guarded).statements if s[0]]
    assert all(s == first for s in copies)
    assert first[1:] == (0, ROWS, "origin")
    dumped = subprocess.run(
        [server / "pg_dump", "-a", "-t", "copie.of_uuid", guarded.dsn()],
        check=True,
        capture_output=True,
        env=environment,
    )
    assert b"COPY copie.of_uuid" in dumped.stdout
    wait_for(lambda: [s for s in Told(guarded).statements if s[0]][5:] == [first])


@pytest.mark.parametrize(
    ("what", "rows"),
    [
        ("(SELECT upper(note), ident FROM copie.of_int)", ROWS),
        ("(SELECT a.ident FROM copie.of_int a JOIN copie.of_int b ON a.ctid = b.ctid)", ROWS),
        ("copie.of_int (note)", ROWS),
        ("(SELECT ident, 1 AS one FROM copie.of_int UNION ALL SELECT 7, 1 FROM copie.of_int)", 2 * ROWS),
    ],
)
def test_what_is_not_certain_is_estimated(knowing: Knowing, what: str, rows: int) -> None:
    guarded = knowing()
    with connect(guarded.dsn()) as through:
        assert len(copied(through, f"COPY {what} TO STDOUT")) == rows
        (found,) = told(guarded, 1)
    assert found == (set(), rows, rows, "estimate")


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_a_copy_that_packs_is_judged_by_its_length(knowing: Knowing, mode: str) -> None:
    guarded = knowing(mode=mode, budget_patients=1_000_000 if mode == "enforce" else 0)
    with connect(guarded.dsn()) as through:
        assert len(copied(through, "COPY (SELECT json_agg(p) FROM patient p) TO STDOUT")) == 1
        (found,) = told(guarded, 1)
    assert PATIENTS <= found[1] + len(found[0]) <= 10 * PATIENTS
    assert found[2:] == (1, "estimate")


def test_in_an_encoding_that_hides_ascii_a_copy_is_estimated(knowing: Knowing) -> None:
    guarded = knowing()
    with connect(guarded.dsn()) as through:
        through.execute("SET client_encoding = 'SJIS'")
        copied(through, "COPY copie.of_int TO STDOUT")
        found = told(guarded, 2)
    assert found[-1] == (set(), ROWS, ROWS, "estimate")


def received(guarded: Guarded, statement: str) -> tuple[int, str]:
    """(messages of data that arrived, how the statement ended)."""
    count = 0
    with psycopg.connect(guarded.dsn(), autocommit=True) as through, through.cursor() as cursor:
        try:
            with cursor.copy(statement.encode()) as copy:
                for part in copy:
                    count += len(bytes(part)) > 0
        except psycopg.Error as error:
            return count, str(error)
    return count, ""


@pytest.mark.parametrize(("form", "header"), [("", 0), ("(FORMAT csv, HEADER)", 1), ("(FORMAT binary)", 0)])
def test_a_budget_of_patients_ends_a_copy_at_its_row(knowing: Knowing, form: str, header: int) -> None:
    guarded = knowing(mode="enforce", budget_patients=100, on_cut="error")
    statement: LiteralString = "COPY (SELECT id, prenoms FROM patient WHERE id <= {} ORDER BY id) TO STDOUT "
    for _ in range(3):  # the same patients again cost nothing
        count, error = received(guarded, statement.format(100) + form)
        assert (count - header - (form == "(FORMAT binary)"), error) == (100, "")
    count, error = received(guarded, statement.format(200) + form)
    assert (count - header, "local budget of 100 patients" in error) == (100, True)
    wait_for(lambda: guarded.counted() == 400)


@pytest.mark.parametrize(("form", "beside"), [("", 0), ("(FORMAT csv, HEADER)", 1), ("(FORMAT binary)", 1)])
def test_a_budget_of_rows_is_spent_by_rows_alone(knowing: Knowing, form: str, beside: int) -> None:
    """The header of csv and the trailer of the binary form are none."""
    guarded = knowing(mode="enforce", budget_rows=ROWS, on_cut="error")
    assert received(guarded, f"COPY copie.of_int TO STDOUT {form}") == (ROWS + beside, "")
    count, error = received(guarded, f"COPY copie.of_int TO STDOUT {form}")
    assert "local budget" in error
    assert count <= beside
    wait_for(lambda: guarded.counted() == ROWS)


def test_a_table_of_the_same_name_elsewhere_leaves_a_doubt(knowing: Knowing, tables: Hospital) -> None:
    with connect(tables.admin_dsn) as admin:
        admin.execute("CREATE SCHEMA ailleurs; CREATE TABLE ailleurs.of_int (a int, b int, c int)")
        try:
            guarded = knowing()
            with connect(guarded.dsn()) as through:
                through.execute("SET search_path = copie")
                copied(through, "COPY of_int TO STDOUT")
                copied(through, "COPY copie.of_int TO STDOUT")
                found = told(guarded, 3)
        finally:
            admin.execute("DROP SCHEMA ailleurs CASCADE")
    assert [s[3] for s in found] == ["", "estimate", "origin"]
