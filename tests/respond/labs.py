"""One laboratory a hook: the real server, its hook with the grants of deploy/, and accounts whose truth is asked of the server
itself, by logging in and by using an old session, never of the hook."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pymysql
from psycopg import sql

from exfilguard.config.load import parse_config
from exfilguard.config.responder import (
    CommandHookConfig,
    KeycloakHookConfig,
    LDAPHookConfig,
    MySQLHookConfig,
    PostgresHookConfig,
    SCIMHookConfig,
)
from exfilguard.embedded import keycloak, mariadb, mysql
from exfilguard.embedded.child import Child, free_port, is_root
from exfilguard.embedded.keycloak import EmbeddedKeycloak
from exfilguard.embedded.mariadb import EmbeddedMariadb
from exfilguard.embedded.mysql import EmbeddedMysql
from exfilguard.embedded.postgres import EmbeddedPostgres
from exfilguard.errors import EmbeddedError
from exfilguard.respond.application import ApplicationHook
from exfilguard.respond.command import CommandHook
from exfilguard.respond.hook import Settings, SuspendHook
from exfilguard.respond.keycloak import KeycloakHook
from exfilguard.respond.mysql import MySQLHook
from exfilguard.respond.postgres import PostgresHook
from exfilguard.respond.scim import SCIMHook

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PASSWORD = "correct horse"
HOOK_PASSWORD = "battery staple"


class OldSession(Protocol):
    """What was open before the lock."""

    def alive(self) -> bool: ...


class Lab(Protocol):
    """A server, and a hook on it."""

    name: str
    sessions: bool
    """The hook also ends sessions."""
    max_name_bytes: int

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def again(self) -> None:
        """Start after `kill`, on the same data."""

    def hook(self, **settings: Any) -> SuspendHook[Any]: ...
    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        """The same hook, its server on another port of this machine."""

    def create(self, account: str) -> None: ...
    def disable(self, account: str) -> None:
        """As an administrator does, before any lock."""

    def enable(self, account: str) -> None: ...

    def login(self, account: str) -> OldSession | None:
        """A fresh login; None when it is refused."""


def _patiently(start: Callable[[], None], seconds: float = 20.0) -> None:
    """What a killed server left behind (a lock, a port) goes away in a moment."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            start()
            return
        except EmbeddedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


# -- PostgreSQL ---------------------------------------------------------------------------------------------------------


class _Sql:
    """An open database session."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def alive(self) -> bool:
        try:
            with self.connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                return bool(cursor.fetchone())
        except (psycopg.Error, pymysql.MySQLError, OSError):
            return False


class PostgresLab:
    name = "postgres"
    sessions = True
    max_name_bytes = 63

    def __init__(self, directory: Path) -> None:
        # On disk when it is acknowledged: `kill -9` must not undo what a hook was told.
        self.server = EmbeddedPostgres(directory / "postgres", settings={"synchronous_commit": "on"})

    def start(self) -> None:
        self.server.start()
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

    def stop(self) -> None:
        self.server.stop()

    def kill(self) -> None:
        self.server.kill()

    def again(self) -> None:
        _patiently(self.server.start)

    def hook(self, **settings: Any) -> SuspendHook[Any]:
        return self.at(self.server.port, **settings)

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
            return _Sql(psycopg.connect(self.server.dsn(account, PASSWORD), autocommit=True, connect_timeout=5))
        except psycopg.OperationalError as error:
            if "not permitted to log in" not in str(error):
                raise
            return None


# -- MariaDB ------------------------------------------------------------------------------------------------------------


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


class MariadbLab:
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

    def stop(self) -> None:
        self.server.stop()

    def kill(self) -> None:
        self.server.kill()

    def again(self) -> None:
        _patiently(self.server.start)

    def hook(self, **settings: Any) -> SuspendHook[Any]:
        return self.at(self.server.port, **settings)

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
            return _Sql(self.server.connect(account, PASSWORD))
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


# -- LDAP ---------------------------------------------------------------------------------------------------------------

SUFFIX = "dc=clinic,dc=example"
_SLAPD = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
attributetype ( 1.2.840.113556.1.4.8 NAME 'userAccountControl' EQUALITY integerMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.4203.666.1 NAME 'adUser' SUP top AUXILIARY MAY userAccountControl )
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload ppolicy
pidfile {directory}/pid
database mdb
suffix "{suffix}"
rootdn "cn=admin,{suffix}"
rootpw {password}
directory {directory}/db
dbnosync
maxsize 268435456
overlay ppolicy
ppolicy_default "cn=default,ou=policies,{suffix}"
{access}
# As a domain controller does: who is disabled cannot log on (LDAP_MATCHING_RULE_BIT_AND).
access to filter="(userAccountControl:1.2.840.113556.1.4.803:=2)" attrs=userPassword by * none
access to attrs=userPassword by anonymous auth by * none
access to * by * none
"""
_ENTRIES = """
dn: {suffix}
objectClass: domain
dc: clinic

dn: ou=people,{suffix}
objectClass: organizationalUnit
ou: people

dn: ou=services,{suffix}
objectClass: organizationalUnit
ou: services

dn: ou=policies,{suffix}
objectClass: organizationalUnit
ou: policies

dn: cn=default,ou=policies,{suffix}
objectClass: pwdPolicy
objectClass: organizationalRole
cn: default
pwdAttribute: userPassword
pwdLockout: TRUE

dn: cn=exfilguard,ou=services,{suffix}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: exfilguard
userPassword: {hook_password}
"""


class LdapLab:
    """`method`: ppolicy or active-directory."""

    sessions = False
    max_name_bytes = 200

    def __init__(self, directory: Path, method: str = "ppolicy") -> None:
        self.name = "ldap" if method == "ppolicy" else "active-directory"
        self.method = method
        self.directory = directory / f"slapd-{method}"
        self.port = free_port()
        self.password = secrets.token_urlsafe(12)
        self._child = Child("slapd", self.directory / "slapd.log")

    def start(self) -> None:
        (self.directory / "db").mkdir(parents=True)
        access = "\n".join(
            "access " + re.sub(r"^\{\d+\}", "", rule) for rule in _olc_access(DEPLOY / "ldap" / "openldap-acl.ldif")
        )
        if self.method == "active-directory":
            access = access.replace("attrs=pwdAccountLockedTime", "attrs=userAccountControl")
        text = _SLAPD.format(directory=self.directory, suffix=SUFFIX, password=self.password, access=access)
        (self.directory / "slapd.conf").write_text(text, encoding="utf-8")
        self.again()
        with self.admin() as admin:
            import io

            import ldif

            parser = ldif.LDIFRecordList(
                io.StringIO(_ENTRIES.format(suffix=SUFFIX, hook_password=HOOK_PASSWORD).lstrip())
            )
            parser.parse()
            for dn, attributes in parser.all_records:
                admin.add_s(dn, list(attributes.items()))

    def again(self) -> None:
        self._child.start(
            [
                "/usr/sbin/slapd",
                "-d",
                "0",
                "-f",
                str(self.directory / "slapd.conf"),
                "-h",
                f"ldap://127.0.0.1:{self.port}",
            ]
        )
        self._child.wait_until(self._ready, 20.0)

    def _ready(self) -> bool:
        import ldap

        try:
            with self.admin():
                return True
        except ldap.LDAPError:
            return False

    @contextlib.contextmanager
    def admin(self) -> Iterator[Any]:
        connection = self._bind(f"cn=admin,{SUFFIX}", self.password)
        try:
            yield connection
        finally:
            connection.unbind_s()

    def _bind(self, dn: str, password: str) -> Any:
        import ldap

        connection = ldap.initialize(f"ldap://127.0.0.1:{self.port}")
        connection.set_option(ldap.OPT_NETWORK_TIMEOUT, 5)
        connection.simple_bind_s(dn, password)
        return connection

    def stop(self) -> None:
        self._child.stop()

    def kill(self) -> None:
        self._child.kill()

    def hook(self, **settings: Any) -> SuspendHook[Any]:
        return self.at(self.port, **settings)

    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        from exfilguard.respond.ldap import LDAPHook

        config = LDAPHookConfig(
            url=f"ldap://127.0.0.1:{port}",
            method=self.method,  # type: ignore[arg-type]
            bind_dn=f"cn=exfilguard,ou=services,{SUFFIX}",
            password=settings.pop("password", HOOK_PASSWORD),
            base_dn=f"ou=people,{SUFFIX}",
        )
        return LDAPHook(config, Settings(**settings))

    def dn(self, account: str) -> str:
        from ldap.dn import escape_dn_chars

        return f"uid={escape_dn_chars(account)},ou=people,{SUFFIX}"

    def create(self, account: str) -> None:
        attributes = {
            "objectClass": [b"inetOrgPerson", b"adUser"], "uid": [account.encode()], "cn": [b"x"], "sn": [b"x"],
            "userPassword": [PASSWORD.encode()], "userAccountControl": [b"66048"],  # a normal account, DONT_EXPIRE_PASSWORD
        }  # fmt: skip
        with self.admin() as admin:
            admin.add_s(self.dn(account), list(attributes.items()))

    def disable(self, account: str) -> None:
        import ldap

        name, value = (
            ("pwdAccountLockedTime", b"000001010000Z") if self.method == "ppolicy" else ("userAccountControl", b"66050")
        )
        with self.admin() as admin:
            admin.modify_s(self.dn(account), [(ldap.MOD_REPLACE, name, [value])])

    def enable(self, account: str) -> None:
        import ldap

        name, value = ("pwdAccountLockedTime", None) if self.method == "ppolicy" else ("userAccountControl", [b"66048"])
        with self.admin() as admin:
            admin.modify_s(self.dn(account), [(ldap.MOD_REPLACE, name, value)])

    def login(self, account: str) -> OldSession | None:
        import ldap

        try:
            return _Bound(self._bind(self.dn(account), PASSWORD))
        except ldap.INVALID_CREDENTIALS:
            return None


class _Bound:
    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def alive(self) -> bool:
        return bool(self.connection.whoami_s())


def _olc_access(path: Path) -> list[str]:
    """The rules of an LDIF file, unfolded."""
    text = re.sub(r"\n ", "", path.read_text(encoding="utf-8"))
    return re.findall(r"^olcAccess: (.*)$", text, re.MULTILINE)


# -- an application's own tables ----------------------------------------------------------------------------------------


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


# -- SCIM, Keycloak -----------------------------------------------------------------------------------------------------


def call(
    method: str, url: str, *, json_body: Any = None, form: dict[str, str] | None = None, token: str = ""
) -> tuple[int, Any]:
    """(status, parsed answer) of one request by the standard library."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None
    if json_body is not None:
        data = json.dumps(json_body).encode()
        headers["Content-Type"] = "application/scim+json" if "/scim/" in url else "application/json"
    elif form is not None:
        data = urllib.parse.urlencode(form).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            raw = answer.read()
            return answer.status, json.loads(raw) if raw else None
    except urllib.error.HTTPError as error:
        raw = error.read()
        return error.code, json.loads(raw) if raw[:1] in (b"{", b"[") else None


class ScimLab:
    """`patch`: path or pathless."""

    sessions = False
    max_name_bytes = 200

    def __init__(self, directory: Path, patch: str = "path") -> None:
        self.name = "scim" if patch == "path" else "scim-pathless"
        self.patch = patch
        self.directory = directory / self.name
        self.port = free_port()
        self.token = secrets.token_urlsafe(12)
        self._child = Child("the SCIM server", self.directory / "server.log")
        self._ids: dict[str, str] = {}

    def start(self) -> None:
        self.directory.mkdir(parents=True)
        (self.directory / "token").write_text(self.token, encoding="ascii")
        self.again()

    def again(self) -> None:
        script = Path(__file__).with_name("scim_server.py")
        self._child.start(
            [
                sys.executable,
                str(script),
                str(self.port),
                str(self.directory / "token"),
                str(self.directory / "state.json"),
            ]
        )
        self._child.wait_until(self._ready, 20.0)

    def _ready(self) -> bool:
        try:
            return call("GET", f"{self.url}/Users?count=0", token=self.token)[0] == 200
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._child.kill()

    def kill(self) -> None:
        self._child.kill()

    def hook(self, **settings: Any) -> SuspendHook[Any]:
        return self.at(self.port, **settings)

    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        config = SCIMHookConfig(
            url=f"http://127.0.0.1:{port}",
            token=settings.pop("password", self.token),
            patch=self.patch,  # type: ignore[arg-type]
        )
        return SCIMHook(config, Settings(**settings))

    def create(self, account: str) -> None:
        user = {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": account, "active": True}
        status, made = call("POST", f"{self.url}/Users", json_body=user, token=self.token)
        assert status == 201, made
        self._ids[account] = made["id"]

    def disable(self, account: str, active: bool = False) -> None:
        _, user = call("GET", f"{self.url}/Users/{self._ids[account]}", token=self.token)
        status, _ = call(
            "PUT", f"{self.url}/Users/{self._ids[account]}", json_body={**user, "active": active}, token=self.token
        )
        assert status == 200

    def enable(self, account: str) -> None:
        self.disable(account, True)

    def login(self, account: str) -> OldSession | None:
        _, user = call("GET", f"{self.url}/Users/{self._ids[account]}", token=self.token)
        return _Nothing() if user.get("active") is not False else None


class _Nothing:
    def alive(self) -> bool:
        return True


class KeycloakLab:
    name = "keycloak"
    sessions = True
    max_name_bytes = 200

    def __init__(self, directory: Path) -> None:
        self.server = EmbeddedKeycloak(directory / "keycloak")

    def start(self) -> None:
        self.server.start()
        token = self._admin()
        base = f"{self.server.url}/admin/realms"
        realm = {
            "realm": "clinic", "enabled": True, "sslRequired": "none",
            # Keycloak's own profile refuses most characters in names; a clinic's federated users have them.
            "clients": [
                {"clientId": "dpi", "publicClient": True, "directAccessGrantsEnabled": True, "standardFlowEnabled": False},
                {"clientId": "exfilguard", "secret": HOOK_PASSWORD, "serviceAccountsEnabled": True, "standardFlowEnabled": False,
                 "directAccessGrantsEnabled": False},
            ],
        }  # fmt: skip
        assert call("POST", base, json_body=realm, token=token)[0] == 201
        base += "/clinic"
        _, profile = call("GET", f"{base}/users/profile", token=token)
        for attribute in profile["attributes"]:
            attribute.pop("required", None)
            if attribute["name"] == "username":
                attribute["validations"] = {"length": {"min": 1, "max": 250}}
        assert call("PUT", f"{base}/users/profile", json_body=profile, token=token)[0] == 200
        # As deploy/keycloak/README.md grants it.
        _, clients = call("GET", f"{base}/clients?clientId=exfilguard", token=token)
        _, service = call("GET", f"{base}/clients/{clients[0]['id']}/service-account-user", token=token)
        _, management = call("GET", f"{base}/clients?clientId=realm-management", token=token)
        _, roles = call("GET", f"{base}/clients/{management[0]['id']}/roles", token=token)
        wanted = [role for role in roles if role["name"] in ("manage-users", "view-clients")]
        path = f"{base}/users/{service['id']}/role-mappings/clients/{management[0]['id']}"
        assert call("POST", path, json_body=wanted, token=token)[0] == 204

    def _admin(self) -> str:
        form = {
            "grant_type": "password",
            "client_id": "admin-cli",
            "username": keycloak.ADMIN,
            "password": self.server.password,
        }
        status, answer = call("POST", f"{self.server.url}/realms/master/protocol/openid-connect/token", form=form)
        assert status == 200, answer
        return str(answer["access_token"])

    def stop(self) -> None:
        self.server.stop()

    def kill(self) -> None:
        self.server.kill()

    def again(self) -> None:
        _patiently(self.server.start, 60.0)

    def hook(self, **settings: Any) -> SuspendHook[Any]:
        return self.at(self.server.port, **settings)

    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        config = KeycloakHookConfig(
            url=f"http://127.0.0.1:{port}", realm="clinic", client_secret=settings.pop("password", HOOK_PASSWORD)
        )
        return KeycloakHook(config, Settings(**settings))

    def create(self, account: str) -> None:
        user = {
            "username": account, "enabled": True, "email": f"{secrets.token_hex(6)}@clinic.example", "firstName": "A", "lastName": "B",
            "credentials": [{"type": "password", "value": PASSWORD, "temporary": False}],
        }  # fmt: skip
        status, answer = call(
            "POST", f"{self.server.url}/admin/realms/clinic/users", json_body=user, token=self._admin()
        )
        assert status == 201, answer

    def user(self, account: str) -> dict[str, Any]:
        query = urllib.parse.urlencode({"username": account, "exact": "true"})
        _, found = call("GET", f"{self.server.url}/admin/realms/clinic/users?{query}", token=self._admin())
        return dict(found[0])

    def disable(self, account: str, enabled: bool = False) -> None:
        user = self.user(account)
        url = f"{self.server.url}/admin/realms/clinic/users/{user['id']}"
        assert call("PUT", url, json_body={**user, "enabled": enabled}, token=self._admin())[0] == 204

    def enable(self, account: str) -> None:
        self.disable(account, True)

    def login(self, account: str, scope: str = "openid") -> OldSession | None:
        form = {"grant_type": "password", "client_id": "dpi", "username": account, "password": PASSWORD, "scope": scope}
        status, answer = call("POST", f"{self.server.url}/realms/clinic/protocol/openid-connect/token", form=form)
        assert status == 200 or answer["error"] == "invalid_grant", answer
        return _Tokens(self.server.url, answer) if status == 200 else None


class _Tokens:
    """Alive while the refresh token gives a new access token, or the access token is taken by userinfo."""

    def __init__(self, url: str, tokens: dict[str, Any]) -> None:
        self._url, self._tokens = f"{url}/realms/clinic/protocol/openid-connect", tokens

    def alive(self) -> bool:
        taken, _ = call("GET", f"{self._url}/userinfo", token=self._tokens["access_token"])
        form = {"grant_type": "refresh_token", "client_id": "dpi", "refresh_token": self._tokens["refresh_token"]}
        status, answer = call("POST", f"{self._url}/token", form=form)
        if status == 200:
            self._tokens = answer
        return status == 200 or taken == 200


# -- a command ----------------------------------------------------------------------------------------------------------

_PROGRAM = '''#!/usr/bin/env python3
"""Locks accounts of a system that is one JSON file."""
import fcntl, json, os, sys
given = json.load(sys.stdin)
assert given["account"] == os.environ["EXFILGUARD_ACCOUNT"] and len(sys.argv) == 2
path = sys.argv[1]
with open(path + ".lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    system = json.load(open(path))
    if system["down"]:
        sys.exit(1)
    user = system["users"].get(given["account"])
    if user is None:
        sys.exit(4)
    if given["operation"] == "inspect":
        print(json.dumps({"locked": not user["active"], "sessions": len(user["sessions"]), "undo": {"active": user["active"]}}))
        sys.exit(0)
    if given["operation"] == "lock":
        user.update(active=False, sessions=[])
    else:
        user.update(active=given["undo"]["active"])
    json.dump(system, open(path + ".new", "w"))
    os.replace(path + ".new", path)
'''


class CommandLab:
    name = "command"
    sessions = True
    max_name_bytes = 200

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "command"
        self.path = self.directory / "system.json"
        self.program = self.directory / "lock.py"

    def start(self) -> None:
        self.directory.mkdir()
        self.program.write_text(_PROGRAM, encoding="utf-8")
        self.program.chmod(0o755)
        self._save({"down": False, "users": {}})

    def _load(self) -> dict[str, Any]:
        return dict(json.loads(self.path.read_text(encoding="utf-8")))

    def _save(self, system: dict[str, Any]) -> None:
        new = self.path.with_suffix(".admin")
        new.write_text(json.dumps(system), encoding="utf-8")
        os.replace(new, self.path)

    @contextlib.contextmanager
    def _changed(self) -> Iterator[dict[str, Any]]:
        import fcntl

        with open(f"{self.path}.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            system = self._load()
            yield system
            self._save(system)

    def stop(self) -> None:
        return

    def kill(self) -> None:
        with self._changed() as system:
            system["down"] = True

    def again(self) -> None:
        with self._changed() as system:
            system["down"] = False

    def hook(self, **settings: Any) -> SuspendHook[Any]:
        settings.pop("password", None)
        return CommandHook(
            CommandHookConfig(name="command", argv=[sys.executable, "-S", str(self.program), str(self.path)]),
            Settings(**settings),
        )

    def at(self, port: int, **settings: Any) -> SuspendHook[Any]:
        """A program that asks a service on this port, and waits for its answer."""
        script = (
            f"import socket; s = socket.create_connection(('127.0.0.1', {port})); s.sendall(b'?'); s.recv(9); s.recv(9)"
        )
        return CommandHook(
            CommandHookConfig(name="command", argv=[sys.executable, "-S", "-c", script]), Settings(**settings)
        )

    def create(self, account: str) -> None:
        with self._changed() as system:
            system["users"][account] = {"active": True, "sessions": []}

    def disable(self, account: str) -> None:
        with self._changed() as system:
            system["users"][account]["active"] = False

    def enable(self, account: str) -> None:
        with self._changed() as system:
            system["users"][account]["active"] = True

    def login(self, account: str) -> OldSession | None:
        key = secrets.token_hex(8)
        with self._changed() as system:
            user = system["users"][account]
            if not user["active"]:
                return None
            user["sessions"].append(key)
        return _Key(self, account, key)


class _Key:
    def __init__(self, lab: CommandLab, account: str, key: str) -> None:
        self._lab, self._account, self._key = lab, account, key

    def alive(self) -> bool:
        return self._key in self._lab._load()["users"][self._account]["sessions"]


# -- all of them --------------------------------------------------------------------------------------------------------

LABS: dict[str, Callable[[Path], Any]] = {
    "postgres": PostgresLab,
    "mysql": MariadbLab,
    "oracle-mysql": MysqlLab,
    "ldap": LdapLab,
    "active-directory": lambda directory: LdapLab(directory, "active-directory"),
    "gnuhealth": GnuHealthLab,
    "mediboard": MediboardLab,
    "scim": ScimLab,
    "scim-pathless": lambda directory: ScimLab(directory, "pathless"),
    "command": CommandLab,
    "keycloak": KeycloakLab,
}


def missing(name: str) -> str:
    """What must be installed first for this laboratory; empty when nothing is missing."""
    if name in ("mysql", "mediboard"):
        return mariadb.missing_programs()
    if name == "oracle-mysql":
        return mysql.missing_programs()
    if name in ("ldap", "active-directory"):
        import importlib.util

        if not Path("/usr/sbin/slapd").is_file():
            return "slapd (apt install slapd)"
        if importlib.util.find_spec("ldap") is None:
            return "python-ldap (apt install libldap2-dev libsasl2-dev; pip install 'exfilguard[ldap]')"
    if name == "keycloak":
        return keycloak.missing_programs()
    return ""


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def enterable(directory: Path) -> Path:
    """Servers that do not run as root must be able to enter it."""
    if is_root():
        directory.chmod(0o711)
    return directory
