"""Connection strings of MySQL and MariaDB: `mysql://user:password@host:port/database?ssl_ca=FILE`, percent-encoded where needed."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

PORT = 3306
TIMEOUT_S = 10


def is_mysql(dsn: str) -> bool:
    """False: it is PostgreSQL's."""
    return dsn.startswith(("mysql://", "mariadb://"))


def arguments(dsn: str) -> dict[str, Any]:
    """For pymysql.connect. Raises ValueError."""
    address = urlsplit(dsn)
    out: dict[str, Any] = {
        "host": address.hostname or "127.0.0.1",
        "port": address.port or PORT,
        "user": unquote(address.username or ""),
        "password": unquote(address.password or ""),
        "connect_timeout": TIMEOUT_S,
    }
    if database := address.path.strip("/"):
        out["database"] = unquote(database)
    if files := parse_qs(address.query).get("ssl_ca"):
        out["ssl"] = {"ca": files[0]}
    return out


def connect(dsn: str, **options: Any) -> Any:
    """A pymysql connection, autocommit, utf8mb4. Raises pymysql.MySQLError, ValueError."""
    import pymysql  # not for processes that never connect

    return pymysql.connect(**{"autocommit": True, "charset": "utf8mb4", **arguments(dsn), **options})


def changed(dsn: str, *, user: str = "", password: str = "", host: str = "", port: int = 0, database: str = "") -> str:
    """The same with these parts replaced."""
    known, address = arguments(dsn), urlsplit(dsn)
    who = f"{quote(user or known['user'], safe='')}:{quote(password or known['password'], safe='')}"
    name = host or known["host"]
    where = f"[{name}]:{port or known['port']}" if ":" in name else f"{name}:{port or known['port']}"
    path = f"/{quote(database, safe='')}" if database else address.path
    return urlunsplit((address.scheme, f"{who}@{where}", path, address.query, ""))
