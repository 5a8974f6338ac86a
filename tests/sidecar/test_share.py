"""A shared account is cut where a session took its share: in both modes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from exfilguard.events.verdict import Verdict
from exfilguard.observe.patients import Digester, PatientColumns
from exfilguard.observe.session import SessionObserver
from exfilguard.observe.tally import Setting
from exfilguard.runtime.clock import now_ms
from exfilguard.sidecar.budget import LocalBudget
from exfilguard.sidecar.gate import Gate
from exfilguard.sidecar.relay import Session
from tests.wire import build as b


class Side:
    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close_softly(self) -> None: ...
    def resume(self, why: str) -> None: ...
    def resume_all(self) -> None: ...


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_a_session_that_took_its_share_after_the_verdict_ends(mode: str) -> None:
    verdict = Verdict(
        tenant="t", principal="app", level="cut", revision=1, reason="", issued_ms=now_ms(), expires_ms=now_ms() + 60_000, issuer="detector:0",
        scope="session", session_rows=5,
    )  # fmt: skip
    front = SimpleNamespace(
        refusal=lambda why, text: b"ERROR",
        cancel=lambda: None,
        login_reply=lambda data: data,
        leave=lambda server: None,
    )
    counters = SimpleNamespace(desynced=0, refused=0, verdict_cuts=0, local_cuts=0)
    guard = SimpleNamespace(
        listener=SimpleNamespace(name="dpi", mode=mode, on_desync="forward", on_cut="close"), make_front=lambda session: front,
        counters=counters, gate=Gate(), unreported=set(), emit=lambda session, events: None, gone=lambda session: None,
        worker=SimpleNamespace(
            journal=SimpleNamespace(full=False), config=SimpleNamespace(spool=SimpleNamespace(on_full="forward"))
        ), verdict_for=lambda principal: verdict, moved=lambda session, principal: None,
        budget_of=lambda principal: LocalBudget(1_000, 0, 60_000),
    )  # fmt: skip
    client, server = Side(), Side()
    session = Session(cast("Any", guard), cast("Any", client), "10.0.0.1")
    observer = SessionObserver(
        Setting("dpi", Digester(b"0123456789abcdef"), 1_000, 1_000), "s", "10.0.0.1", PatientColumns([])
    )
    observer.startup({"user": "app"})
    observer.server_data(b.LOGIN, 1)
    session.observer, session.server, session.started, session.principal = observer, cast("Any", server), True, "app"
    session.budget = guard.budget_of("app") if mode == "enforce" else None
    session.apply(verdict)
    for number in range(3):
        session.from_client(b.query("SELECT nom FROM patients"))
        session.from_server(b.description(("nom", 1, 1, 25)) + b.row(b"x") * 2 + b.complete("SELECT 2") + b.READY)
        assert session.closed == (number == 2), "six rows are beyond five"
    assert client.written.endswith(b"ERROR")
    assert counters.verdict_cuts == 1
