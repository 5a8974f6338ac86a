"""MariaDB, and Oracle's MySQL."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pymysql

from exfilguard.config.responder import (
    MySQLHookConfig,
)
from exfilguard.embedded import mariadb, mysql
from exfilguard.embedded.mariadb import EmbeddedMariadb
from exfilguard.embedded.mysql import EmbeddedMysql
from exfilguard.respond.hook import Settings, SuspendHook
from exfilguard.respond.mysql import MySQLHook

from .lab import DEPLOY, HOOK_PASSWORD, PASSWORD, OldSession, ServerLab, Sql


def mariadb_script(server: EmbeddedMariadb, script: str) -> None:
    """As the documentation says: the server's own client, which knows DELIMITER."""
    program = shutil.which("mariadb")
    assert program is not None
    command = [
        program,
        "--no-defaults",
        "-h127.0.0.1",
        f"-P{server.port}",
        f"-u{mariadb.ADMIN}",
        "--default-character-set=utf8mb4",
    ]
    done = subprocess.run(
        command,
        input=script,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MYSQL_PWD": server.password},
    )
    assert done.returncode == 0, done.stderr


class MariadbLab(ServerLab):
    name = "mysql"
    sessions = True
    max_name_bytes = 80
    locked_errno = 4151
    """ER_ACCOUNT_HAS_BEEN_LOCKED"""
    server: EmbeddedMariadb

    def __init__(self, directory: Path) -> None:
        self.server = EmbeddedMariadb(directory / "mariadb", settings={"innodb-flush-log-at-trx-commit": "2"})

    def start(self) -> None:
        self.server.start()
        mariadb_script(self.server, (DEPLOY / "mysql" / "hook.sql").read_text(encoding="utf-8"))
        with self.server.connect() as admin, admin.cursor() as cursor:
            cursor.execute("ALTER USER exfilguard_hook@'%%' IDENTIFIED BY %s", (HOOK_PASSWORD,))

    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        config = MySQLHookConfig(address=f"127.0.0.1:{port}", password=settings.pop("password", HOOK_PASSWORD))
        return MySQLHook(config, Settings(**settings))

    def create(self, account: str, host: str = "%") -> None:
        with self.server.connect() as admin, admin.cursor() as cursor:
            cursor.execute("CREATE USER %s@%s IDENTIFIED BY %s", (account, host, PASSWORD))

    def disable(self, account: str, host: str = "%") -> None:
        with self.server.connect() as admin, admin.cursor() as cursor:
            cursor.execute("ALTER USER %s@%s ACCOUNT LOCK", (account, host))

    def enable(self, account: str, host: str = "%") -> None:
        with self.server.connect() as admin, admin.cursor() as cursor:
            cursor.execute("ALTER USER %s@%s ACCOUNT UNLOCK", (account, host))

    def login(self, account: str) -> OldSession | None:
        try:
            return Sql(self.server.connect(account, PASSWORD))
        except pymysql.OperationalError as error:
            if error.args[0] != self.locked_errno:
                raise
            return None


class MysqlLab(MariadbLab):
    """Oracle's MySQL."""

    name = "oracle-mysql"
    max_name_bytes = 32
    locked_errno = 3118

    def __init__(self, directory: Path) -> None:
        self.server = EmbeddedMysql(directory / "mysql")

    def start(self) -> None:
        self.server.start()
        command = [*mysql.client(), "-h127.0.0.1", f"-P{self.server.port}", f"-u{mariadb.ADMIN}"]
        done = subprocess.run(
            [*command, "--default-character-set=utf8mb4"],
            input=(DEPLOY / "mysql" / "hook-mysql8.sql").read_text(encoding="utf-8"),
            capture_output=True, text=True, check=False, env={**os.environ, "MYSQL_PWD": self.server.password},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with self.server.connect() as admin, admin.cursor() as cursor:
            cursor.execute("ALTER USER exfilguard_hook@'%%' IDENTIFIED BY %s ACCOUNT UNLOCK", (HOOK_PASSWORD,))

    def create(self, account: str, host: str = "%") -> None:
        if account != account.strip():
            raise ValueError("MySQL trims it: that would be another account")
        super().create(account, host)
