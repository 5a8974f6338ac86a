"""After a cut: `on_cut` closes the session or keeps it in step, as clients see it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from exfilguard.events.verdict import Verdict
from tests.drivers.drivers import compiled, needs

from .guarded import Relay
from .stack import PASSWORD, connect, wait_for

LIMITED = psycopg.errors.ConfigurationLimitExceeded
WINDOW_MS = 2_000
MANY = "SELECT id FROM patient ORDER BY id"


def refilled() -> None:
    """Until the budget's window, and its slice, have passed."""
    time.sleep(WINDOW_MS / 1000 * 1.3)


def test_close_ends_the_session(relay: Relay) -> None:
    guarded = relay(mode="enforce", budget_rows=500, on_cut="close")
    with pytest.raises(psycopg.OperationalError, match="local budget"), connect(guarded.dsn()) as through:
        through.execute(MANY).fetchall()
    assert through.closed


def test_whom_a_person_frees_is_not_cut_again_at_the_next_row(relay: Relay, tmp_path: Path) -> None:
    guarded = relay(mode="enforce", budget_rows=500, budget_window_ms=3_600_000, on_cut="close")
    few = MANY + " LIMIT 400"

    def told(revision: int, issuer: str) -> None:
        guarded.stack.tell(Verdict("clinic", "dpi_export", "none", revision, 1, "r", issuer))
        time.sleep(0.2)

    def read() -> None:
        with connect(guarded.dsn()) as through:
            assert len(through.execute(few).fetchall()) == 400

    read()
    told(8, "detector:0")  # its own limits are others
    with pytest.raises(psycopg.OperationalError, match="local budget"):
        read()
    told(9, "operator:anna")
    read()
    with pytest.raises(psycopg.OperationalError, match="local budget"):
        read()


def statements(c: psycopg.Connection[Any]) -> dict[str, Any]:
    def copy() -> None:
        with c.cursor() as cursor, cursor.copy("COPY patient TO STDOUT") as copying:
            for _ in copying:
                pass

    def cursor() -> None:
        with c.transaction(), c.cursor(name="tenu") as held:
            held.execute(MANY)
            held.fetchall()

    def pipeline() -> None:
        with c.pipeline() as piped:
            c.execute("SELECT 1")
            c.execute("SELECT repeat('x', 2000) FROM patient, generate_series(1, 20)")
            c.execute("INSERT INTO never VALUES (1)")  # never reached: an error skips to the Sync
            piped.sync()

    return {
        "simple": lambda: c.execute(MANY + ";"),
        "extended": lambda: c.execute("SELECT id FROM patient WHERE id > %s", (0,)),
        "prepared, binary": lambda: c.execute("SELECT id FROM patient WHERE id > %s", (0,), prepare=True, binary=True),
        "several": lambda: c.execute("SELECT 1; " + MANY + "; SELECT 2"),
        "copy": copy,
        "cursor": cursor,
        "pipeline": pipeline,
        "large": lambda: c.execute("SELECT repeat('x', 2000) FROM generate_series(1, 200000)"),
    }


NAMES = ("simple", "extended", "prepared, binary", "several", "copy", "cursor", "pipeline", "large")


@pytest.mark.parametrize("patients", [False, True], ids=["rows", "patients"])
def test_error_keeps_the_session_in_step(relay: Relay, patients: bool) -> None:
    limit = {"budget_patients": 500} if patients else {"budget_rows": 500}
    guarded = relay(mode="enforce", budget_window_ms=WINDOW_MS, on_cut="error", **limit)
    with connect(guarded.dsn()) as through:
        through.execute("CREATE TEMP TABLE never (a int)")
        pid = through.info.backend_pid
        asked = statements(through)
        assert tuple(asked) == NAMES
        for name, ask in asked.items():
            if patients and name == "large":
                continue  # no patient in it
            with pytest.raises(LIMITED, match="local budget"):
                ask()
            assert not through.closed, name
            assert through.info.transaction_status == psycopg.pq.TransactionStatus.IDLE, name
            through.execute("SET application_name = 'still here'")
            assert through.info.backend_pid == pid
        refilled()
        assert through.execute("SELECT count(*) FROM never").fetchone() == (0,)
        assert through.execute("SELECT id FROM patient WHERE id <= 400 ORDER BY id").fetchall() == [
            (n,) for n in range(1, 401)
        ]
    wait_for(lambda: [e for e in guarded.events() if e["kind"] == "logout"])
    events = guarded.events()
    assert len([e for e in events if e["kind"] == "query" and e.get("error") == "53400"]) == len(NAMES) - patients
    assert not [e for e in events if e["kind"] == "desynced"]
    assert guarded.stack.total("records_past_limit_total") == 0


def test_the_transaction_status_is_the_databases(relay: Relay) -> None:
    guarded = relay(mode="enforce", budget_rows=500, budget_window_ms=WINDOW_MS, on_cut="error")
    with connect(guarded.dsn()) as through:
        through.execute("CREATE TEMP TABLE kept (a int)")
        through.execute("BEGIN")
        through.execute("INSERT INTO kept VALUES (1)")
        with pytest.raises(LIMITED):
            # Too large to be finished before the cancel: the transaction has failed, and the client is told so.
            through.execute("SELECT repeat('x', 2000) FROM generate_series(1, 200000)")
        assert through.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            through.execute("SELECT 1")
        through.execute("ROLLBACK")
        refilled()
        assert through.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_an_error_is_never_told_of_what_has_been_done(relay: Relay) -> None:
    """An INSERT .. RETURNING that is done before the cancel reaches it: the session is closed, not told of an error and kept."""
    guarded = relay(mode="enforce", budget_rows=500, budget_window_ms=WINDOW_MS, on_cut="error")
    with connect(guarded.dsn()) as through:
        through.execute("CREATE TEMP TABLE t (a int)")
        with pytest.raises(psycopg.Error, match="local budget"):
            through.execute("INSERT INTO t SELECT generate_series(1, 600) RETURNING a")
        with pytest.raises(psycopg.OperationalError):
            through.execute("SET application_name = 'x'")
        assert through.closed
    wait_for(lambda: [e for e in guarded.events() if "cut too late" in e.get("detail", "")])


def test_exactly_the_limit_is_delivered_whatever_follows(relay: Relay) -> None:
    guarded = relay(mode="enforce", budget_rows=777, budget_window_ms=60_000, on_cut="error")
    rows = 0
    with connect(guarded.dsn()) as through:
        for _ in range(5):
            try:
                for _ in through.cursor().stream(MANY):
                    rows += 1
            except LIMITED:
                continue
        assert rows == 777
    wait_for(lambda: guarded.counted() == 777)


def test_notifications_reach_a_session_that_is_being_cut(relay: Relay) -> None:
    """Every one that was sent arrives, those in the middle of a result that is dropped too."""
    guarded = relay(mode="enforce", budget_rows=500, budget_window_ms=WINDOW_MS, on_cut="error")
    with connect(guarded.dsn()) as through, connect(guarded.dsn("dr.martin")) as other:
        heard: list[str] = []
        through.add_notify_handler(lambda notify: heard.append(notify.payload))
        through.execute("LISTEN canal")
        stop = threading.Event()
        sent: list[str] = []

        def shout() -> None:
            while not stop.wait(0.01):
                sent.append(f"bonjour {len(sent)}")
                other.execute(f"NOTIFY canal, '{sent[-1]}'")

        shouting = threading.Thread(target=shout)
        shouting.start()
        cuts = 0
        while cuts < 5 or len(sent) < 10:
            with pytest.raises(LIMITED):
                through.execute("SELECT repeat('x', 2000) FROM generate_series(1, 50000)")
            cuts += 1
        stop.set()
        shouting.join()

        def all_heard() -> bool:
            with contextlib.suppress(LIMITED):
                through.execute("SELECT 1")
            return len(heard) >= len(sent)

        wait_for(all_heard)
        assert heard == sent


@pytest.mark.parametrize("on_cut", ["close", "error"])
def test_jdbc_after_a_cut(relay: Relay, on_cut: str) -> None:
    needs("java", "javac", "mvn")
    guarded = relay(mode="enforce", budget_rows=500, budget_window_ms=WINDOW_MS, on_cut=on_cut)
    command = compiled("CutJdbc")
    environment = {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(guarded.port),
        "PGUSER": "dpi_export",
        "PGPASSWORD": PASSWORD,
        "PGDATABASE": "dpi",
    }
    java = shutil.which("java")
    assert java is not None
    done = subprocess.run(
        command,
        env={**environment, "PATH": str(Path(java).parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    if on_cut == "close":
        assert lines == ["statement 53400 500 rows", "valid false"]
    else:
        assert lines == [
            "statement 53400 500 rows", "valid true",
            "fetch size 53400", "prepared 53400", "batch no error", "copy 53400",
            "after the window 300", "in a transaction 1", "with effects 53400, closed",
        ]  # fmt: skip
