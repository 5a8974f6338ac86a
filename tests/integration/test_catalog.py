"""Which columns are patients': the catalog of a real PostgreSQL, with partitions, views, temporary tables and namesakes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import LiteralString

import orjson
import pytest

from exfilguard.config.schema import Config, KafkaConfig
from exfilguard.sidecar.catalog import resolve_columns

from .conftest import Hospital
from .stack import Stack, connect, listener, port_of, wait_for

DDL = """
CREATE SCHEMA zoo;
CREATE TABLE zoo.consultation (num bigint, patient_ref bigint, le date) PARTITION BY RANGE (le);
CREATE TABLE zoo.consultation_2025 PARTITION OF zoo.consultation FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE zoo.consultation_2026 (le date, patient_ref bigint, num bigint);
ALTER TABLE zoo.consultation ATTACH PARTITION zoo.consultation_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO zoo.consultation SELECT n, n, date '2025-06-01' + n FROM generate_series(1, 300) AS n;
CREATE VIEW zoo.v_patient AS SELECT id, prenoms FROM patient;
CREATE VIEW zoo.v_renamed AS SELECT id AS x, nir AS y FROM patient;
CREATE VIEW zoo.v_again (u, v) AS SELECT x, y FROM zoo.v_renamed JOIN sejour AS s ON s.patient_id = x;
CREATE VIEW zoo.v_either AS SELECT id AS x FROM patient WHERE id <= 7 UNION SELECT num FROM zoo.consultation WHERE num <= 7;
CREATE VIEW zoo.v_made AS SELECT md5(id::text) AS x, upper(nir) AS "y {z}" FROM patient;
CREATE VIEW zoo.v_within AS SELECT s.id AS a FROM sejour AS s WHERE EXISTS (SELECT p.id AS a FROM patient AS p WHERE p.id = s.patient_id);
CREATE MATERIALIZED VIEW zoo.m_renamed AS SELECT 1 AS "a\\ b", id AS x FROM patient;
ALTER VIEW zoo.v_patient RENAME COLUMN id TO renamed;
GRANT USAGE ON SCHEMA zoo TO dpi_export;
GRANT SELECT ON ALL TABLES IN SCHEMA zoo TO dpi_export;
GRANT TEMPORARY ON DATABASE dpi TO dpi_export;
"""


@pytest.fixture
def zoo(hospital: Hospital) -> Iterator[Hospital]:
    with connect(hospital.admin_dsn) as admin:
        for statement in DDL.strip().split("\n"):
            admin.execute(statement)
        yield hospital
        admin.execute("DROP SCHEMA zoo CASCADE")


def test_configured_columns_their_partitions_and_their_namesakes(zoo: Hospital) -> None:
    configured = listener(
        zoo.upstream,
        patient_columns=["patient.id", "zoo.consultation.patient_ref", "nowhere.id"],
        catalog_dsn=zoo.dsn("exfilguard_catalog"),
    )
    found = resolve_columns(configured)
    with connect(zoo.admin_dsn) as admin:

        def column(table: str, name: str) -> tuple[int, int]:
            row = admin.execute(
                "SELECT attrelid::bigint, attnum::int FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s",
                (table, name),
            ).fetchone()
            assert row is not None
            return row[0], row[1]

        assert set(found.origins) == {
            column("patient", "id"),
            column("zoo.consultation", "patient_ref"),
            column("zoo.consultation_2025", "patient_ref"),
            column("zoo.consultation_2026", "patient_ref"),
            column("zoo.v_patient", "renamed"),
            column("zoo.v_renamed", "x"),
            column("zoo.v_again", "u"),
            column("zoo.v_either", "x"),
            column("zoo.m_renamed", "x"),
        }
        assert {column("sejour", "id"), column("utilisateur", "id")} <= set(found.others)
        views = {column(f"zoo.{name}", "x")[0] for name in ("v_renamed", "v_made")}
        assert views <= set(found.identity_tables)
        assert column("zoo.v_within", "a")[0] not in found.identity_tables


@pytest.fixture
def relay(zoo: Hospital, tmp_path: Path) -> Iterator[Stack]:
    """A relay that knows the catalog."""
    made = listener(
        zoo.upstream,
        patient_columns=["patient.id", "zoo.consultation.patient_ref"],
        catalog_dsn=zoo.dsn("exfilguard_catalog"),
    )
    stack = Stack(
        Config(tenant="t", data_dir=str(tmp_path), kafka=KafkaConfig(bootstrap="127.0.0.1:9"), listener=[made])
    )
    columns = [{"listener": made.name, **asdict(resolve_columns(made))}]
    (tmp_path / "columns.json").write_bytes(orjson.dumps(columns))
    stack.start("relay")
    stack.relay_ready()
    yield stack
    stack.stop()


def ask(stack: Stack, zoo: Hospital, *queries: LiteralString) -> int:
    """Through the relay; the rows of the last query."""
    with connect(zoo.dsn("dpi_export", port_of(stack.config.listener[0].listen))) as through:
        for query in queries[:-1]:
            through.execute(query)
        return len(through.execute(queries[-1]).fetchall())


@pytest.mark.parametrize(
    ("query", "patients"),
    [
        ("SELECT id AS hidden FROM patient WHERE id <= 7", 7),
        ("SELECT id FROM utilisateur LIMIT 7", 0),
        ("SELECT id FROM sejour LIMIT 7", 0),
        ("SELECT patient_ref AS hidden FROM zoo.consultation", 300),
        ("SELECT patient_ref AS hidden FROM zoo.consultation_2026", 87),
        ("SELECT renamed FROM zoo.v_patient WHERE renamed <= 7", 7),
        ("SELECT x AS hidden FROM zoo.v_renamed WHERE x <= 7", 7),
        ("SELECT y FROM zoo.v_renamed WHERE x <= 7", 7),
        ("SELECT DISTINCT u FROM zoo.v_again WHERE u <= 7", 7),
        ("SELECT x FROM zoo.v_either", 7),
        ("SELECT x FROM zoo.m_renamed WHERE x <= 7", 7),
        ("SELECT x FROM zoo.v_made LIMIT 7", 7),
        ("SELECT a FROM zoo.v_within LIMIT 7", 0),
        ("SELECT max(id) AS id FROM patient GROUP BY id % 5", 5),
        ("SELECT nir FROM patient WHERE id <= 7", 7),
        ("SELECT md5(id::text) FROM patient WHERE id <= 7", 7),
        ("SELECT array_agg(id) FROM patient WHERE id <= 7", 7),
        ("SELECT string_agg(id::text, ', ') FROM patient WHERE id <= 7", 7),
        ("SELECT json_agg(p) FROM patient AS p WHERE id <= 7", 7),
        ("SELECT md5(p.id::text), u.nom FROM patient p, (SELECT nom FROM utilisateur LIMIT 1) u WHERE p.id <= 7", 7),
        ("SELECT md5(p.nir), s.iep FROM patient p JOIN sejour s ON s.id = 1 WHERE p.id <= 7", 7),
        ("SELECT id, (SELECT json_agg(s) FROM sejour s WHERE s.patient_id = p.id) FROM patient p WHERE id <= 7", 7),
        ("SELECT motif FROM sejour LIMIT 7", 0),
        ("SELECT count(*) FROM utilisateur", 0),
        ("SELECT s.id, p.id FROM sejour AS s JOIN patient AS p ON p.id = s.patient_id WHERE p.id <= 7", 7),
    ],
)
def test_what_the_relay_takes_for_a_patient(relay: Stack, zoo: Hospital, query: LiteralString, patients: int) -> None:
    rows = ask(relay, zoo, query)
    wait_for(lambda: relay.total("rows_total") == rows)
    # An estimate may say more, never less.
    counted = relay.total("patients_total")
    assert patients <= counted <= (3 * patients if "json_agg" in query else patients)


@pytest.mark.parametrize("beside", ["id", "nir", "1 AS id", "(SELECT login FROM utilisateur LIMIT 1)"])
def test_patients_packed_beside_other_columns(relay: Stack, zoo: Hospital, beside: LiteralString) -> None:
    pack = (
        ", (SELECT string_agg(nom_naissance || ':' || nir, '/') FROM patient WHERE id < 1000) FROM patient WHERE id = 1"
    )
    ask(relay, zoo, "SELECT " + beside + pack, "SELECT " + beside + pack)
    wait_for(lambda: relay.total("rows_total") == 2)
    assert relay.total("patients_total") >= 100


def test_a_copy_of_the_table_counts_when_it_is_made_and_by_name_when_it_is_read(relay: Stack, zoo: Hospital) -> None:
    ask(relay, zoo, "CREATE TEMP TABLE mine AS SELECT * FROM patient WHERE id <= 50", "SELECT * FROM mine")
    wait_for(lambda: relay.total("patients_total") == 50 + 50)
