"""A throw-away MariaDB for the tests and the benches, from the system's `mariadb-server` (or another installation).

Durability is off: its data is synthetic and temporary. MariaDB refuses to run as root; started by root, it runs as `mysql` or
`nobody`.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pymysql

from ..errors import EmbeddedError
from .child import Child, free_port, is_root, port_is_taken

START_S = 60.0
ADMIN = "exfilguard_admin"

_SETTINGS = {
    "innodb-flush-log-at-trx-commit": "0",
    "innodb-flush-method": "nosync",
    "innodb-buffer-pool-size": "64M",
    "innodb-log-file-size": "48M",
    "max-connections": "300",
    "max-allowed-packet": "256M",
    "local-infile": "1",
    "character-set-server": "utf8mb4",
}


def missing_programs(installation: Path | None = None) -> str:
    """Which program is not there; empty when all are."""
    for name in ("mariadbd", "mariadb-install-db"):
        if _program(name, installation) is None:
            return f"{name} (apt install mariadb-server)"
    return ""


def _program(name: str, installation: Path | None) -> str | None:
    if installation is None:
        return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    for folder in ("bin", "scripts"):
        if (installation / folder / name).is_file():
            return str(installation / folder / name)
    return None


class EmbeddedMariadb:
    """One server in `data_dir`, which must be empty or missing, and reachable for the user it runs as."""

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        installation: Path | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.port = port or free_port()
        self._settings = {**_SETTINGS, **(settings or {})}
        self._installation = installation
        self.password = secrets.token_urlsafe(24)
        """Of the account ADMIN, which may do everything."""
        self._child = Child("the embedded MariaDB", data_dir / "server.log")
        self._account: pwd.struct_passwd | None = None

    @property
    def socket_path(self) -> Path:
        """The Unix socket."""
        return self.data_dir / "mariadb.sock"

    @property
    def alive(self) -> bool:
        return self._child.alive

    @property
    def pid(self) -> int:
        return self._child.pid

    def connect(self, user: str = ADMIN, password: str | None = None, **options: Any) -> pymysql.Connection[Any]:
        """A PyMySQL connection straight to the server."""
        known = {"host": "127.0.0.1", "port": self.port, "autocommit": True, "connect_timeout": 5, **options}
        return pymysql.connect(user=user, password=self.password if password is None else password, **known)

    def start(self) -> None:
        """Creates the data and returns when the server answers. Raises EmbeddedError."""
        if missing := missing_programs(self._installation):
            raise EmbeddedError(f"MariaDB is not installed: {missing}")
        if port_is_taken(self.port):
            raise EmbeddedError(f"port {self.port} is in use: stop what listens there or choose another port")
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if is_root():
            self._account = _unprivileged()
            os.chown(self.data_dir, self._account.pw_uid, self._account.pw_gid)
        data = self.data_dir / "data"
        if not data.is_dir():
            self._install(data)
        init = self.data_dir / "init.sql"
        descriptor = os.open(init, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(
                f"CREATE OR REPLACE USER {ADMIN}@'127.0.0.1' IDENTIFIED BY '{self.password}';\n"
                f"GRANT ALL PRIVILEGES ON *.* TO {ADMIN}@'127.0.0.1' WITH GRANT OPTION;\n"
            )
        if self._account is not None:
            os.chown(init, self._account.pw_uid, self._account.pw_gid)
        program = _program("mariadbd", self._installation)
        basedir = [] if self._installation is None else [f"--basedir={self._installation}"]
        settings = {
            **self._settings,
            "datadir": str(data),
            "port": str(self.port),
            "bind-address": "127.0.0.1",
            "socket": str(self.socket_path),
            "pid-file": str(self.data_dir / "mariadb.pid"),
            "init-file": str(init),
            "tmpdir": str(self.data_dir),
        }
        flags = [f"--{name}={value}" if value else f"--{name}" for name, value in settings.items()]
        self._child.start([str(program), "--no-defaults", *basedir, *flags], **self._as_user())
        self._child.wait_until(self._ready, START_S)
        init.unlink()

    def _as_user(self) -> dict[str, Any]:
        return {} if self._account is None else {"user": self._account.pw_uid, "group": self._account.pw_gid}

    def _install(self, data: Path) -> None:
        program = _program("mariadb-install-db", self._installation)
        basedir = [] if self._installation is None else [f"--basedir={self._installation}"]
        done = subprocess.run(
            [
                str(program), "--no-defaults", *basedir, f"--datadir={data}", "--skip-test-db",
                f"--tmpdir={self.data_dir}",
                "--auth-root-authentication-method=normal", "--innodb-log-file-size=48M",
            ],
            capture_output=True, text=True, timeout=120, check=False, cwd=self.data_dir, **self._as_user(),
        )  # fmt: skip
        if done.returncode:
            raise EmbeddedError(f"mariadb-install-db failed: {(done.stderr or done.stdout).strip()[-300:]}")

    def _ready(self) -> bool:
        try:
            self.connect().close()
        except (pymysql.MySQLError, OSError):
            return False
        return True

    def stop(self) -> None:
        self._child.stop(grace_s=20.0)

    def kill(self) -> None:
        self._child.kill()

    def __enter__(self) -> EmbeddedMariadb:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()


def _unprivileged() -> pwd.struct_passwd:
    for name in ("mysql", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EmbeddedError("MariaDB does not run as root and this machine has neither mysql nor nobody: use another user")
