"""Which accounts may read which tables of patients, as the database's catalog says."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, TypeAlias

from ..config.schema import Config
from ..errors import EvidenceError
from ..runtime import mysql

_POSTGRES = """
SELECT r.rolname, n.nspname || '.' || c.relname
  FROM pg_roles AS r, pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE r.rolcanlogin AND NOT r.rolsuper AND c.relkind IN ('r', 'p', 'v', 'm')
   AND lower(c.relname) = ANY(%(tables)s) AND n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND has_any_column_privilege(r.oid, c.oid, 'SELECT')
 ORDER BY 1, 2
"""

_MYSQL = """
SELECT GRANTEE, TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLE_PRIVILEGES WHERE PRIVILEGE_TYPE = 'SELECT'
UNION SELECT GRANTEE, TABLE_SCHEMA, TABLE_NAME FROM information_schema.COLUMN_PRIVILEGES WHERE PRIVILEGE_TYPE = 'SELECT'
UNION SELECT p.GRANTEE, t.TABLE_SCHEMA, t.TABLE_NAME
        FROM information_schema.SCHEMA_PRIVILEGES AS p JOIN information_schema.TABLES AS t ON t.TABLE_SCHEMA LIKE p.TABLE_SCHEMA
       WHERE p.PRIVILEGE_TYPE = 'SELECT'
UNION SELECT p.GRANTEE, t.TABLE_SCHEMA, t.TABLE_NAME
        FROM information_schema.USER_PRIVILEGES AS p JOIN information_schema.TABLES AS t
       WHERE p.PRIVILEGE_TYPE = 'SELECT'
"""

# role, who has it, and whether nobody can log in as the role. MySQL's roles are accounts that were made locked.
_ROLES_MARIADB = "SELECT Role, '', User, Host, TRUE FROM mysql.roles_mapping"
_ROLES_MYSQL = """
SELECT e.FROM_USER, e.FROM_HOST, e.TO_USER, e.TO_HOST, COALESCE(u.account_locked = 'Y', TRUE)
  FROM mysql.role_edges AS e LEFT JOIN mysql.user AS u ON u.User = e.FROM_USER AND u.Host = e.FROM_HOST
"""

Account: TypeAlias = tuple[str, str]
"""User and host; MariaDB's roles have no host."""


def may_read(dsn: str, config: Config) -> dict[str, list[str]]:
    """account -> tables of patients it may read, of itself or by a role. Raises EvidenceError."""
    tables = {column.lower().split(".")[-2] for one in config.listener for column in one.patient_columns}
    return (_of_mysql if mysql.is_mysql(dsn) else _of_postgres)(dsn, tables)


def _of_postgres(dsn: str, tables: Collection[str]) -> dict[str, list[str]]:
    import psycopg

    try:
        with psycopg.connect(dsn, connect_timeout=10, application_name="exfilguard-report") as connection:
            out: dict[str, list[str]] = {}
            for role, table in connection.execute(_POSTGRES, {"tables": sorted(tables)}).fetchall():
                out.setdefault(role, []).append(table)
            return out
    except psycopg.Error as error:
        raise _unreadable(error.sqlstate or type(error).__name__) from None


def _of_mysql(dsn: str, tables: Collection[str]) -> dict[str, list[str]]:
    """By user, of all its hosts."""
    import pymysql

    try:
        with mysql.connect(dsn, program_name="exfilguard-report") as connection, connection.cursor() as cursor:
            cursor.execute(_MYSQL)
            granted: dict[Account, set[str]] = {}
            for grantee, schema, table in cursor.fetchall():
                if table.lower() in tables:
                    granted.setdefault(_account(grantee), set()).add(f"{schema}.{table}")
            mariadb = "mariadb" in connection.get_server_info().lower()
            cursor.execute(_ROLES_MARIADB if mariadb else _ROLES_MYSQL)
            roles = cursor.fetchall()
    except (pymysql.MySQLError, OSError, ValueError) as error:
        number = error.args[0] if error.args and isinstance(error.args[0], int) else type(error).__name__
        raise _unreadable(number, "; it needs SELECT on the schema mysql, for who has which role") from None
    inherit(granted, (((role, at), (user, host)) for role, at, user, host, _ in roles))
    nobody = {(role, at) for role, at, _, _, closed in roles if closed}
    out: dict[str, set[str]] = {}
    for account, found in granted.items():
        if account not in nobody:
            out.setdefault(account[0], set()).update(found)
    return {user: sorted(found) for user, found in sorted(out.items())}


def inherit(granted: dict[Account, set[str]], roles: Iterable[tuple[Account, Account]]) -> None:
    """Adds to each account what its roles may read, and theirs; `roles`: (role, who has it)."""
    edges = list(roles)
    grown = True
    while grown:
        grown = False
        for role, member in edges:
            more = granted.get(role, set()) - granted.get(member, set())
            if more:
                granted.setdefault(member, set()).update(more)
                grown = True


def _account(grantee: str) -> Account:
    """`'user'@'host'` of the information schema, quotes doubled inside."""
    user, _, host = grantee.rpartition("@")
    return user[1:-1].replace("''", "'"), host[1:-1]


def _unreadable(code: Any, more: str = "") -> EvidenceError:
    return EvidenceError(f"the catalog cannot be read ({code}): check --dsn-file{more}")
