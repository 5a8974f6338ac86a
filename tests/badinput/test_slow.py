"""Too slow, too much, too little: one byte at a time, a side that never reads, a side that never speaks. Others are served meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.badinput import postgres
from tests.badinput.case import Case
from tests.badinput.stand import PHASES, SETTINGS, Stand, Talk, listener_name
from tests.integration.stack import rss_kib, wait_for
from tests.integration.test_relay import certificate
from tests.wire import build as b
from tests.wire import mysql_build as m

ENGINES = tuple(PHASES)
GROWTH_KIB = 8_000
ENDS = {
    "postgres": postgres.ROW * 3 + b.complete("SELECT 4") + b.READY,
    "mysql": m.numbered(m.row("2", "x"), m.row("3", "y"), m.eof(), first=6),
}
ROWS = {"postgres": b.row(b"1", b"x" * 10_000) * 100, "mysql": m.numbered(*[m.row("1", "x" * 10_000)] * 100, first=6)}
QUERIES = {"postgres": b.query("SELECT '" + "x" * 60_000 + "'"), "mysql": m.query("SELECT '" + "x" * 60_000 + "'")}


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    directory = tmp_path_factory.mktemp("slow")
    made = Stand(directory, certificate(directory))
    yield made
    made.close()


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("engine", ENGINES)
def test_one_byte_at_a_time_is_a_conversation_like_any_other(stand: Stand, engine: str, settings: str) -> None:
    talk = Talk(stand, listener_name(engine, settings))
    steps = [*PHASES[engine]["result"].steps, ("<", ENDS[engine])]
    said = {">": 0, "<": 0}
    before = stand.desynced()
    for side, data in steps:
        speaker = talk.client if side == ">" else talk.reached()
        for at in range(len(data)):
            while speaker.send(data[at : at + 1]):
                time.sleep(0.0005)
        said[side] += len(data)
        talk.until_heard(talk.reached() if side == ">" else talk.client, said[side])
    assert talk.client.heard.endswith(ENDS[engine])
    assert stand.desynced() == before
    assert not talk.client.over
    talk.close()


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("who", ["client", "database"])
def test_a_side_that_never_reads_costs_a_bounded_buffer(stand: Stand, who: str, engine: str, settings: str) -> None:
    """The other side is not read any more: it notices, as it would without a guard."""
    talk = Talk(stand, listener_name(engine, settings))
    talk.reach(engine, "result" if who == "client" else "idle")
    speaker = talk.reached() if who == "client" else talk.client
    data = (ROWS if who == "client" else QUERIES)[engine]
    before_kib, sent, still = rss_kib(stand.pid), 0, 0
    rest = b""
    while still < 50:  # the neighbour was answered so often, and not a byte more was taken
        was = len(rest) or len(data)
        rest = speaker.send(rest or data)
        sent += was - len(rest)
        still = still + 1 if len(rest) == was else 0
        stand.ping()
        assert sent < 64 << 20, "it is taken without end"
    # Statements that wait for their answer are kept; what lies in the kernel's buffers has no end of its own in that.
    kept_kib = 3 * sent // 1024 if who == "database" else 0
    assert rss_kib(stand.pid) - before_kib < GROWTH_KIB + kept_kib
    sessions = stand.stack.total("sessions")
    talk.client.end("close")
    talk.close()
    wait_for(lambda: stand.stack.total("sessions") < sessions, message="it ends with its client")


def test_what_never_becomes_a_login_is_closed_in_time(stand: Stand) -> None:
    """The listener's login_timeout, on every kind of beginning at once."""
    beginnings = [
        Case("start-up", "client", "", data) for data in (b"", b"\0", postgres.HELLO[:-1], b"\x16\x03\x01\x02")
    ]
    talks = [Talk(stand, listener_name("hasty")) for _ in beginnings]
    for talk, case in zip(talks, beginnings, strict=True):
        talk.say(case)
    before = stand.stack.total("login_timeouts_total")
    for talk in talks:
        stand.until(lambda t=talk: t.listen() and bool(t.client.over))  # type: ignore[misc]
        talk.close()
    assert stand.stack.total("login_timeouts_total") >= before
    wait_for(lambda: stand.stack.total("login_timeouts_total") == len(talks))
