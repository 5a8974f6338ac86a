"""Every recorded conversation with MariaDB, whole, byte by byte, cut at random and with trailing data: the same events, and those
that a naive reading of the bytes expects."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from exfilguard.events.query import QueryEvent
from exfilguard.observe.mysql.patients import OriginColumns
from exfilguard.observe.mysql.session import MysqlObserver
from exfilguard.observe.patients import Digester
from exfilguard.observe.portion import QUERY_CANCELED
from exfilguard.observe.tally import Setting
from exfilguard.wire.mysql import messages, startup
from exfilguard.wire.mysql.compression import Algorithm
from tests.observe.test_session import merged
from tests.observe.test_transcripts import pieces
from tests.wire import mysql_oracle, transcript
from tests.wire.transcript import FOLDER, Step

ALL = {path.stem: transcript.load(path) for path in sorted((FOLDER / "mysql").glob("*.txt"))}


def login(steps: list[Step]) -> tuple[startup.Login, list[Step]] | None:
    """The client's login packet, and what follows the server's OK; None when the login failed."""
    answers = client = b""
    for number, (side, data) in enumerate(steps):
        if side == ">":
            client += data
            continue
        answers += data
        for _, payload in mysql_oracle.packets(answers)[1:]:
            if payload[0] == 0:
                found = startup.login(mysql_oracle.packets(client)[0][1])
                offered = startup.greeting(mysql_oracle.packets(answers)[0][1]).capabilities
                return replace(found, capabilities=found.capabilities & offered), steps[number + 1 :]
            if payload[0] == 0xFF:
                return None
    return None


TRANSCRIPTS = {name: found for name, steps in ALL.items() if (found := login(steps)) is not None}


def observer(found: startup.Login) -> MysqlObserver:
    made = MysqlObserver(
        Setting("ehr", Digester(b"0123456789abcdef"), 1000, 50), "s1", "10.0.0.9",
        OriginColumns(["patient.id", "sejour.patient_id"]),
    )  # fmt: skip
    made.startup(found)
    flags = found.capabilities
    algorithm: Algorithm = "zlib" if flags & messages.CLIENT_COMPRESS else ""
    made.login_succeeded(flags, algorithm, 1000)
    return made


def play(
    name: str, cut: random.Random | int | None = None, more: list[Step] | None = None
) -> tuple[MysqlObserver, list[QueryEvent]]:
    found, steps = TRANSCRIPTS[name]
    seen = observer(found)
    events: list[QueryEvent] = []
    for side, data in [*steps, *(more or [])]:
        for piece in pieces(data, cut):
            events += seen.client_data(piece, 1000) if side == ">" else seen.server_data(piece, 1000).events
    return seen, events


def test_there_are_transcripts_of_every_kind() -> None:
    commands = {c for name in TRANSCRIPTS for c in said(name).commands}
    wanted = {0x01, 0x02, 0x03, 0x0E, 0x11, 0x16, 0x17, 0x19, 0x1C, 0x1F, messages.COM_STMT_BULK_EXECUTE}
    assert wanted <= commands
    flags = [found.capabilities for found, _ in TRANSCRIPTS.values()]
    for capability in (messages.CLIENT_COMPRESS, messages.CLIENT_DEPRECATE_EOF, messages.MARIADB_CLIENT_CACHE_METADATA,
                       messages.MARIADB_CLIENT_EXTENDED_METADATA, messages.CLIENT_SESSION_TRACK):  # fmt: skip
        assert any(f & capability for f in flags)
        assert not all(f & capability for f in flags)
    assert len(TRANSCRIPTS) > 15
    assert sum(path.stat().st_size for path in (FOLDER / "mysql").glob("*.txt")) < 1_500_000, "small enough to keep"


def said(name: str) -> mysql_oracle.Seen:
    steps = ALL[name]
    client, server = (b"".join(data for side, data in steps if side == which) for which in "><")
    return mysql_oracle.seen(client, server)


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_transcript_however_it_is_cut(name: str) -> None:
    seen, events = play(name)
    whole = merged(events)
    assert not seen.desynced
    assert seen.at_boundary
    assert not seen.untold()
    expected = said(name)
    assert sum(e.rows for e in events) == expected.rows
    ended = [e for e in events if e.kind == "query"]
    assert [e.error for e in ended if e.error] == expected.errors
    assert len([e for e in ended if not e.error]) == expected.results
    assert merged(play(name, 1)[1]) == whole
    for seed in range(3):
        assert merged(play(name, random.Random(seed))[1]) == whole


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_transcript_with_trailing_data(name: str) -> None:
    """The beginning of a further packet changes nothing that went before."""
    whole = merged(play(name)[1])
    for more in (
        [("<", b"\x20\0\0")],
        [(">", b"\x40\0\0\0\x03SELECT id")],
        [(">", b"\x09\0\0\0\x03SEL"), ("<", b"\x07\0")],
    ):
        seen, events = play(name, more=more)
        assert merged(events) == whole
        assert not seen.desynced


def test_a_session_that_breaks_off_anywhere_reports_what_was_delivered() -> None:
    for name in ("pymysql-1", "connector-j-1", "mariadb-java-2"):
        found, steps = TRANSCRIPTS[name]
        before = ALL[name][: len(ALL[name]) - len(steps)]
        for end in range(1, len(steps), 9):
            seen = observer(found)
            events: list[QueryEvent] = []
            for side, data in steps[:end]:
                events += seen.client_data(data, 1000) if side == ">" else seen.server_data(data, 1000).events
            events += seen.close(2000)
            part = [*before, *steps[:end]]
            client, server = (b"".join(data for side, data in part if side == which) for which in "><")
            delivered = mysql_oracle.seen(client, server).rows
            # A row whose packet is cut off at the end of the piece has been counted: too many, never too few.
            assert delivered <= sum(e.rows for e in events) <= delivered + 1
            assert all(e.error in ("", QUERY_CANCELED) or len(e.error) == 5 for e in events)


@pytest.mark.parametrize(
    "name", [name for name, (found, _) in TRANSCRIPTS.items() if not found.capabilities & messages.CLIENT_COMPRESS]
)
@pytest.mark.parametrize("allowed", [0, 3])
def test_never_more_than_the_allowance_is_forwarded(name: str, allowed: int) -> None:
    found, steps = TRANSCRIPTS[name]
    seen, left, forwarded, held = observer(found), allowed, b"", b""
    client = b"".join(data for side, data in steps if side == ">")
    for side, data in steps:
        if side == ">":
            seen.client_data(data, 1000)
            continue
        data, held = held + data, b""
        result = seen.server_data(data, 1000, allowed_rows=left)
        left -= result.rows
        if result.cut_at is not None:
            forwarded += data[: result.cut_at]
            break
        end = len(data) if result.hold_at is None else result.hold_at
        forwarded, held = forwarded + data[:end], data[end:]
    out = mysql_oracle.Seen()
    flags = found.capabilities
    mysql_oracle._Reader(out, flags, mysql_oracle.packets(client), mysql_oracle.packets(forwarded)).read()
    assert out.rows == min(allowed, said(name).rows)
