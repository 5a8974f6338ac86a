"""The canary of a drill on MySQL and MariaDB: lab/canary.py's functions, with the same promises.

A database has no comment there: the marker is its table's. An account's rights are read from SHOW GRANTS, and nothing but the
one SELECT may be among them.
"""

from __future__ import annotations

import re
import time
from typing import Any

import pymysql

from ..errors import DrillAborted
from ..runtime import mysql
from ..runtime.clock import now_ms
from .canary import FIRST_ID, MARKER, PAGE, SCHEMA, WITNESS, Extraction

Error = pymysql.MySQLError
CODE = "error"
BATCH = 2_000
_OWN = ("information_schema", "performance_schema", "mysql", "sys")


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def code_of(error: BaseException) -> str:
    """The server's number."""
    return str(error.args[0]) if error.args and isinstance(error.args[0], int) else type(error).__name__


def user_of(dsn: str) -> str:
    """Raises ValueError."""
    return str(mysql.arguments(dsn)["user"])


def at(dsn: str, *, user: str = "", host: str = "", port: int = 0) -> str:
    """The same connection string with these parts replaced."""
    return mysql.changed(dsn, user=user, host=host, port=port)


def new_dsn(admin: str, account: str, password: str) -> str:
    """The canary's, from the administrator's."""
    return mysql.changed(admin, user=account, password=password, database=SCHEMA)


def try_login(dsn: str) -> str:
    """The server's number that refuses a fresh login, or empty when it works."""
    try:
        with mysql.connect(dsn) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return ""
    except (Error, OSError) as error:
        return code_of(error)


def set_up(admin_dsn: str, account: str, password: str, count: int, table: str, column: str, hook_role: str) -> None:
    """`hook_role` is PostgreSQL's matter: the hook's procedures reach every ordinary account. Raises DrillAborted, Error."""
    with mysql.connect(admin_dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT table_comment FROM information_schema.tables WHERE table_schema = %s", (SCHEMA,))
        comments = {str(row[0]) for row in cursor.fetchall()}
        cursor.execute("SELECT count(*) FROM information_schema.schemata WHERE schema_name = %s", (SCHEMA,))
        if (cursor.fetchone()[0] and not comments) or comments - {MARKER}:
            raise DrillAborted(f"the database {SCHEMA} is somebody else's: it is left as it is")
        name = f"{_quoted(SCHEMA)}.{_quoted(table)}"
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS {_quoted(SCHEMA)} CHARACTER SET utf8mb4")
        cursor.execute(f"DROP TABLE IF EXISTS {name}")
        cursor.execute(
            f"CREATE TABLE {name} ({_quoted(column)} BIGINT PRIMARY KEY, nom VARCHAR(60) NOT NULL, prenom VARCHAR(60) NOT NULL, "
            "naissance DATE NOT NULL) COMMENT = %s",
            (MARKER,),
        )
        for first in range(1, count + 1, BATCH):
            cursor.executemany(
                f"INSERT INTO {name} VALUES (%s, %s, 'Fictif', DATE_ADD('1900-01-01', INTERVAL %s DAY))",  # noqa: S608
                [(FIRST_ID + n, f"CANARI-{n}", n % 30_000) for n in range(first, min(first + BATCH, count + 1))],
            )
        for who in (account, account + WITNESS):
            cursor.execute("CREATE USER IF NOT EXISTS %s@'%%' IDENTIFIED BY %s", (who, password))
            cursor.execute(
                "ALTER USER %s@'%%' IDENTIFIED BY %s WITH MAX_USER_CONNECTIONS 5 ACCOUNT UNLOCK", (who, password)
            )
            cursor.execute("REVOKE ALL PRIVILEGES, GRANT OPTION FROM %s@'%%'", (who,))
        cursor.execute(f"GRANT SELECT ON {name} TO %s@'%%'", (account,))
        # The witness must be able to name the database in its login.
        cursor.execute(f"GRANT SELECT ({_quoted(column)}) ON {name} TO %s@'%%'", (account + WITNESS,))


def check(dsn: str, table: str) -> int:
    """How many canaries there are, when the account can do nothing but read them. Raises DrillAborted, Error."""
    with mysql.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW GRANTS")
        name = re.escape(f"{_quoted(SCHEMA)}.{_quoted(table)}")
        for (grant,) in cursor.fetchall():
            if not re.match(rf"GRANT (?:USAGE ON \*\.\*|SELECT ON {name}) TO ", grant) or "GRANT OPTION" in grant:
                raise DrillAborted(
                    "the canary account has rights beyond reading the canaries: it must have no other grant"
                )
        cursor.execute("SELECT table_schema, table_name, table_comment FROM information_schema.tables")
        seen = [row for row in cursor.fetchall() if row[0].lower() not in _OWN]
        others = [f"{schema}.{one}" for schema, one, _ in seen if (schema, one) != (SCHEMA, table)]
        if others:
            raise DrillAborted(
                f"the canary account can read {others[0]} and {len(others) - 1} more: revoke that (perhaps it is granted to PUBLIC)"
            )
        if not seen or seen[0][2] != MARKER:
            raise DrillAborted(f"the database {SCHEMA} is not a drill's: run `exfilguard drill --setup` first")
        cursor.execute(f"SELECT count(*) FROM {_quoted(SCHEMA)}.{_quoted(table)}")  # noqa: S608
        return int(cursor.fetchone()[0])


def extract(dsn: str, table: str, column: str, max_rows: int, max_seconds: float, pause_s: float = 0.02) -> Extraction:
    """Page through the canaries until somebody stops it, or the drill's own limit does. Raises DrillAborted."""
    out = Extraction(started_ms=now_ms())
    deadline = time.monotonic() + max_seconds
    name = _quoted(column)
    query = f"SELECT {name}, nom, prenom FROM {_quoted(SCHEMA)}.{_quoted(table)} WHERE {name} > %s ORDER BY {name} LIMIT {PAGE}"  # noqa: S608
    last: Any = 0
    try:
        with mysql.connect(dsn) as connection:
            while not out.limit_reached(max_rows, time.monotonic() > deadline):
                with connection.cursor(pymysql.cursors.SSCursor) as cursor:
                    cursor.execute(query, (last,))
                    found = 0
                    for row in cursor:
                        last, found = int(row[0]), found + 1
                        out.took(last)
                if found < PAGE:
                    out.limited = "rows"
                    break
                time.sleep(pause_s)
    except (Error, OSError) as error:
        out.sqlstate = code_of(error)
    out.ended_ms = now_ms()
    return out
