"""Bind parameters of MySQL's executions, as text: what a driver sends, what is malformed, what an observer makes of it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.errors import ProtocolError
from exfilguard.events.query import QueryEvent
from exfilguard.observe.asked import AskedColumns
from exfilguard.observe.mysql.patients import OriginColumns
from exfilguard.observe.mysql.session import MysqlObserver
from exfilguard.observe.patients import Digester
from exfilguard.observe.tally import Setting
from exfilguard.wire.mysql import messages, parameters, startup
from tests.wire import mysql_build as b

LONG, LONGLONG, DOUBLE, FLOAT, STRING, BLOB, DATE, NULL, DECIMAL = 3, 8, 5, 4, 0xFD, 0xFC, 10, 6, 0xF6
UNSIGNED = 0x8000
DIGESTER = Digester(b"0123456789abcdef")
PATIENT = AskedColumns(["patient.id"], "mysql")
Value = tuple[int, bytes | None]


def execute(
    *values: Value, statement: int = 5, types: bool = True, long_data: tuple[int, ...] = (), attributes: bool = False
) -> bytes:
    """A COM_STMT_EXECUTE's body. Values: (type, encoded). `attributes`: those were agreed on; there are none."""
    bitmap = bytearray((len(values) + 7) // 8)
    for i, (_, value) in enumerate(values):
        if value is None and i not in long_data:
            bitmap[i // 8] |= 1 << i % 8
    name = b"\0" if attributes else b""
    kinds = b"".join(kind.to_bytes(2, "little") + name for kind, _ in values) if types else b""
    sent = b"".join(value or b"" for i, (_, value) in enumerate(values) if i not in long_data)
    head = statement.to_bytes(4, "little") + b"\0\1\0\0\0"
    if attributes and values:
        head += messages.lenenc_pack(len(values))
    return head + bytes(bitmap) + (b"\1" if types else b"\0") + kinds + sent


@pytest.mark.parametrize(
    ("kind", "sent", "expected"),
    [
        (LONG, (42).to_bytes(4, "little"), b"42"),
        (LONG, b"\xff\xff\xff\xff", b"-1"),
        (LONG | UNSIGNED, b"\xff\xff\xff\xff", b"4294967295"),
        (LONGLONG, (1 << 40).to_bytes(8, "little"), b"1099511627776"),
        (1, b"\x07", b"7"),
        (DOUBLE, struct.pack("<d", 42.0), b"42"),
        (DOUBLE, struct.pack("<d", 0.5), None),
        (DOUBLE, struct.pack("<d", float("nan")), None),
        (DOUBLE, struct.pack("<d", float("-inf")), None),
        (FLOAT, struct.pack("<f", 7.0), b"7"),
        (STRING, b"\x0442 a", b"42 a"),
        (BLOB, b"\xfc\x03\0abc", b"abc"),
        (DECIMAL, b"\x0242", b"42"),
        (DATE, b"\x04\xd0\x07\1\1", None),
        (NULL, b"", None),
    ],
)
def test_a_value_of_each_type(kind: int, sent: bytes, expected: bytes | None) -> None:
    values, types = parameters.executed(
        execute((STRING, b"\1x"), (kind, sent), (LONG, b"\5\0\0\0")), 3, (), {}, attributes=False
    )
    assert values == [b"x", expected, b"5"]
    assert types == (STRING, kind, LONG)


def test_types_are_sent_once() -> None:
    again = execute((LONG, b"\5\0\0\0"), (STRING, None), types=False)
    assert parameters.executed(again, 2, (LONG, STRING), {}, attributes=False)[0] == [b"5", None]
    with pytest.raises(ProtocolError):
        parameters.executed(again, 2, (), {}, attributes=False)


def test_attributes_come_behind_the_parameters() -> None:
    head = (5).to_bytes(4, "little") + b"\x08\1\0\0\0" + b"\2" + b"\0" + b"\1"
    body = head + b"\3\0" + b"\0" + b"\xfd\0" + b.text("traceparent") + b"\7\0\0\0" + b"\x0200"
    assert parameters.executed(body, 1, (), {}, attributes=True) == ([b"7"], (LONG,))
    # Connector/Python leaves the flag out where there is no attribute.
    head = (5).to_bytes(4, "little") + b"\0\1\0\0\0" + b"\1" + b"\0" + b"\1"
    assert parameters.executed(head + b"\3\0\0" + b"\7\0\0\0", 1, (), {}, attributes=True) == ([b"7"], (LONG,))


def test_bulk() -> None:
    body = (
        (5).to_bytes(4, "little")
        + b"\x40\0"
        + b"\3\0\xfd\0"
        + b"\0\1\0\0\0"
        + b"\0\1a"
        + b"\1"
        + b"\0\1b"
        + b"\0\2\0\0\0\1"
    )
    rows, types = parameters.executed_in_bulk(body, 2, (), 10)
    assert (rows, types) == ([[b"1", b"a"], [None, b"b"], [b"2", None]], (LONG, STRING))
    assert parameters.executed_in_bulk(body[:-3], 2, (), 10)[0] == rows[:2]
    assert len(parameters.executed_in_bulk(body, 2, (), 1)[0]) == 1


@given(st.binary(max_size=60), st.integers(0, 70_000), st.booleans())
def test_anything_gives_values_or_a_protocol_error(body: bytes, count: int, attributes: bool) -> None:
    for read in (
        lambda: parameters.executed(body, count, (3, 0xFD, 5), {1: b"x"}, attributes=attributes),
        lambda: parameters.executed_in_bulk(body, count, (3, 0xFD), 100),
    ):
        try:
            read()
        except ProtocolError:
            continue


INTEGERS = st.sampled_from([(1, 1), (2, 2), (3, 4), (9, 4), (8, 8), (13, 2)])
VALUES = st.one_of(
    st.tuples(INTEGERS, st.sampled_from([0, UNSIGNED]), st.binary(min_size=8, max_size=8)).map(
        lambda v: (v[0][0] | v[1], v[2][: v[0][1]])
    ),
    st.tuples(st.sampled_from([STRING, BLOB, DECIMAL, 0xFE, 15]), st.binary(max_size=300)).map(
        lambda v: (v[0], messages.lenenc_pack(len(v[1])) + v[1])
    ),
    st.sampled_from([(DATE, b"\x04\xd0\x07\1\1"), (12, b"\0"), (LONG, None), (STRING, None)]),
)


@pytest.mark.skipif(parameters._compiled is None, reason="no C compiler at installation")
@given(
    st.lists(VALUES, min_size=1, max_size=12),
    st.booleans(),
    st.binary(max_size=3),
    st.integers(0, 400),
    st.booleans(),
    st.booleans(),
)
def test_the_compiled_reader_agrees_with_the_plain_one(
    values: list[Value], types: bool, instead: bytes, at: int, damaged: bool, attributes: bool
) -> None:
    body = execute(*values, types=types, attributes=attributes)
    known = tuple(kind for kind, _ in values)
    if damaged:
        body = body[:at] + instead + body[at + len(instead) + len(instead) % 2 :]
    assert parameters._compiled is not None
    found = parameters._compiled(body, len(values), known, attributes)
    if not damaged:
        assert found is not None, "such executions are read in C"
    if found is not None:
        assert found == parameters.plain_executed(body, len(values), known, {}, attributes=attributes)


# -- the observer -----------------------------------------------------------------------------------------------------


def observer(capabilities: int = b.DEPRECATE) -> MysqlObserver:
    made = MysqlObserver(
        Setting("ehr", DIGESTER, 1000, 50), "s1", "10.0.0.9", OriginColumns(["patient.id"]), asked=PATIENT
    )
    made.startup(startup.login(b.login()))
    made.login_succeeded(capabilities, "", 1)
    return made


def prepared(parameters_: int, statement: int = 5) -> bytes:
    ok = b"\0" + statement.to_bytes(4, "little") + b"\1\0" + parameters_.to_bytes(2, "little") + b"\0\0\0"
    return b.numbered(ok, *[b.column("?")] * parameters_, b.column("nom", "sejour", kind=253))


def answer() -> bytes:
    return b.result([b.column("nom", "sejour", kind=253)], [b.binary(b"\1A")], deprecate=True)


def asked(events: list[QueryEvent]) -> list[set[str]]:
    return [set(e.asked) for e in events if e.kind == "query"]


def digests(*values: str) -> set[str]:
    return {DIGESTER.digest(value.encode()) for value in values}


def run(seen: MysqlObserver, steps: list[tuple[str, bytes]]) -> list[QueryEvent]:
    events: list[QueryEvent] = []
    for side, data in steps:
        events += seen.client_data(data, 5) if side == ">" else seen.server_data(data, 5).events
    assert not seen.desynced
    return events


SQL = b"SELECT s.nom FROM sejour s JOIN patient p ON p.id = s.p WHERE s.a = ? AND p.id IN (?, ?)"


def test_parameters_on_an_identifier_column_are_asked_for() -> None:
    steps = [
        (">", b.command(0x16, SQL)),
        ("<", prepared(3)),
        (">", b.command(0x17, execute((LONG, b"\1\0\0\0"), (LONG, b"\2\0\0\0"), (STRING, b"\x013")))),
        ("<", answer()),
        (">", b.command(0x17, execute((LONG, b"\1\0\0\0"), (LONG, b"\4\0\0\0"), (STRING, None), types=False))),
        ("<", answer()),
        (">", b.query("SELECT nom FROM patient WHERE id = 9")),
        ("<", b.result([b.column("1")], [b.row("1")], deprecate=True)),
    ]
    assert asked(run(observer(), steps)) == [digests("2", "3"), digests("4"), digests("9")]


def test_an_execution_pipelined_behind_its_preparation() -> None:
    last = 0xFFFFFFFF
    steps = [
        (">", b.command(0x16, SQL) + b.command(0x17, execute((3, b"\1\0\0\0"), (3, b"\2\0\0\0"), (3, b"\3\0\0\0"), statement=last))),
        ("<", prepared(3) + answer()),
    ]  # fmt: skip
    seen = observer()
    assert asked(run(seen, steps)) == [digests("2", "3")]
    assert seen._held_bytes == 0


def test_long_data_and_bulk() -> None:
    chunk = (5).to_bytes(4, "little") + b"\1\0"
    body = execute((LONG, b"\1\0\0\0"), (STRING, None), (STRING, b"\x013"), long_data=(1,))
    steps = [
        (">", b.command(0x16, SQL)),
        ("<", prepared(3)),
        (">", b.command(0x18, chunk + b"12") + b.command(0x18, chunk + b"34") + b.command(0x17, body)),
        ("<", answer()),
        (">", b.command(0x18, chunk + b"x" * 70) + b.command(0x17, body)),
        ("<", answer()),
        (">", b.command(0x18, chunk + b"1") + b.command(0x1A, chunk[:4])),
        ("<", b.numbered(b.ok())),
        (">", b.command(0x17, execute((LONG, b"\1\0\0\0"), (STRING, b"\x018"), (STRING, None)))),
        ("<", answer()),
        (">", b.command(0xFA, chunk[:4] + b"\x40\0" + b"\3\0" * 3 + (b"\1\0\5\0\0\0\0\6\0\0\0" + b"\1\0\7\0\0\0\1"))),
        ("<", b.numbered(b.ok(2))),
    ]
    assert asked(run(observer(), steps)) == [digests("1234", "3"), digests("3"), digests("8"), digests("5", "6", "7")]


def test_what_cannot_be_read_is_the_servers_to_refuse() -> None:
    steps = [
        (">", b.command(0x16, SQL + b" AND p.id = 77")),
        ("<", prepared(3)),
        (">", b.command(0x17, execute((LONG, b"\1\0")))),
        ("<", b.numbered(b.err("HY000"))),
    ]
    (found,) = asked(run(observer(), steps))
    assert found == digests("77")


def test_what_is_held_of_pipelined_executions_is_bounded() -> None:
    seen = observer()
    body = execute((STRING, b.text("x" * 60_000)), statement=messages.LAST_PREPARED)
    seen.client_data(b.command(0x16, b"SELECT nom FROM patient WHERE id = ?"), 1)
    for _ in range(40):
        seen.client_data(b.command(0x17, body), 1)
    assert 0 < seen._held_bytes <= 1 << 20
    assert not seen.desynced
