"""Flags and `deny`, against a real PostgreSQL: recognised in both modes, refused before they reach the database in `enforce`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest

from exfilguard.observe.classify import BY_NUMBER, FILES

from .conftest import Hospital
from .guarded import Relay
from .stack import connect, wait_for

FORBIDDEN = {
    "COPY patient TO PROGRAM 'cat > /tmp/exfilguard-stolen'": "server_export",
    "COPY patient TO '/tmp/exfilguard-stolen'": "server_export",
    "SELECT lo_export(1, '/tmp/exfilguard-stolen')": "server_export",
    "SELECT U&\"pg!005fread!005ffile\" UESCAPE '!' ('/etc/passwd')": "server_export",
    "DO $$ BEGIN PERFORM pg_read_file('/etc/passwd'); END $$": "server_export",
    "SELECT 1 --\r, lo_export(1, '/tmp/exfilguard-stolen')": "server_export",
    "SELECT E''\n'\\'', lo_export(1, '/tmp/exfilguard-stolen') --'": "server_export",
    "SELECT U&\"lo!005fexport\" UESCAPE '!' (1, '/tmp/exfilguard-stolen')": "server_export",
    "DO $$ DECLARE q text := 'SELECT lo_export(1, ''/tmp/x'')'; BEGIN EXECUTE q; END $$": "server_export",
    "DO $a$ BEGIN EXECUTE $b$DO $c$BEGIN EXECUTE $d$SELECT lo_export(1, '/tmp/x')$d$; END$c$$b$; END $a$": "server_export",
    "SELECT * FROM dblink('host=127.0.0.1', 'SELECT 1') AS t(a int)": "foreign",
    "CREATE SERVER evil FOREIGN DATA WRAPPER postgres_fdw": "foreign",
    "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1' PUBLICATION p": "replication",
}


def flagged(events: list[dict[str, Any]], kind: str) -> set[str]:
    return {flag for e in events if e["kind"] == kind for flag in e.get("flags", ())}


def test_enforce_refuses_what_leaves_by_the_server_and_the_session_goes_on(relay: Relay, hospital: Hospital) -> None:
    guarded = relay(mode="enforce", budget_rows=1_000_000, deny_except=["dr.*:foreign"])
    with connect(guarded.dsn()) as through:
        for sql in FORBIDDEN:
            for options in ({}, {"prepare": True}):
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="not allowed through this guard"):
                    through.execute(sql, **options)  # type: ignore[call-overload]
        assert through.execute("SELECT count(*) FROM patient").fetchone() is not None
    with connect(guarded.dsn("dr.martin")) as through, pytest.raises(psycopg.Error) as caught:
        through.execute("SELECT * FROM dblink('host=127.0.0.1', 'SELECT 1') AS t(a int)")
    assert "not allowed through" not in str(caught.value), "an allowance names this account"
    assert not Path("/tmp/exfilguard-stolen").exists()
    wait_for(lambda: len([e for e in guarded.events() if e["kind"] == "refused"]) == 2 * len(FORBIDDEN))
    assert flagged(guarded.events(), "refused") == set(FORBIDDEN.values())


def test_what_the_server_reads_otherwise_hides_nothing(relay: Relay, hospital: Hospital) -> None:
    """A setting of the session's says where a string ends."""
    guarded = relay(mode="enforce", budget_rows=1_000_000)
    for setting, sql in {
        "standard_conforming_strings = off": b"SELECT '\\'', lo_export(1, '/tmp/exfilguard-stolen') --'",
        "client_encoding = 'SJIS'": b"SELECT E'\x83\x5c', lo_export(1, '/tmp/exfilguard-stolen') --'",
    }.items():
        with connect(guarded.dsn()) as through, connect(hospital.dsn("dpi_export")) as direct:
            for session in (through, direct):
                session.execute(f"SET {setting}")
            assert b"not allowed through this guard" in through.pgconn.exec_(sql).error_message
            assert b"lo_export" in direct.pgconn.exec_(sql).error_message, "it is called"
        # What was told of that statement is not taken for what another of its shape does.
        with connect(guarded.dsn()) as through, pytest.raises(psycopg.Error, match="not allowed through this guard"):
            through.execute("SELECT 'a', lo_export(1, '/tmp/exfilguard-stolen')")


def test_a_harmless_statement_of_the_same_shape_vouches_for_nobody(relay: Relay, hospital: Hospital) -> None:
    """A number where the next text has a body, a name that is no ASCII where it has one in code points."""
    guarded = relay(mode="enforce", budget_rows=1_000_000)
    with connect(guarded.dsn()) as through, connect(hospital.dsn("dpi_export")) as direct:
        for before, sql in {
            'SELECT "é"(1, 2)': "SELECT U&\"lo\\005fexport\"(1, '/tmp/exfilguard-stolen')",
            "DO 5": "DO $$BEGIN PERFORM lo_export(1, '/tmp/exfilguard-stolen'); END$$",
        }.items():
            for session in (through, direct):
                with pytest.raises(psycopg.Error):
                    session.execute(before)  # type: ignore[call-overload]
            with pytest.raises(psycopg.Error, match="not allowed through this guard"):
                through.execute(sql)  # type: ignore[call-overload]
            with pytest.raises(psycopg.Error, match="lo_export"):
                direct.execute(sql)  # type: ignore[call-overload]


def test_a_statement_is_judged_by_all_of_it_however_long(relay: Relay, hospital: Hospital) -> None:
    """A comment in front was enough to get by; while a long statement of an application's own passes."""
    guarded = relay(mode="enforce", budget_rows=1_000_000)
    with connect(guarded.dsn()) as through:
        for options in ({}, {"prepare": True}):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="not allowed through this guard"):
                through.execute("/*" + "x" * 200_000 + "*/ SELECT lo_export(1, '/tmp/x')", **options)  # type: ignore[call-overload]
            for length in (200_000, 3_000_000):
                found = through.execute(f"SELECT length('{'x' * length}')", **options).fetchone()  # type: ignore[call-overload]
                assert found == (length,)
        with pytest.raises(psycopg.Error, match="over 1 MiB"):
            through.execute("/*" + "x" * 3_000_000 + "*/ SELECT lo_export(1, '/tmp/x')")
        assert through.closed


def test_the_numbers_of_functions_are_the_servers(relay: Relay, hospital: Hospital) -> None:
    """What FunctionCall calls is known by them."""
    names = {oid: text.removeprefix(b"SELECT ").removesuffix(b"()").decode() for oid, text in BY_NUMBER.items()}
    with connect(hospital.dsn("dpi_export")) as direct:
        found = direct.execute("SELECT oid::int, proname::text FROM pg_proc WHERE oid < 16384").fetchall()
    same = {oid: name for oid, name in found if oid in names}
    assert {names[oid] for oid in same} >= {"lo_export", "pg_read_file"}
    assert all(name.startswith(names[oid][:15]) for oid, name in same.items())
    assert {name for _, name in found if name in FILES} <= {names[oid] for oid in same}


def test_observe_only_tells(relay: Relay, hospital: Hospital) -> None:
    guarded = relay()
    with connect(guarded.dsn()) as through:
        with pytest.raises(psycopg.Error, match=r"must be superuser|permission denied"):
            through.execute("COPY patient TO PROGRAM 'cat'")
        with through.cursor() as cursor, cursor.copy("COPY patient TO STDOUT") as copy:
            for _ in copy:
                pass
        through.execute("SELECT repeat('x', 3000000)")
        through.execute("SELECT json_agg(p) FROM patient AS p")

    def flags() -> set[str]:
        return flagged(guarded.events(), "query")

    wait_for(lambda: flags() >= {"server_export", "copy", "large_value", "aggregate"}, message=str(flags()))
    assert "server_export" not in flagged(guarded.events(), "refused")


def test_packed_patients_are_the_same_patients(relay: Relay, hospital: Hospital) -> None:
    guarded = relay()
    ways = {
        "plain": "SELECT id FROM patient WHERE id <= 40",
        "json_agg": "SELECT json_agg(p) AS x FROM (SELECT id, nom_naissance FROM patient WHERE id <= 40) AS p",
        "jsonb": "SELECT jsonb_build_object('all', jsonb_agg(to_jsonb(p))) AS x FROM patient AS p WHERE id <= 40",
        "array": "SELECT array_agg(id) AS x FROM patient WHERE id <= 40",
        "string": "SELECT string_agg(id::text, ';') AS x FROM patient WHERE id <= 40",
        "xml": "SELECT '<all>' || string_agg('<p><id>' || id || '</id></p>', '') || '</all>' AS x FROM patient WHERE id <= 40",
    }
    for name, sql in ways.items():
        with connect(guarded.hospital.dsn("dpi_export", guarded.port), application_name=name) as through:
            through.execute(sql).fetchall()
    wait_for(lambda: len([e for e in guarded.events() if e["kind"] == "logout"]) == len(ways))
    found = {
        e["application"]: (set(e.get("patients", ())), "packed" in e.get("flags", ()))
        for e in guarded.events() if e["kind"] == "query"
    }  # fmt: skip
    patients, _ = found.pop("plain")
    assert len(patients) == 40
    for name, (others, packed) in found.items():
        assert others == patients, name
        assert packed, name


def test_patients_asked_for_are_the_patients_returned(relay: Relay, hospital: Hospital) -> None:
    """The same digests, whether the identifier is a literal, a text or a binary parameter, or one of an array."""
    guarded = relay()
    with connect(guarded.dsn()) as through:
        through.execute("SELECT id, 1 AS plain FROM patient WHERE id IN (11, 12)").fetchall()
        ways: list[tuple[str, Any, dict[str, Any]]] = [
            ("SELECT nom_naissance AS w0 FROM patient WHERE id IN (11, 12)", None, {}),
            ("SELECT nom_naissance AS w1 FROM patient WHERE id = %s OR id = %s", (11, 12), {}),
            ("SELECT nom_naissance AS w2 FROM patient p WHERE p.id = %b OR p.id = %b", (11, 12), {"prepare": True}),
            ("SELECT nom_naissance AS w3 FROM patient WHERE id = ANY(%s)", ([11, 12],), {}),
            ("SELECT nom_naissance AS w4 FROM patient WHERE id = ANY(%b)", ([11, 12],), {"binary": True}),
            ("SELECT s.id AS w5 FROM sejour AS s WHERE s.patient_id = ANY('{11,12}')", None, {}),
            ("SELECT id AS w6 FROM sejour WHERE id = 11", None, {}),
        ]
        for sql, parameters, options in ways:
            for _ in range(2):
                through.execute(sql, parameters, **options).fetchall()

    def told() -> dict[str, list[dict[str, Any]]]:
        shapes: dict[str, str] = {}
        out: dict[str, list[dict[str, Any]]] = {}
        for event in guarded.events():
            if event["kind"] == "query":
                shapes.setdefault(event["fingerprint"], event.get("query", ""))
                out.setdefault(shapes[event["fingerprint"]], []).append(event)
        return out

    wait_for(lambda: sum(map(len, told().values())) == 1 + 2 * len(ways))
    found = told()
    (plain,) = (events[0] for query, events in found.items() if " plain " in query)
    for number in range(len(ways)):
        (events,) = (events for query, events in found.items() if f" w{number} " in query)
        for event in events:
            assert set(event.get("asked", ())) == (set(plain["patients"]) if number < 6 else set()), number
