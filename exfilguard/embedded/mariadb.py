"""A throw-away MariaDB for the tests and the benches, from the system's `mariadb-server` (or another installation).

Durability is off: its data is synthetic and temporary. MariaDB refuses to run as root; started by root, it runs as `mysql` or
`nobody`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pymysql

from ..errors import EmbeddedError
from .server import EmbeddedServer

ADMIN = "exfilguard_admin"
INIT = "init.sql"

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


class EmbeddedMariadb(EmbeddedServer):
    """See EmbeddedServer. `installation`: another than the system's."""

    name = "MariaDB"
    start_s = 60.0
    stop_s = 20.0
    accounts: tuple[str, ...] = ("mysql", "nobody")
    default_settings = _SETTINGS

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        installation: Path | None = None,
    ) -> None:
        super().__init__(data_dir, port, settings)
        self._installation = installation

    @property
    def socket_path(self) -> Path:
        """The Unix socket."""
        return self.data_dir / "mariadb.sock"

    def connect(self, user: str = ADMIN, password: str | None = None, **options: Any) -> pymysql.Connection[Any]:
        """A PyMySQL connection straight to the server."""
        known = {"host": "127.0.0.1", "port": self.port, "autocommit": True, "connect_timeout": 5, **options}
        return pymysql.connect(user=user, password=self.password if password is None else password, **known)

    def start(self) -> None:
        """Raises EmbeddedError."""
        if missing := missing_programs(self._installation):
            raise EmbeddedError(f"MariaDB is not installed: {missing}")
        super().start()
        (self.data_dir / INIT).unlink()

    def prepare(self) -> tuple[list[str], Mapping[str, str] | None]:
        data = self.data_dir / "data"
        if not data.is_dir():
            self._install(data)
        basedir = [] if self._installation is None else [f"--basedir={self._installation}"]
        argv = [str(_program("mariadbd", self._installation)), "--no-defaults", *basedir]
        return [*argv, *self.flags("CREATE OR REPLACE USER")], None

    def flags(self, create: str) -> list[str]:
        """Of the server; it makes the account ADMIN at its start. `create`: its words for an account that may be there."""
        init = self.secret_file(
            INIT,
            f"{create} {ADMIN}@'127.0.0.1' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO {ADMIN}@'127.0.0.1' WITH GRANT OPTION;\n",
        )
        settings = {
            **self._settings,
            "datadir": str(self.data_dir / "data"),
            "port": str(self.port),
            "bind-address": "127.0.0.1",
            "socket": str(self.socket_path),
            "pid-file": str(self.data_dir / "server.pid"),
            "init-file": str(init),
            "tmpdir": str(self.data_dir),
        }
        return [f"--{name}={value}" if value else f"--{name}" for name, value in settings.items()]

    def _install(self, data: Path) -> None:
        program = _program("mariadb-install-db", self._installation)
        basedir = [] if self._installation is None else [f"--basedir={self._installation}"]
        done = subprocess.run(
            [
                str(program), "--no-defaults", *basedir, f"--datadir={data}", "--skip-test-db",
                f"--tmpdir={self.data_dir}",
                "--auth-root-authentication-method=normal", "--innodb-log-file-size=48M",
            ],
            capture_output=True, text=True, timeout=120, check=False, cwd=self.data_dir, **self.as_user(),
        )  # fmt: skip
        if done.returncode:
            raise EmbeddedError(f"mariadb-install-db failed: {(done.stderr or done.stdout).strip()[-300:]}")

    def ready(self) -> bool:
        try:
            self.connect().close()
        except (pymysql.MySQLError, OSError, RuntimeError):
            return False
        return True
