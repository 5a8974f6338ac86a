"""The observer, transcript by transcript. `>` is the client, `<` the server; each runs whole, byte by byte, and cut at random."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.events.codec import encode_event
from exfilguard.events.query import QueryEvent
from exfilguard.observe.asked import AskedColumns
from exfilguard.observe.classify import Classifier
from exfilguard.observe.columns import MAX_MADE
from exfilguard.observe.estimate import PATIENT_BYTES
from exfilguard.observe.observer import MAX_PREPARED_BYTES
from exfilguard.observe.patients import Digester, PatientColumns
from exfilguard.observe.session import SessionObserver
from exfilguard.observe.tally import Setting
from exfilguard.observe.templates import Templates
from exfilguard.wire.postgres import backend
from tests.fuzz import copies
from tests.wire import build as b

KEY = b"0123456789abcdef"
INT4, TEXT = 23, 25
PATIENT = ("patient_id", 5000, 1, INT4)
NAME = ("nom", 5000, 3, TEXT)


def observer(
    progress_rows: int = 1000,
    origins: set[tuple[int, int]] | None = None,
    others: set[tuple[int, int]] | None = None,
) -> SessionObserver:
    columns = PatientColumns(["dpi.patients.patient_id"])
    columns.set_origins(origins or set(), others or set())
    found = SessionObserver(Setting("ehr", Digester(KEY), progress_rows, 50), "s1", "10.0.0.9", columns)
    found.startup({"user": "dpi_export", "database": "dpi", "application_name": "psql"})
    return found


Step = tuple[str, bytes]


def play(
    steps: list[Step], cut: random.Random | int | None = None, target: SessionObserver | None = None
) -> list[QueryEvent]:
    seen = target or observer()
    events: list[QueryEvent] = []
    for side, data in [("<", b.LOGIN), *steps]:
        pieces = [data]
        if cut == 1:
            pieces = [data[i : i + 1] for i in range(len(data))]
        elif isinstance(cut, random.Random):
            edges = sorted(cut.choices(range(len(data) + 1), k=min(9, len(data))))
            pieces = [data[i:j] for i, j in zip([0, *edges], [*edges, len(data)], strict=True)]
        for piece in pieces:
            events += seen.client_data(piece, 1000) if side == ">" else seen.server_data(piece, 1000).events
    return events


def merged(events: list[QueryEvent]) -> list[tuple[object, ...]]:
    """Progress folded into its statement: what a consumer that sums sees, however the bytes were cut."""
    out: list[tuple[object, ...]] = []
    rows = size = 0
    patients: set[str] = set()
    for e in events:
        rows, size, patients = rows + e.rows, size + e.bytes, patients | set(e.patients)
        if e.kind != "progress":
            out.append((e.kind, e.fingerprint, rows, e.hidden_rows, size, frozenset(patients), e.error, e.detail))
            rows, size, patients = 0, 0, set()
    return out


def aside(kind: str, **fields: str) -> bytes:
    return b.message(kind, b"".join(c.encode() + v.encode() + b"\0" for c, v in fields.items()) + b"\0")


@pytest.mark.parametrize(
    ("sql", "said", "digests", "estimated"),
    [
        ("DO $$ patients $$", aside("N", S="NOTICE", M="1 Dupont", F="pl_exec.c"), 1, 0),
        ("DO $$ patients $$", aside("N", M="11,12,13,14"), 4, 0),
        ("DO $$ patients $$", aside("N", M='[{"patient_id": 7, "nom": "A"}]'), 1, 0),
        ("DO $$ patients $$", aside("N", M="x" * 5 * PATIENT_BYTES), 1, 4),
        ("DO $$ patients $$", aside("N", M="x" * (300 << 10)), 1, (300 << 10) // PATIENT_BYTES - 1),
        ("SELECT f()", aside("N", M="step 1"), 0, 0),
        ("SELECT f()", aside("N", M="x" * 100) * 4, 0, 3),
        (
            "SELECT nom::int FROM patients",
            aside("E", C="22P02", M='invalid input syntax for type integer: "Dupont"'),
            1,
            0,
        ),
        ("SELECT nom FROM patients", aside("E", C="42703", M='column "nom" does not exist'), 0, 0),
        ("SELECT 1/0 FROM patients", aside("E", C="22012", M="division by zero"), 0, 0),
        (
            "INSERT INTO patients ..",
            aside("E", C="23505", M="duplicate", D="Key (patient_id)=(7) already exists."),
            1,
            0,
        ),
        ("LISTEN c", b.message("A", b"\0\0\0\7c\0" + b"x" * 2 * PATIENT_BYTES + b"\0"), 0, 2),
        ("LISTEN c", b.message("A", b"\0\0\0\7c\0patient 12345\0"), 0, 0),
        ("LISTEN c", b.message("S", b"TimeZone\0Europe/Paris\0"), 0, 0),
    ],
)
def test_what_is_said_beside_the_rows(sql: str, said: bytes, digests: int, estimated: int) -> None:
    """No rows, but patients; the same however the bytes come."""
    end = b"" if said[:1] == b"E" else b.complete("DO")
    steps = [(">", b.query(sql)), ("<", said + end + b.READY)]
    for cut in (None, 1, random.Random(1)) if len(said) < 10_000 else (None, random.Random(1)):
        seen = observer()
        events = play(steps, cut, seen)
        assert not sum(e.rows for e in events)
        assert len({digest for e in events for digest in e.patients}) == digests
        assert sum(e.patients_estimated for e in events) == estimated
        assert not seen.untold()


def test_what_is_said_beside_the_rows_takes_a_rows_place_in_the_allowance() -> None:
    notice = aside("N", M="1 Dupont")
    for allowed, passing in ({"allowed_rows": 2}, 2), ({"allowed_patients": 2}, 2):
        seen = observer()
        play([(">", b.query("DO $$ patients $$"))], target=seen)
        data = b"".join(aside("N", M=f"{n} Dupont") for n in range(5))
        found = seen.server_data(data, 1000, **allowed)  # type: ignore[arg-type]
        assert found.cut_at == passing * len(notice)
        assert found.rows == 2
        # What is not whole is held, and counted once.
        seen = observer()
        play([(">", b.query("DO $$ patients $$"))], target=seen)
        for end in (1, 4, 7, len(notice) - 1):
            assert seen.server_data(notice[:end], 1000, **allowed).hold_at == 0  # type: ignore[arg-type]
        assert seen.server_data(notice, 1000, **allowed).rows == 1  # type: ignore[arg-type]


def test_a_string_that_may_be_run_tells_of_its_statement_where_its_shape_has_a_template() -> None:
    classifier, asked = Classifier("postgresql"), AskedColumns(["dpi.patients.patient_id"])
    templates = Templates(asked, doubted=classifier.doubted)
    for body, flags in (("NULL", ()), ("PERFORM lo_export(1, $$x$$)", ("server_export",))):
        columns = PatientColumns(["dpi.patients.patient_id"])
        seen = SessionObserver(
            Setting("ehr", Digester(KEY), 1000, 50), "s1", "10.0.0.9", columns, None, classifier=classifier, asked=asked,
            templates=templates,
        )  # fmt: skip
        seen.startup({"user": "u"})
        sql = f"CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS 'BEGIN {body}; END'"
        events = play([(">", b.query(sql)), ("<", b.complete("CREATE FUNCTION") + b.READY)], target=seen)
        assert [e.flags for e in events if e.kind == "query"] == [flags]


ROWS = b.row(b"1", b"A") + b.row(b"2", b"B") + b.row(b"2", None)
SELECT = [
    (">", b.query("SELECT patient_id, nom FROM patients WHERE nom = 'Dupont'")),
    ("<", b.description(PATIENT, NAME) + ROWS + b.complete("SELECT 3") + b.READY),
]
EXTENDED = [
    (">", b.parse("s", "SELECT patient_id, nom FROM patients LIMIT $1") + b.describe("S", "s") + b.SYNC),
    ("<", b.PARSED + b.message("t", b"\0\0") + b.description(PATIENT, NAME) + b.READY),
    (">", b.bind("", "s", (b"3",), (1, 0)) + b.execute("") + b.SYNC),
    (
        "<",
        b.BOUND
        + b.row(b"\0\0\0\1", b"A")
        + b.row(b"\0\0\0\2", b"B")
        + b.row(b"\0\0\0\2", None)
        + b.complete("SELECT 3")
        + b.READY,
    ),
]
PIPELINE_WITH_ERROR = [
    (">", b.parse("", "SELECT 1") + b.bind("", "") + b.execute("") + b.parse("", "SELEC 2") + b.bind("", "") + b.execute("") + b.SYNC
        + b.parse("", "SELECT patient_id FROM patients") + b.bind("", "") + b.describe("P", "") + b.execute("") + b.SYNC),
    ("<", b.PARSED + b.BOUND + b.row(b"1") + b.complete("SELECT 1") + b.error("42601") + b.READY
        + b.PARSED + b.BOUND + b.description(PATIENT) + b.row(b"7") + b.complete("SELECT 1") + b.READY),
]  # fmt: skip
MULTI = [
    (">", b.query("SELECT 1; UPDATE t SET a=1; SELECT patient_id FROM patients")),
    ("<", b.description(("x", 0, 0, INT4)) + b.row(b"1") + b.complete("SELECT 1") + b.complete("UPDATE 9")
        + b.description(PATIENT) + b.row(b"4") + b.row(b"5") + b.complete("SELECT 2") + b.READY),
]  # fmt: skip
COPY_TEXT = [
    (">", b.query("COPY patients TO STDOUT")),
    (
        "<",
        b.copy_out() + b.copy_data(b"1\tA\n") + b.copy_data(b"2\tB\n") + b.COPY_DONE + b.complete("COPY 2") + b.READY,
    ),
]
COPY_BINARY = [
    (">", b.query("COPY patients TO STDOUT (FORMAT binary)")),
    ("<", b.copy_out(True) + b.copy_data(b"PGCOPY..row") + b.copy_data(b"row") + b.copy_data(b"\xff\xff") + b.COPY_DONE
        + b.complete("COPY 2") + b.READY),
]  # fmt: skip
COPY_BINARY_EMPTY = [
    (">", b.query("COPY patients TO STDOUT (FORMAT binary)")),
    ("<", b.copy_out(True) + b.copy_data(b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + b"\xff\xff") + b.COPY_DONE + b.complete("COPY 0") + b.READY),
]  # fmt: skip
COPY_IN = [
    (">", b.parse("", "COPY t FROM STDIN") + b.bind("", "") + b.execute("") + b.SYNC),
    ("<", b.PARSED + b.BOUND + b.COPY_IN),
    (">", b.copy_data(b"1\n") + b.copy_data(b"2\n") + b.COPY_DONE + b.SYNC),
    ("<", b.complete("COPY 2") + b.READY),
    *SELECT,
]
COPY_IN_SIMPLE = [
    (">", b.query("COPY t FROM STDIN") + b.SYNC + b.copy_data(b"1\n") + b.COPY_DONE),
    ("<", b.COPY_IN + b.complete("COPY 1") + b.READY),
    *SELECT,
]
SUSPENDED = [
    (
        ">",
        b.parse("", "SELECT patient_id FROM patients")
        + b.bind("c", "")
        + b.describe("P", "c")
        + b.execute("c", 2)
        + b.FLUSH,
    ),
    ("<", b.PARSED + b.BOUND + b.description(PATIENT) + b.row(b"1") + b.row(b"2") + b.SUSPENDED),
    (">", b.execute("c", 2) + b.SYNC),
    ("<", b.row(b"3") + b.complete("SELECT 1") + b.READY),
]
TRANSCRIPTS = {
    "simple select": (SELECT, [(3, 0, 2, "")]),
    "prepared, described once, mixed formats": (EXTENDED, [(3, 0, 2, "")]),
    "error inside a pipeline": (PIPELINE_WITH_ERROR, [(1, 0, 1, ""), (0, 0, 0, "42601"), (1, 0, 1, "")]),
    # `SELECT 1` beside a statement that names a table of patients is one patient: nobody can tell its rows apart.
    "several statements in one Query": (MULTI, [(1, 0, 1, ""), (0, 0, 0, ""), (2, 0, 2, "")]),
    "copy out, text": (COPY_TEXT, [(2, 0, 0, "")]),
    "copy out, binary": (COPY_BINARY, [(2, 0, 2, "")]),
    "copy out, binary, of nothing": (COPY_BINARY_EMPTY, [(0, 0, 0, "")]),
    "copy in, sync in its middle": (COPY_IN, [(0, 0, 0, ""), (3, 0, 2, "")]),
    "copy in, sync in front of it": (COPY_IN_SIMPLE, [(0, 0, 0, ""), (3, 0, 2, "")]),
    "portal suspended": (SUSPENDED, [(2, 0, 2, ""), (1, 0, 1, "")]),
    "empty query": ([(">", b.query("")), ("<", b.EMPTY + b.READY)], [(0, 0, 0, "")]),
    "create table as": ([(">", b.query("CREATE TABLE c AS SELECT * FROM patients")), ("<", b.complete("SELECT 500") + b.READY)], [(0, 500, 0, "")]),
    "insert select": ([(">", b.query("INSERT INTO c SELECT * FROM patients")), ("<", b.complete("INSERT 0 70") + b.READY)], [(0, 70, 0, "")]),
    "insert values": ([(">", b.query("INSERT INTO c VALUES (1)")), ("<", b.complete("INSERT 0 1") + b.READY)], [(0, 0, 0, "")]),
    "copy to file": ([(">", b.query("COPY (SELECT * FROM patients) TO '/tmp/x'")), ("<", b.complete("COPY 80") + b.READY)], [(0, 80, 0, "")]),
    "copy from file": ([(">", b.query("COPY patients FROM '/to/x'")), ("<", b.complete("COPY 80") + b.READY)], [(0, 0, 0, "")]),
    "rows, then an error": ([SELECT[0], ("<", b.description(PATIENT, NAME) + ROWS + b.error("57014") + b.READY)], [(3, 0, 2, "57014")]),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript(name: str) -> None:
    steps, expected = TRANSCRIPTS[name]
    seen = observer()
    events = play(steps, target=seen)
    statements = [e for e in events if e.kind == "query"]
    assert [(e.rows, e.hidden_rows, len(e.patients), e.error) for e in statements] == expected
    assert not seen.desynced
    assert not seen.awaiting_reply
    assert seen.at_boundary
    whole = merged(events)
    assert merged(play(steps, cut=1)) == whole
    for seed in range(20):
        assert merged(play(steps, cut=random.Random(seed))) == whole


def test_a_whole_session_in_one_stream() -> None:
    steps = [step for transcript, _ in TRANSCRIPTS.values() for step in transcript]
    seen = observer()
    whole = merged(play(steps, target=seen))
    assert sum(row[0] == "query" for row in whole) == sum(len(expected) for _, expected in TRANSCRIPTS.values())
    assert not seen.desynced
    assert merged(play(steps, cut=random.Random(7))) == whole


def test_text_and_binary_give_the_same_digests() -> None:
    simple, extended = play(SELECT), play(EXTENDED)
    assert simple[-1].patients == extended[-1].patients
    assert all(len(p) == 16 for p in simple[-1].patients)


def test_no_literal_and_no_error_text_in_any_event() -> None:
    steps = [
        *SELECT,
        (">", b.query("SELECT 'Martin' \"x")),
        ("<", b.error() + b.READY),
    ]
    assert "Dupont" not in repr(play(steps))
    assert "Martin" not in repr(play(steps))


def test_alias_is_found_by_origin() -> None:
    steps = [
        (">", b.query("SELECT patient_id AS zz FROM patients")),
        ("<", b.description(("zz", 5000, 1, INT4)) + b.row(b"1") + b.complete("SELECT 1") + b.READY),
    ]
    assert play(steps)[-1].patients == ()
    by_origin = play(steps, target=observer(origins={(5000, 1)}))[-1]
    assert (len(by_origin.patients), by_origin.patients_by) == (1, "origin")


def test_a_namesake_that_the_catalog_knows_is_no_patient() -> None:
    steps = [
        (">", b.query("SELECT patient_id FROM beds")),
        ("<", b.description(("patient_id", 6000, 1, INT4)) + b.row(b"1") + b.complete("SELECT 1") + b.READY),
    ]
    assert len(play(steps)[-1].patients) == 1
    assert play(steps, target=observer(others={(6000, 1)}))[-1].patients == ()


def test_login_failed_carries_only_the_sqlstate() -> None:
    seen = observer()
    events = seen.server_data(b.message("R", b"\0\0\0\x0a") + b.error("28P01"), 5).events
    assert [(e.kind, e.error) for e in events] == [("login_failed", "28P01")]
    assert seen.close(6) == []


def test_logout_reports_what_was_delivered() -> None:
    seen = observer()
    play([SELECT[0], ("<", b.description(PATIENT, NAME) + ROWS)], target=seen)
    assert seen.untold()
    query, logout = seen.close(2000)
    assert (query.kind, query.rows, len(query.patients), logout.kind) == ("query", 3, 2, "logout")


def test_an_identifier_that_comes_after_its_row_was_told_is_told_too() -> None:
    seen = observer()
    data = b.description(PATIENT, NAME) + b.row(b"1", b"A") + b.row(b"2", b"B" * 50)
    told = play([SELECT[0], ("<", data[:-60])], target=seen)
    told += seen.tick(2000)
    assert sum(e.rows for e in told) == 2
    assert not seen.untold()
    told += seen.server_data(data[-60:], 2001).events
    assert seen.untold()
    told += seen.close(2002)
    assert sum(e.rows for e in told) == 2
    assert len({p for e in told for p in e.patients}) == 2


def test_progress_by_rows_and_by_time() -> None:
    seen = observer(progress_rows=2)
    events = play([SELECT[0], ("<", b.description(PATIENT, NAME) + ROWS)], target=seen)
    assert [(e.kind, e.rows) for e in events] == [("login", 0), ("progress", 3)]
    assert seen.server_data(b.row(b"9", None), 1020).events == []
    assert [(e.kind, e.rows) for e in seen.tick(1100)] == [("progress", 1)]
    assert seen.tick(1200) == []


def test_statement_the_server_refused_did_not_replace_the_old_one() -> None:
    steps = [
        *EXTENDED[:2],
        (">", b.parse("s", "SELECT 1") + b.SYNC),
        ("<", b.error("42P05") + b.READY),
        *EXTENDED[2:],
    ]
    assert len(play(steps)[-1].patients) == 2


@pytest.mark.parametrize("allowed", range(5))
def test_rows_allowance_is_exact_however_the_bytes_are_cut(allowed: int) -> None:
    head = b.description(PATIENT, NAME)
    stream = head + ROWS + b.row(b"8", b"x" * 500) + b.complete("SELECT 4") + b.READY
    starts = [
        len(head),
        len(head + b.row(b"1", b"A")),
        len(head + b.row(b"1", b"A") + b.row(b"2", b"B")),
        len(head + ROWS),
    ]
    for seed in range(40):
        rng = random.Random(seed)
        seen = observer()
        play([SELECT[0]], target=seen)
        forwarded, left, pos = b"", allowed, 0
        while pos < len(stream):
            piece = stream[pos : pos + rng.choice((1, 2, 7, 40, 2000))]
            result = seen.server_data(piece, 1000, allowed_rows=left)
            left -= result.rows
            pos += len(piece)
            if result.cut_at is not None:
                forwarded += piece[: result.cut_at]
                break
            forwarded += piece
        assert forwarded == (stream[: starts[allowed]] if allowed < 4 else stream)
        assert allowed - left == min(allowed, 4)


@given(st.integers(0, 4), st.randoms(use_true_random=False))
def test_patient_allowance_never_lets_another_patient_pass(allowed: int, rng: random.Random) -> None:
    ids = [rng.randrange(6) for _ in range(12)]
    head = b.description(PATIENT, NAME)
    rows = [b.row(b"%d" % i, b"x" * rng.randrange(60)) for i in ids]
    stream = head + b"".join(rows)
    passing: set[int] = set()
    expected = len(head)
    for i, raw in zip(ids, rows, strict=True):
        if i not in passing and len(passing) == allowed:
            break
        passing.add(i)
        expected += len(raw)
    seen = observer()
    play([SELECT[0]], target=seen)
    known: dict[str, int] = {}
    forwarded, held, pos = b"", b"", 0
    while pos < len(stream):
        piece = stream[pos : pos + rng.choice((1, 3, 30, 90))]
        pos += len(piece)
        data, held = held + piece, b""
        result = seen.server_data(data, 1000, allowed_patients=allowed - len(known), known_patients=known)
        known |= dict.fromkeys(result.new_patients, 1)
        if result.cut_at is not None:
            forwarded += data[: result.cut_at]
            break
        if result.hold_at is not None:
            held, data = data[result.hold_at :], data[: result.hold_at]
        forwarded += data
    assert forwarded == stream[:expected]
    assert len(known) == len(passing)


def test_row_too_long_to_keep_counts_as_somebody_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "MAX_KEPT_BYTES", 100)
    wide = (
        b.description(NAME, PATIENT)
        + b.row(b"x" * 300, b"1")
        + b.row(b"x" * 300, b"1")
        + b.complete("SELECT 2")
        + b.READY
    )
    seen = observer()
    events = play([SELECT[0], ("<", wide)], cut=1, target=seen)
    assert merged(events)[-1][2] == 2
    assert len(merged(events)[-1][5]) == 2  # type: ignore[arg-type]


def test_in_a_stream_of_replication_all_counts_but_keepalives() -> None:
    """Rows that no such stream has, too: found by the fuzzer."""
    seen = observer()
    stream = b.message("W", b"\0\0\0") + b.copy_data(b"w" + b"\0" * 24) + b.copy_data(b"k" + b"\0" * 17) + b.row(b"1")
    play([("<", stream)], target=seen)
    assert sum(event.rows for event in seen.close(2000)) == 2


def test_unknown_reply_is_desynced_and_rows_still_count() -> None:
    seen = observer()
    events = play([("<", b.complete("SELECT 1") + b.row(b"1") + b.row(b"2") + b.complete("SELECT 2"))], target=seen)
    assert [e.kind for e in events] == ["login", "desynced", "query", "query"]
    assert sum(e.rows for e in events) == 2
    assert seen.desynced


def test_garbage_from_the_server_is_one_event_and_no_error() -> None:
    seen = observer()
    events = play([("<", b"\xff\xff\xff\xff\xff\xff\xff")] * 3, target=seen)
    assert [e.kind for e in events] == ["login", "desynced"]
    assert seen.at_boundary


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_never_raise(client: bytes, server: bytes) -> None:
    seen = observer()
    seen.server_data(b.LOGIN, 1)
    seen.client_data(client, 2)
    seen.server_data(server, 3)
    seen.close(4)


# -- no identifier to be seen -----------------------------------------------------------------------------------------

NOM_ONLY = ("nom", 5000, 3, TEXT)


def estimated(steps: list[Step], **known: set[tuple[int, int]]) -> tuple[int, int, str]:
    """(digests, further patients, how) of a whole session."""
    target = observer(**known)
    target._columns.set_origins(set(), set(), {5000})
    events = play(steps, target=target)
    return (
        len({p for e in events for p in e.patients}),
        sum(e.patients_estimated for e in events),
        next((e.patients_by for e in events if e.patients_by), ""),
    )


def test_names_without_identifiers_are_patients_each_once() -> None:
    steps: list[Step] = []
    for _ in range(3):
        steps += [
            (">", b.query("SELECT nom FROM patients")),
            ("<", b.description(NOM_ONLY) + b.row(b"MARTIN") + b.row(b"PETIT") + b.complete("SELECT 2") + b.READY),
        ]
    assert estimated(steps) == (2, 0, "estimate")


MADE = {
    "PREPARE q AS SELECT md5(nom) FROM patients": ("PREPARE", "EXECUTE q", 0),
    'DECLARE "my Cursor" CURSOR FOR SELECT md5(nom) FROM patients': ("DECLARE CURSOR", 'FETCH ALL FROM "my Cursor"', 0),
    "CREATE TEMP VIEW v AS SELECT nom AS y FROM patients": ("CREATE VIEW", "SELECT y FROM V", 9000),
    "CREATE OR REPLACE FUNCTION public.leak() RETURNS SETOF text LANGUAGE sql AS 'SELECT nom FROM patients'": (
        "CREATE FUNCTION", "SELECT * FROM leak()", 0),
}  # fmt: skip


@pytest.mark.parametrize("sql", MADE)
def test_what_reads_patients_under_another_name_is_estimated_as_they_are(sql: str) -> None:
    tag, reading, table = MADE[sql]
    answer = b.description(("y", table, 1, TEXT)) + b.row(b"A") + b.row(b"B") + b.complete("SELECT 2") + b.READY
    makes = [(">", b.query(sql)), ("<", b.complete(tag) + b.READY)]
    assert estimated([*makes, (">", b.query(reading)), ("<", answer)]) == (2, 0, "estimate")
    assert estimated([*makes, (">", b.query("SELECT y FROM wards")), ("<", answer)]) == (0, 0, "")
    # Nor where it was made of something else, or could not be made, or has ended.
    assert estimated([(">", b.query(reading)), ("<", answer)]) == (0, 0, "")
    assert estimated([(">", b.query(sql)), ("<", b.error() + b.READY), (">", b.query(reading)), ("<", answer)]) == (
        0,
        0,
        "",
    )
    if tag == "DECLARE CURSOR":
        ends = [(">", b.query('CLOSE "my Cursor"')), ("<", b.complete("CLOSE CURSOR") + b.READY)]
        assert estimated([*makes, *ends, (">", b.query(reading)), ("<", answer)]) == (0, 0, "")


@pytest.mark.parametrize(
    ("sql", "tag"),
    [
        ("CREATE TEMP TABLE IF NOT EXISTS mine AS SELECT string_agg(p::text, '') AS y FROM patients p", "SELECT 1"),
        ("SELECT string_agg(p::text, '') AS y INTO TEMP mine FROM patients p", "SELECT 1"),
        ("INSERT INTO dpi.mine SELECT json_agg(p) FROM patients p", "INSERT 0 1"),
        ("CREATE MATERIALIZED VIEW mine AS SELECT array_agg(p) AS y FROM patients p", "SELECT 1"),
    ],
)
def test_patients_that_were_packed_into_a_table_are_counted_when_it_is_read(sql: str, tag: str) -> None:
    answer = b.description(("y", 9000, 1, TEXT)) + b.row(b"x" * 50 * PATIENT_BYTES) + b.complete("SELECT 1") + b.READY
    makes = [(">", b.query(sql)), ("<", b.complete(tag) + b.READY)]
    assert estimated([*makes, (">", b.query("SELECT y FROM mine")), ("<", answer)]) == (1, 1 + 49, "estimate")
    assert estimated([*makes, (">", b.query("SELECT y FROM yours")), ("<", answer)]) == (0, 1, "estimate")


@pytest.mark.parametrize("whole", [False, True])
def test_a_cell_that_is_too_long_to_be_held_is_judged_by_its_length_before_it_passes(whole: bool) -> None:
    head = b.description(("string_agg", 0, 0, TEXT))
    row = b.row(b"x" * (backend.MAX_KEPT_BYTES * 2))
    patients = (len(row) - 5) // PATIENT_BYTES
    for allowed, cut in (20, len(head)), (patients + 1, None):
        seen = observer()
        play([(">", b.query("SELECT string_agg(nom, '') FROM patients"))], target=seen)
        found = seen.server_data(head + (row if whole else row[:1000]), 1000, allowed_patients=allowed)
        assert found.cut_at == cut, allowed


def test_a_portal_that_a_cursor_of_sql_has_replaced_is_not_read_by_its_description() -> None:
    """`Execute` takes a cursor that DECLARE has made as its own."""
    described = b.parse("", "SELECT label FROM wards") + b.bind("c", "") + b.describe("P", "c") + b.SYNC
    shown = b.description(("label", 7000, 1, TEXT))
    steps = [
        (">", described),
        ("<", b.PARSED + b.BOUND + shown + b.READY),
        (">", b.query("CLOSE c")),
        ("<", b.complete("CLOSE CURSOR") + b.READY),
        (">", b.query("DECLARE c CURSOR FOR SELECT nom FROM patients")),
        ("<", b.complete("DECLARE CURSOR") + b.READY),
        (">", b.execute("c") + b.SYNC),
        ("<", b.row(b"A") + b.row(b"B") + b.complete("SELECT 2") + b.READY),
    ]
    assert estimated(steps) == (2, 0, "estimate")
    assert estimated([*steps[:2], *steps[6:]]) == (0, 0, "")


def test_with_more_names_than_are_kept_each_text_may_hold_one() -> None:
    steps: list[Step] = []
    for n in range(MAX_MADE + 1):
        steps += [
            (">", b.query(f"PREPARE q{n} AS SELECT md5(nom) FROM patients")),
            ("<", b.complete("PREPARE") + b.READY),
        ]
    answer = b.description(("md5", 0, 0, TEXT)) + b.row(b"A") + b.complete("SELECT 1") + b.READY
    assert estimated([*steps, (">", b.query(f"EXECUTE q{MAX_MADE}")), ("<", answer)]) == (1, 0, "estimate")


def test_values_in_the_servers_own_statistics_are_patients() -> None:
    steps = [
        (">", b.query("SELECT histogram_bounds FROM pg_stats WHERE tablename = 'patients'")),
        (
            "<",
            b.description(("histogram_bounds", 12_300, 9, 2277))
            + b.row(b"{1,2,3,4}")
            + b.complete("SELECT 1")
            + b.READY,
        ),
    ]
    assert estimated(steps) == (4, 0, "estimate")


def test_other_tables_without_identifiers_are_not() -> None:
    steps = [
        (">", b.query("SELECT label FROM wards")),
        ("<", b.description(("label", 7000, 1, TEXT)) + b.row(b"CARDIO") + b.complete("SELECT 1") + b.READY),
    ]
    assert estimated(steps) == (0, 0, "")


def test_identifiers_packed_in_one_cell_are_the_same_patients() -> None:
    steps = [
        (">", b.query("SELECT array_agg(patient_id) FROM patients")),
        ("<", b.description(("array_agg", 0, 0, TEXT)) + b.row(b"{1,2,3,4}") + b.complete("SELECT 1") + b.READY),
        (">", b.query("SELECT patient_id FROM patients WHERE patient_id = 4")),
        ("<", b.description(PATIENT) + b.row(b"4") + b.complete("SELECT 1") + b.READY),
    ]
    assert estimated(steps)[:2] == (4, 0)


def test_packed_objects_count_and_a_huge_cell_counts_by_its_length() -> None:
    objects = b"[" + b",".join(b'{"nom": "X%d"}' % n for n in range(20)) + b"]"
    steps = [
        (">", b.query("SELECT json_agg(p) FROM dpi.Patients AS p")),
        ("<", b.description(("json_agg", 0, 0, TEXT)) + b.row(objects) + b.complete("SELECT 1") + b.READY),
    ]
    assert estimated(steps) == (1, 19, "estimate")
    huge = b"x" * (backend.MAX_KEPT_BYTES * 2)
    steps = [
        (">", b.query("SELECT string_agg(nom, '') FROM patients")),
        ("<", b.description(("string_agg", 0, 0, TEXT)) + b.row(huge) + b.complete("SELECT 1") + b.READY),
    ]
    assert estimated(steps)[1] > len(huge) // 200


def test_a_count_is_one_patient_at_most() -> None:
    steps = [
        (">", b.query("SELECT count(*) FROM patients")),
        ("<", b.description(("count", 0, 0, TEXT)) + b.row(b"750000") + b.complete("SELECT 1") + b.READY),
    ] * 5
    assert estimated(steps) == (1, 0, "estimate")


def test_rows_moved_without_being_shown_are_patients_by_estimate() -> None:
    steps = [
        (">", b.query("CREATE TABLE mine AS SELECT * FROM patients")),
        ("<", b.complete("SELECT 500") + b.READY),
        (">", b.query("INSERT INTO log SELECT * FROM beds")),
        ("<", b.complete("INSERT 0 70") + b.READY),
    ]
    assert estimated(steps) == (0, 500, "estimate")


@pytest.mark.parametrize("table", ["patients", '"patients"', "dpi.patients (nom)", "(SELECT nom FROM patients)"])
def test_a_copy_of_patients_counts_its_lines(table: str) -> None:
    lines = b"".join(b.message("d", b"%d\tMARTIN\n" % n) for n in range(30))
    steps = [
        (">", b.query(f"COPY {table} TO STDOUT")),
        ("<", b.message("H", b"\0\0\0") + lines + b.message("c") + b.complete("COPY 30") + b.READY),
    ]
    for cut in (None, 1, random.Random(3)):
        target = observer()
        events = play(steps, cut, target)
        assert sum(e.patients_estimated for e in events) == 30, cut
    other = [(">", b.query("COPY wards TO STDOUT")), *steps[1:]]
    assert sum(e.patients_estimated for e in play(other)) == 0


def test_the_columns_of_a_result_are_named_where_its_text_is() -> None:
    odd = ("Jean Dupont", 0, 0, TEXT)
    asked = (">", b.query("SELECT patient_id, nom, f(x) FROM patients"))
    told = play(
        [asked, ("<", b.description(PATIENT, NAME, odd) + b.row(b"1", b"A", b"") + b.complete("SELECT 1") + b.READY)]
    )
    assert [(e.columns, bool(e.query)) for e in told if e.kind == "query"] == [(("patient_id", "nom", "?"), True)]
    wide = [(f"c{n}", 5000, n, TEXT) for n in range(150)]
    told = play([asked, ("<", b.description(*wide) + b.complete("SELECT 0") + b.READY)])
    assert len(told[-1].columns) == 100
    # What the server refused may hold anything.
    assert play([asked, ("<", b.error() + b.READY)])[-1].columns == ()


def test_a_header_that_came_in_pieces_gives_no_row_away() -> None:
    """A table with two identifiers: its rows are looked at one by one."""
    seen = observer()
    seen._columns.copies = copies.tables()
    seen.server_data(b.LOGIN, 1)
    seen.client_data(b.query("COPY fiche TO STDOUT (FORMAT csv, HEADER)"), 1)
    header = b.copy_data(b"numero,autre\n")
    answer = b.message("H", b"\0\0\2\0\0\0\0")
    rows = sum(seen.server_data(part, 2, allowed_rows=1).rows for part in (answer, header[:9], header[9:]))
    assert rows == 0
    line = b.copy_data(b"7,1\n")
    found = seen.server_data(line * 3, 3, allowed_rows=1)
    assert (found.rows, found.cut_at) == (1, len(line))


def test_a_portal_that_was_described_once_is_known_in_later_executions() -> None:
    """pgjdbc: from the second execution of a prepared statement on, nothing is described."""
    rows = b.row(b"1") + b.row(b"2") + b.complete("SELECT 2") + b.READY
    first = (
        b.parse("s", "SELECT patient_id FROM patients") + b.bind("", "s") + b.describe("P", "") + b.execute("") + b.SYNC
    )
    steps = [
        (">", first), ("<", b.PARSED + b.BOUND + b.description(PATIENT) + rows),
        (">", b.bind("", "s") + b.execute("") + b.SYNC), ("<", b.BOUND + rows),
    ]  # fmt: skip
    one, again = [e for e in play(steps) if e.kind == "query"]
    assert len(one.patients) == 2
    assert (again.patients, again.patients_by, again.columns) == (one.patients, one.patients_by, one.columns)


def test_rows_that_nobody_had_described_are_somebody() -> None:
    """A client of one's own need not ask for a description: a budget of patients holds nevertheless."""
    seen = observer()
    seen.server_data(b.LOGIN, 1)
    seen.client_data(b.parse("", "FETCH 100 FROM c") + b.bind("", "") + b.execute("") + b.SYNC, 5)
    rows = [b.row(b"%d" % number) for number in range(9)]
    found = seen.server_data(b.PARSED + b.BOUND + b"".join(rows) + b.complete("FETCH 9") + b.READY, 6, None, 4, ())
    assert (found.rows, len(found.new_patients)) == (4, 4)
    assert found.cut_at == len(b.PARSED + b.BOUND + b"".join(rows[:4]))


def test_patients_packed_in_a_few_cells_are_told_in_events_that_a_broker_takes() -> None:
    """One event with all of them would be refused for its size whenever it is sent, and with it all that is spooled behind it."""
    rows = b"".join(
        b.row(b"{" + b",".join(b"%d" % n for n in range(at, at + 10_000)) + b"}") for at in range(0, 95_000, 10_000)
    )
    steps = [
        (">", b.query("SELECT array_agg(patient_id) FROM patients GROUP BY patient_id / 10000")),
        ("<", b.description(("array_agg", 0, 0, TEXT)) + rows + b.complete("SELECT 10") + b.READY),
    ]
    target = observer()
    target._columns.set_origins(set(), set(), {5000})
    told = play(steps, target=target)
    assert max(len(encode_event(event)) for event in told) < 900_000
    assert sum(len(event.patients) for event in told) == len({p for event in told for p in event.patients}) == 100_000
    assert [event.rows for event in told if event.kind == "query"] == [10]
    assert sum(event.rows for event in told) == 10


INT4PL, LOREAD, QUERY_TO_XML = 177, 954, 2925


def called(function: int) -> bytes:
    return b.message("F", function.to_bytes(4, "big") + b"\0\0\0\0\0\1")


def value(data: bytes | None) -> bytes:
    length = b"\xff\xff\xff\xff" if data is None else len(data).to_bytes(4, "big")
    return b.message("V", length + (data or b""))


@pytest.mark.parametrize("size", [1, 3, 7, 10_000])
@pytest.mark.parametrize(
    ("function", "data", "rows", "patients"),
    [
        (INT4PL, b"\0\0\0\x2a", 1, 1),
        (INT4PL, None, 0, 0),
        (QUERY_TO_XML, b"x" * PATIENT_BYTES * 20, 1, 20),
        (LOREAD, b"x" * PATIENT_BYTES * 20, 1, 0),
    ],
)
def test_what_a_function_call_returns_is_a_row(
    size: int, function: int, data: bytes | None, rows: int, patients: int
) -> None:
    """It was bytes only: what a function returns left uncounted. A large object's piece is nobody's, as by SELECT."""
    made = observer()
    made.server_data(b.LOGIN, 1)
    made.client_data(called(function), 2)
    answer = value(data) + b.READY
    events = [e for at in range(0, len(answer), size) for e in made.server_data(answer[at : at + size], 3).events]
    told = [e for e in events if e.kind in ("query", "progress")]
    assert sum(e.rows for e in told) == rows
    assert sum(len(e.patients) + e.patients_estimated for e in told) == patients
    assert told[-1].kind == "query"
    made.client_data(b.query("SELECT 1"), 4)
    found = made.server_data(b.description(("x", 0, 0, 23)) + b.row(b"1") + b.complete("SELECT 1") + b.READY, 5)
    assert [(e.rows, e.patients_by) for e in found.events] == [(1, "")]
    assert not made.desynced


@pytest.mark.parametrize("allowed", [{"allowed_rows": 0}, {"allowed_patients": 0, "known_patients": ()}])
@pytest.mark.parametrize("size", [1, 4, 5, 9, 1_000])
def test_no_value_of_a_function_call_passes_the_allowance(size: int, allowed: dict[str, Any]) -> None:
    made = observer()
    made.server_data(b.LOGIN, 1)
    made.client_data(called(QUERY_TO_XML), 2)
    answer, passed, held = value(b"<row>secret</row>") + b.READY, b"", b""
    for at in range(0, len(answer), size):
        data = held + answer[at : at + size]
        found = made.server_data(data, 3, **allowed)
        if found.cut_at is not None:
            passed += data[: found.cut_at]
            break
        stop = len(data) if found.hold_at is None else found.hold_at
        passed, held = passed + data[:stop], data[stop:]
    else:
        pytest.fail("it was not cut")
    assert passed == b""


LONG = "SELECT 1 /* " + 60_000 * "x" + " */"


@pytest.mark.parametrize(
    ("rounds", "asked", "answered"),
    [
        (2_000, lambda n: b.parse(f"s{n}", LONG), lambda n: b.PARSED),
        (2_000, lambda n: b.parse("", LONG) + b.bind(f"p{n}", ""), lambda n: b.PARSED + b.BOUND),
        (
            200,
            lambda n: b.parse(f"s{n}", "SELECT * FROM t") + b.describe("S", f"s{n}"),
            lambda n: b.PARSED + b.message("t", b"\0\0") + b.description(*[(f"c{i}", n, i, 23) for i in range(1_600)]),
        ),
    ],
    ids=["texts", "portals", "columns"],
)
def test_what_a_session_prepares_is_bounded_in_bytes(
    rounds: int, asked: Callable[[int], bytes], answered: Callable[[int], bytes]
) -> None:
    """Though the server may have forgotten it: at DEALLOCATE ALL, and portals with their transaction."""
    made = observer()
    made.server_data(b.LOGIN, 1)
    made.client_data(b.parse("", "SELECT patient_id FROM patients"), 2)
    made.server_data(b.PARSED, 3)
    for n in range(rounds):
        made.client_data(asked(n), 2)
        made.server_data(answered(n), 3)
    prepared = [*made._statements.values(), *made._portals.values()]
    assert sum(what.weight() for what in prepared) <= MAX_PREPARED_BYTES
    assert b"s%d" % n in made._statements or b"p%d" % n in made._portals
    assert b"" in made._statements
    assert not made.desynced


@pytest.mark.parametrize(
    ("keeps", "tag", "reads"),
    [
        ("SELECT length(set_config('a.b', string_agg(p::text, ' '), false)) FROM patients AS p", "SELECT 1", "SHOW a.b"),
        ("DO $$ BEGIN PERFORM set_config('a.b', string_agg(p::text, ' '), false) FROM patients AS p; END $$", "DO", "SELECT current_setting('a.b')"),
        ("CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql AS $$SELECT set_config('a.b', string_agg(p::text, ' '), false) FROM patients AS p$$", "CREATE FUNCTION", "SHOW a.b"),
        ("SELECT lo_from_bytea(0, string_agg(p::text, ' ')::bytea) FROM patients AS p", "SELECT 1", "SELECT lo_get(7)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shortcut", [False, True])
def test_what_was_put_by_is_of_patients_where_it_is_read(keeps: str, tag: str, reads: str, shortcut: bool) -> None:
    from exfilguard.observe.quick import Reader  # only where it may be loaded

    made = Reader if shortcut else SessionObserver
    setting, asked = Setting("ehr", Digester(KEY), 1000, 50), AskedColumns(["dpi.patients.patient_id"])
    seen = made(
        setting, "s1", "10.0.0.9", PatientColumns(["dpi.patients.patient_id"]), asked=asked, templates=Templates(asked)
    )
    seen.startup({"user": "u"})
    short = b.description(("x", 0, 0, INT4)) + b.row(b"7") if tag == "SELECT 1" else b""
    steps = [
        (">", b.query(reads)),
        ("<", b.description(("x", 0, 0, TEXT)) + b.row(b"x" * 5 * PATIENT_BYTES) + b.complete("SELECT 1") + b.READY),
    ]
    events = play([*steps, (">", b.query(keeps)), ("<", short + b.complete(tag) + b.READY), *steps], target=seen)
    first, *_, last = [len(e.patients) + e.patients_estimated for e in events if e.kind == "query"]
    assert (first, last) == (0, 5)


def test_what_unanswered_statements_replaced_is_bounded() -> None:
    """A server answers 1,600 of them at once."""
    made = observer()
    made.server_data(b.LOGIN, 1)
    made.client_data(b.parse("s", "SELECT 1") + b.parse("", "SELECT 2"), 2)
    for n in range(1_600):
        made.client_data(b.parse("", f"SELECT {n} /* {'x' * 60_000}"), 2)
        made.client_data(b.parse("s", f"SELECT {n} /* {'x' * 60_000}"), 2)
    kept = {id(p.undo[2]): p.undo[2].weight() for p in made._pending if p.undo is not None and p.undo[2] is not None}
    assert sum(kept.values()) <= MAX_PREPARED_BYTES
    made.server_data(b.PARSED + b.PARSED + b.error(), 3)
    assert [made._statements[name].sql for name in (b"s", b"")] == [b"SELECT 1", b"SELECT 2"]


@pytest.mark.parametrize(
    ("type_oid", "binary", "text"), [(INT4, b"\0\0\0\x0b", b"11"), (2950, b"\x0b" * 16, b"0b" * 16)]
)
def test_an_identifier_is_known_behind_a_bind_too_long_to_be_kept(type_oid: int, binary: bytes, text: bytes) -> None:
    """Where its results' formats are is not read any more."""
    long = b"x" * 70_000
    found = set()
    for formats, value in (((1,), binary), ((), text), ((0,), text)):
        seen = observer(origins={(5000, 1)})
        steps = [
            (">", b.parse("s", "SELECT patient_id FROM patients WHERE $1 <> ''") + b.describe("S", "s") + b.SYNC),
            ("<", b.PARSED + b.message("t", b"\0\0") + b.description(("patient_id", 5000, 1, type_oid)) + b.READY),
            (">", b.bind("", "s", (long,), formats) + b.execute("") + b.SYNC),
            ("<", b.BOUND + b.row(value) + b.complete("SELECT 1") + b.READY),
        ]
        found |= {digest for event in play(steps, target=seen) for digest in event.patients}
    assert len(found) == 1


@pytest.mark.parametrize("kind", [b"D", b"d"])
@pytest.mark.parametrize("length", [0, 3, 0xFFFFFFFF])
def test_a_row_of_an_impossible_length_is_not_waited_for(kind: bytes, length: int) -> None:
    made = observer()
    made.server_data(b.LOGIN, 1)
    made.client_data(b.query("SELECT patient_id FROM patients"), 2)
    data = b.description(PATIENT) + kind + length.to_bytes(4, "big")
    found = made.server_data(data, 3, allowed_patients=9, known_patients=())
    assert found.hold_at is None
    assert made.desynced


def test_a_function_call_without_a_value_passes_at_an_allowance_of_nothing() -> None:
    made = observer()
    made.server_data(b.LOGIN, 1)
    made.client_data(called(INT4PL), 2)
    assert made.server_data(value(None) + b.READY, 3, 0).cut_at is None
