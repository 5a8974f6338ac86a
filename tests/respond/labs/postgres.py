"""PostgreSQL."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from exfilguard.config.responder import (
    PostgresHookConfig,
)
from exfilguard.embedded.postgres import EmbeddedPostgres
from exfilguard.respond.hook import Settings, SuspendHook
from exfilguard.respond.postgres import PostgresHook

from .lab import DEPLOY, HOOK_PASSWORD, PASSWORD, OldSession, ServerLab, Sql


class PostgresLab(ServerLab):
    name = "postgres"
    sessions = True
    max_name_bytes = 63

    def __init__(self, directory: Path) -> None:
        # On disk when it is acknowledged: `kill -9` must not undo what a hook was told.
        self.server = EmbeddedPostgres(directory / "postgres", settings={"synchronous_commit": "on"})

    def start(self) -> None:
        self.server.start()
        self.grants()

    def grants(self) -> None:
        """What the pages tell an administrator to run."""
        self._run(DEPLOY / "postgres" / "hook.sql", "postgres")

    def _run(self, script: Path, database: str) -> None:
        dsn = psycopg.conninfo.make_conninfo(self.server.admin_dsn, dbname=database)
        command = [
            self.server.bin / "psql",
            dsn,
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            f"hook_password={HOOK_PASSWORD}",
            "-qf",
            script,
        ]
        done = subprocess.run(command, capture_output=True, text=True, env=_clean(), check=False)
        assert done.returncode == 0, done.stderr

    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        dsn = self.server.dsn("exfilguard_hook", settings.pop("password", HOOK_PASSWORD), port=port)
        return PostgresHook(PostgresHookConfig(dsn=dsn), Settings(**settings))

    def admin(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.server.admin_dsn, autocommit=True)

    def create(self, account: str) -> None:
        role = sql.Identifier(account)
        with self.admin() as admin:
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(PASSWORD)))
            admin.execute(sql.SQL("GRANT {} TO exfilguard_hook WITH ADMIN TRUE, INHERIT FALSE, SET FALSE").format(role))

    def disable(self, account: str) -> None:
        with self.admin() as admin:
            admin.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(account)))

    def enable(self, account: str) -> None:
        with self.admin() as admin:
            admin.execute(sql.SQL("ALTER ROLE {} LOGIN").format(sql.Identifier(account)))

    def login(self, account: str) -> OldSession | None:
        try:
            return Sql(psycopg.connect(self.server.dsn(account, PASSWORD), autocommit=True, connect_timeout=5))
        except psycopg.OperationalError as error:
            if "not permitted to log in" not in str(error):
                raise
            return None


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
