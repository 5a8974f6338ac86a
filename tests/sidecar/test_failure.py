"""An error of the guard's own while it reads a session: care goes on, the log has no value."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from exfilguard.events.verdict import Verdict
from exfilguard.observe.patients import Digester, PatientColumns
from exfilguard.observe.session import SessionObserver
from exfilguard.observe.tally import Setting
from exfilguard.runtime.stats import Snapshot, StatsServer, run_dir
from exfilguard.sidecar.gate import Gate
from exfilguard.sidecar.relay import Session
from exfilguard.sidecar.worker import Guard, Worker

SECRET = "Dupont"


class Side:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close_softly(self) -> None: ...
    def abort(self) -> None:
        self.aborted = True


class Failing(SessionObserver):
    """Fails at everything, until it is told to give up."""

    at_boundary = True  # type: ignore[assignment]
    awaiting_reply = False  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(Setting("dpi", Digester(b"0123456789abcdef"), 1, 1), "s", "10.0.0.1", PatientColumns([]))
        self.principal = "app"
        self.authenticated = True

    def _fail(self, *_: Any, **__: Any) -> Any:
        if not self.desynced:
            raise ValueError(f"invalid literal: {SECRET}")
        return []

    client_data = server_data = observed = tick = _fail

    def untold(self) -> bool:
        return True

    def give_up(self, now_ms: int) -> list[Any]:
        self.desynced = True
        return ["desynced"]

    def close(self, now_ms: int) -> list[Any]:
        return []


def made(mode: str, on_desync: str) -> tuple[Session, Side, Side, list[Any], SimpleNamespace]:
    told: list[Any] = []
    front = SimpleNamespace(
        refusal=lambda why, text: b"ERROR",
        cancel=lambda: None,
        login_reply=lambda data: data,
        leave=lambda server: None,
    )
    counters = SimpleNamespace(desynced=0, refused=0, records_past_limit=0)
    guard = SimpleNamespace(
        listener=SimpleNamespace(name="dpi", mode=mode, on_desync=on_desync), make_front=lambda session: front, counters=counters,
        gate=Gate(),
        worker=SimpleNamespace(
            journal=SimpleNamespace(full=False), config=SimpleNamespace(spool=SimpleNamespace(on_full="forward"))
        ), unreported=set(),
        note_desynced=lambda session: not counters.__dict__.update(desynced=counters.desynced + 1),
        emit=lambda session, events: told.extend(events), gone=lambda session: None,
    )  # fmt: skip
    client, server = Side(), Side()
    session = Session(cast("Any", guard), cast("Any", client), "10.0.0.1")
    session.observer, session.server, session.started, session.principal = (
        Failing(),
        cast("Any", server),
        True,
        "app",
    )
    return session, client, server, told, counters


@pytest.mark.parametrize("who", ["client", "server"])
def test_an_error_of_the_guards_own_desyncs_one_session(who: str, caplog: pytest.LogCaptureFixture) -> None:
    """`observe`, `forward`: every byte goes on, before and after."""
    session, client, server, told, counters = made("observe", "forward")
    say, arrives = (session.from_client, server) if who == "client" else (session.from_server, client)
    with caplog.at_level(logging.ERROR):
        say(b"one")
    assert arrives.written == [b"one"]
    assert (told, counters.desynced, session.closed) == (["desynced"], 1, False)
    assert "ValueError at test_failure.py" in caplog.text
    assert SECRET not in caplog.text
    session.from_server(b"two")
    assert client.written[-1] == b"two"


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize(("mode", "on_desync"), [("observe", "close"), ("enforce", "forward"), ("enforce", "close")])
def test_it_ends_the_session_where_it_may_not_go_on(who: str, mode: str, on_desync: str) -> None:
    """Counted first, what has passed is not known: the session ends, with an error."""
    session, client, _, _, counters = made(mode, on_desync)
    (session.from_client if who == "client" else session.from_server)(b"one")
    assert session.closed
    assert client.written[-1] == b"ERROR"
    assert counters.refused == 1


def guard_of(session: Session) -> Any:
    """The listener's, as far as it looks at all sessions."""
    guard = Guard.__new__(Guard)
    guard.budget = None
    guard.listener, guard.sessions, guard.unreported = session.listener, {"app": {session}}, {session}
    return guard


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_an_error_while_a_stalled_result_is_reported_is_one_sessions(mode: str) -> None:
    """It ended the relay, and every session of it."""
    session, *_, counters = made(mode, "forward")
    guard = guard_of(session)
    guard.report_stalled()
    assert (counters.desynced, session.closed) == (1, mode == "enforce")


def test_an_error_at_a_verdict_ends_that_session_and_no_other_is_left_out() -> None:
    """The others of the account went on as if it were not locked: the verdict was known, and not looked at again."""
    session, client, *_ = made("observe", "forward")
    applied: list[Verdict] = []
    other = SimpleNamespace(apply=applied.append)
    guard = guard_of(session)
    guard.sessions = {"app": [session, other]}
    verdict = Verdict("clinic", "app", "throttle", 1, 1, "r", "operator:x")
    session.guard.throttle_of = None  # as wrong as can be
    guard.apply(verdict)
    assert session.closed
    assert client.written[-1] == b"ERROR"
    assert applied == [verdict]


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_takes_no_socket_keeps_no_relay_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    relay = cast("Worker", SimpleNamespace(data_dir=tmp_path, number=0, _control=None))
    run_dir(tmp_path).mkdir(parents=True, exist_ok=True)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "unlink", refuse)
    if number == errno.EACCES:  # a mistake, to be mended before it begins
        with pytest.raises(PermissionError):
            asyncio.run(Worker._heard(relay))
        with pytest.raises(PermissionError):
            StatsServer(tmp_path / "relay-0.stats", lambda: Snapshot("relay", "0"))
        return
    assert asyncio.run(Worker._heard(relay)) is None
    StatsServer(tmp_path / "relay-0.stats", lambda: Snapshot("relay", "0")).close()
    assert len(caplog.records) == 2
