"""The drill and the reports on MariaDB, of a whole installation, as their users run them; with `make drivers` also on Oracle's MySQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exfilguard.cli.drill import ACCOUNT
from exfilguard.cli.installation import Installation
from exfilguard.config.responder import MySQLHookConfig
from exfilguard.config.schema import (
    ArchiveConfig,
    Config,
    DetectorConfig,
    ExporterConfig,
    ListenerConfig,
    ResponderConfig,
    SidecarConfig,
)
from exfilguard.detect.policy import DEFAULT_POLICY
from exfilguard.embedded import mariadb
from exfilguard.embedded.child import free_port
from exfilguard.lab import canary, canary_mysql
from exfilguard.runtime import mysql
from tests.respond.labs import HOOK_PASSWORD, LABS, missing

from .conftest import enterable_directory
from .stack import port_of, wait_for
from .test_evidence import CANARY_CLASS, drill

DOCTOR, PASSWORD, DATABASE = "dr.martin", "correct horse", "dpi"


class Clinic:
    """A server with patients, and an installation in front of it."""

    def __init__(self, lab: Any, installation: Installation) -> None:
        self.lab, self.installation = lab, installation

    def dsn(self, user: str, password: str, port: int = 0) -> str:
        return mysql.changed(
            "mysql://u:p@127.0.0.1/dpi", user=user, password=password, port=port or self.lab.server.port
        )

    @property
    def admin(self) -> str:
        return self.dsn(mariadb.ADMIN, self.lab.server.password)


@pytest.fixture(scope="module", params=["mysql", "oracle-mysql"] if os.environ.get("ALL_DRIVERS") else ["mysql"])
def clinic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    if needed := missing(request.param):
        pytest.skip(f"not installed: {needed}")
    tmp_path = tmp_path_factory.mktemp("guarded")
    with enterable_directory() as directory:
        lab: Any = LABS[request.param](directory)
        lab.start()
        with lab.server.connect() as admin, admin.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4")
            cursor.execute(
                f"CREATE TABLE {DATABASE}.patient (id BIGINT PRIMARY KEY, nom VARCHAR(60), prenom VARCHAR(60))"
            )
            cursor.executemany(
                f"INSERT INTO {DATABASE}.patient VALUES (%s, %s, 'Zoë')", [(n, f"NOM{n}") for n in range(1, 500)]
            )
            cursor.execute("CREATE USER %s@'%%' IDENTIFIED BY %s", (DOCTOR, PASSWORD))
            cursor.execute(f"GRANT SELECT ON {DATABASE}.patient TO %s@'%%'", (DOCTOR,))
        policy = tmp_path / "policy.toml"
        text = DEFAULT_POLICY.read_text(encoding="utf-8").replace(
            '"batch_*" = "batch"\n', f'"batch_*" = "batch"\n"{ACCOUNT}*" = "canary"\n'
        )
        policy.write_text(text + CANARY_CLASS, encoding="utf-8")
        guard = ListenerConfig(
            name="dpi", engine="mysql", listen=f"127.0.0.1:{free_port()}", upstream=f"127.0.0.1:{lab.server.port}",
            patient_columns=["patient.id"],
        )  # fmt: skip
        hook = MySQLHookConfig(address=f"127.0.0.1:{lab.server.port}", password=HOOK_PASSWORD)
        installation = Installation(
            Config(
                tenant="clinic",
                data_dir=str(tmp_path / "data"),
                sidecar=SidecarConfig(id="h"),
                archive=ArchiveConfig(commit_ms=300),
                listener=[guard],
                detector=DetectorConfig(policy=str(policy)),
                responder=ResponderConfig(mysql=hook),
                exporter=ExporterConfig(listen=f"127.0.0.1:{free_port()}"),
            )
        )
        installation.start()
        try:
            yield Clinic(lab, installation)
        finally:
            installation.stop()
            lab.stop()


def test_a_drill_passes_and_gives_the_account_back(clinic: Clinic, tmp_path: Path) -> None:
    admin, dsn = tmp_path / "admin", tmp_path / "canary.dsn"
    admin.write_text(clinic.admin, encoding="ascii")
    for _ in range(2):
        done = drill(clinic.installation, "--setup", "--admin-dsn-file", str(admin), "--dsn-file", str(dsn))
        assert done.returncode == 0, done.stderr
    assert dsn.stat().st_mode & 0o777 == 0o600
    generous = ["--alert-within", "20s", "--cut-within", "20s", "--locked-within", "20s", "--unlocked-within", "20s"]
    done = drill(clinic.installation, "--dsn-file", str(dsn), "--out", str(tmp_path), "--json", *generous)
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, result["passed"], result["aborted"]) == (0, True, ""), [
        s for s in result["steps"] if not s["good"]
    ]
    assert result["limit"] < result["delivered"] < result["canaries"]
    assert canary_mysql.try_login(dsn.read_text().strip()) == ""


def test_a_drill_that_would_not_be_safe_does_not_begin(clinic: Clinic, tmp_path: Path) -> None:
    admin, dsn, account = tmp_path / "admin", tmp_path / "canary.dsn", f"{ACCOUNT}2"
    admin.write_text(clinic.admin, encoding="ascii")
    setup = ["--setup", "--admin-dsn-file", str(admin), "--dsn-file", str(dsn), "--account", account]
    assert drill(clinic.installation, *setup).returncode == 0

    def refused(text: str) -> None:
        done = drill(clinic.installation, "--dsn-file", str(dsn), "--out", str(tmp_path), "--json")
        result = json.loads(done.stdout)
        assert (done.returncode, result["delivered"]) == (1, 0)
        assert text in result["aborted"], result["aborted"]

    with clinic.lab.server.connect() as connection, connection.cursor() as cursor:
        for grant in ("SELECT ON dpi.patient", f"INSERT ON {canary.SCHEMA}.patient", "PROCESS ON *.*"):
            cursor.execute(f"GRANT {grant} TO {account}@'%'")
            refused("rights beyond reading")
            cursor.execute(f"REVOKE {grant} FROM {account}@'%'")
        cursor.execute(f"ALTER TABLE {canary.SCHEMA}.patient COMMENT = 'my own'")
        refused("is not a drill's")
        done = drill(clinic.installation, *setup)
        assert (done.returncode, "somebody else's" in done.stderr) == (1, True)
        cursor.execute(f"ALTER TABLE {canary.SCHEMA}.patient COMMENT = '{canary.MARKER}'")
        cursor.execute(f"DELETE FROM {canary.SCHEMA}.patient WHERE id > {canary.FIRST_ID + 2_500}")
        refused("run --setup with more")
    (tmp_path / "wrong").write_text("mysql://u:p@127.0.0.1:notaport/", encoding="ascii")
    done = drill(clinic.installation, "--dsn-file", str(tmp_path / "wrong"))
    assert (done.returncode, "no connection string" in done.stderr) == (2, True)


def test_digests_are_resolved_from_the_database(clinic: Clinic, tmp_path: Path) -> None:
    port = port_of(clinic.installation.config.listener[0].listen)
    with mysql.connect(clinic.dsn(DOCTOR, PASSWORD, port)) as through, through.cursor() as cursor:
        cursor.execute("SELECT id, nom FROM patient WHERE id BETWEEN 11 AND 30")
        received = {row[0] for row in cursor.fetchall()}
        cursor.execute("SELECT id FROM patient WHERE id = %s", (400,))
        received |= {row[0] for row in cursor.fetchall()}
    guarded = clinic.installation
    wait_for(lambda: guarded.total("archive_events_total") >= guarded.total("events_spooled_total") > 1, 30, "archived")
    (tmp_path / "dsn").write_text(clinic.admin, encoding="ascii")

    def report(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "exfilguard", "report", *arguments, "--config", str(guarded.path)]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=110)

    database = ["--dsn-file", str(tmp_path / "dsn")]
    out = tmp_path / "out"
    done = report(
        "exposure", DOCTOR, *database, "--column", "dpi.patient.id", "--show", "nom,prenom", "--out", str(out)
    )
    assert done.returncode == 0, done.stderr
    (csv,) = out.glob("exposure-*.csv")
    lines = [line.split(",") for line in csv.read_text(encoding="utf-8-sig").splitlines()[1:]]
    assert {int(line[1]) for line in lines} == received
    assert all(line[2:4] == [f"NOM{line[1]}", "Zoë"] for line in lines)
    done = report("exposure", DOCTOR, *database, "--column", "dpi.nothing.id", "--out", str(out))
    assert (done.returncode, "did not give the identifiers (1146)" in done.stderr) == (1, True), done.stderr
    with clinic.lab.server.connect() as admin, admin.cursor() as cursor:
        cursor.execute("CREATE ROLE lecture, secretariat")
        cursor.execute(
            "CREATE USER \"l'accueil\"@'%' IDENTIFIED BY 'Q7-never-used-9', sans_role@'%' IDENTIFIED BY 'Q7-never-used-9'"
        )
        cursor.execute(f"GRANT SELECT ON {DATABASE}.patient TO lecture")
        cursor.execute("GRANT lecture TO secretariat")
        cursor.execute("GRANT secretariat TO \"l'accueil\"@'%'")
    done = report("access-review", *database, "--json")
    assert done.returncode == 0, done.stderr
    grants = json.loads(done.stdout)["grants"]
    assert [DOCTOR, "dpi.patient"] not in grants, "it was used"
    assert ["l'accueil", "dpi.patient"] in grants, "by a role of a role"
    assert not {"lecture", "secretariat", "sans_role"} & {account for account, _ in grants}
