"""The PostgreSQL hook against a real server: it locks, it is verified, it is undone, and it refuses whom it must not touch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from exfilguard.config.schema import PostgresHookConfig
from exfilguard.embedded.child import free_port
from exfilguard.errors import HookError, HookRefused
from exfilguard.lab.attack import try_login
from exfilguard.lab.patients import staff
from exfilguard.respond.hook import Settings
from exfilguard.respond.postgres import PostgresHook
from tests.respond.orders import order

from .conftest import Hospital
from .stack import PASSWORD, connect

ACCOUNT = staff().secretaries[0]


@pytest.fixture
def hook(hospital: Hospital) -> Iterator[PostgresHook]:
    yield PostgresHook(PostgresHookConfig(dsn=hospital.dsn("exfilguard_hook")), Settings(protected={"urgences"}))
    with connect(hospital.admin_dsn) as admin:
        admin.execute(f'ALTER ROLE "{ACCOUNT}" LOGIN')


def test_locks_ends_the_sessions_and_gives_back(hook: PostgresHook, hospital: Hospital) -> None:
    with connect(hospital.dsn(ACCOUNT)) as first, connect(hospital.dsn(ACCOUNT)) as second:
        undo = asyncio.run(hook.before(order(ACCOUNT)))
        result = asyncio.run(hook.lock(order(ACCOUNT)))
        assert (result.outcome, result.verified, undo) == ("done", True, {"login": True})
        assert "2 sessions ended" in result.detail
        for session in (first, second):
            with pytest.raises(psycopg.OperationalError):
                session.execute("SELECT 1")
    assert try_login(hospital.dsn(ACCOUNT))
    assert asyncio.run(hook.lock(order(ACCOUNT))).outcome == "already"
    assert asyncio.run(hook.unlock(order(ACCOUNT), undo)).outcome == "done"
    assert not try_login(hospital.dsn(ACCOUNT))
    assert asyncio.run(hook.unlock(order(ACCOUNT), undo)).outcome == "already"


def test_what_was_locked_before_stays_locked(hook: PostgresHook, hospital: Hospital) -> None:
    with connect(hospital.admin_dsn) as admin:
        admin.execute(f'ALTER ROLE "{ACCOUNT}" NOLOGIN')
    undo = asyncio.run(hook.before(order(ACCOUNT)))
    assert asyncio.run(hook.lock(order(ACCOUNT))).outcome == "already"
    assert asyncio.run(hook.unlock(order(ACCOUNT), undo)).outcome == "already"
    assert try_login(hospital.dsn(ACCOUNT))


def test_nobody_slips_in_while_it_locks(hook: PostgresHook, hospital: Hospital) -> None:
    stop = threading.Event()

    def knock() -> None:
        while not stop.is_set():
            try:
                with connect(hospital.dsn(ACCOUNT)) as session:
                    session.execute("SELECT pg_sleep(5)")
            except psycopg.Error:
                continue

    threads = [threading.Thread(target=knock, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert asyncio.run(hook.lock(order(ACCOUNT))).verified
    try:
        with connect(hospital.admin_dsn) as admin:
            for _ in range(20):
                row = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", (ACCOUNT,)).fetchone()
                assert row == (0,)
    finally:
        stop.set()


@pytest.mark.parametrize(
    ("account", "why"),
    [
        ("postgres", "superuser"),
        ("urgences", "break-glass"),
        ("exfilguard_hook", "own account"),
        ("nobody at all", "no such role"),
        ("x'; ALTER ROLE postgres NOLOGIN; --", "no such role"),
    ],
)
def test_refuses(hook: PostgresHook, account: str, why: str) -> None:
    for attempt in (hook.before, hook.lock):
        with pytest.raises(HookRefused, match=why):
            asyncio.run(attempt(order(account)))


def test_dry_run_changes_nothing(hospital: Hospital) -> None:
    dry = PostgresHook(PostgresHookConfig(dsn=hospital.dsn("exfilguard_hook")), Settings(dry_run=True))
    result = asyncio.run(dry.lock(order(ACCOUNT)))
    assert (result.outcome, result.verified) == ("dry_run", False)
    assert not try_login(hospital.dsn(ACCOUNT))


def test_a_database_that_is_away_fails_in_time_without_the_password(hospital: Hospital) -> None:
    away = PostgresHook(
        PostgresHookConfig(dsn=hospital.dsn("exfilguard_hook", free_port())), Settings(timeout_ms=1_000)
    )
    with pytest.raises(HookError) as caught:
        asyncio.run(away.lock(order(ACCOUNT)))
    assert PASSWORD not in str(caught.value)
    assert "check the DSN" in str(caught.value)


def test_the_grants_in_deploy_are_enough(hospital: Hospital) -> None:
    """deploy/postgres/hook.sql run by psql as documented makes an account with which the hook works."""
    import subprocess

    from .stack import clean_environment

    with connect(hospital.admin_dsn) as admin:
        admin.execute("DROP OWNED BY exfilguard_hook CASCADE")
        admin.execute("DROP ROLE exfilguard_hook")
    script = Path(__file__).parents[2] / "deploy" / "postgres" / "hook.sql"
    subprocess.run(
        [hospital.server.bin / "psql", hospital.admin_dsn, "-v", "ON_ERROR_STOP=1", "-v", f"hook_password={PASSWORD}", "-f", script],
        check=True, capture_output=True, env=clean_environment(),
    )  # fmt: skip
    made = PostgresHook(PostgresHookConfig(dsn=hospital.dsn("exfilguard_hook")), Settings())
    undo = asyncio.run(made.before(order(ACCOUNT)))
    assert asyncio.run(made.lock(order(ACCOUNT))).outcome == "done"
    assert asyncio.run(made.unlock(order(ACCOUNT), undo)).outcome == "done"
