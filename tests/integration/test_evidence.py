"""Evidence of a whole installation: reports that equal what thieves received, and the drill, as their users run them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bench import exposure as bench_exposure
from exfilguard.cli.drill import ACCOUNT
from exfilguard.cli.installation import Installation
from exfilguard.config.schema import (
    ArchiveConfig,
    Config,
    DetectorConfig,
    ExporterConfig,
    PostgresHookConfig,
    ResponderConfig,
    SidecarConfig,
)
from exfilguard.detect.policy import DEFAULT_POLICY
from exfilguard.embedded.child import free_port
from exfilguard.lab import attack, canary, patients

from .conftest import Hospital, enterable_directory
from .stack import connect, listener, port_of, wait_for

CANARY_CLASS = """
[class.canary]
limits = [ { unit = "patients", window = "10s", alert = 1_000, lock = 2_000 } ]
"""


def test_the_exposure_report_is_what_the_thieves_received(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_exposure, "PATIENTS", 6_000)
    with enterable_directory() as directory:
        results = bench_exposure.run(12, 7, directory)
    assert len({o.haul.way for o in results.outcomes}) == 12
    assert sum(len(o.haul.patients) for o in results.outcomes) > 2_000
    for outcome in results.outcomes:
        if outcome.haul.visible:
            assert outcome.exact, outcome.haul.way
            assert outcome.taken.estimated == 0
        else:
            assert outcome.honest, outcome.haul.way
    assert results.skipped == {}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, hospital: Hospital) -> Iterator[Installation]:
    """One installation for the tests of this module: each works with accounts of its own."""
    tmp_path = tmp_path_factory.mktemp("guarded")
    policy = tmp_path / "policy.toml"
    text = DEFAULT_POLICY.read_text(encoding="utf-8").replace(
        '"batch_*" = "batch"\n', f'"batch_*" = "batch"\n"{ACCOUNT}*" = "canary"\n'
    )
    policy.write_text(text + CANARY_CLASS, encoding="utf-8")
    installation = Installation(
        Config(
            tenant="clinic",
            data_dir=str(tmp_path / "data"),
            sidecar=SidecarConfig(id="h"),
            archive=ArchiveConfig(commit_ms=300),
            listener=[listener(hospital.upstream, catalog_dsn=hospital.dsn(patients.CATALOG_ACCOUNT))],
            detector=DetectorConfig(policy=str(policy)),
            responder=ResponderConfig(postgres=PostgresHookConfig(dsn=hospital.dsn(patients.HOOK_ACCOUNT))),
            exporter=ExporterConfig(listen=f"127.0.0.1:{free_port()}"),
        )
    )
    installation.start()
    try:
        yield installation
    finally:
        installation.stop()
        with connect(hospital.admin_dsn) as admin:
            admin.execute(f"DROP SCHEMA IF EXISTS {canary.SCHEMA} CASCADE")


def drill(installation: Installation, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "exfilguard", "drill", "--config", str(installation.path), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=110)


def test_a_drill_passes_and_gives_the_account_back(guarded: Installation, hospital: Hospital, tmp_path: Path) -> None:
    admin, dsn = tmp_path / "admin", tmp_path / "canary.dsn"
    admin.write_text(hospital.admin_dsn)
    done = drill(guarded, "--setup", "--admin-dsn-file", str(admin), "--dsn-file", str(dsn))
    assert done.returncode == 0, done.stderr
    assert dsn.stat().st_mode & 0o777 == 0o600
    again = drill(guarded, "--setup", "--admin-dsn-file", str(admin), "--dsn-file", str(dsn))
    assert again.returncode == 0, again.stderr

    generous = ["--alert-within", "20s", "--cut-within", "20s", "--locked-within", "20s", "--unlocked-within", "20s"]
    done = drill(guarded, "--dsn-file", str(dsn), "--out", str(tmp_path / "filed"), "--json", *generous)
    result: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, result["passed"], result["aborted"]) == (0, True, ""), [
        s for s in result["steps"] if not s["good"]
    ]
    assert [s["key"] for s in result["steps"]] == [
        "alert", "cut", "locked", "relogin_guard", "relogin_database", "care", "unlocked", "report"
    ]  # fmt: skip
    assert result["limit"] < result["delivered"] < result["canaries"]
    assert len(list((tmp_path / "filed").glob("drill-*.html"))) >= 1
    text = next((tmp_path / "filed").glob("drill-*.html")).read_text()
    assert "Réussi" in text
    assert attack.try_login(dsn.read_text().strip()) == ""

    done = drill(guarded, "--dsn-file", str(dsn), "--out", str(tmp_path / "filed"), "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["passed"]) == (1, False)
    assert "again in" in result["aborted"], "the windows still hold what was taken"


def test_a_drill_that_would_not_be_safe_does_not_begin(
    guarded: Installation, hospital: Hospital, tmp_path: Path
) -> None:
    admin, dsn = tmp_path / "admin", tmp_path / "canary.dsn"
    admin.write_text(hospital.admin_dsn)
    setup = ["--setup", "--admin-dsn-file", str(admin), "--dsn-file", str(dsn), "--account", "exfilguard_canary2"]
    assert drill(guarded, *setup).returncode == 0
    out = ["--dsn-file", str(dsn), "--out", str(tmp_path), "--json"]

    def refused(text: str) -> None:
        done = drill(guarded, *out)
        result = json.loads(done.stdout)
        assert done.returncode == 1
        assert text in result["aborted"], result["aborted"]
        assert result["delivered"] == 0

    with connect(hospital.admin_dsn) as connection:
        connection.execute("GRANT SELECT ON patient TO exfilguard_canary2")
        refused("can read public.patient")
        connection.execute("REVOKE SELECT ON patient FROM exfilguard_canary2")
        connection.execute("ALTER ROLE exfilguard_canary2 CREATEDB")
        refused("rights beyond reading")
        connection.execute("ALTER ROLE exfilguard_canary2 NOCREATEDB")
        connection.execute(f"DELETE FROM {canary.SCHEMA}.patient WHERE id > {canary.FIRST_ID + 2_500}")
        refused("run --setup with more")
        connection.execute(f"COMMENT ON SCHEMA {canary.SCHEMA} IS 'my own'")
        refused("is not a drill's")
        done = drill(guarded, *setup)
        assert (done.returncode, "somebody else's" in done.stderr) == (1, True)
        connection.execute(f"COMMENT ON SCHEMA {canary.SCHEMA} IS '{canary.MARKER}'")
    done = drill(guarded, "--dsn-file", str(tmp_path / "nothing"))
    assert (done.returncode, "--setup" in done.stderr) == (2, True)


def test_reports_as_commands(guarded: Installation, hospital: Hospital, tmp_path: Path) -> None:
    port = port_of(guarded.config.listener[0].listen)
    with connect(hospital.dsn("dr.martin", port)) as through:
        received = {row[0] for row in through.execute("SELECT id FROM patient WHERE id BETWEEN 11 AND 30").fetchall()}
        through.execute("SELECT nom_naissance FROM patient LIMIT 5").fetchall()
    wait_for(lambda: guarded.total("archive_events_total") >= guarded.total("events_spooled_total") > 3, 30, "archived")
    (tmp_path / "dsn").write_text(hospital.admin_dsn)

    def report(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "exfilguard", "report", *arguments, "--config", str(guarded.path)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=110)
        assert done.returncode == 0, done.stderr
        return done

    out = tmp_path / "out"
    report("exposure", "dr.martin", "--dsn-file", str(tmp_path / "dsn"), "--column", "patient.id",
           "--show", "nom_naissance,prenoms", "--out", str(out), "--lang", "en")  # fmt: skip
    (csv,) = out.glob("exposure-*.csv")
    assert csv.stat().st_mode & 0o777 == 0o600
    lines = csv.read_text(encoding="utf-8-sig").splitlines()
    assert lines[0] == "digest,identifier,nom_naissance,prenoms,kind,first,last,times,columns"
    assert {int(line.split(",")[1]) for line in lines[1:]} == received
    with psycopg.connect(hospital.admin_dsn) as admin:
        names = dict(
            admin.execute("SELECT id, nom_naissance FROM patient WHERE id = ANY(%s)", ([*received],)).fetchall()
        )
    assert all(line.split(",")[2] == names[int(line.split(",")[1])] for line in lines[1:])
    for kind in ("exposure", "notification"):
        (page,) = out.glob(f"{kind}-*.html")
        assert not any(name in page.read_text() for name in names.values()), "names are in the CSV only"
        assert next(out.glob(f"{kind}-*.pdf")).read_bytes().startswith(b"%PDF")
    found = json.loads(report("exposure", "dr.martin", "--json").stdout)
    assert (found["identified"], found["estimated"]) == (20, 5)
    incident = json.loads(report("incident", "dr.martin", "--json").stdout)
    assert [s["source"] for s in incident["sources"]] == ["127.0.0.1"]
    review = json.loads(report("access-review", "--dsn-file", str(tmp_path / "dsn"), "--json").stdout)
    assert [a["patients"] for a in review["accounts"] if a["principal"] == "dr.martin"] == [20]
    assert ["dr.martin", "public.sejour"] in review["grants"]
    assert ["dr.martin", "public.patient"] not in review["grants"]
