"""Requests that are looked at before they are sent: however the bytes are cut, no statement that is refused passes."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from exfilguard.observe.classify import Classifier
from exfilguard.observe.contexts import Contexts
from exfilguard.observe.identity import Identity, Rules
from exfilguard.observe.mysql.session import MysqlObserver
from exfilguard.observe.patients import Digester, PatientColumns
from exfilguard.observe.session import SessionObserver
from exfilguard.observe.tally import Setting
from exfilguard.wire.mysql import messages
from exfilguard.wire.mysql.compression import Algorithm, Inflater, envelope
from exfilguard.wire.mysql.messages import packet
from tests.wire import build as b
from tests.wire import mysql_build as m
from tests.wire.test_mysql_compression import squeezed

from .test_mysql_session import observer as mysql_observer
from .test_session import KEY
from .test_session import observer as postgres_observer

REFUSED = b.query("COPY patients TO PROGRAM 'x'")
MYSQL_REFUSED = m.query("SELECT id FROM patient INTO OUTFILE '/tmp/x'")


def judge(principals: Collection[str], text: bytes, piece: bool = False, *, harmless: bool = False) -> str:
    return "refused" if b"PROGRAM" in text or b"OUTFILE" in text else ""


def everybody(principals: Collection[str], text: bytes, piece: bool = False, *, harmless: bool = False) -> str:
    return "" if harmless else "locked"


def pieces(message: bytes, size: int = 65_536) -> list[bytes]:
    return [message[at : at + size] for at in range(0, len(message), size)]


def sent(made: SessionObserver | MysqlObserver, *pieces: bytes) -> bytes:
    return b"".join(made.screen(piece, 5, judge)[0] for piece in pieces)


def postgres() -> SessionObserver:
    made = postgres_observer()
    made.server_data(b.LOGIN, 1)
    return made


@pytest.mark.parametrize(
    "first",
    [b.describe("S", "long name"), b.close("S", "long name"), b.execute("long name"), b.copy_data(b"1\tDupont\n")],
)
def test_what_stands_behind_the_rest_of_a_message_is_judged(first: bytes) -> None:
    """The beginning of a message that is not held goes by; its rest comes with a statement behind it."""
    for at in range(len(first)):
        made = postgres()
        out = sent(made, first[:at], first[at:] + b.SYNC + REFUSED)
        assert out.startswith(first + b.SYNC)
        assert b"PROGRAM" not in out
        assert made.refusals == 1


@pytest.mark.parametrize(
    "first", [m.command(messages.COM_INIT_DB, b"dpi"), m.command(messages.COM_STMT_RESET, b"\1\0\0\0")]
)
def test_the_same_in_mysql(first: bytes) -> None:
    for at in range(len(first)):
        out = sent(mysql_observer(), first[:at], first[at:] + MYSQL_REFUSED)
        assert out.startswith(first)
        assert b"OUTFILE" not in out


def test_what_stands_behind_a_file_of_the_clients_is_judged() -> None:
    made = mysql_observer()
    assert sent(made, m.query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t")).endswith(b" t")
    made.server_data(packet(1, b"\xfbx"), 6)
    file = packet(2, b"1;Dupont") + packet(3, b"")
    out = sent(made, file[:7], file[7:] + MYSQL_REFUSED)
    assert out.startswith(file)
    assert b"OUTFILE" not in out


def test_what_a_client_says_out_of_turn_hides_no_statement() -> None:
    """Each let the next statement pass unjudged: a file that was sent before it was asked for, whose end was then waited for; an empty
    command; one that cannot be read, with another behind it in the same piece."""
    made = mysql_observer()
    early = m.query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t") + packet(2, b"1;Dupont") + packet(3, b"")
    sent(made, early)
    made.server_data(packet(1, b"\xfbx"), 6)
    assert b"OUTFILE" not in sent(made, MYSQL_REFUSED)
    made = mysql_observer()
    assert sent(made, packet(0, b"")) == packet(0, b"")
    made.server_data(packet(1, m.err()), 6)
    assert not made.desynced
    assert b"OUTFILE" not in sent(made, MYSQL_REFUSED)
    malformed = m.command(messages.COM_CHANGE_USER, b"app\0\0clinic\0\x2d\0mysql_native_password\0\xfc\xff\xff")
    made = mysql_observer()
    out = sent(made, malformed + MYSQL_REFUSED)
    assert out.startswith(malformed)
    assert b"OUTFILE" not in out


def test_after_an_error_a_file_is_over() -> None:
    made = mysql_observer()
    sent(made, m.query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t"))
    made.server_data(packet(1, b"\xfbx"), 6)
    made.server_data(packet(4, m.err()), 7)
    assert b"OUTFILE" not in sent(made, MYSQL_REFUSED)


ENVELOPES = pytest.mark.parametrize("algorithm", ["zlib", "zstd"])


@ENVELOPES
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_a_compressed_session_is_screened(algorithm: Algorithm, step: int) -> None:
    """It was not: `--compress` was all that was needed to get past `deny`. As many envelopes go on as came, so that the server's answer
    has the number that the client waits for."""
    long = m.query("SELECT '" + "x" * 70_000 + "'")
    refused = m.query("SELECT '" + "x" * 70_000 + "' INTO OUTFILE '/tmp/x'")
    hidden = packet(1, MYSQL_REFUSED[4:])  # the servers do not look at this number here
    for content, passes in (
        (m.query("SELECT 1"), True),
        (long, True),
        (MYSQL_REFUSED, False),
        (refused, False),
        (hidden, False),
    ):
        made = mysql_observer(compression=algorithm)
        parts = [content[:100], content[100:40_000], content[40_000:]]
        data = b"".join(squeezed(part, algorithm, number) for number, part in enumerate(filter(None, parts)))
        out = sent(made, *pieces(data, step))
        inside = b"".join(found for found, _ in Inflater(algorithm).feed(out))
        assert (inside == content) == passes
        assert (b"SIGNAL" in inside) == (not passes)
        assert b"OUTFILE" not in inside
        assert numbers(out) == numbers(data)
        assert not made.holding
        assert sent(made, squeezed(m.query("SELECT 2"), algorithm)) == envelope(0, m.query("SELECT 2"))


def test_behind_an_authentication_everything_is_screened() -> None:
    """Its answers are not looked into, and are so many as the server asked for: a statement behind them with a number of theirs was
    carried out in a compressed session."""
    asked = packet(1, b"\xfemysql_native_password\0" + b"n" * 20 + b"\0")
    change = m.command(messages.COM_CHANGE_USER, b"app\0\0clinic\0\x2d\0mysql_native_password\0")
    hidden = packet(5, MYSQL_REFUSED[4:])
    for switched in (False, True):
        made = mysql_observer(compression="zlib")
        sent(made, envelope(0, change))
        answer = packet(2, b"x" * 20)
        if switched:
            made.server_data(envelope(1, asked), 6)
            assert sent(made, envelope(2, answer)) == envelope(2, answer)
        assert b"OUTFILE" not in sent(made, envelope(3, hidden))


@ENVELOPES
def test_of_a_compressed_session_only_what_was_not_sent_yet_is_screened(algorithm: Algorithm) -> None:
    data = squeezed(m.query("SELECT 1"), algorithm)
    made = mysql_observer(compression=algorithm)
    made.client_data(data[:9], 5)
    assert sent(made, data[9:] + squeezed(MYSQL_REFUSED, algorithm)).startswith(data[9:])
    assert sent(made, data[:9]) == b""
    assert made.holding


def test_what_cannot_be_opened_is_not_sent_while_somebody_is_screened() -> None:
    made = mysql_observer(compression="zlib")
    sent(made, (9).to_bytes(3, "little") + b"\0" + (9).to_bytes(3, "little") + b"not zlib!")
    assert made.forbidden


def numbers(envelopes: bytes) -> list[int]:
    found = []
    while envelopes:
        found.append(envelopes[3])
        envelopes = envelopes[7 + int.from_bytes(envelopes[:3], "little") :]
    return found


def test_a_sync_that_comes_while_nobody_is_screened_ends_a_refused_batch() -> None:
    made = postgres()
    assert b"PROGRAM" not in sent(made, b.parse("", "COPY patients TO PROGRAM 'x'"))
    made.server_data(b.error("42601"), 6)
    made.client_data(b.SYNC, 7)
    made.server_data(b.READY, 8)
    assert b"PROGRAM" not in sent(made, REFUSED)


@pytest.mark.parametrize(
    "behind", ["SELECT patient_id FROM patients", "SELECT patient_id FROM patients; SET ROLE dr_c"]
)
def test_a_change_of_role_that_may_fail_frees_nobody(behind: str) -> None:
    """The locked user asks for a role that is not theirs, and for rows behind it in the same breath: these are still theirs."""
    identity = Identity(Rules(roles=("dr_*",)), Contexts({}), "s1", "10.0.0.9")
    made = SessionObserver(Setting("ehr", Digester(KEY), 3, 50), "s1", "10.0.0.9", PatientColumns([]), identity)
    made.startup({"user": "dpi"})
    made.server_data(b.LOGIN, 1)
    made.client_data(b.query("SET ROLE dr_a"), 2)
    made.server_data(b.complete("SET") + b.READY, 3)
    judged: list[Collection[str]] = []

    def locked(principals: Collection[str], text: bytes, piece: bool = False, *, harmless: bool = False) -> str:
        if harmless:
            return ""
        judged.append(principals)
        return "locked" if "dr_a" in principals else ""

    change = b.query("SET ROLE dr_b")
    out, _ = made.screen(change + b.query(behind), 5, locked)
    assert out.startswith(change)
    assert b"patients" not in out
    assert "dr_b" in judged[0]
    # Once the server has said so, it is the other's.
    made.server_data(b.complete("SET") + b.READY + b.error("42601") + b.READY, 6)
    assert made.screen(b.query("SELECT 1"), 7, locked)[0] == b.query("SELECT 1")


@pytest.mark.parametrize(
    ("sql", "passes"),
    [
        ("SELECT set_config('exfilguard.user', 'dr_b', false)", True),
        (
            "SELECT pg_catalog.set_config('work_mem', '1MB', true), set_config('exfilguard.user', 'dr_b', false) AS u;",
            True,
        ),
        ("SELECT set_config('exfilguard.user', 'dr_b', false), (TABLE patient)", False),
        ("SELECT set_config('x.y', (TABLE patient), false), set_config('exfilguard.user', 'dr_b', false)", False),
        ("SELECT set_config('exfilguard.user', 'dr_b', false), lo_export(1, '/x')", False),
    ],
)
def test_only_settings_alone_are_left_to_a_locked_user(sql: str, passes: bool) -> None:
    identity = Identity(Rules(trusted_sources=("*",)), Contexts({}), "s1", "10.0.0.9")
    made = SessionObserver(Setting("ehr", Digester(KEY), 3, 50), "s1", "10.0.0.9", PatientColumns([]), identity)
    made.startup({"user": "dpi"})
    made.server_data(b.LOGIN, 1)
    out, _ = made.screen(b.query(sql), 2, everybody)
    assert (out == b.query(sql)) is passes


@pytest.mark.parametrize(
    ("sql", "passes"),
    [
        ("SET @exfilguard_user = 'dr_b', @x = 1", True),
        ("SET NAMES utf8mb4", True),
        ("SET @exfilguard_user = 'dr_b', @x = (SELECT GROUP_CONCAT(id) FROM patient)", False),
        ("SET @x = LOAD_FILE('/etc/passwd')", False),
    ],
)
def test_what_a_variable_is_to_keep_is_judged_in_mysql(sql: str, passes: bool) -> None:
    """Somebody else may ask for it."""
    made = mysql_observer(
        identity=Identity(Rules(engine="mysql", trusted_sources=("*",)), Contexts({}), "s1", "10.0.0.9")
    )
    out, _ = made.screen(m.query(sql), 5, everybody)
    assert (out == m.query(sql)) is passes


@pytest.mark.parametrize(
    "sql", ["SET @x = LOAD_FILE('/etc/passwd')", "SET STATEMENT a = 1 FOR SELECT id FROM patient", "SET a = 1"]
)
def test_who_is_locked_may_only_leave_and_nobody_reads_a_file_on_the_way(sql: str) -> None:
    """What returns nothing passes for whoever is locked, which let it pass `deny` too; and MariaDB's SET may be any statement."""
    asked: list[bool] = []

    def note(principals: Collection[str], text: bytes, piece: bool = False, *, harmless: bool = False) -> str:
        asked.append(harmless)
        return ""

    mysql_observer().screen(m.query(sql), 5, note)
    assert asked == [sql == "SET a = 1"]


@pytest.mark.parametrize("kind", [messages.COM_STMT_EXECUTE, messages.COM_STMT_FETCH, messages.COM_STMT_BULK_EXECUTE])
def test_a_locked_account_has_no_rows_of_a_cursor_either(kind: int) -> None:
    """Nor of a statement that nobody remembers."""
    made = mysql_observer()
    asked = m.command(kind, (7).to_bytes(4, "little") + (100).to_bytes(4, "little") + b"\0")
    out, _ = made.screen(asked, 5, everybody)
    assert b"SIGNAL" in out
    assert made.awaiting_reply


PAD = b" /*" + b"x" * 100_000 + b"*/"
HUGE = b" /*" + b"x" * (2 << 20) + b"*/"


@pytest.mark.parametrize("padding", [PAD, HUGE])
@pytest.mark.parametrize("kind", ["Q", "P", "B", "F"])
def test_a_locked_accounts_long_request_is_refused_and_its_rest_dropped(kind: str, padding: bytes) -> None:
    """It came by in pieces, which nobody judged: a comment was enough."""
    body = {
        "Q": b"SELECT nom FROM patients" + padding + b"\0",
        "P": b"\0SELECT nom FROM patients" + padding + b"\0\0\0",
        "B": b"\0\0\0\0\0\1" + len(padding).to_bytes(4, "big") + padding + b"\0\0",
        "F": b"\0\0\0\1\0\0\0\1" + len(padding).to_bytes(4, "big") + padding + b"\0\0",
    }[kind]
    made = postgres()
    out = b""
    for piece in pieces(b.message(kind, body) + b.SYNC + b.query("ROLLBACK")):
        out += made.screen(piece, 5, everybody)[0]
    assert b"xxx" not in out
    assert out.startswith(b"Q" if kind in "QF" else b"P")
    assert out.endswith(b.SYNC + b.query("ROLLBACK")), "what stands behind the rest is read as before"
    assert made.refusals == 1
    assert not made.holding


def test_while_its_rest_is_dropped_the_next_bytes_are_screened() -> None:
    """The verdict may be lifted in between: the rest is none of the server's all the same."""
    made = postgres()
    first, *rest = pieces(b.query("SELECT nom FROM patients" + HUGE.decode()), 1_200_000)
    assert b"exfilguard refused" in made.screen(first, 5, everybody)[0]
    assert made.holding
    assert b"".join(made.screen(piece, 6, judge)[0] for piece in rest) == b""
    assert not made.holding


@pytest.mark.parametrize("size", [100, 65_536, 1 << 22])
@pytest.mark.parametrize("start", [b"", b"INSERT INTO t VALUES (1); "])
def test_a_long_statement_is_judged_by_all_of_it(start: bytes, size: int) -> None:
    made = postgres()
    out = sent(made, *pieces(b.message("Q", start + PAD + b"COPY patients TO PROGRAM 'x'\0"), size))
    assert b"xxx" not in out
    assert made.refusals == 1


@pytest.mark.parametrize("length", [100_000, 3 << 20])
def test_long_statements_that_nobody_refuses_pass_as_they_are(length: int) -> None:
    """An application's bulk INSERT."""
    message = b.query("INSERT INTO letters VALUES ('" + "x" * length + "')") + b.query("SELECT 1")
    made = postgres()
    assert sent(made, *pieces(message, 50_000)) == message
    assert not made.forbidden


@pytest.mark.parametrize("at", [0, 3, 65_530])
def test_what_is_too_long_to_be_held_never_reaches_the_server_whole(at: int) -> None:
    """The word may stand across two pieces."""
    message = b.message("Q", HUGE + b"x" * at + b" COPY patients TO PROGRAM 'x'\0")
    made = postgres()
    out = b""
    for piece in pieces(message):
        data = made.screen(piece, 5, judge)[0]
        if made.forbidden:
            break
        out += data
    assert made.forbidden
    assert message.startswith(out)
    assert len(out) < len(message)


def test_a_function_is_known_by_its_number() -> None:
    """FunctionCall has no text: lo_export passed by it."""
    classifier = Classifier("postgresql")

    def exports(principals: Collection[str], text: bytes, piece: bool = False) -> str:
        return "refused" if "server_export" in classifier.flags("", text, lambda sql: False) else ""

    for function, refused in ((765, True), (954, False)):
        message = b.message("F", function.to_bytes(4, "big") + b"\0\0\0\0\0\1")
        out, _ = postgres().screen(message, 5, exports)
        assert (out != message) == refused


def test_a_refused_statement_in_front_of_what_cannot_be_read_is_not_sent() -> None:
    made = postgres()
    out = sent(made, REFUSED + b"\xff\xff\xff\xff\xff\xff")
    assert b"PROGRAM" not in out
    assert out.endswith(b"\xff" * 6)
    assert made.desynced


@pytest.mark.parametrize("padding", [PAD, HUGE])
@pytest.mark.parametrize("kind", [messages.COM_QUERY, messages.COM_STMT_PREPARE, messages.COM_STMT_EXECUTE])
def test_a_locked_accounts_long_command_is_refused_in_mysql_too(kind: int, padding: bytes) -> None:
    made = mysql_observer()
    out = b""
    for piece in pieces(m.command(kind, b"\1\0\0\0SELECT nom" + padding) + m.command(messages.COM_INIT_DB, b"dpi")):
        out += made.screen(piece, 5, everybody)[0]
    assert b"xxx" not in out
    assert b"SIGNAL" in out
    assert out.endswith(m.command(messages.COM_INIT_DB, b"dpi"))


def test_a_long_command_is_judged_by_all_of_it() -> None:
    out = sent(mysql_observer(), *pieces(m.command(messages.COM_QUERY, PAD + b"SELECT 1 INTO OUTFILE '/tmp/x'")))
    assert b"SIGNAL" in out
    assert b"OUTFILE" not in out


def test_a_word_is_found_across_two_packets_of_16_mib() -> None:
    most = messages.MAX_PAYLOAD_BYTES
    for word in (b"OUTFILE", b"OUTFITS"):
        text = b"\3" + b"x" * (most - 5) + word + b" '/tmp/x'"
        message = packet(0, text[:most]) + packet(1, text[most:])
        made = mysql_observer()
        assert (sent(made, *pieces(message, 1 << 20)) == message) == (word == b"OUTFITS")
        assert bool(made.forbidden) == (word == b"OUTFILE")


@pytest.mark.parametrize("length", [100, 100_000, 900_000])
def test_who_says_so_at_the_end_of_a_long_statement_is_locked_there_too(length: int) -> None:
    """The reader is shown too little of it to charge them, and a locked user's padded statement passed as the login's."""

    def locked(principals: Collection[str], text: bytes, piece: bool = False, *, harmless: bool = False) -> str:
        return "locked" if "alice" in principals else ""

    padding = "x" * length
    for user in ("alice", "bob"):
        message = b.query(f"SELECT nom FROM patients /*{padding}*/ /*enduser_id='{user}'*/")
        identity = Identity(Rules(trusted_sources=("10.0.0.0/8",)), Contexts({}), "s1", "10.0.0.9")
        made = SessionObserver(Setting("ehr", Digester(KEY), 3, 50), "s1", "10.0.0.9", PatientColumns([]), identity)
        made.startup({"user": "dpi"})
        made.server_data(b.LOGIN, 1)
        out = b"".join(made.screen(piece, 5, locked)[0] for piece in pieces(message))
        assert (out == message) == (user == "bob")
