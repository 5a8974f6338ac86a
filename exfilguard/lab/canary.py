"""The canary of a drill: synthetic patients in a schema of their own, and an account that can read nothing else.

Safe by construction: identifiers that no patient has, a marker without which nothing is touched, an account whose rights are
checked before each drill, a bound on rows and on time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from ..errors import DrillAborted
from ..runtime.clock import now_ms
from .attack import try_login as try_login

SCHEMA = "exfilguard_drill"
MARKER = "exfilguard drill: synthetic patients only"
FIRST_ID = 9_000_000_000_000
"""No record system numbers its patients so."""
WITNESS = "_witness"
"""The second account: it must not notice the drill."""
PAGE = 250

Error = psycopg.Error
CODE = "SQLSTATE"

_READABLE = """
SELECT n.nspname, c.relname
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND has_schema_privilege(current_user, n.oid, 'USAGE') AND has_any_column_privilege(current_user, c.oid, 'SELECT')
"""
_RIGHTS = """
SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls,
       (SELECT count(*) FROM pg_auth_members AS m WHERE m.member = r.oid)
  FROM pg_roles AS r WHERE rolname = current_user
"""


def code_of(error: BaseException) -> str:
    """The SQLSTATE."""
    return getattr(error, "sqlstate", None) or type(error).__name__


def user_of(dsn: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(dsn).get("user", ""))


def at(dsn: str, *, user: str = "", host: str = "", port: int = 0) -> str:
    """The same connection string with these parts replaced."""
    parts: dict[str, Any] = {"user": user, "host": host, "port": port}
    return psycopg.conninfo.make_conninfo(dsn, **{name: value for name, value in parts.items() if value})


def new_dsn(admin: str, account: str, password: str) -> str:
    """The canary's, from the administrator's."""
    known = {k: v for k, v in psycopg.conninfo.conninfo_to_dict(admin).items() if k not in ("user", "password")}
    return psycopg.conninfo.make_conninfo("", **{**known, "user": account, "password": password})


def set_up(admin_dsn: str, account: str, password: str, count: int, table: str, column: str, hook_role: str) -> None:
    """Create schema, table, patients, account and witness; again and again to the same end. Raises DrillAborted, psycopg.Error."""
    with psycopg.connect(admin_dsn, connect_timeout=10, application_name="exfilguard-drill") as connection:
        execute = connection.execute
        found = execute(
            "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s", (SCHEMA,)
        ).fetchone()
        if found is not None and found[0] != MARKER:
            raise DrillAborted(f"the schema {SCHEMA} is somebody else's: it is left as it is")
        if found is None:
            execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
            execute(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(SCHEMA), sql.Literal(MARKER)))
        name = sql.Identifier(SCHEMA, table)
        execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
        execute(
            sql.SQL(
                "CREATE TABLE {} ({} bigint PRIMARY KEY, nom text NOT NULL, prenom text NOT NULL, naissance date NOT NULL)"
            ).format(name, sql.Identifier(column))
        )
        execute(
            sql.SQL(
                "INSERT INTO {} SELECT {} + n, 'CANARI-' || n, 'Fictif', date '1900-01-01' + (n % 30000)::int "
                "FROM generate_series(1, {}) AS n"
            ).format(name, sql.Literal(FIRST_ID), sql.Literal(count))
        )
        for who in (account, account + WITNESS):
            role = sql.Identifier(who)
            exists = execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (who,)).fetchone()
            verb = "ALTER" if exists else "CREATE"
            options = (
                "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD {} CONNECTION LIMIT 5"
            )
            execute(sql.SQL(f"{verb} ROLE {{}} " + options).format(role, sql.Literal(password)))
            execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(SCHEMA), role))
        execute(sql.SQL("GRANT SELECT ON {} TO {}").format(name, sql.Identifier(account)))
        if hook_role:
            grant = sql.SQL("GRANT {} TO {} WITH ADMIN OPTION")
            if connection.info.server_version >= 160000:
                grant = sql.SQL("GRANT {} TO {} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
            execute(grant.format(sql.Identifier(account), sql.Identifier(hook_role)))
        connection.commit()


def check(dsn: str, table: str) -> int:
    """How many canaries there are, when the account can do nothing but read them. Raises DrillAborted, psycopg.Error."""
    with psycopg.connect(dsn, connect_timeout=10, application_name="exfilguard-drill", autocommit=True) as connection:
        rights = connection.execute(_RIGHTS).fetchone()
        if rights is None or rights[0]:
            raise DrillAborted("the canary account has rights beyond reading: it must be an ordinary role")
        if rights[1]:
            raise DrillAborted("the canary account is a member of other roles: revoke them")
        others = [f"{s}.{t}" for s, t in connection.execute(_READABLE).fetchall() if (s, t) != (SCHEMA, table)]
        if others:
            raise DrillAborted(
                f"the canary account can read {others[0]} and {len(others) - 1} more: revoke that (perhaps it is granted to PUBLIC)"
            )
        marker = connection.execute(
            "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s", (SCHEMA,)
        ).fetchone()
        if marker is None or marker[0] != MARKER:
            raise DrillAborted(f"the schema {SCHEMA} is not a drill's: run `exfilguard drill --setup` first")
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(SCHEMA, table))).fetchone()
        return int(row[0]) if row is not None else 0


@dataclass(slots=True)
class Extraction:
    """What the canary's own connection received, and when."""

    started_ms: int = 0
    ended_ms: int = 0
    received: set[int] = field(default_factory=set)
    arrivals: list[tuple[int, int]] = field(default_factory=list)
    """(time, distinct patients so far), one entry a page."""
    sqlstate: str = ""
    """Or the server's error number, on MySQL."""
    limited: str = ""
    """Why the drill itself stopped, when nobody else did."""

    def limit_reached(self, max_rows: int, late: bool) -> bool:
        """True when the drill's own bounds allow no further page."""
        if len(self.received) + PAGE > max_rows or late:
            self.limited = "time" if late else "rows"
        return bool(self.limited)

    def took(self, patient: int) -> None:
        """Raises DrillAborted for what is no canary."""
        if patient <= FIRST_ID:
            raise DrillAborted("a row that is no canary came back: stopped at once, look at the table")
        self.received.add(patient)
        now = now_ms()
        if not self.arrivals or self.arrivals[-1][0] != now:
            self.arrivals.append((now, len(self.received)))
        else:
            self.arrivals[-1] = (now, len(self.received))

    def crossed_ms(self, limit: int) -> int:
        """When it first held more than `limit`; 0 when never."""
        return next((at for at, count in self.arrivals if count > limit), 0)


def extract(dsn: str, table: str, column: str, max_rows: int, max_seconds: float, pause_s: float = 0.02) -> Extraction:
    """Page through the canaries until somebody stops it, or the drill's own limit does. Raises DrillAborted."""
    out = Extraction(started_ms=now_ms())
    deadline = time.monotonic() + max_seconds
    query = sql.SQL("SELECT {c}, nom, prenom FROM {t} WHERE {c} > %s ORDER BY {c} LIMIT {n}").format(
        c=sql.Identifier(column), t=sql.Identifier(SCHEMA, table), n=sql.Literal(PAGE)
    )
    last: Any = 0
    try:
        with psycopg.connect(
            dsn, connect_timeout=10, application_name="exfilguard-drill", autocommit=True
        ) as connection:
            while not out.limit_reached(max_rows, time.monotonic() > deadline):
                found = 0
                for row in connection.cursor().stream(query, (last,)):
                    last, found = row[0], found + 1
                    out.took(last)
                if found < PAGE:
                    out.limited = "rows"
                    break
                time.sleep(pause_s)
    except psycopg.Error as error:
        out.sqlstate = error.sqlstate or "08006"
    out.ended_ms = now_ms()
    return out
