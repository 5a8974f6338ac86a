"""Who is charged on MariaDB: signed contexts, user variables, connection attributes; a locked user refused in step; `deny`."""

from __future__ import annotations

import re
from typing import Any

import pymysql
import pytest

from exfilguard.config.schema import IdentityConfig
from exfilguard.context import sign

from .mysql import ACCOUNT, GuardedMysql
from .stack import PASSWORD, wait_for
from .test_identity_matrix import tell_verdict
from .test_mysql import Relay, mariadb, relay  # noqa: F401

KEY = "a-key-for-mariadb-0123456789abcdef"
COM_RESET_CONNECTION = 0x1F


def comment(user: str) -> str:
    return sign(user, "web", KEY.encode())


class Reads:
    """Marked reads, and who was charged for each."""

    def __init__(self, guarded: GuardedMysql) -> None:
        self.guarded = guarded
        self.expected: dict[str, str] = {}

    def read(self, connection: pymysql.Connection[Any], who: str, tail: str = "") -> None:
        marker = f"m{len(self.expected)}"
        self.expected[marker] = who
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT id AS {marker} FROM patient WHERE id < 4 {tail}")

    def check(self) -> None:
        def charged() -> dict[str, str]:
            return {
                m[1]: e["principal"] for e in self.guarded.events() if (m := re.search(r"\bas (m\d+)\b", e.get("query", "")))
            }  # fmt: skip

        wait_for(lambda: len(charged()) == len(self.expected))
        assert charged() == self.expected


def run(connection: pymysql.Connection[Any], sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def test_every_mechanism(relay: Relay) -> None:  # noqa: F811
    guarded = relay(trusted_sources=["127.0.0.1"], identity=IdentityConfig(keys=f"k1:{KEY}"))
    reads = Reads(guarded)
    with guarded.connect() as c:
        reads.read(c, ACCOUNT)
        reads.read(c, "alice", comment("alice"))
        reads.read(c, ACCOUNT, comment("alice").replace("alice", "carol"))
        reads.read(c, "bob", "/*enduser_id='bob'*/")
        run(c, "SET @exfilguard_user = 'alice'")
        reads.read(c, "alice")
        reads.read(c, "bob", comment("bob"))
        run(c, "BEGIN")
        run(c, "SET @x = 1, @`ExfilGuard_User` := 'bob'")
        run(c, "ROLLBACK")
        reads.read(c, "bob")  # a user variable is not undone
        with pytest.raises(pymysql.Error):
            run(c, "SET @exfilguard_user = nothing_of_the_kind()")
        reads.read(c, "bob")
        run(c, "SET @exfilguard_user = CONCAT('al', 'ice')")
        reads.read(c, ACCOUNT)  # computed: nobody is named
        run(c, "SET @exfilguard_user = 'alice'")
        run(c, "SELECT 'carol' INTO @exfilguard_user")
        reads.read(c, ACCOUNT)
        run(c, "SET @exfilguard_user = 'alice'")
        c._execute_command(COM_RESET_CONNECTION, b"")
        c._read_ok_packet()
        reads.read(c, ACCOUNT)
    reads.check()
    findings = [(e["detail"], e["principal"]) for e in guarded.events() if e["kind"] == "finding"]
    assert findings == [("identity_forged", ACCOUNT)]


def test_an_untrusted_client_names_nobody(relay: Relay) -> None:  # noqa: F811
    guarded = relay(identity=IdentityConfig(keys=f"k1:{KEY}"))
    reads = Reads(guarded)
    with guarded.connect() as c:
        run(c, "SET @exfilguard_user = 'alice'")
        reads.read(c, ACCOUNT)
        reads.read(c, ACCOUNT, "/*enduser_id='bob'*/")
        reads.read(c, "bob", comment("bob"))
    reads.check()


def test_a_locked_user_is_refused_and_the_connection_goes_on(relay: Relay) -> None:  # noqa: F811
    guarded = relay(trusted_sources=["127.0.0.1"], identity=IdentityConfig(keys=f"k1:{KEY}"))
    reads = Reads(guarded)
    with guarded.connect() as c:
        reads.read(c, "alice", comment("alice"))
        tell_verdict(guarded.stack, "alice", "lock", 3)
        thread = c.thread_id()
        for _ in range(3):
            with pytest.raises(pymysql.Error, match="ExfilGuard: account is locked"):
                run(c, f"SELECT id FROM patient {comment('alice')}")
            reads.read(c, "bob", comment("bob"))
        run(c, "SET @exfilguard_user = 'alice'")
        with pytest.raises(pymysql.Error, match="ExfilGuard"):
            run(c, "SELECT id FROM patient")
        run(c, "SET @exfilguard_user = 'bob'")
        reads.read(c, "bob")
        assert c.thread_id() == thread
    reads.check()


def test_deny_and_what_is_asked_for(relay: Relay) -> None:  # noqa: F811
    guarded = relay(deny=["server_export"])
    with guarded.connect() as c:
        for sql in ("SELECT id FROM patient INTO OUTFILE '/tmp/exfilguard-x'", "SELECT LOAD_FILE('/etc/passwd')"):
            with pytest.raises(pymysql.Error, match="not allowed through this guard"):
                run(c, sql)
        run(c, "SELECT id FROM patient WHERE id IN (2, 3)")
    wait_for(lambda: [e for e in guarded.events() if e["kind"] == "logout"])
    (event,) = [e for e in guarded.events() if e["kind"] == "query" and e.get("patients")]
    assert sorted(event["asked"]) == sorted(event["patients"])
    assert len(event["asked"]) == 2


# -- the matrix: every mechanism x the way a connection is shared x what goes wrong before the read ---------------------

MECHANISMS = ("signed", "comment", "variable", "attribute")
SHARING = ("own", "shared", "reset between", "change user between")
FAILURES = ("none", "error", "rollback", "error in transaction", "forged", "expired", "other statements", "large")


class Cell:
    """One way to be alice, or bob, on connections of one kind."""

    def __init__(self, guarded: GuardedMysql, reads: Reads, mechanism: str, sharing: str) -> None:
        self.guarded, self.reads, self.mechanism, self.sharing = guarded, reads, mechanism, sharing
        self.shared = guarded.connect() if sharing != "own" else None

    def connection(self, who: str) -> pymysql.Connection[Any]:
        if self.shared is None:
            made: pymysql.Connection[Any] = self.guarded.connect(defer_connect=True)
            if self.mechanism == "attribute":
                made._connect_attrs["exfilguard_user"] = who  # type: ignore[attr-defined]
            made.connect()
            return made
        if self.sharing == "reset between":
            self.shared._execute_command(COM_RESET_CONNECTION, b"")
            self.shared._read_ok_packet()
        elif self.sharing == "change user between":
            change_user(self.shared, ACCOUNT)
        return self.shared

    def announce(self, connection: pymysql.Connection[Any], who: str) -> str:
        """What the statement must end with."""
        if self.mechanism == "variable":
            run(connection, f"SET @exfilguard_user = '{who}'")
        return {"signed": comment(who), "comment": f"/*enduser_id='{who}'*/"}.get(self.mechanism, "")

    def fail(self, connection: pymysql.Connection[Any], failure: str, other: str) -> None:
        if failure in ("error", "error in transaction"):
            if failure != "error":
                run(connection, "BEGIN")
            with pytest.raises(pymysql.Error):
                run(connection, "SELECT nothing_of_the_kind FROM patient")
        elif failure == "rollback":
            run(connection, "BEGIN")
            run(connection, "INSERT INTO sejour (patient_id) VALUES (1)")
            run(connection, "ROLLBACK")
        elif failure in ("forged", "expired"):
            tag = comment("nobody").replace("nobody", other)
            if failure == "expired":
                tag = sign(other, "web", KEY.encode(), issued_s=1_600_000_000)
            run(connection, f"SELECT 1 {tag}")
        elif failure == "other statements":
            run(connection, "DO 1")
            run(connection, "SELECT nom FROM patient LIMIT 1")
        elif failure == "large":
            run(connection, f"SELECT id FROM patient WHERE nom = '{'x' * 3_000}'")

    def close(self) -> None:
        if self.shared is not None:
            self.shared.close()


def change_user(connection: Any, user: str) -> None:
    """COM_CHANGE_USER, which PyMySQL does not have."""
    from pymysql._auth import scramble_native_password
    from pymysql.constants import CLIENT

    assert connection.client_flag & CLIENT.PLUGIN_AUTH
    password = scramble_native_password(PASSWORD.encode(), connection.salt)
    payload = (
        user.encode() + b"\0" + bytes([len(password)]) + password + b"dpi\0" + b"\x2d\0" + b"mysql_native_password\0\0"
    )
    connection._execute_command(0x11, payload)
    packet = connection._read_packet()
    if packet.is_auth_switch_request():
        packet.read_uint8()
        packet.read_string()
        connection.write_packet(scramble_native_password(PASSWORD.encode(), packet.read_all()[:20]))
        packet = connection._read_packet()
    assert packet.is_ok_packet()


def cells() -> list[tuple[str, str]]:
    return [(m, s) for m in MECHANISMS for s in SHARING if m != "attribute" or s == "own"]


def test_the_matrix_charges_nobody_for_what_another_did_and_locks_nobody_else(relay: Relay) -> None:  # noqa: F811
    guarded = relay(trusted_sources=["127.0.0.1"], identity=IdentityConfig(keys=f"k1:{KEY}"))
    reads = Reads(guarded)
    for mechanism, sharing in cells():
        cell = Cell(guarded, reads, mechanism, sharing)
        for failure in FAILURES:
            for who, other in (("alice", "bob"), ("bob", "alice"), ("alice", "bob")):
                connection = cell.connection(who)
                tail = cell.announce(connection, who)
                cell.fail(connection, failure, other)
                reads.read(connection, who, tail)
                if failure == "error in transaction":
                    run(connection, "COMMIT")
                if cell.shared is None:
                    connection.close()
        cell.close()
    reads.check()
    assert len(reads.expected) == len(cells()) * len(FAILURES) * 3

    tell_verdict(guarded.stack, "alice", "lock", 5)
    refused = 0
    for mechanism, sharing in cells():
        cell = Cell(guarded, reads, mechanism, sharing)
        for who in ("bob", "alice", "bob"):
            if who == "alice":  # whose login is refused where it names her
                with pytest.raises(pymysql.Error, match="ExfilGuard: account is locked"):
                    connection = cell.connection(who)
                    run(connection, f"SELECT id FROM patient {cell.announce(connection, who)}")
                refused += 1
                continue
            connection = cell.connection(who)
            reads.read(connection, who, cell.announce(connection, who))
            if cell.shared is None:
                connection.close()
        cell.close()
    reads.check()
    assert refused == len(cells())
