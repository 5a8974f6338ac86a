"""The relay in front of Oracle's MySQL itself, with its own client: what MariaDB does not have."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mysql.connector
import pytest

from exfilguard.embedded import mysql as oracle
from exfilguard.embedded.mysql import EmbeddedMysql
from exfilguard.observe.patients import Digester
from exfilguard.sidecar.worker import digest_key

from .conftest import enterable_directory
from .mysql import change_user, guards
from .stack import PASSWORD, wait_for
from .test_relay import certificate

PATIENTS = 20_000


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedMysql]:
    if missing := oracle.missing_programs():
        pytest.skip(f"MySQL needs {missing}")
    with enterable_directory() as directory, EmbeddedMysql(directory / "server") as found:
        with found.connect() as connection, connection.cursor() as cursor:
            for statement in (
                "CREATE DATABASE clinic",
                "CREATE TABLE clinic.patient (id BIGINT PRIMARY KEY, nom VARCHAR(60), dossier VARCHAR(300))",
                "SET SESSION cte_max_recursion_depth = 100000",
                f"INSERT INTO clinic.patient WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {PATIENTS}) "
                "SELECT i, CONCAT('NOM', i MOD 97), REPEAT('x', i MOD 300) FROM n",
                *(
                    statement
                    for account in ("app", "other")
                    for statement in (
                        f"CREATE USER {account}@'%' IDENTIFIED WITH caching_sha2_password BY '{PASSWORD}'",
                        f"GRANT SELECT ON clinic.* TO {account}@'%'",
                    )
                ),
            ):
                cursor.execute(statement)
        yield found


@pytest.fixture
def relay(tmp_path: Path, server: EmbeddedMysql) -> Iterator[Any]:
    with guards(tmp_path, server.port, engine="mysql", patient_columns=["patient.id"], upstream_tls="disable") as start:
        yield start


def client(port: int, sql: str, *options: str) -> str:
    done = subprocess.run(
        [*oracle.client(), "-h127.0.0.1", f"-P{port}", "-uapp", "--get-server-public-key", "--ssl-mode=DISABLED",
         "--batch", *options, "-e", sql, "clinic"],
        capture_output=True, text=True, check=False, env={**os.environ, "MYSQL_PWD": PASSWORD},
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("mode", ["observe", "enforce"])
@pytest.mark.parametrize("algorithm", ["zstd", "zlib", "uncompressed"])
def test_a_compressed_session_of_its_own_client(relay: Any, server: EmbeddedMysql, mode: str, algorithm: str) -> None:
    """The same bytes out as direct, every row counted; the server says which compression it was."""
    guarded = relay(mode=mode, budget_rows=1_000_000)
    sql = "SHOW SESSION STATUS LIKE 'Compression_algorithm'; SELECT id, nom, dossier FROM patient; SELECT 'é' AS e"
    through = client(guarded.port, sql, f"--compression-algorithms={algorithm}")
    direct = client(server.port, sql, f"--compression-algorithms={algorithm}")
    assert through == direct
    assert through.count("\n") == PATIENTS + 5
    assert (algorithm if algorithm != "uncompressed" else "") in through.splitlines()[1]
    wait_for(lambda: guarded.counted("app") == PATIENTS + 3)  # one of the client's own first query
    assert len(guarded.patients()) == PATIENTS
    assert not any(e["kind"] == "desynced" for e in guarded.events())


def test_no_row_passes_the_local_budget_in_zstd(relay: Any) -> None:
    guarded = relay(mode="enforce", budget_rows=1_000)
    said = client(guarded.port, "SELECT id, nom, dossier FROM patient", "--compression-algorithms=zstd", "--quick")
    assert "ERROR 1226 (42000)" in said
    assert said.count("\tNOM") == 999, "the client's own first query has one row"
    wait_for(lambda: guarded.counted("app") == 1_000)


@pytest.mark.parametrize("client_tls", [False, True])
def test_a_change_of_user_in_full_with_tls_on_one_side(
    relay: Any, server: EmbeddedMysql, tmp_path: Path, client_tls: bool
) -> None:
    changes: dict[str, Any] = {}
    options: dict[str, Any] = {"database": "clinic"}
    if client_tls:
        cert, key = certificate(tmp_path)
        changes = {"tls": "terminate", "tls_cert": cert, "tls_key": key}
        options["ssl"] = ssl.create_default_context(cafile=cert)
        options["ssl"].check_hostname = False
    else:
        changes = {"upstream_tls": "require"}
    guarded = relay(**changes)
    with guarded.connect("app", **options) as connection:
        for _ in range(2):
            with server.connect() as admin, admin.cursor() as cursor:
                cursor.execute("FLUSH PRIVILEGES")  # forgets who was authenticated before: the full way
            assert change_user(connection, "other", PASSWORD)
            with connection.cursor() as cursor:
                cursor.execute("SELECT CURRENT_USER(), MIN(id) FROM clinic.patient")
                assert cursor.fetchone() == ("other@%", 1)
    wait_for(lambda: [e["principal"] for e in guarded.events() if e["kind"] == "login"] == ["app", "other", "other"])


@pytest.mark.parametrize("mode", ["observe", "enforce"])
@pytest.mark.parametrize("algorithm", ["zstd", "zlib"])
@pytest.mark.parametrize("client_tls", [False, True])
def test_a_change_of_user_in_full_in_a_compressed_session(
    relay: Any, server: EmbeddedMysql, tmp_path: Path, client_tls: bool, algorithm: str, mode: str
) -> None:
    """By its own library: each side's envelopes and packets have numbers of their own, and the session goes on in step."""
    library = oracle.installation() / "lib" / "libmysqlclient.so"
    if not library.is_file():
        pytest.skip("the client library comes with MySQL 8.0")
    changes: dict[str, Any] = {"upstream_tls": "require"}
    if client_tls:
        cert, key = certificate(tmp_path)
        changes = {"tls": "terminate", "tls_cert": cert, "tls_key": key}
    guarded = relay(mode=mode, budget_rows=1_000, **changes)
    with server.connect() as admin, admin.cursor() as cursor:
        cursor.execute("FLUSH PRIVILEGES")  # forgets who was authenticated before: the full way
    tls = "required" if client_tls else "disabled"
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.mysql_client", str(library), str(guarded.port), algorithm, tls,
         "app", "other", "other:wrong", "app"],
        capture_output=True, text=True, check=False, env={**os.environ, "MYSQL_PWD": PASSWORD},
    )  # fmt: skip
    name = f"Compression_algorithm {algorithm}"
    rest = "1 " + "x" * 30
    assert (done.stderr, done.stdout.splitlines()[:3]) == (
        "",
        [f"{name} app@% {rest}", f"{name} other@% {rest}", "1045"],
    )
    expected = ["app", "other"]
    wait_for(lambda: [e["principal"] for e in guarded.events() if e["kind"] == "login"] == expected)
    wait_for(lambda: any(e["kind"] == "login_failed" for e in guarded.events()))
    assert not any(e["kind"] == "desynced" for e in guarded.events())


def test_binary_parameters_are_asked_for(relay: Any) -> None:
    guarded = relay()
    guarded.connect(
        "app", database="clinic"
    ).close()  # in full, which the connector cannot without TLS; the server remembers it
    with mysql.connector.connect(
        host="127.0.0.1",
        port=guarded.port,
        user="app",
        password=PASSWORD,
        database="clinic",
        use_pure=True,
        ssl_disabled=True,
    ) as connection:
        cursor = connection.cursor(prepared=True)
        for number in (7, "8", 9):
            cursor.execute("SELECT dossier FROM patient WHERE nom <> %s AND id = %s", ("x", number))
            assert len(cursor.fetchall()) == 1
    wait_for(lambda: sum(bool(e.get("asked")) for e in guarded.events()) == 3)
    digester = Digester(digest_key(guarded.stack.config))
    asked = [e["asked"] for e in guarded.events() if e.get("asked")]
    assert asked == [[digester.digest(value)] for value in (b"7", b"8", b"9")]
