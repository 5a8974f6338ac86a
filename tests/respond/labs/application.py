"""An application's own tables: GNU Health's, and Mediboard's form."""

from __future__ import annotations

import secrets
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from exfilguard.config.load import parse_config
from exfilguard.respond.application import ApplicationHook
from exfilguard.respond.hook import Settings, SuspendHook

from .lab import DEPLOY, HOOK_PASSWORD, OldSession
from .mysql import MariadbLab, mariadb_script
from .postgres import PostgresLab


class GnuHealthLab(PostgresLab):
    """Tryton's two tables, in the shape and with the constraints that matter here, and its way to log in."""

    name = "gnuhealth"
    max_name_bytes = 200

    def start(self) -> None:
        self.server.start()
        with self.admin() as admin:
            admin.execute("CREATE DATABASE ghealth")
        with self.ghealth() as database:
            database.execute(
                """CREATE TABLE res_user (id serial PRIMARY KEY, login varchar UNIQUE, password_hash varchar,
                                          active boolean NOT NULL DEFAULT true);
                   CREATE TABLE ir_session (id serial PRIMARY KEY, create_uid integer, key varchar, create_date timestamp)"""
            )
        self._run(DEPLOY / "applications" / "gnuhealth.sql", "ghealth")

    def ghealth(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.server.dsn("postgres", self.server.password, "ghealth"), autocommit=True)

    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        dsn = self.server.dsn("exfilguard_gnuhealth", settings.pop("password", HOOK_PASSWORD), "ghealth", port=port)
        return _template("gnuhealth.toml", {"gnuhealth-hook.dsn": dsn}, Settings(**settings))

    def create(self, account: str) -> None:
        with self.ghealth() as database:
            database.execute("INSERT INTO res_user (login, password_hash) VALUES (%s, 'x')", (account,))

    def disable(self, account: str) -> None:
        with self.ghealth() as database:
            database.execute("UPDATE res_user SET active = false WHERE login = %s", (account,))

    def enable(self, account: str) -> None:
        with self.ghealth() as database:
            database.execute("UPDATE res_user SET active = true WHERE login = %s", (account,))

    def login(self, account: str) -> OldSession | None:
        key = secrets.token_hex(8)
        with self.ghealth() as database:
            made = database.execute(
                "INSERT INTO ir_session (create_uid, key) SELECT id, %s FROM res_user WHERE login = %s AND active RETURNING id",
                (key, account),
            ).fetchone()
        return _Row(self.ghealth, "SELECT 1 FROM ir_session WHERE key = %s", key) if made else None


class MediboardLab(MariadbLab):
    """A PHP application's two tables on MariaDB."""

    name = "mediboard"
    max_name_bytes = 200

    def start(self) -> None:
        self.server.start()
        with self.server.connect() as admin, admin.cursor() as cursor:
            for statement in (
                "CREATE DATABASE dpi CHARACTER SET utf8mb4",
                "CREATE TABLE dpi.users (user_id INT PRIMARY KEY AUTO_INCREMENT, login VARCHAR(255) UNIQUE, hash VARCHAR(99),"
                " actif TINYINT NOT NULL DEFAULT 1) COLLATE utf8mb4_bin",
                "CREATE TABLE dpi.sessions (id INT PRIMARY KEY AUTO_INCREMENT, user_id INT, jeton VARCHAR(99))",
            ):
                cursor.execute(statement)
        mariadb_script(self.server, (DEPLOY / "applications" / "mediboard-like.sql").read_text(encoding="utf-8"))
        with self.server.connect() as admin, admin.cursor() as cursor:
            cursor.execute("ALTER USER exfilguard_dpi@'%%' IDENTIFIED BY %s", (HOOK_PASSWORD,))

    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        files = {"dpi-hook.password": settings.pop("password", HOOK_PASSWORD)}
        return _template("mediboard-like.toml", files, Settings(**settings), address=f"127.0.0.1:{port}")

    def create(self, account: str, host: str = "") -> None:
        with self.server.connect() as admin, admin.cursor() as cursor:
            cursor.execute("INSERT INTO dpi.users (login) VALUES (%s)", (account,))

    def disable(self, account: str, host: str = "") -> None:
        with self.server.connect() as admin, admin.cursor() as cursor:
            cursor.execute("UPDATE dpi.users SET actif = 0 WHERE login = %s", (account,))

    def enable(self, account: str, host: str = "") -> None:
        with self.server.connect() as admin, admin.cursor() as cursor:
            cursor.execute("UPDATE dpi.users SET actif = 1 WHERE login = %s", (account,))

    def login(self, account: str) -> OldSession | None:
        key = secrets.token_hex(8)
        with self.server.connect() as admin, admin.cursor() as cursor:
            made = cursor.execute(
                "INSERT INTO dpi.sessions (user_id, jeton) SELECT user_id, %s FROM dpi.users WHERE login = %s AND actif",
                (key, account),
            )
        return _Row(self.server.connect, "SELECT 1 FROM dpi.sessions WHERE jeton = %s", key) if made else None


class _Row:
    """An application's session: alive while its row is there."""

    def __init__(self, connect: Callable[[], Any], query: str, key: str) -> None:
        self._connect, self._query, self._key = connect, query, key

    def alive(self) -> bool:
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(self._query, (self._key,))
            return cursor.fetchone() is not None


def _template(name: str, files: dict[str, str], settings: Settings, **changes: Any) -> SuspendHook[Any]:
    """The hook of a file in deploy/applications, read as the responder reads it."""
    import tempfile
    from dataclasses import replace

    text = (DEPLOY / "applications" / name).read_text(encoding="utf-8")
    assert tomllib.loads(text)
    with tempfile.TemporaryDirectory() as base:
        for file, value in files.items():
            (Path(base) / file).write_text(value, encoding="utf-8")
        config = parse_config(text, name, Path(base), {})
    return ApplicationHook(replace(config.responder.application[0], **changes), settings)
