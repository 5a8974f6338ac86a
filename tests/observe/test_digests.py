"""Digests, sets of them, and the loops from rows to digests, in C against their definitions in Python."""

from __future__ import annotations

import hmac
import os
import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exfilguard.events.codec import encode_event
from exfilguard.observe.digests import DigestSet, Hmac, PlainDigestSet
from exfilguard.observe.patients import Digester, PatientColumns, canonical
from exfilguard.observe.session import SessionObserver
from exfilguard.observe.tally import Setting
from tests.wire import build as b

if os.environ.get("EXFILGUARD_REQUIRE_COMPILED") == "1":
    assert Hmac is not None, "exfilguard.observe._digests was not compiled: is gcc there, did pip install build it?"
    assert Hmac(b"k" * 32).usable, "Python's OpenSSL could not be called"
elif Hmac is None:
    pytest.skip("no C compiler at installation", allow_module_level=True)

KEY = b"k" * 32


@given(st.binary(min_size=16, max_size=150), st.binary(max_size=200))
def test_a_digest_is_hmac_sha256(key: bytes, value: bytes) -> None:
    expected = hmac.digest(key, value, "sha256")[:8].hex()
    assert Hmac(key).hex(value) == expected
    assert Digester(key).digest(value) == expected
    assert Digester(key).digest_row(value) == hmac.digest(key, b"row\0" + value, "sha256")[:8].hex()


@given(st.binary(min_size=16, max_size=80), st.lists(st.binary(max_size=130), max_size=100))
def test_many_at_once_are_the_same_as_one_by_one(key: bytes, values: list[bytes]) -> None:
    found = DigestSet()
    Hmac(key).collect(values, found)
    assert list(found) == list(dict.fromkeys(hmac.digest(key, v, "sha256")[:8].hex() for v in values))


DIGESTS = st.one_of(
    st.binary(min_size=8, max_size=8).map(bytes.hex),
    st.integers(0, 40).map("{:016x}".format),
    st.integers(0, 5).map("{:x}000000000000".format).map(lambda text: text.rjust(16, "0")),
)


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "update", "clear", "merge"]), st.lists(DIGESTS, max_size=70)), max_size=12
    )
)
def test_a_set_is_what_the_plain_one_is(steps: list[tuple[str, list[str]]]) -> None:
    ours, plain = DigestSet(), PlainDigestSet()
    for what, digests in steps:
        if what == "clear":
            ours.clear()
            plain.clear()
        elif what == "merge":
            more = DigestSet()
            more.update(digests)
            ours.update(more)
            plain.update(digests)
        else:
            for found in (ours, plain):
                if what == "update":
                    found.update(digests)
                else:
                    for digest in digests:
                        found.add(digest)
        assert list(ours) == list(plain)
        assert (len(ours), bool(ours), ours.json()) == (len(plain), bool(plain), plain.json())
        assert all(digest in ours for digest in plain)
    assert "0" * 15 not in ours
    assert "f" * 16 in ours or "f" * 16 not in plain


def test_a_set_grows_and_lets_go() -> None:
    found = DigestSet()
    Hmac(KEY).collect([b"%d" % n for n in range(20_000)], found)
    assert len(found) == len(set(found)) == 20_000
    found.clear()
    assert not found
    assert list(found) == []
    for wrong in ("", "0" * 17, "G" * 16, "é" * 8):
        with pytest.raises(ValueError, match="not a digest"):
            found.add(wrong)


CELL = st.one_of(
    st.none(),
    st.integers(-(1 << 63), (1 << 63) - 1).map(lambda n: n.to_bytes(8, "big", signed=True)),
    st.integers(0, 300).map(lambda n: n.to_bytes(4, "big")),
    st.integers(0, 300).map(lambda n: b" %d " % n),
    st.sampled_from([b"", b"\x80\0", b"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", b"a0eebc999c0b4ef8bb6d6bb9bd380a11", b"x" * 16]),
    st.sampled_from([b"1,2,3", b"1 2 3 4", b"1|2|3", b"[1", b'{"patient_id": 7}', b"<patient_id>8</patient_id>", b"\x01{}", b"a{b"]),
    st.binary(max_size=70),
    st.sampled_from([b"y" * 130, b"z" * 2_100, b"-" * 120]),
)  # fmt: skip
TYPES = st.sampled_from([20, 21, 23, 25, 2950])


def observer(digester: Digester, by_identifier: bool) -> SessionObserver:
    columns = PatientColumns(["dpi.patients.patient_id"])
    columns.set_origins({(1, 1)} if by_identifier else set(), set(), {1})
    made = SessionObserver(Setting("ehr", digester, 7, 1_000), "s1", "10.0.0.9", columns)
    made.startup({"user": "u", "database": "dpi"})
    made.server_data(b.LOGIN, 0)
    return made


def events_of(made: SessionObserver, steps: list[tuple[str, bytes]], observed: bool) -> list[bytes]:
    out = []
    for now, (side, data) in enumerate(steps, start=1):
        if side == ">":
            out += made.client_data(data, now)
        else:
            out += made.observed(data, now) if observed else made.server_data(data, now).events
    return [encode_event(event) for event in out]


@settings(max_examples=400, deadline=None)
@given(st.data())
@example(None)
def test_rows_in_one_loop_are_what_they_are_one_by_one(data: Any) -> None:
    if data is None:
        rows, width, formats, types, cuts, origin = [[b"1"], [None], [b"\0\0\0\7"]], 1, [1], [23], [], True
    else:
        width = data.draw(st.integers(1, 3))
        rows = data.draw(st.lists(st.lists(CELL, min_size=width, max_size=width), max_size=60))
        formats = data.draw(st.lists(st.integers(0, 1), min_size=width, max_size=width))
        types = data.draw(st.lists(TYPES, min_size=width, max_size=width))
        origin = data.draw(st.booleans())
        cuts = data.draw(st.lists(st.integers(0, 4_000), max_size=3))
    names = ["c", "patient_id" if origin else "d", "e"][:width]
    fields = b"".join(
        name.encode() + struct.pack("!IhIhih", 1, 1 if name == "patient_id" else 2, oid, -1, -1, form)
        + b"" for name, oid, form in zip((n + "\0" for n in names), types, formats, strict=True)
    )  # fmt: skip
    body = b""
    for row in rows:
        cells = b"".join(struct.pack("!i", -1) if c is None else struct.pack("!I", len(c)) + c for c in row)
        body += message(b"D", struct.pack("!H", width) + cells)
    answer = (
        message(b"T", struct.pack("!H", width) + fields)
        + body
        + message(b"C", b"SELECT %d\0" % len(rows))
        + message(b"Z", b"I")
    )
    edges = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    steps = [(">", message(b"Q", b"SELECT * FROM dpi.patients\0"))]
    steps += [("<", answer[i:j]) for i, j in pairwise(edges)]
    plain = Digester(KEY)
    plain.compiled = None
    found = [
        events_of(observer(d, origin), steps, observed) for d in (Digester(KEY), plain) for observed in (True, False)
    ]
    assert found[0] == found[1] == found[2] == found[3]


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


@given(CELL, TYPES, st.booleans())
def test_a_cell_alone(cell: bytes | None, type_oid: int, binary: bool) -> None:
    from exfilguard.observe._rows import column

    value = struct.pack("!i", -1) if cell is None else struct.pack("!I", len(cell)) + cell
    row = message(b"D", struct.pack("!H", 1) + value)
    found = DigestSet()
    end, count, size = column(row, 0, ord("D"), 5, 0, type_oid, binary, Hmac(KEY), found)
    if type_oid == 2950 and cell is not None and len(cell) > 100:
        assert (end, count, size) == (0, 0, 0)
        return
    assert (end, count, size) == (len(row), 1, len(row) - 5)
    expected = [] if cell is None else [Digester(KEY).digest(canonical(cell, type_oid, binary))]
    assert list(found) == expected


@given(st.binary(max_size=80), st.integers(0, 3))
def test_no_bytes_lead_out_of_the_row(data: bytes, columns: int) -> None:
    from exfilguard.observe._rows import column, estimated

    framed = b"".join(message(b"D", data[i : i + 13]) for i in range(0, len(data), 13)) + data
    for found, end in (
        (DigestSet(), column(framed, 0, ord("D"), 9, columns, 25, False, Hmac(KEY), DigestSet())[0]),
        (DigestSet(), estimated(framed, 0, ord("D"), 9, columns, True, Hmac(KEY), DigestSet())[0]),
    ):
        assert 0 <= end <= len(framed)
        assert not found
