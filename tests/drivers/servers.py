"""The servers the drivers are proved against, and what tells whether a scenario left the same behind."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import psycopg
import pytest

from exfilguard.embedded.postgres import EmbeddedPostgres

DATABASE = "care"
USER = "app"
PASSWORD = "an account of the tests"
SETUP = (Path(__file__).parent / "care.sql").read_text(encoding="utf-8")


def bin_dir(version: str) -> Path | None:
    """Programs of a major version: 18 comes with the package, 15 from Debian, 16 from PyPI's pgserver (tests only)."""
    if version == "18":
        return None
    if version == "16":
        spec = importlib.util.find_spec("pgserver")
        if spec is None or spec.origin is None:
            pytest.skip("PostgreSQL 16: pip install pgserver")
        return Path(spec.origin).parent / "pginstall" / "bin"
    found = Path(f"/usr/lib/postgresql/{version}/bin")
    if not found.is_dir():
        pytest.skip(f"PostgreSQL {version}: apt install postgresql-{version}")
    return found


class Server:
    """One PostgreSQL with the database `care`."""

    def __init__(self, version: str, directory: Path) -> None:
        self.version = version
        self.postgres = EmbeddedPostgres(directory / f"server-{version}", bin_dir=bin_dir(version))
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
