"""Pairing, counting and patients of MySQL sessions, as transcripts: whole, byte by byte, cut at random, compressed."""

from __future__ import annotations

import random
import time
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.events.query import QueryEvent
from exfilguard.observe.asked import AskedColumns
from exfilguard.observe.identity import Identity
from exfilguard.observe.mysql.patients import OriginColumns, canonical
from exfilguard.observe.mysql.session import MAX_PENDING, MAX_STATEMENTS, MysqlObserver
from exfilguard.observe.mysql.statement import templates
from exfilguard.observe.observer import MAX_PREPARED_BYTES
from exfilguard.observe.patients import Digester
from exfilguard.observe.tally import Setting
from exfilguard.observe.templates import Template, Templates
from exfilguard.wire.mysql import messages, startup
from exfilguard.wire.mysql.compression import Algorithm
from exfilguard.wire.mysql.messages import Column, packet
from tests.wire import mysql_build as b

KEY = b"0123456789abcdef"
DIGESTER = Digester(KEY)
ID = b.column("id", "patient", flags=2)
Step = tuple[str, bytes]


def observer(
    capabilities: int = b.NATIVE, compression: Algorithm = "", rows: int = 1000, identity: Identity | None = None
) -> MysqlObserver:
    columns = OriginColumns(["patient.id", "sejour.patient_id"])
    found = MysqlObserver(Setting("ehr", DIGESTER, rows, 50), "s1", "10.0.0.9", columns, identity)
    found.startup(startup.login(b.login()))
    found.login_succeeded(capabilities, compression, 1)
    return found


def wrapped(data: bytes, number: int = 0, algorithm: Algorithm = "zlib") -> bytes:
    squeezed = zlib.compress(data) if algorithm == "zlib" else zstandard.ZstdCompressor(3).compress(data)
    return len(squeezed).to_bytes(3, "little") + bytes((number,)) + len(data).to_bytes(3, "little") + squeezed


def play(
    steps: list[Step], cut: random.Random | int | None = None, target: MysqlObserver | None = None
) -> list[QueryEvent]:
    seen = target or observer()
    events: list[QueryEvent] = []
    for side, data in steps:
        pieces = [data]
        if cut == 1:
            pieces = [data[i : i + 1] for i in range(len(data))]
        elif isinstance(cut, random.Random):
            edges = sorted(cut.choices(range(len(data) + 1), k=5))
            pieces = [data[i:j] for i, j in zip([0, *edges], [*edges, len(data)], strict=True)]
        for piece in pieces:
            events += seen.client_data(piece, 5) if side == ">" else seen.server_data(piece, 5).events
    return events


def everyhow(steps: list[Step], capabilities: int = b.NATIVE) -> list[QueryEvent]:
    """The same events however the bytes are cut, and inside a compressed session."""
    whole = play(steps, target=observer(capabilities))
    for cut in (1, *(random.Random(seed) for seed in range(5))):
        assert play(steps, cut, observer(capabilities)) == whole
    algorithms: tuple[Algorithm, ...] = ("zlib", "zstd")
    for algorithm in algorithms:
        squeezed = [(side, wrapped(data, algorithm=algorithm)) for side, data in steps]
        assert play(squeezed, target=observer(capabilities, algorithm)) == whole
        assert play(squeezed, 1, observer(capabilities, algorithm)) == whole
    return whole


def digests(*values: str) -> tuple[str, ...]:
    return tuple(DIGESTER.digest(value.encode()) for value in values)


def test_a_text_result_in_both_forms_of_its_end() -> None:
    for capabilities, deprecate in ((b.NATIVE, False), (b.DEPRECATE, True)):
        rows = [b.row("7", "Dupont"), b.row("8", None), b.row("7", "x" * 300)]
        steps = [
            (">", b.query("SELECT id AS x, nom FROM patient WHERE nom = 'Dupont'")),
            (
                "<",
                b.result(
                    [b.column("x", "patient", "id"), b.column("nom", "patient", kind=253)], rows, deprecate=deprecate
                ),
            ),
        ]
        (event,) = everyhow(steps, capabilities)
        assert (event.kind, event.rows, event.engine, event.patients_by) == ("query", 3, "mysql", "origin")
        assert event.patients == digests("7", "8")
        assert event.query == "select id as x , nom from patient where nom = ?"
        assert event.bytes == sum(map(len, rows))


def test_a_binary_result_gives_the_same_patients() -> None:
    columns = [b.column("nom", "patient", kind=253), b.column("vu", "patient", kind=12), ID, b.column("n", kind=8)]
    value = b"\x04abcd"
    rows = [
        b.binary(value, b"\x04" + b"\1" * 4, (7).to_bytes(4, "little"), None),
        b.binary(None, None, (8).to_bytes(4, "little"), b"\1" * 8),
    ]
    prepared = b"\0" + (5).to_bytes(4, "little") + (4).to_bytes(2, "little") + (1).to_bytes(2, "little") + b"\0\0\0"
    steps = [
        (">", b.command(0x16, b"SELECT nom, vu, id, n FROM patient WHERE id > ?")),
        ("<", b.numbered(prepared, b.column("?"), b.eof(), *columns, b.eof())),
        (">", b.command(0x17, (5).to_bytes(4, "little") + b"\0" * 10)),
        ("<", b.result(columns, rows)),
    ]
    (event,) = everyhow(steps)
    assert (event.rows, event.patients) == (2, digests("7", "8"))
    assert event.fingerprint


def test_a_cursor_is_counted_where_it_is_fetched() -> None:
    prepared = b"\0" + (5).to_bytes(4, "little") + (1).to_bytes(2, "little") + b"\0\0\0\0\0"
    one = [b.binary((n).to_bytes(4, "little")) for n in (1, 2)]
    steps = [
        (">", b.command(0x16, b"SELECT id FROM patient")),
        ("<", b.numbered(prepared, ID, b.eof())),
        (">", b.command(0x17, (5).to_bytes(4, "little") + b"\1" + b"\0" * 9)),
        ("<", b.numbered(b"\1", ID, b.eof(status=0x42))),
        (">", b.command(0x1C, (5).to_bytes(4, "little") + (2).to_bytes(4, "little"))),
        ("<", b.numbered(*one, b.eof(status=0x42))),
        (">", b.command(0x1C, (5).to_bytes(4, "little") + (2).to_bytes(4, "little"))),
        ("<", b.numbered(one[0], b.eof(status=0x82))),
        (">", b.command(0x19, (5).to_bytes(4, "little")) + b.command(0x0E)),
        ("<", b.numbered(b.ok())),
    ]
    events = everyhow(steps)
    assert [e.rows for e in events] == [0, 2, 1]
    assert events[1].patients == digests("1", "2")


def test_several_statements_several_results_and_a_procedure() -> None:
    more = 0x0A
    steps = [
        (">", b.query("SELECT 1; UPDATE t SET a = 1; SELECT id FROM patient; SELECT broken")),
        ("<", b.result([b.column("1")], [b.row("1")], status=more)),
        ("<", b.numbered(b.ok(3, more), first=6)),
        ("<", b.result([ID], [b.row("9")], status=more, first=7)),
        ("<", b.numbered(b.err("42S22"), first=12)),
    ]
    events = everyhow(steps)
    assert [(e.rows, e.error) for e in events] == [(1, ""), (0, ""), (1, ""), (0, "42S22")]
    assert events[2].patients == digests("9")
    assert not any("Dupont" in str(e) for e in events)


def test_out_parameters_as_oracles_server_sends_them() -> None:
    """That an OK follows is told by the EOF before their row, not by the one behind it."""
    outs = b.numbered(b"\1", b.column("total", "deux"), b.eof(0x100A), b.binary(b"\x0a\0\0\0"), b.eof(), first=6)
    call = b"\0" + (5).to_bytes(4, "little") + b"\0\0" + b"\0\0" + b"\0\0\0"
    steps = [
        (">", b.command(0x16, b"CALL deux(5, @x)")),
        ("<", b.numbered(call)),
        (">", b.command(0x17, (5).to_bytes(4, "little") + b"\0" * 10)),
        ("<", b.result([ID], [b.binary(b"\7\0\0\0")], status=0x0A)),
        ("<", outs),
        ("<", b.numbered(b.ok(), first=11)),
        (">", b.query("SELECT id FROM patient")),
        ("<", b.result([ID], [b.row("9")])),
    ]
    events = everyhow(steps)
    assert [(e.kind, e.rows) for e in events] == [("query", 1), ("query", 1), ("query", 0), ("query", 1)]
    assert events[-1].patients == digests("9")


def test_pipelined_commands_and_the_statement_prepared_last() -> None:
    prepared = b"\0" + (1).to_bytes(4, "little") + (1).to_bytes(2, "little") + b"\0\0\0\0\0"
    last = (0xFFFFFFFF).to_bytes(4, "little")
    steps = [
        (
            ">",
            b.command(0x16, b"SELECT id FROM patient")
            + b.command(0x17, last + b"\0" * 10)
            + b.command(0x19, b"\1\0\0\0")
            + b.query("SELECT 2"),
        ),
        ("<", b.numbered(prepared, ID, b.eof()) + b.result([ID], [b.binary(b"\5\0\0\0")])),
        ("<", b.result([b.column("2")], [b.row("2")])),
    ]
    events = everyhow(steps)
    assert [e.rows for e in events] == [1, 1]
    assert events[0].patients == digests("5")
    assert events[1].query == "select ?"


def test_local_infile_is_the_clients_and_no_command() -> None:
    steps = [
        (">", b.query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t")),
        ("<", b.numbered(b"\xfbx")),
        (">", packet(2, b"\x03SELECT not a command\n" * 50) + packet(3, b"\x01quit\n") + packet(4, b"")),
        ("<", packet(5, b"\xff\xff\xff\1\1\1\0\0\0\0") + packet(6, b.ok(51))),
        (">", b.query("SELECT 1")),
        ("<", b.result([b.column("1")], [b.row("1")])),
    ]
    events = everyhow(steps)
    assert [(e.rows, e.hidden_rows) for e in events] == [(0, 0), (1, 0)]


def test_rows_and_statements_longer_than_a_packet() -> None:
    value = bytes(33_000_000)
    payload = b.row("7", value)
    parts = [payload[at : at + 0xFFFFFF] for at in range(0, len(payload), 0xFFFFFF)]
    exact = b.row("8", bytes(0xFFFFFF - 6))
    assert len(exact) == 0xFFFFFF
    body = b"SELECT " + b"x" * 0xFFFFFF
    columns = [ID, b.column("doc", "patient", kind=252)]
    sent = b"\x03" + body
    steps = [
        (">", packet(0, sent[:0xFFFFFF]) + packet(1, sent[0xFFFFFF:])),
        ("<", b.numbered(b"\2", *columns, b.eof(), *parts, exact, b"", b.row("9", "y"), b.eof())),
    ]
    for cut in (None, random.Random(3)):
        events = play(steps, cut)
        assert sum(e.rows for e in events) == 3
        # The identifier of a row that is longer than what is kept may be read or not: never no patient.
        assert len({p for e in events for p in e.patients}) == 3
        assert sum(e.bytes for e in events) == len(payload) + len(exact) + len(b.row("9", "y"))


def test_change_of_user_counts_from_its_ok_on_and_a_refused_one_not_at_all() -> None:
    body = b"other\0" + b"\x14" + b"p" * 20 + b"clinic\0\x2d\0mysql_native_password\0\0"
    steps = [
        (">", b.command(0x11, body)),
        ("<", packet(1, b"\xfecaching_sha2_password\0" + b"n" * 20 + b"\0")),
        (">", packet(2, b"\x03secret")),
        ("<", packet(3, b"\1\3") + packet(4, b.ok())),
        (">", b.query("SELECT id FROM patient")),
        ("<", b.result([ID], [b.row("1")])),
        (">", b.command(0x11, body.replace(b"other", b"admin"))),
        ("<", packet(1, b.err("28000"))),
        (">", b.query("SELECT 1")),
        ("<", b.result([b.column("1")], [b.row("1")])),
    ]
    events = everyhow(steps)
    assert [(e.kind, e.principal) for e in events] == [
        ("login", "other"), ("query", "other"), ("login_failed", "other"), ("query", "other")]  # fmt: skip


def test_rows_moved_without_being_shown() -> None:
    steps = [
        (">", b.query("CREATE TABLE copie AS SELECT * FROM patient")),
        ("<", b.numbered(b.ok(300))),
        (">", b.query("SELECT id FROM patient INTO OUTFILE '/tmp/x'")),
        ("<", b.numbered(b.ok(12))),
        (">", b.query("UPDATE t SET a = (SELECT 1)")),
        ("<", b.numbered(b.ok(5))),
        (">", b.query("SELECT id FROM copie")),
        ("<", b.result([b.column("id", "copie")], [b.row("1")])),
    ]
    events = everyhow(steps)
    assert [(e.hidden_rows, e.patients_estimated) for e in events] == [(300, 300), (12, 12), (0, 0), (0, 0)]
    assert events[3].patients == digests("1"), "a copy's column counts by its name"


@pytest.mark.parametrize(("sql", "filled"), [
    ("UPDATE liste l JOIN patient p ON p.id = l.k SET l.v = p.nom", "liste"),
    ("update patient p, liste set liste.v = p.nom", "liste"),
    ("UPDATE/**/clinic.liste SET v = (SELECT nom FROM patient p WHERE p.id = k)", "liste"),
    ("UPDATE patient p JOIN ville v USING (cp) SET p.ville = v.nom", ""),
    ("UPDATE ville v JOIN patient p USING (cp) SET p.ville = v.nom, p.vu = 1 WHERE v.id = 1", ""),
    ("UPDATE liste SET vu = 1 WHERE k IN (SELECT id FROM patient)", ""),
    ("UPDATE patient SET nom = 'x', prenom = 'y' WHERE id = 5", ""),
    ("SELECT 1; CREATE TEMPORARY TABLE a SELECT 1; INSERT INTO liste SELECT id, nom FROM patient", "liste"),
    ("CREATE TRIGGER t AFTER UPDATE ON patient FOR EACH ROW INSERT INTO liste VALUES (NEW.id)", "liste"),
    ("CREATE PROCEDURE clinic.liste() SELECT GROUP_CONCAT(id) FROM patient", "liste"),
    ("CREATE OR REPLACE FUNCTION liste() RETURNS TEXT RETURN (SELECT nom FROM patient)", "liste"),
])  # fmt: skip
def test_where_patients_were_put_is_known(sql: str, filled: str) -> None:
    seen = observer()
    (event,) = play([(">", b.query(sql)), ("<", b.numbered(b.ok(7)))], target=seen)
    assert (event.hidden_rows, event.patients_estimated) == ((7, 7) if filled else (0, 0))
    result = b.result([b.column("k", "liste", kind=253)], [b.row("a"), b.row("b")])
    (event,) = play([(">", b.query("SELECT * FROM liste")), ("<", result)], target=seen)
    assert len(event.patients) == (2 if filled else 0)


@pytest.mark.parametrize("keeps", [
    "SET @x = (SELECT GROUP_CONCAT(nom) FROM patient)", "SELECT GROUP_CONCAT(nom) INTO @x FROM patient",
    "SET @s = 'SELECT ..'", "GET DIAGNOSTICS CONDITION 1 @x = MESSAGE_TEXT",
])  # fmt: skip
@pytest.mark.parametrize("fails", [False, True])
def test_what_a_variable_keeps_of_patients_is_theirs_when_it_is_asked_for(keeps: str, fails: bool) -> None:
    seen, patients = observer(), not keeps.startswith("SET @s")
    ended = b.err() if fails else b.ok()
    play([(">", b.query(keeps)), ("<", b.numbered(ended))], target=seen)
    packed = b.result([b.column("@x", kind=253)], [b.row("Dupont " * 100)])
    (event,) = play([(">", b.query("SELECT @x")), ("<", packed)], target=seen)
    assert len(event.patients) + event.patients_estimated == (5 if patients else 0)
    play([(">", b.query("INSERT INTO t VALUES (1, @x)")), ("<", b.numbered(b.ok(1)))], target=seen)
    held = b.result([b.column("v", "t", kind=253)], [b.row("Dupont " * 100)])
    (event,) = play([(">", b.query("SELECT v FROM t")), ("<", held)], target=seen)
    assert len(event.patients) + event.patients_estimated == (5 if patients else 0)
    play([(">", b.command(0x1F)), ("<", b.numbered(b.ok()))], target=seen)
    (event,) = play([(">", b.query("SELECT @x")), ("<", packed)], target=seen)
    assert (event.patients, event.patients_estimated) == ((), 0), "COM_RESET_CONNECTION has forgotten it"


LONG = "/*" + "x" * 70_000 + "*/"


@pytest.mark.parametrize(("sql", "rows"), [
    (f"INSERT {LONG} INTO t SELECT id FROM patient", [7, 7]),
    (f"create {LONG} table t select id from patient", [7, 7]),
    (f"UPDATE {LONG} t JOIN patient p USING (id) SET t.v = p.nom", [7, 7]),
    (f"SELECT 1; SELECT '{LONG}'; INSERT INTO t SELECT id FROM patient", [0, 0]),
    (f"INSERT INTO t VALUES ('{LONG}')", [0, 7]),
    (f"UPDATE t SET v = '{LONG}' WHERE id = 1", [0, 7]),
    (f"DELETE FROM t WHERE v = '{LONG}'", [0, 7]),
])  # fmt: skip
def test_what_a_text_moves_behind_what_is_kept_of_it(sql: str, rows: list[int]) -> None:
    """The second row is of a statement of which nothing was kept."""
    answers = b.numbered(b.ok(7, 0x0A)) + b.numbered(b.ok(7), first=2)
    events = play([(">", b.query(sql)), ("<", answers)])
    assert [e.hidden_rows for e in events] == rows
    assert [e.patients_estimated for e in events] == rows


XPATH = "SELECT EXTRACTVALUE(1, CONCAT('~', (SELECT GROUP_CONCAT(id) FROM patient)))"


def failure(text: str, code: int = 1105) -> bytes:
    return b.numbered(b"\xff" + code.to_bytes(2, "little") + b"#HY000" + text.encode())


@pytest.mark.parametrize(("sql", "answer", "patients"), [
    (XPATH, failure("XPATH syntax error: '~100,101,102'"), 1),
    ("INSERT INTO patient VALUES (1)", failure("Duplicate entry '1' for key 'patient.PRIMARY'", 1062), 0),
    ("UPDATE patient SET id = id + 1", failure("Duplicate entry '2' for key 'PRIMARY'", 1062), 1),
    ("SELECT nom FROM patient", failure("SELECT command denied to user 'a'@'b' for table 'c'", 1142), 0),
    ("SELECT a FROM visite", failure("something of 'Dupont'"), 0),
    ("SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = (SELECT nom FROM patient)", failure("x" * 400), 3),
])  # fmt: skip
def test_an_error_that_quotes_a_record_is_a_patient(sql: str, answer: bytes, patients: int) -> None:
    (event,) = everyhow([(">", b.query(sql)), ("<", answer)])
    assert (event.rows, len(event.patients) + event.patients_estimated) == (0, patients)
    for left, passes in ((1, True), (0, not patients)):
        for cut in range(1, len(answer)):
            seen = observer()
            seen.client_data(b.query(sql), 5)
            found = seen.server_data(answer[:cut], 5, allowed_rows=left)
            held = b"" if found.hold_at is None else answer[found.hold_at : cut]
            found = seen.server_data(held + answer[cut:], 5, allowed_rows=left)
            assert (found.cut_at is None) == passes
            assert passes or len(held) == cut, "no byte of it passes"


def test_ten_thousand_copies_cost_the_others_nothing() -> None:
    columns = OriginColumns(["patient.id"])
    began = time.process_time()
    for number in range(9_999):
        columns.note_copies([f"t{number}"], packed=False)
        assert columns.mentioned_in(b"select * from t%d" % number)
    assert not columns.mentioned_in(b"select a, b from visite")
    assert time.process_time() - began < 5


def test_packed_identifiers_and_expressions_are_estimated() -> None:
    steps = [
        (">", b.query("SELECT GROUP_CONCAT(id) FROM patient")),
        ("<", b.result([b.column("g", kind=252, charset=45)], [b.row("1,2,3,4")])),
        (">", b.query("SELECT MD5(id) FROM patient")),
        ("<", b.result([b.column("m", kind=253)], [b.row("a" * 32), b.row("b" * 32)])),
        (">", b.query("SELECT nom FROM patient")),
        ("<", b.result([b.column("nom", "patient", kind=253)], [b.row("A"), b.row("B"), b.row("A")])),
    ]
    events = everyhow(steps)
    assert events[0].patients == digests("1", "2", "3", "4")
    assert [len(e.patients) for e in events] == [4, 2, 2]
    assert {e.patients_by for e in events} == {"estimate"}


def test_where_the_allowance_ends_the_next_row_does_not_pass() -> None:
    data = b.result([ID], [b.row(str(n)) for n in range(100)])
    boundary = len(b.numbered(b"\1", ID, b.eof(), *[b.row(str(n)) for n in range(5)]))
    for step in (1, 3, 7, len(data)):
        for rows, patients in ((5, None), (None, 5)):
            seen, passed, held, left = observer(), b"", b"", [rows, patients]
            seen.client_data(b.query("SELECT id FROM patient"), 1)
            for at in range(0, len(data), step):
                piece, held = held + data[at : at + step], b""
                found = seen.server_data(piece, 2, *left)
                left = [
                    None if x is None else x - n
                    for x, n in zip(left, (found.rows, len(found.new_patients)), strict=True)
                ]
                if found.cut_at is not None:
                    passed += piece[: found.cut_at]
                    break
                end = len(piece) if found.hold_at is None else found.hold_at
                passed, held = passed + piece[:end], piece[end:]
            assert len(passed) == boundary
            assert seen.next_sequence == 9, "the error has the number of the row that did not pass"


def test_a_compressed_session_that_is_ended_gives_what_may_pass_in_an_envelope_of_the_guards_own() -> None:
    seen = observer(compression="zlib")
    seen.client_data(wrapped(b.query("SELECT id FROM patient")), 1)
    data = b.result([ID], [b.row(str(n)) for n in range(100)])
    middle = len(b.numbered(b"\1", ID, b.eof(), b.row("0"))) + 2
    seen.server_data(wrapped(data[:middle], 1), 2)
    assert not seen.at_boundary
    found = seen.server_data(wrapped(data[middle:], 2), 3, allowed_rows=0)
    assert found.cut_at == 0
    assert found.tail[:4] == bytes((len(found.tail) - 7, 0, 0, 2))
    assert data[:middle] + found.tail[7:] == b.numbered(b"\1", ID, b.eof(), b.row("0"), b.row("1"))
    assert seen.next_envelope == 3


def test_what_does_not_follow_the_protocol_is_charged_by_the_packet() -> None:
    for wrong in (b"\xfc", b"\0", b"\xfe\1", bytes((0xFD, 255, 255, 255))):
        seen = observer()
        seen.client_data(b.query("SELECT id FROM patient"), 1)
        events = seen.server_data(packet(1, wrong), 2).events
        assert seen.desynced
        assert [e.kind for e in events] == ["desynced"]
        assert seen.server_data(packet(2, b"abc") * 5, 3).rows == 5
        assert seen.at_boundary


def test_a_reply_nobody_asked_for() -> None:
    seen = observer()
    assert not seen.server_data(packet(0, b.err("08S01")), 2).events, "the server is going away"
    assert not seen.desynced
    seen.server_data(packet(0, b.ok()), 2)
    assert seen.desynced


def test_an_error_is_the_last_of_the_results_that_were_announced() -> None:
    """OUT parameters, before whose row another result was announced, end in an error: the next command's answer is its own."""
    announced = b.eof(2 | messages.SERVER_MORE_RESULTS_EXISTS | messages.SERVER_PS_OUT_PARAMS)
    said = everyhow(
        [
            (">", b.query("CALL p()")),
            ("<", b.numbered(b"\1", ID, announced, b.row("1"), b.err("21000"))),
            (">", b.query("DO 1")),
            ("<", b.numbered(b.ok())),
            (">", b.query("SELECT id FROM patient")),
            ("<", b.result([ID], [b.row("2"), b.row("3")])),
        ]
    )
    told = [(e.query, e.rows, e.error) for e in said if e.kind == "query"]
    assert told[0][1:] == (1, "21000")
    assert told[1:] == [("do ?", 0, ""), ("select id from patient", 2, "")]


def test_replication_is_forbidden_unless_allowed() -> None:
    for kind in sorted(messages.REPLICATION):
        seen = observer()
        seen.client_data(b.command(kind, b"\4\0\0\0"), 1)
        assert seen.forbidden
        allowed = MysqlObserver(Setting("e", DIGESTER, 1, 1), "s", "x", OriginColumns([]), allow_replication=True)
        allowed.login_succeeded(b.NATIVE, "", 1)
        allowed.client_data(b.command(kind, b"\4\0\0\0"), 1)
        assert not allowed.forbidden


@pytest.mark.parametrize("kind", [messages.COM_BINLOG_DUMP, messages.COM_BINLOG_DUMP_GTID, messages.COM_TABLE_DUMP])
@pytest.mark.parametrize("capabilities", [b.NATIVE, b.DEPRECATE])
def test_an_allowed_dump_is_counted_and_ends(kind: int, capabilities: int) -> None:
    seen = MysqlObserver(Setting("e", DIGESTER, 2, 1), "s", "x", OriginColumns([]), allow_replication=True)
    seen.login_succeeded(capabilities, "", 1)
    said = [(">", b.command(kind, b"\4\0\0\0")), ("<", b.numbered(*[b"\0" + b"e" * 99] * 5)), ("<", packet(6, b.eof()))]
    said += [(">", b.query("DO 1")), ("<", packet(1, b.ok()))]
    events = [e for e in play(said, target=seen) if e.kind in ("query", "progress")]
    assert not seen.desynced
    assert not seen.awaiting_reply
    assert (sum(e.rows for e in events), sum(e.bytes for e in events)) == (5, 500)
    assert {e.flags for e in events} == {("replication",)}


def test_only_a_whole_harmless_command_may_pass_before_it_is_read() -> None:
    seen = observer()
    assert seen.passes_first(b.query("SELECT 1"))
    assert seen.passes_first(b.command(0x17, b"\1\0\0\0" + b"\0" * 6))
    for kind in (*sorted(messages.REPLICATION), messages.COM_CHANGE_USER):
        assert not seen.passes_first(b.command(kind, b"x"))
    assert not seen.passes_first(b.query("SELECT 1") + b.command(0x12, b"x"))
    assert not seen.passes_first(b.query("SELECT 1")[:-1])
    assert not seen.passes_first(b"\x05\0\0\0")
    assert not observer(compression="zlib").passes_first(b.query("SELECT 1"))
    seen.client_data(b.query("SELECT 1")[:7], 1)
    assert not seen.passes_first(b.query("SELECT 1")), "it begins in the middle of another"


def test_bounds() -> None:
    seen = observer()
    seen.client_data(b.command(0x0E) * (MAX_PENDING + 5), 1)
    assert seen.desynced
    other = observer()
    for number in range(MAX_STATEMENTS + 1_000):
        other.client_data(b.command(0x16, b"SELECT 1"), 1)
        other.server_data(packet(1, b"\0" + number.to_bytes(4, "little") + b"\0\0\0\0\0\0\0"), 1)
    assert len(other._statements) == MAX_STATEMENTS
    assert not other.desynced


def test_what_a_session_prepares_is_bounded_in_bytes() -> None:
    seen = observer()
    text = b"SELECT 1 /* " + 60_000 * b"x" + b" */"
    for number in range(1, 2_001):
        seen.client_data(b.command(0x16, text), 1)
        seen.server_data(packet(1, b"\0" + number.to_bytes(4, "little") + b"\0\0\0\0\0\0\0"), 1)
    assert sum(statement.weight() for statement in seen._statements.values()) <= MAX_PREPARED_BYTES
    assert 2_000 in seen._statements
    assert not seen.desynced


def test_query_attributes_stand_before_the_statement() -> None:
    capabilities = b.DEPRECATE | messages.CLIENT_QUERY_ATTRIBUTES
    attributes = (
        b"\2\1\0\1" + b"\xfe\0" + b.text("traceparent") + b"\x08\0" + b.text("n") + b.text("00-abc") + b"\1" * 8
    )
    steps = [
        (">", b.command(3, attributes + b"SELECT id FROM patient")),
        ("<", b.result([ID], [b.row("1")], deprecate=True)),
        (">", b.command(3, b"\0\1SELECT 1")),
        ("<", b.result([b.column("1")], [b.row("1")], deprecate=True)),
    ]
    assert [e.query for e in everyhow(steps, capabilities)] == ["select id from patient", "select ?"]


@pytest.mark.parametrize(
    ("value", "kind", "flags", "charset", "binary", "expected"),
    [
        (b"42", 3, 0, 63, False, b"42"),
        (b"\x2a\0\0\0", 3, 0, 63, True, b"42"),
        (b"\xff", 1, 0, 63, True, b"-1"),
        (b"\xff", 1, 0x20, 63, True, b"255"),
        (b"\xfe\xff\xff\xff\xff\xff\xff\xff", 8, 0x20, 63, True, b"18446744073709551614"),
        (b"00042", 3, 0x40, 63, False, b"42"),
        (bytes(range(16)), 254, 0x80, 63, True, bytes(range(16)).hex().encode()),
        (b"A-17 ", 253, 0, 45, False, b"A-17"),
        (b"4\x002\x00", 253, 0, 54, False, b"42"),
    ],
)
def test_identifiers_have_one_form(
    value: bytes, kind: int, flags: int, charset: int, binary: bool, expected: bytes
) -> None:
    assert canonical(value, Column("c", "patient", "id", "id", kind, charset, flags), binary) == expected


def test_the_account_without_a_name_has_one_in_events() -> None:
    """Found by the fuzzer: its statements would have been events that nobody takes."""
    seen = observer()
    events = play(
        [
            (">", b.command(0x11, b"\0\0clinic\0")),
            ("<", packet(1, b.ok())),
            (">", b.query("SELECT id FROM patient")),
            ("<", b.result([ID], [b.row("7")])),
        ],
        target=seen,
    )
    assert [(e.kind, e.principal, e.login, e.rows) for e in events] == [
        ("login", "(anonymous)", "(anonymous)", 0),
        ("query", "(anonymous)", "(anonymous)", 1),
    ]
    assert startup.login(b.login(user="")).user == startup.ANONYMOUS
    assert startup.login(b.login(user="r" * 200)).user == "r" * startup.MAX_ACCOUNT_CHARS


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "utf-32-be", "utf-32-le"])
def test_names_and_numbers_in_wide_characters_are_the_same(encoding: str) -> None:
    """character_set_results = utf16 was enough to take patients that nobody saw."""

    def wide(word: str) -> bytes:
        return b.text(word.encode(encoding))

    tail = b"\x0c\x36\0\x0b\0\0\0\x03\2\0\0\0\0"
    column = wide("def") + wide("clinic") + wide("p") + wide("patient") + wide("n") + wide("id") + tail
    sql = "SELECT id AS n FROM patient AS p"
    (event,) = play([(">", b.query(sql)), ("<", b.result([column], [wide("7"), wide("08")]))])
    assert (event.patients_by, event.patients) == ("origin", digests("7", "8"))


@pytest.mark.parametrize("schema", ["", "*any*"])
def test_a_column_of_json_table_comes_from_no_table(schema: str) -> None:
    """As Oracle's and MariaDB's server name its schema."""
    tail = b"\x0c\x2d\0\x0b\0\0\0\xfd\0\0\0\0\0"
    column = b"".join(map(b.text, ("def", schema, "j", "json_table", "x", "x"))) + tail
    sql = (
        "SELECT x FROM (SELECT JSON_ARRAYAGG(id) AS a FROM patient) q, JSON_TABLE(a, '$[*]' COLUMNS (x INT PATH '$')) j"
    )
    (event,) = play([(">", b.query(sql)), ("<", b.result([column], [b.row("70"), b.row("80")]))])
    assert (event.rows, event.patients_by, len(event.patients)) == (2, "estimate", 2)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT copie SELECT * FROM patient", "INSERT /*'*/ INTO copie SELECT * FROM patient", "REPLACE INTO `copie` TABLE patient",
        "# x\nCREATE TABLE copie AS SELECT * FROM patient", "-- x\nINSERT IGNORE clinic.copie SELECT * FROM patient",
        "/*!CREATE*/ TABLE/**/copie AS SELECT * FROM patient", "ALTER TABLE patient RENAME copie", "RENAME TABLE patient TO copie",
        "INSERT INTO copie (z) SELECT id FROM patient", "/*!99999 x */ INSERT INTO copie SELECT id FROM patient",
    ],
)  # fmt: skip
def test_a_copy_is_known_however_it_was_made(sql: str) -> None:
    """A comment, INSERT without INTO, or a new name for the table, and its rows were nobody's."""
    events = play(
        [
            (">", b.query(sql)),
            ("<", packet(1, b.ok(affected=5))),
            (">", b.query("SELECT z FROM copie")),
            ("<", b.result([b.column("z", "copie")], [b.row("7"), b.row("8")])),
        ]
    )
    assert (events[0].hidden_rows, events[0].patients_estimated) == (5, 5)
    assert (events[1].rows, events[1].patients_by, len(events[1].patients)) == (2, "estimate", 2)


def test_what_a_text_that_nobody_has_read_moves_or_packs_is_counted() -> None:
    events = play(
        [
            (">", b.query("EXECUTE s")),
            ("<", packet(1, b.ok(affected=5))),
            (">", b.query("EXECUTE s")),
            ("<", b.result([b.column("x", kind=253)], [b.row("Dupont " * 200)])),
            (">", b.query("UPDATE t SET a = REPLACE(a, 'x', 'y') WHERE b IN (SELECT c FROM d)")),
            ("<", packet(1, b.ok(affected=5))),
            (">", b.query("LOAD DATA LOCAL INFILE 'x' INTO TABLE patient")),
            ("<", packet(1, b.ok(affected=5))),
        ]
    )
    assert [(e.hidden_rows, len(e.patients) + e.patients_estimated) for e in events] == [
        (5, 0),
        (0, 10),
        (0, 0),
        (0, 0),
    ]


def test_no_patient_passes_the_allowance_where_packets_cannot_be_told_apart() -> None:
    """They were rows only: with a limit of patients alone, a session that was desynced on purpose had none."""
    seen = observer()
    seen.server_data(packet(1, b.ok()), 5)
    assert seen.desynced
    rows = b.numbered(*[b.row(str(n)) for n in range(9)])
    found = seen.server_data(rows, 5, allowed_patients=4)
    assert (found.rows, found.estimated, found.cut_at) == (4, 4, 4 * len(packet(1, b.row("1"))))
    seen = observer(compression="zlib")
    seen.server_data(b"\3\0\0\0\7\0\0bad", 5)
    found = seen.server_data(b"x" * 1280, 5, allowed_patients=4)
    assert (found.rows, found.estimated) == (10, 10)
    assert seen.server_data(b"x" * 1280, 5, allowed_patients=0).cut_at == 0


def test_a_row_too_long_to_be_held_back_does_not_pass_what_is_left() -> None:
    """A megabyte of GROUP_CONCAT went by whole, and was counted then."""
    head = b.numbered(b"\1", b.column("x", kind=252), b.eof())
    row = packet(4, b.row("Dupont " * 100_000))
    for allowed, passes in ((100, False), (10_000, True)):
        seen = observer()
        seen.client_data(b.query("SELECT GROUP_CONCAT(nom) FROM patient"), 5)
        found = seen.server_data(head + row[:60_000], 5, allowed_patients=allowed)
        assert found.cut_at == (None if passes else len(head))
        assert (found.estimated > 5_000) == passes


def test_an_account_has_one_name_in_any_spelling() -> None:
    """Quotes around it, or another character set, were another principal, whom no lock named."""
    login = b.login(user="@@")
    change = b"@@\0\0clinic\0%b\0mysql_native_password\0"
    for name, charset in (("médecin", 45), ("médecin", 8), ("médecin", 4), ("app", 8)):
        sent = name.encode({8: "cp1252", 4: "cp850"}.get(charset, "utf-8"))
        for spelled in (sent, b"'" + sent + b"'"):
            payload = (login[:8] + bytes((charset,)) + login[9:]).replace(b"@@", spelled)
            assert startup.login(payload).user == name
            body = (change % bytes((charset,))).replace(b"@@", spelled)
            assert startup.change_user(body, b.NATIVE).user == name


ASKED = AskedColumns(["patient.id", "sejour.patient_id"], "mysql")
SHARED = templates(ASKED)


class PlainWay(Templates):
    """Knows no text."""

    def find(self, sql: bytes, escapes: bool = False) -> tuple[Template, list[bytes], int] | None:
        return None


PIECES = st.sampled_from(
    [b"SELECT id, nom FROM patient WHERE id = ", b"select * from sejour s where s.patient_id in (", b" AND id=", b"17", b"-5", b"- 5",
     b"--5", b"0x1F", b"1e5", b".5", b"5.", b"a1", b"1a", b"$5", b"@5", b"@x := 9", b"`id`", b"`5 b`", b"'7'", b'"7"', b"# 7\n", b"-- 7\n",
     b"/* 7 */", b"/*!50000 7 */", b" ", b", ", b") ", b"(", b"; ", b" LIMIT 10", b"patient.id = 18446744073709551616", b"\\", b"\xc3\xa9 ",
     b" OR id BETWEEN 3 AND 4", b"_utf8 '5'", b"N'5'", b"X'35'", b"7 = id", b"id <=> 8"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=8).map(b"".join))
def test_a_text_that_differs_in_its_literals_only_is_told_as_the_plain_way_tells_it(sql: bytes) -> None:
    """Twice: the second time its template is known."""
    said = []
    for known in (PlainWay(ASKED), SHARED, SHARED):
        seen = MysqlObserver(
            Setting("ehr", DIGESTER, 1000, 50), "s1", "x", OriginColumns(["patient.id"]), asked=ASKED, templates=known
        )
        seen.startup(startup.login(b.login()))
        seen.login_succeeded(b.NATIVE, "", 1)
        said.append(play([(">", b.command(0x03, sql)), ("<", b.result([ID], [b.row("7")]))], target=seen))
    assert said[0] == said[1] == said[2]


def test_an_answer_that_moved_null_rows_moved_none() -> None:
    """NULL where a number belongs: no server says so, and it ended the process (found by the fuzzer)."""
    steps = [(">", b.query("INSERT INTO copie SELECT * FROM patient")), ("<", packet(1, b"\0\xfb\0\2\0\0\0"))]
    (found,) = play(steps)
    assert (found.kind, found.hidden_rows, found.patients_estimated) == ("query", 0, 0)
