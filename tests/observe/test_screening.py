"""Requests that are looked at before they are sent: however the bytes are cut, no statement that is refused passes."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from exfilguard.observe.contexts import Contexts
from exfilguard.observe.identity import Identity, Rules
from exfilguard.observe.mysql.session import MysqlObserver
from exfilguard.observe.patients import Digester, PatientColumns
from exfilguard.observe.session import SessionObserver
from exfilguard.observe.tally import Setting
from exfilguard.wire.mysql import messages
from exfilguard.wire.mysql.messages import packet
from tests.wire import build as b
from tests.wire import mysql_build as m

from .test_mysql_session import observer as mysql_observer
from .test_session import KEY
from .test_session import observer as postgres_observer

REFUSED = b.query("COPY patients TO PROGRAM 'x'")
MYSQL_REFUSED = m.query("SELECT id FROM patient INTO OUTFILE '/tmp/x'")


def judge(principals: Collection[str], text: bytes) -> str:
    return "refused" if b"PROGRAM" in text or b"OUTFILE" in text else ""


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

    def locked(principals: Collection[str], text: bytes) -> str:
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


@pytest.mark.parametrize("kind", [messages.COM_STMT_EXECUTE, messages.COM_STMT_FETCH, messages.COM_STMT_BULK_EXECUTE])
def test_a_locked_account_has_no_rows_of_a_cursor_either(kind: int) -> None:
    """Nor of a statement that nobody remembers."""
    made = mysql_observer()
    asked = m.command(kind, (7).to_bytes(4, "little") + (100).to_bytes(4, "little") + b"\0")
    out, _ = made.screen(asked, 5, lambda principals, text: "locked")
    assert b"SIGNAL" in out
    assert made.awaiting_reply
