"""The identity matrix: every mechanism x pooling x failure, against a real PostgreSQL, a real PgBouncer and the real relay.

Each scenario is played by alice and then by bob over the same path; each of their reads has a shape of its own, so that the events
say who was charged for it. The bar: nobody is ever charged for what another did.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson
import psycopg
import pytest

from exfilguard.config.schema import Config, IdentityConfig, KafkaConfig
from exfilguard.context import sign
from exfilguard.events.codec import check_event
from exfilguard.events.verdict import Verdict
from exfilguard.sidecar.spool import SpoolReader

from .conftest import Hospital, enterable_directory
from .pgbouncer import pgbouncer
from .stack import Stack, connect, listener, port_of, wait_for

LOGIN = "dpi_export"
ALICE, BOB = "person.alice", "person.bob"
KEY, OLD_KEY = "the-key-of-the-clinic-0123456789", "a-key-that-was-taken-out-01234567"
_markers = count(1)

MODES = ("direct", "session", "transaction")
MECHANISMS = ("signed", "comment", "set", "set_local", "set_config", "role", "application_name")
FAILURES = ("none", "rollback", "error", "error in transaction", "reset", "discard", "pipeline", "cancel", "forged", "expired", "replayed",
    "key rotated")  # fmt: skip


def tell_verdict(stack: Stack, principal: str, level: Any, revision: int) -> None:
    """A verdict, as the shipper tells it to the relay."""
    standing = Verdict(
        tenant="clinic",
        principal=principal,
        level=level,
        revision=revision,
        issued_ms=1,
        reason="r",
        issuer="operator:x",
    )
    stack.tell(standing)
    time.sleep(0.1)


class Site:
    """A relay with two listeners, one of them behind a pooler that lends connections for a transaction."""

    def __init__(self, stack: Stack, hospital: Hospital, ports: dict[str, int]) -> None:
        self.stack = stack
        self.hospital = hospital
        self.ports = ports
        self.expected: dict[str, str] = {}
        """Marker -> who must be charged."""

    def connect(self, mode: str, application: str = "") -> psycopg.Connection[Any]:
        return connect(
            self.hospital.dsn(LOGIN, self.ports[mode]), application_name=application or None, prepare_threshold=None
        )

    def events(self) -> list[dict[str, Any]]:
        reader = SpoolReader(self.stack.data_dir / "spool" / "0")
        out: list[dict[str, Any]] = []
        while part := reader.read(10_000, 1 << 24):
            out += [check_event(orjson.loads(r.payload)) for r in part]
        return out

    def verdict(self, principal: str, level: Any, revision: int) -> None:
        tell_verdict(self.stack, principal, level, revision)

    def marker(self, who: str) -> str:
        name = f"m{next(_markers)}"
        self.expected[name] = who
        return name


@pytest.fixture(scope="module")
def site(hospital: Hospital) -> Iterator[Site]:
    with enterable_directory() as directory:
        with connect(hospital.admin_dsn) as admin:
            for person in (ALICE, BOB):
                admin.execute(f'CREATE ROLE "{person}"')
                admin.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{person}"')
                admin.execute(f'GRANT "{person}" TO {LOGIN}')
        believes = {
            "trusted_sources": ["127.0.0.1"], "identity_roles": ["person.*"], "application_name_pattern": "^app:(?P<principal>.+)$"
        }  # fmt: skip
        config = Config(
            tenant="clinic",
            data_dir=str(directory / "data"),
            kafka=KafkaConfig(bootstrap="127.0.0.1:9"),
            identity=IdentityConfig(keys=f"now:{KEY}"),
            listener=[
                listener(hospital.upstream, **believes),
                listener(hospital.upstream, name="pooled", pooled=True, **believes),
            ],
        )
        stack = Stack(config)
        stack.start("relay")
        stack.relay_ready()
        plain, pooled = (port_of(one.listen) for one in config.listener)
        try:
            with (
                pgbouncer(directory, plain, "session", LOGIN) as sessions,
                pgbouncer(directory, pooled, "transaction", LOGIN) as transactions,
            ):
                yield Site(stack, hospital, {"direct": plain, "session": sessions, "transaction": transactions})
        finally:
            stack.stop()


@dataclass
class Actor:
    """One user of the application, and what the guard should believe of the connection just now."""

    site: Site
    mode: str
    mechanism: str
    who: str
    connection: psycopg.Connection[Any]
    claimed: bool = False
    """The session's settings name this user, as far as the guard may believe them."""
    reads: list[str] = field(default_factory=list)

    @property
    def sticky(self) -> bool:
        return self.mode != "transaction"

    def comment(self, failure: str = "") -> str:
        if failure == "forged":
            return sign(self.who, "", KEY.encode(), key_id="now").replace("enduser_id='", "enduser_id='x")
        if failure == "expired":
            return sign(self.who, "", KEY.encode(), key_id="now", issued_s=int(time.time()) - 600)
        if failure == "key rotated":
            return sign(self.who, "", OLD_KEY.encode(), key_id="old")
        if self.mechanism == "signed":
            return sign(self.who, "", KEY.encode(), key_id="now")
        return f"/*enduser_id='{self.who}'*/" if self.mechanism == "comment" else ""

    def claim(self, *, in_transaction: bool) -> None:
        run = self.connection.execute
        if self.mechanism == "set":
            run(f"""SET exfilguard."user" = '{self.who}'""")
        elif self.mechanism == "set_local":
            run(f"SET LOCAL exfilguard.end_user = '{self.who}'")
        elif self.mechanism == "set_config":
            run("SELECT set_config('exfilguard.user', %s, false)", (self.who,))
        elif self.mechanism == "role":
            run(f'SET ROLE "{self.who}"')
        if self.mechanism in ("set", "set_config", "role"):
            self.claimed = in_transaction or self.sticky
        elif self.mechanism == "set_local":
            self.claimed = in_transaction
        elif self.mechanism == "application_name":
            self.claimed = self.sticky

    def read(self, failure: str = "", who: str | None = None) -> None:
        if who is None:
            if failure:
                who = LOGIN
            elif self.mechanism in ("signed", "comment"):
                who = self.who
            else:
                who = self.who if self.claimed else LOGIN
        marker = self.site.marker(who)
        self.connection.execute(f"SELECT id AS {marker} FROM patient WHERE id < 4 {self.comment(failure)}")


def fail(actor: Actor, sql: str) -> None:
    with pytest.raises(psycopg.Error):
        actor.connection.execute(sql)


def play(actor: Actor, failure: str) -> None:
    run = actor.connection.execute
    transactional = actor.mechanism in ("set", "set_local", "set_config", "role")
    if failure in ("rollback", "error in transaction"):
        run("BEGIN")
        actor.claim(in_transaction=True)
        actor.read()
        if failure != "rollback":
            fail(actor, "SELECT 1/0")
        run("ROLLBACK")
        if transactional:
            actor.claimed = False
        actor.read()
        return
    if failure == "pipeline":
        with pytest.raises(psycopg.Error), actor.connection.pipeline():
            actor.claim(in_transaction=True)
            actor.read()
            actor.connection.execute("SELECT 1/0")
        if transactional:
            actor.claimed = False
        actor.read()
        return
    actor.claim(in_transaction=False)
    actor.read()
    if failure == "error":
        fail(actor, "SELECT nothing FROM nowhere")
    elif failure in ("reset", "discard"):
        if failure == "discard" and actor.mode != "transaction":
            run("DISCARD ALL")
        elif actor.mechanism == "role":
            run("RESET ROLE")
        else:
            run("RESET exfilguard.end_user" if actor.mechanism == "set_local" else 'RESET exfilguard."user"')
        if transactional or (failure == "discard" and actor.mode == "session"):
            actor.claimed = False  # the application's name was the pooler's setting; DISCARD ALL took it
    elif failure == "cancel":
        timer = threading.Timer(0.1, actor.connection.cancel)
        timer.start()
        fail(actor, "SELECT pg_sleep(20)")
        timer.join()
    elif failure == "replayed":
        taken = sign(actor.who, "", KEY.encode(), key_id="now")
        marker = actor.site.marker(actor.who)
        run(f"SELECT id AS {marker} FROM patient WHERE id < 4 {taken}")
        marker = actor.site.marker(LOGIN)
        run(f"SELECT id AS {marker} FROM patient WHERE id < 4 {taken}")
    elif failure != "none":
        actor.read(failure)
    actor.read()


SHAPE = re.compile(r"\bas (m\d+)\b")


def test_nobody_is_charged_for_what_another_did(site: Site) -> None:
    played = 0
    for mode in MODES:
        for mechanism in MECHANISMS:
            for failure in FAILURES:
                if failure == "cancel" and mechanism not in ("signed", "set", "set_local", "role"):
                    continue  # takes a while, and is the same
                for who in (ALICE, BOB, ""):
                    application = f"app:{who}" if mechanism == "application_name" and who else ""
                    with site.connect(mode, application) as connection:
                        if who:
                            play(Actor(site, mode, mechanism, who, connection), failure)
                            played += 1
                        else:
                            # And somebody who names nobody, right behind them on the same connections.
                            Actor(site, mode, "none", "", connection).read(who=LOGIN)

    def charged() -> dict[str, str]:
        return {m[1]: e["principal"] for e in site.events() if (m := SHAPE.search(e.get("query", "")))}

    wait_for(lambda: len(charged()) == len(site.expected), message="every read has its event")
    found = charged()
    wrong = {m: (who, found[m]) for m, who in site.expected.items() if found[m] != who}
    others = [m for m, who in site.expected.items() if found[m] not in (who, LOGIN)]
    assert not others, f"{len(others)} reads charged to the wrong account"
    assert not wrong, f"{len(wrong)} of {len(found)} reads charged otherwise than expected"
    assert played >= 400
    details = {e["detail"] for e in site.events() if e["kind"] == "finding"}
    assert details == {"identity_forged", "identity_expired", "identity_replayed"}
    assert {e["principal"] for e in site.events() if e["kind"] == "finding"} == {LOGIN}


def refused(run: Any, *arguments: Any, **options: Any) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="ExfilGuard: account is locked"):
        run(*arguments, **options)


def tagged(who: str) -> str:
    return f"SELECT id FROM patient WHERE id < 4 {sign(who, '', KEY.encode(), key_id='now')}"


@pytest.mark.parametrize("mode", MODES)
def test_a_locked_users_statements_fail_and_the_connection_goes_on(site: Site, mode: str) -> None:
    """Simple and extended protocol, in and out of transactions, in pipelines; another user goes on with the same connection."""
    site.verdict(ALICE, "lock", revision=int(mode == "session") * 10 + int(mode == "transaction") * 20 + 1)
    try:
        with site.connect(mode) as connection:
            pid = connection.info.backend_pid
            for extended in ({}, {"prepare": True}, {"binary": True}):
                refused(connection.execute, tagged(ALICE), **extended)
                assert len(connection.execute(tagged(BOB), **extended).fetchall()) == 3
            connection.execute("CREATE TEMP TABLE mine (a int)")
            connection.execute("BEGIN")
            connection.execute("INSERT INTO mine VALUES (1)")
            refused(connection.execute, tagged(ALICE))
            with pytest.raises(psycopg.errors.InFailedSqlTransaction):
                connection.execute(tagged(BOB))
            connection.execute("ROLLBACK")
            assert connection.execute("SELECT count(*) FROM mine").fetchone() == (0,)
            # Nothing of a pipeline's part before Sync is kept, as after any other error; what follows the Sync goes on.
            with connection.pipeline() as pipeline:
                connection.execute("INSERT INTO mine VALUES (2)")
                last = connection.execute("SELECT 1 AS fine")
                pipeline.sync()
                assert last.fetchone() == (1,)
                connection.execute("INSERT INTO mine VALUES (3)")
                wrong = connection.execute(tagged(ALICE))
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="ExfilGuard"):
                    connection.execute("INSERT INTO mine VALUES (4)")  # raises itself where the error is already there
                    pipeline.sync()
                    wrong.fetchall()
            assert [r[0] for r in connection.execute("SELECT a FROM mine")] == [2]
            # As session settings say it: refused until somebody else is named.
            connection.execute("BEGIN")
            connection.execute(f"SET LOCAL exfilguard.end_user = '{ALICE}'")
            refused(connection.execute, "SELECT id FROM patient WHERE id < 4")
            connection.execute("ROLLBACK")
            connection.execute("BEGIN")
            connection.execute("SELECT set_config('exfilguard.end_user', %s, true)", (BOB,))
            assert len(connection.execute("SELECT id FROM patient WHERE id < 4").fetchall()) == 3
            connection.execute("COMMIT")
            with pytest.raises(psycopg.Error), connection.pipeline():
                connection.execute("BEGIN")
                connection.execute("SELECT set_config('exfilguard.end_user', %s, true)", (ALICE,))
                connection.execute("SELECT id FROM patient WHERE id < %s", (4,))
            connection.execute("ROLLBACK")
            assert connection.info.backend_pid == pid
            connection.execute("DROP TABLE mine")
    finally:
        site.verdict(ALICE, "none", revision=int(mode == "session") * 10 + int(mode == "transaction") * 20 + 2)
    with site.connect(mode) as connection:
        assert len(connection.execute(tagged(ALICE)).fetchall()) == 3
    events = [e for e in site.events() if e["kind"] == "refused"]
    assert {e["principal"] for e in events} == {ALICE}
    assert not [e for e in site.events() if e["kind"] == "desynced"]
