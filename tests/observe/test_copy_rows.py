"""COPY's rows: what PostgreSQL writes is read back, in any pieces; the compiled loop and the plain source say the same of anything."""

from __future__ import annotations

import os
import struct
import uuid
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exfilguard.observe import copy_rows
from exfilguard.observe.copy_rows import BINARY, CSV, TEXT, CopyForm, CopyRows
from exfilguard.observe.digests import DigestSet
from exfilguard.observe.patients import Digester
from tests.wire.interpreted import interpreted

try:
    from exfilguard.observe import _copy_rows
except ImportError:
    _copy_rows = None  # type: ignore[assignment]

DIGESTER = Digester(b"0123456789abcdef")
INT4, INT8, OF_TEXT, OF_UUID = 23, 20, 25, 2950
HEADER = b"PGCOPY\n\xff\r\n\0" + b"\0" * 8
TRAILER = b"\xff\xff"
PLAIN: ModuleType = interpreted(copy_rows)
SOURCES: list[Any] = [copy_rows, PLAIN]


def test_the_compiled_loop_is_loaded() -> None:
    if os.environ.get("EXFILGUARD_REQUIRE_COMPILED") == "1":
        assert _copy_rows is not None, (
            "exfilguard.observe._copy_rows was not compiled: is gcc there, did pip install build it?"
        )


# -- as PostgreSQL writes it (src/backend/commands/copyto.c) --------------------------------------------------------------


def text_field(value: bytes | None, form: CopyForm) -> bytes:
    if value is None:
        return form.null
    out = b""
    for i in range(len(value)):
        byte = value[i : i + 1]
        if byte in b"\b\f\n\r\t\v":
            out += b"\\" + b"bfnrtv"["\b\f\n\r\t\v".index(byte.decode()) :][:1]
        elif byte == b"\\" or byte[0] == form.delimiter:
            out += b"\\" + byte
        else:
            out += byte
    return out


def csv_field(value: bytes | None, form: CopyForm, forced: bool) -> bytes:
    if value is None:
        return form.null
    quote, escape = bytes([form.quote]), bytes([form.escape])
    special = (bytes([form.delimiter]), quote, b"\n", b"\r")
    if not (forced or value == form.null or any(mark in value for mark in special)):
        return value
    out = b""
    for i in range(len(value)):
        byte = value[i : i + 1]
        out += escape + byte if byte in (quote, escape) else byte
    return quote + out + quote


def sent(value: bytes | None, type_oid: int) -> bytes | None:
    """The binary form of what stands there as text."""
    if value is None:
        return None
    if type_oid == INT4:
        return struct.pack("!i", int(value))
    if type_oid == INT8:
        return struct.pack("!q", int(value))
    return uuid.UUID(value.decode()).bytes if type_oid == OF_UUID else value


def messages(
    rows: list[tuple[bytes | None, ...]], types: list[int], form: CopyForm, forced: bool = False
) -> list[bytes]:
    if form.kind == BINARY:
        out = []
        for row in rows:
            out.append(struct.pack("!H", len(row)))
            for value, type_oid in zip(row, types, strict=True):
                data = sent(value, type_oid)
                out[-1] += struct.pack("!i", -1) if data is None else struct.pack("!i", len(data)) + data
        return [HEADER + (out[0] if out else TRAILER), *out[1:], *([TRAILER] if out else [])]
    delimiter = bytes([form.delimiter])
    names = [b'a "b"\n', b"id", b"x\ty", b"\\"][: form.columns]
    if form.kind == CSV:
        made = [delimiter.join(csv_field(value, form, forced) for value in row) + b"\n" for row in rows]
        head = delimiter.join(csv_field(name, form, False) for name in names) + b"\n"
    else:
        made = [delimiter.join(text_field(value, form) for value in row) + b"\n" for row in rows]
        head = delimiter.join(text_field(name, form) for name in names) + b"\n"
    return [head, *made] if form.header else made


INTEGERS = st.integers(-(2**31), 2**31 - 1).map(lambda n: b"%d" % n)
UUIDS = st.uuids().map(lambda u: str(u).encode())
TEXTS = st.one_of(
    st.sampled_from([b"", b"\\N", b"N", b'"', b"a b", b"\\.", b",", b"x;y", b"'"]), st.binary(max_size=12)
).map(lambda b: b.replace(b"\0", b""))
VALUES = {INT4: INTEGERS, INT8: INTEGERS, OF_UUID: UUIDS, OF_TEXT: TEXTS}


@st.composite
def copied(draw: st.DrawFn) -> tuple[CopyForm, list[bytes], list[bytes], int]:
    """(form, messages, identifiers expected, rows)."""
    types = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=4))
    positions = tuple(
        sorted(draw(st.sets(st.integers(0, len(types) - 1), min_size=1, max_size=draw(st.sampled_from([1, 1, 2])))))
    )
    kind = draw(st.sampled_from([TEXT, CSV, BINARY]))
    quote = ord(draw(st.sampled_from(['"', "'"])))
    form = CopyForm(
        kind, len(types), positions, tuple(types[at] for at in positions),
        delimiter=ord(draw(st.sampled_from(["\t", ",", ";", "|"]))),
        null=draw(st.sampled_from([b"\\N", b"", b"NULL"])),
        header=kind != BINARY and draw(st.booleans()),
        quote=quote,
        escape=ord(draw(st.sampled_from([chr(quote), chr(quote), "\\", "!"]))),
    )  # fmt: skip
    rows = draw(st.lists(st.tuples(*[st.one_of(st.none(), VALUES[oid]) for oid in types]), max_size=8))
    if kind == TEXT:  # what would be written like a NULL, which PostgreSQL leaves to whoever chose it
        rows = [tuple(None if v is not None and text_field(v, form) == form.null else v for v in row) for row in rows]
    expected = [
        copy_rows.canonical(value, oid, False)
        for row in rows
        for at, (value, oid) in enumerate(zip(row, types, strict=True))
        if at in positions and value is not None
    ]
    return form, messages(rows, types, form, draw(st.booleans())), expected, len(rows)


def read(source: Any, form: CopyForm, bodies: list[bytes]) -> tuple[list[bytes], int, int, int]:
    """(identifiers, unread, rows begun, rows counted)."""
    given_ = form if source is copy_rows else plain(form)
    rows = source.CopyRows(given_)
    values: list[bytes] = []
    unread = counted = 0
    for body in bodies:
        counted += rows.message(b"xx" + body + b"yy", 2, 2 + len(body), True)
        values += rows.values
        unread += rows.unread
    return values, unread, rows.total, counted


def plain(form: CopyForm) -> Any:
    return PLAIN.CopyForm(
        form.kind, form.columns, form.positions, form.types, delimiter=form.delimiter, null=form.null, header=form.header,
        quote=form.quote, escape=form.escape,
    )  # fmt: skip


def quick(form: CopyForm, bodies: list[bytes], most: int = 1 << 30) -> tuple[list[str], int, int, int]:
    """`read` as the observer does: what the compiled loop leaves goes to the source; digests in place of identifiers."""
    rows, found = CopyRows(form), DigestSet()
    passing = _copy_rows.Passing(form) if _copy_rows is not None and form.position >= 0 else None
    data = b"".join(b"d" + struct.pack("!I", 4 + len(body)) + body for body in bodies)
    pos = unread = counted = 0
    while pos < len(data):
        if passing is not None and DIGESTER.compiled is not None and rows.at_row:
            after, count, size = passing.rows(data, pos, most, DIGESTER.compiled, found)
            assert after - pos == size + 5 * count
            rows.passed(count)
            counted += count
            pos = after
            if count:
                continue
        end = pos + 1 + int.from_bytes(data[pos + 1 : pos + 5], "big")
        counted += rows.message(data, pos + 5, end, True)
        found.update([DIGESTER.digest(value) for value in rows.values])
        unread += rows.unread
        pos = end
    return sorted(found), unread, rows.total, counted


def digests(values: list[bytes]) -> list[str]:
    return sorted({DIGESTER.digest(value) for value in values})


@settings(max_examples=300, deadline=None)
@given(copied())
def test_what_postgresql_writes_is_read_back(given_: tuple[CopyForm, list[bytes], list[bytes], int]) -> None:
    form, bodies, expected, rows = given_
    for source in SOURCES:
        assert read(source, form, bodies) == (expected, 0, rows, rows)
    assert quick(form, bodies) == (digests(expected), 0, rows, rows)
    assert quick(form, bodies, 1) == (digests(expected), 0, rows, rows)


@settings(max_examples=300, deadline=None)
@given(copied(), st.data())
def test_however_the_messages_are_cut(
    given_: tuple[CopyForm, list[bytes], list[bytes], int], data: st.DataObject
) -> None:
    form, bodies, expected, rows = given_
    whole = b"".join(bodies)
    edges = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    pieces = [whole[i:j] for i, j in zip([0, *edges], [*edges, len(whole)], strict=True) if i < j]
    for cut in (pieces, [whole[i : i + 1] for i in range(len(whole))], [whole]):
        for source in SOURCES:
            values, unread, begun, counted = read(source, form, cut)
            assert (values, unread, begun) == (expected, 0, rows)
            assert counted >= rows
        assert quick(form, cut)[:3] == (digests(expected), 0, rows)


HOSTILE = st.lists(
    st.lists(
        st.sampled_from([b"1", b"23", b"\t", b",", b'"', b"\n", b"\\", b"\\N", b"N", b"\0\0\0\4", b"\0\2", b"\xff\xff\xff\xff", b"\xff\xff",
                         b"\0\0\0\1", b"x", b"\x7f\xff\xff\xff", b" ", HEADER, b"''", b"a" * 40]),
        max_size=9,
    ).map(b"".join),
    max_size=6,
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(
    HOSTILE,
    st.sampled_from([TEXT, CSV, BINARY]),
    st.integers(1, 3),
    st.sampled_from([INT4, OF_TEXT, OF_UUID]),
    st.sampled_from([b"\\N", b"", b"N"]),
    st.data(),
)
@example([b"ab\\\n", b"1\t2\n"], TEXT, 2, INT4, b"\\N", None)
def test_hostile_data_is_counted_and_all_say_the_same(
    bodies: list[bytes], kind: int, columns: int, type_oid: int, null: bytes, data: st.DataObject | None
) -> None:
    at = data.draw(st.integers(0, columns - 1)) if data is not None else columns - 1
    form = CopyForm(kind, columns, (at,), (type_oid,), delimiter=9 if kind == TEXT else 44, null=null)
    if kind == BINARY and data is not None and data.draw(st.booleans()):
        bodies = [HEADER, *bodies]
    values, unread, begun, counted = read(copy_rows, form, bodies)
    assert read(PLAIN, form, bodies) == (values, unread, begun, counted)
    assert quick(form, bodies) == (digests(values), unread, begun, counted)
    assert counted + 2 * (kind == BINARY) >= len(bodies), "each message is a row at least, but for header and trailer"


def one(form: CopyForm, *bodies: bytes) -> tuple[list[bytes], int]:
    values, unread, _, _ = read(copy_rows, form, list(bodies))
    return values, unread


def test_rows_without_their_identifier_are_unread() -> None:
    second = CopyForm(TEXT, 3, (1,), (INT4,))
    assert one(second, b"a\n", b"a\t1\n", b"a\t1\tb\n", b"a\tx\tb\n", b"a\t\\N\tb\n") == ([b"1"], 3)
    last = CopyForm(TEXT, 2, (1,), (OF_TEXT,))
    assert one(last, b"a\tb\tc\n", b"a\tb\n") == ([b"b"], 1)
    assert one(CopyForm(TEXT, 1, (0,), (OF_UUID,)), b"12\n", b"6F9619FF-8B86-D011-B42D-00C04FC964FF\n") == (
        [b"6f9619ff8b86d011b42d00c04fc964ff"],
        1,
    )


def test_an_identifier_that_is_too_long_is_unread_and_not_kept() -> None:
    form = CopyForm(TEXT, 2, (1,), (OF_TEXT,))
    rows = CopyRows(form)
    for _ in range(1000):
        assert rows.message(b"a" * 1000, 0, 1000, True) == 1
        assert len(rows._carry) <= copy_rows.MAX_IDENTIFIER_BYTES
    assert rows.message(
        b"\t" + b"b" * copy_rows.MAX_IDENTIFIER_BYTES + b"\n", 0, copy_rows.MAX_IDENTIFIER_BYTES + 2, True
    )
    assert (rows.values, rows.unread) == ([b"b" * copy_rows.MAX_IDENTIFIER_BYTES], 0)
    long = b"a\t" + b"b" * (copy_rows.MAX_IDENTIFIER_BYTES + 1) + b"\n"
    for body in (long, b'a,"' + long[2:-1] + b'"\n'):
        form = CopyForm(CSV if b"," in body else TEXT, 2, (1,), (OF_TEXT,), delimiter=44 if b"," in body else 9)
        assert one(form, body, body) == ([], 2)
        assert quick(form, [body, body])[:2] == ([], 2)


@pytest.mark.parametrize("kind", [TEXT, CSV, BINARY])
def test_of_a_row_that_is_too_long_the_beginning_is_enough(kind: int) -> None:
    form = CopyForm(kind, 3, (1,), (INT4,), delimiter=44)
    row = {
        TEXT: b"a,7,bbbb",
        CSV: b'"a",7,"bbb',
        BINARY: struct.pack("!Hi", 3, 1) + b"a" + struct.pack("!ii", 4, 7) + struct.pack("!i", 1 << 20) + b"b",
    }[kind]
    whole = (
        b"a,8,b\n"
        if kind != BINARY
        else struct.pack("!Hi", 3, 1) + b"a" + struct.pack("!ii", 4, 8) + struct.pack("!i", 0)
    )
    beginning = [HEADER] if kind == BINARY else []
    for short, values, unread in ((row, [b"7", b"8"], 0), (row[:3], [b"8"], 1), (b"", [b"8"], 1)):
        rows = CopyRows(form)
        found: list[bytes] = []
        missed = 0
        for body, complete in [*((b, True) for b in beginning), (short, False), (whole, True)]:
            rows.message(body, 0, len(body), complete)
            found += rows.values
            missed += rows.unread
        assert (found, missed, rows.total) == (values, unread, 2)


def test_after_a_lost_end_of_rows_that_were_cut_nothing_more_is_believed() -> None:
    rows = CopyRows(CopyForm(TEXT, 1, (0,), (INT4,)))
    for body, whole, values, unread in (
        (b"1", True, [], 0),
        (b"2\n3", True, [b"12"], 0),
        (b"4\n5", False, [b"34"], 1),
        (b"6\n", True, [], 1),
    ):
        assert rows.message(body, 0, len(body), whole) == 1 or body == b"1"
        assert (rows.values, rows.unread) == (values, unread)
    assert not rows.at_row
