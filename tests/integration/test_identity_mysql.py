"""Who is charged on MariaDB: signed contexts, user variables, connection attributes; a locked user refused in step; `deny`."""

from __future__ import annotations

import re
from typing import Any

import pymysql
import pytest

from exfilguard.config.schema import IdentityConfig
from exfilguard.context import sign

from .mysql import ACCOUNT, GuardedMysql
from .stack import wait_for
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
