"""What every lock-out hook must do, against its real server: lock, verify, give back, refuse, fail in time, catch a liar."""

from __future__ import annotations

import asyncio
import itertools
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exfilguard.embedded.child import free_port
from exfilguard.errors import HookError, HookRefused

from .labs import LABS, Lab, enterable, missing
from .orders import order

NUMBER = itertools.count()
TURN = itertools.count()

NASTY = [
    "O'Brien",
    'say "hi"',
    "two words",
    " leading and trailing ",
    "back\\slash",
    "Zoë-Žofie.Łukasz",
    "医師",
    "*",
    "a*)(uid=*",
    "x'; DROP TABLE res_user; --",
    "x' OR '1'='1",
    '" or userName pr or userName eq "',
    "%",
    "a_b",
    "%s %(account)s {account}",
    "-rf",
    "$(id)",
    "a@b@c",
    "n" * 63,
    "m" * 90,
    "é" * 31,
]


def run(work: Any) -> Any:
    return asyncio.run(work)


@pytest.fixture(scope="module", params=list(LABS))
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    if needed := missing(request.param):
        pytest.skip(f"not installed: {needed}")
    with tempfile.TemporaryDirectory(prefix="exfilguard-lab-") as name:
        made: Lab = LABS[request.param](enterable(Path(name)))
        made.start()
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture
def account(lab: Lab) -> str:
    name = f"dr.martin{next(NUMBER)}"
    lab.create(name)
    return name


def test_locks_ends_every_session_and_gives_back(lab: Lab, account: str) -> None:
    hook = lab.hook()
    colleague = f"colleague{next(NUMBER)}"
    lab.create(colleague)
    beside = lab.login(colleague)
    old = [lab.login(account), lab.login(account)]
    assert beside is not None
    assert all(session is not None and session.alive() for session in old)
    undo = run(hook.before(order(account)))
    result = run(hook.lock(order(account)))
    assert (result.outcome, result.verified) == ("done", True)
    assert lab.login(account) is None
    if lab.sessions:
        assert not any(session.alive() for session in old if session is not None)
    assert beside.alive()
    assert run(hook.lock(order(account))).outcome == "already"
    assert run(hook.unlock(order(account), undo)).outcome == "done"
    again = lab.login(account)
    assert again is not None
    assert again.alive()
    assert run(hook.unlock(order(account), undo)).outcome == "already"
    assert run(hook.before(order(account))) == undo


def test_what_was_disabled_before_stays_disabled(lab: Lab, account: str) -> None:
    hook = lab.hook()
    old = lab.login(account)
    lab.disable(account)
    undo = run(hook.before(order(account)))
    result = run(hook.lock(order(account)))
    assert result.verified
    if lab.sessions and old is not None:
        assert not old.alive()  # only live sessions remained: they end, and nothing else changes
    assert run(hook.unlock(order(account), undo)).outcome == "already"
    assert lab.login(account) is None


def test_a_dry_run_changes_nothing(lab: Lab, account: str) -> None:
    result = run(lab.hook(dry_run=True).lock(order(account)))
    assert (result.outcome, result.verified) == ("dry_run", False)
    assert lab.login(account) is not None


def test_refuses_whom_it_must_not_or_cannot_touch(lab: Lab, account: str) -> None:
    for hook, name, why in (
        (lab.hook(), "nobody at all", None),
        (lab.hook(), "*", None),
        (lab.hook(), "%", None),
        (lab.hook(), "a\0b", "NUL"),
        (lab.hook(), "x" * 5_000, "too long"),
        (lab.hook(protected={account}), account, "protects"),
        (lab.hook(accounts=["svc_*"]), account, "not one of"),
    ):
        for attempt in (hook.before, hook.lock):
            with pytest.raises(HookRefused, match=why):
                run(attempt(order(name)))
    assert lab.login(account) is not None


SLOW = ("keycloak", "command")
"""A server in Java, a program started for every step: every third name is enough there."""


def test_accounts_with_nasty_names_and_only_those(lab: Lab, account: str) -> None:
    for name in NASTY[:: 3 if lab.name in SLOW else 1]:
        _lock_and_give_back(lab, name, account)


NAMES = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"), include_characters="'\"\\*()%_;`$ "),
    min_size=1,
    max_size=15,
).filter(lambda name: name.strip() == name and name == name.lower() and name.casefold() == name)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=NAMES)
def test_any_name(lab: Lab, account: str, name: str) -> None:
    if lab.name in SLOW and next(TURN) % 4:
        return
    _lock_and_give_back(lab, f"h{next(NUMBER)}{name}", account)


def _lock_and_give_back(lab: Lab, name: str, other: str) -> None:
    hook = lab.hook()
    try:
        lab.create(name)
    except Exception:  # the server itself takes no such name: then the hook must refuse it, and harm nobody
        with pytest.raises(HookRefused):
            run(hook.lock(order(name)))
        assert lab.login(other) is not None
        return
    undo = run(hook.before(order(name)))
    assert run(hook.lock(order(name))).verified
    assert lab.login(name) is None
    assert lab.login(other) is not None
    assert run(hook.unlock(order(name), undo)).verified
    assert lab.login(name) is not None


# -- what only one of them has ------------------------------------------------------------------------------------------


def test_a_padded_name_is_the_role_that_logs_in_under_it(lab: Lab) -> None:
    """PostgreSQL cuts a name off after 63 bytes: who is seen as the longer one is that role."""
    if lab.name != "postgres":
        return
    lab.create("p" * 63)
    hook, padded = lab.hook(), "p" * 63 + " and more"
    undo = run(hook.before(order(padded)))
    assert run(hook.lock(order(padded))).verified
    assert lab.login("p" * 63) is None
    assert run(hook.unlock(order(padded), undo)).outcome == "done"


def test_every_host_of_a_mysql_user_is_locked_and_each_gets_back_what_it_had(lab: Any) -> None:
    if lab.name not in ("mysql", "oracle-mysql"):
        return
    for host in ("%", "localhost", "10.%"):
        lab.create("nurse", host)
    lab.disable("nurse", "10.%")
    hook = lab.hook()
    before = {"hosts": {"%": False, "10.%": True, "localhost": False}}
    undo = run(hook.before(order("nurse")))
    assert undo == before
    assert run(hook.lock(order("nurse"))).verified
    assert run(hook.before(order("nurse"))) == {"hosts": dict.fromkeys(before["hosts"], True)}
    lab.create("nurse", "192.168.%")  # made meanwhile: nobody's to restore
    assert run(hook.unlock(order("nurse"), undo)).outcome == "done"
    assert run(hook.before(order("nurse")))["hosts"] == {**before["hosts"], "192.168.%": False}
    # One of them by its whole name.
    undo = run(hook.before(order("nurse@localhost")))
    assert undo == {"hosts": {"localhost": False}}
    assert run(hook.lock(order("nurse@localhost"))).verified
    assert run(hook.before(order("nurse")))["hosts"]["%"] is False
    run(hook.unlock(order("nurse@localhost"), undo))


def test_the_mysql_hooks_account_can_do_nothing_else(lab: Any) -> None:
    if lab.name not in ("mysql", "oracle-mysql"):
        return
    import pymysql

    from .labs import HOOK_PASSWORD

    for administrator in ("root", "exfilguard_admin", "exfilguard_hook", "exfilguard_definer"):
        with pytest.raises(HookRefused):
            run(lab.hook().lock(order(administrator)))
    for statement in (
        "SELECT * FROM mysql.global_priv", "SELECT * FROM mysql.user", "SELECT * FROM exfilguard.accounts", "ALTER USER root@localhost IDENTIFIED BY 'x'", "SET PASSWORD FOR root@localhost = ''",
        "CALL exfilguard.lock_account('exfilguard_admin', '127.0.0.1')", "CALL exfilguard.end_sessions('exfilguard_admin')",
        "CALL exfilguard.may_touch('a', 'b')", "KILL 1", "CREATE USER x",
    ):  # fmt: skip
        with (
            lab.server.connect("exfilguard_hook", HOOK_PASSWORD) as connection,
            connection.cursor() as cursor,
            pytest.raises(pymysql.MySQLError),
        ):
            cursor.execute(statement)


def test_keycloaks_offline_tokens_are_revoked(lab: Any, account: str) -> None:
    if lab.name != "keycloak":
        return
    offline = lab.login(account, "openid offline_access")
    assert offline.alive()
    undo = run(lab.hook().before(order(account)))
    assert "1 sessions ended" in run(lab.hook().lock(order(account))).detail
    run(lab.hook().unlock(order(account), undo))
    assert not offline.alive(), "the account is free again, the old token is not"
    assert lab.login(account) is not None


def test_somebody_elses_change_in_active_directory_stays(lab: Any, account: str) -> None:
    if lab.name != "active-directory":
        return
    import ldap

    hook = lab.hook()
    undo = run(hook.before(order(account)))
    run(hook.lock(order(account)))
    with lab.admin() as admin:  # DONT_EXPIRE_PASSWORD is taken away meanwhile
        admin.modify_s(lab.dn(account), [(ldap.MOD_REPLACE, "userAccountControl", [b"514"])])
    assert run(hook.unlock(order(account), undo)).outcome == "done"
    assert run(hook.before(order(account))) == {"userAccountControl": ["512"]}


# -- a server that is away, refuses, hangs, lies ------------------------------------------------------------------------


def test_a_server_that_is_away_fails_in_time(lab: Lab, account: str) -> None:
    hook = lab.at(free_port(), timeout_ms=2_000)
    began = time.monotonic()
    for attempt in (hook.before, hook.lock):
        with pytest.raises(HookError):
            run(attempt(order(account)))
    assert time.monotonic() - began < 5.0


def test_a_server_that_hangs_is_given_up_in_time(lab: Lab, account: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hook = lab.at(silent.getsockname()[1], timeout_ms=500)

        async def attempt() -> float:
            began = time.monotonic()
            with pytest.raises(HookError):
                await hook.lock(order(account))
            return time.monotonic() - began

        assert run(attempt()) < 1.0


def test_a_server_that_stops_answering_half_way_is_given_up_in_time(lab: Lab, account: str) -> None:
    """It answers the login, and then no more: what libraries forget to bound."""
    if lab.name == "command":
        return  # it has no connection of its own
    failed = 0
    for answered_bytes in (1, 30, 200, 600):
        with HalfDeaf(getattr(lab, "server", lab).port, answered_bytes) as proxy:
            hook = lab.at(proxy.port, timeout_ms=500)
            began = time.monotonic()
            try:
                asyncio.run(hook.lock(order(account)))  # some say all they have to say in this few bytes
            except HookError:
                failed += 1
            assert time.monotonic() - began < 1.5
    assert failed >= 2


def test_a_wrong_password_is_an_error_that_names_no_secret(lab: Lab, account: str) -> None:
    if lab.name == "command":
        return  # a program has no password of ours
    hook = lab.hook(password="not the password")
    with pytest.raises(HookError) as caught:
        run(hook.lock(order(account)))
    assert not isinstance(caught.value, HookRefused)
    assert "not the password" not in str(caught.value)
    assert account not in str(caught.value)
    assert "check" in str(caught.value)
    assert lab.login(account) is not None


def test_a_server_that_says_done_and_did_nothing_is_caught(lab: Lab, account: str) -> None:
    hook = lab.hook(timeout_ms=3_000)

    async def lie(*_: Any) -> None:
        return None

    hook.suspend = lie  # type: ignore[method-assign]
    with pytest.raises(HookError, match=r"not suspended|not finished"):
        run(hook.lock(order(account)))
    honest = lab.hook()
    undo = run(honest.before(order(account)))
    run(honest.lock(order(account)))
    hook.restore = lie  # type: ignore[method-assign]
    with pytest.raises(HookError, match="not as it was"):
        run(hook.unlock(order(account), undo))
    run(honest.unlock(order(account), undo))


class HalfDeaf:
    """A proxy that lets this many bytes of the server's answers through, and then stays silent, connected."""

    def __init__(self, port: int, answered_bytes: int) -> None:
        self._to, self._left = port, answered_bytes
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open: list[socket.socket] = []

    def __enter__(self) -> HalfDeaf:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            self._open += [client, server]
            threading.Thread(target=self._pump, args=(client, server, 1 << 30), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, self._left), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket, left: int) -> None:
        try:
            while left > 0 and (data := source.recv(min(left, 65_536))):
                target.sendall(data)
                left -= len(data)
        except OSError:
            return
