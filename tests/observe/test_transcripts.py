"""Every recorded conversation, whole, byte by byte, cut at random and with trailing data: the same events, and those that a
naive count of the bytes expects."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from exfilguard.events.query import QueryEvent
from exfilguard.observe.patients import Digester, PatientColumns
from exfilguard.observe.portion import QUERY_CANCELED
from exfilguard.observe.session import SessionObserver
from exfilguard.observe.tally import Setting
from exfilguard.wire.postgres import startup
from tests.observe.test_session import merged
from tests.wire import oracle, transcript
from tests.wire.transcript import FOLDER, Step

TRANSCRIPTS = {name: transcript.load(FOLDER / f"{name}.txt") for name in transcript.names()}


def observer(parameters: dict[str, str]) -> SessionObserver:
    columns = PatientColumns(["care.patient.id", "care.sejour.patient_id"])
    made = SessionObserver(Setting("ehr", Digester(b"0123456789abcdef"), 1000, 50), "s1", "10.0.0.9", columns)
    made.startup(parameters)
    return made


def play(steps: list[Step], cut: random.Random | int | None = None) -> tuple[SessionObserver, list[QueryEvent]]:
    """The conversation behind its StartupMessage, which must come in one piece with nothing behind it."""
    (_, first), *rest = steps
    request, used = startup.parse(first)
    assert isinstance(request, startup.StartupMessage)
    seen = observer(request.params)
    events: list[QueryEvent] = []
    for side, data in [(">", first[used:]), *rest]:
        for piece in pieces(data, cut):
            events += seen.client_data(piece, 1000) if side == ">" else seen.server_data(piece, 1000).events
    return seen, events


def pieces(data: bytes, cut: random.Random | int | None) -> list[bytes]:
    if cut == 1:
        return [data[i : i + 1] for i in range(len(data))]
    if isinstance(cut, random.Random):
        edges = sorted(cut.choices(range(len(data) + 1), k=min(9, len(data))))
        return [data[i:j] for i, j in zip([0, *edges], [*edges, len(data)], strict=True)]
    return [data]


def test_there_are_transcripts_of_every_kind() -> None:
    kinds = "".join(sorted({kind for steps in TRANSCRIPTS.values() for kind, _ in oracle.messages(said(steps))}))
    # What these drivers make a server say; replication (W, v) is in tests of its own.
    assert kinds == "123ACDEGHIKNRSTVZcdnst"
    assert len(TRANSCRIPTS) > 20
    assert sum(path.stat().st_size for path in Path(FOLDER).glob("*.txt")) < 1_500_000, "small enough to keep"


def test_the_recordings_use_what_the_extended_protocol_has() -> None:
    """By the clients' messages: Bind, Close, Describe, Execute, Function, Flush, Parse, Sync, COPY's; named and unnamed, whole and in parts."""
    seen = set()
    for steps in TRANSCRIPTS.values():
        _, used = startup.parse(steps[0][1])
        stream = b"".join(data for side, data in steps if side == ">")[used:]
        for kind, body in oracle.messages(stream):
            seen.add(kind)
            if kind in "PB":
                seen.add(f"{kind} {'unnamed' if not body[0] else 'named'}")
            elif kind == "E":
                seen.add("E in parts" if body[-4:] != b"\0\0\0\0" else "E whole")
    wanted = {*"BCDEFHPQSXcdfp", "P named", "P unnamed", "B named", "B unnamed", "E in parts", "E whole"}
    assert wanted <= seen, wanted - seen


def said(steps: list[Step]) -> bytes:
    return b"".join(data for side, data in steps if side == "<")


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_transcript_however_it_is_cut(name: str) -> None:
    steps = TRANSCRIPTS[name]
    seen, events = play(steps)
    whole = merged(events)
    assert not seen.desynced
    assert seen.at_boundary
    assert not seen.untold()

    stream = said(steps)
    assert sum(e.rows for e in events) == oracle.rows_delivered(stream)
    tags = oracle.statements(stream)
    ended = [e for e in events if e.kind == "query"]
    assert len(ended) == len(tags)
    assert [e.error for e in ended if e.error] == [tag[1:] for tag in tags if tag[0] == "!"]

    assert merged(play(steps, 1)[1]) == whole
    for seed in range(3):
        assert merged(play(steps, random.Random(seed))[1]) == whole


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_transcript_with_trailing_data(name: str) -> None:
    """The beginning of a further message changes nothing that went before, whatever it is."""
    steps = TRANSCRIPTS[name]
    whole = merged(play(steps)[1])
    for tail in (b"N\0\0", b"S\0\0\0\x20TimeZone", b"A\0\0\1\0\0\0\0\7canal"):
        seen, events = play([*steps, ("<", tail), (">", b"Q\0\0\1\0SELECT")])
        assert merged(events) == whole
        assert not seen.desynced
        assert not seen.at_boundary


def test_a_session_that_breaks_off_anywhere_reports_what_was_delivered() -> None:
    steps = TRANSCRIPTS["psycopg-18-1"]
    for end in range(2, len(steps), 7):
        seen, events = play(steps[:end])
        events += seen.close(2000)
        delivered = oracle.rows_delivered(said(steps[:end]))
        # A row whose message is cut off at the end of the piece has been counted: too many, never too few.
        assert delivered <= sum(e.rows for e in events) <= delivered + 1
        assert all(e.error in ("", QUERY_CANCELED) or len(e.error) == 5 for e in events)


def test_encoding_of_transcripts_reads_back() -> None:
    data = bytes(range(256)) + rb"\x41 \\ \n"
    assert transcript.decode(transcript.encode(data)) == data
