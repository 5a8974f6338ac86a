"""The compiled frame reader against the decoder of events/codec.py: the same acceptance, the same events, the same totals.

The reader may decline a frame (the decoder then reads it, or names the fault); what it accepts must be what the decoder makes of it.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exfilguard.errors import CodecError
from exfilguard.events.codec import decode_frame, encode_event, encode_frame, frame_head
from exfilguard.events.query import KINDS, QueryEvent
from exfilguard.windows import FrameCounter, WindowStore

WINDOWS = (10_000, 3_600_000)
NOW = 1_795_000_000_000
KIND = {"query": 0, "progress": 1, "finding": 2}


def counter(**bounds: int) -> FrameCounter:
    stores = [WindowStore(WINDOWS, **bounds), *(WindowStore(WINDOWS) for _ in range(3))]
    return FrameCounter(*stores)


def plain(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What FrameCounter.summary says, from the decoder's dictionaries."""
    return [
        (
            e["time_ms"],
            KIND.get(e["kind"], 3),
            *(e.get(name, "").encode() for name in ("principal", "source", "application", "fingerprint")),
            *(e.get(name, 0) for name in ("rows", "hidden_rows", "bytes", "patients_estimated")),
            bool(e.get("flags")),
            [int(p, 16) for p in e.get("patients", ())],
            [int(p, 16) for p in e.get("asked", ())],
        )
        for e in events
    ]


def compare(value: bytes, *, must_read: bool = False) -> bool:
    """Holds the reader to the decoder for one record. Returns whether the decoder accepted it."""
    read = counter()
    accepted = read.read(value)
    try:
        frame = decode_frame(value)
    except CodecError:
        assert not accepted, "read what the decoder refuses"
        return False
    taken = counter()
    taken.take(frame.tenant, frame.sidecar, frame.epoch, frame.seq, frame.events)
    assert taken.summary() == plain(frame.events)
    assert accepted or not must_read, "declined a frame of the plain form"
    if accepted:
        assert (read.tenant, read.sidecar, read.epoch, read.seq) == (
            frame.tenant,
            frame.sidecar,
            frame.epoch,
            frame.seq,
        )
        assert read.summary() == plain(frame.events)
        assert [orjson.loads(read.event(n)) for n in range(read.events)] == frame.events  # type: ignore[arg-type]
        for both in (read, taken):
            both.count(0, NOW)
        for a, b in zip((read.accounts, *read.dimensions), (taken.accounts, *taken.dimensions), strict=True):
            assert a is not None
            assert b is not None
            assert {key: a.dump(key) for key in a} == {key: b.dump(key) for key in b}
    return True


TEXT = st.one_of(st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\')), st.text())
NAME = TEXT.filter(bool)
COUNT = st.one_of(st.integers(0, 300), st.integers(0, (1 << 53) - 1))
DIGESTS = st.lists(st.integers(0, (1 << 64) - 1).map(lambda n: f"{n:016x}"), max_size=4).map(tuple)
EVENT = st.builds(
    QueryEvent, time_ms=st.one_of(st.integers(NOW - 10**7, NOW), COUNT), kind=st.sampled_from(KINDS), listener=NAME,
    session=NAME, principal=NAME, login=TEXT, database=TEXT, source=TEXT, application=TEXT, statement=COUNT, fingerprint=TEXT,
    query=TEXT, columns=st.lists(TEXT, max_size=3).map(tuple), rows=COUNT, hidden_rows=COUNT, bytes=COUNT, patients=DIGESTS,
    patients_estimated=COUNT, patients_by=st.sampled_from(("", "origin", "name", "estimate")), asked=DIGESTS, flags=st.lists(TEXT, max_size=2).map(tuple), duration_us=COUNT, error=TEXT,
    detail=TEXT,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(NAME, NAME, NAME, COUNT, st.lists(EVENT, max_size=6))
def test_what_a_sidecar_writes_is_read_as_the_decoder_reads_it(
    tenant: str, sidecar: str, epoch: str, seq: int, events: list[QueryEvent]
) -> None:
    value = encode_frame(frame_head(tenant, sidecar, epoch), seq, [encode_event(e) for e in events])
    assert compare(value, must_read=b"\\" not in value)


def base() -> dict[str, Any]:
    return {
        "v": 1, "tenant": "t", "sidecar": "s", "epoch": "e", "seq": 3, "events": [
            {"time_ms": NOW, "kind": "query", "listener": "l", "session": "s", "principal": "dr.é", "source": "10.0.0.1",
             "application": "dpi", "fingerprint": "00000000000000ff", "columns": ["id", "nom"], "rows": 3, "bytes": 40,
             "patients": ["00000000000000aa", "ffffffffffffffff"], "flags": ["copy"]},
            {"time_ms": NOW + 1, "kind": "progress", "listener": "l", "session": "s", "principal": "x", "rows": 5},
        ],
    }  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 9), max_size=4, unique=True),
            st.sampled_from(("", "origin", "name", "estimate")),
            st.lists(st.integers(0, 9), max_size=4, unique=True),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_where_no_identifier_is_visible_the_patients_asked_for_count(
    statements: list[tuple[list[int], str, list[int]]],
) -> None:
    """A COUNT or an EXISTS over one patient returns the same row for each: what was asked for tells them apart."""
    expected: set[int] = set()
    events = []
    for patients, by, asked in statements:
        expected |= set(asked if by in ("", "estimate") and asked and len(asked) >= len(patients) else patients)
        event = {"time_ms": NOW, "kind": "query", "listener": "l", "session": "s", "principal": "a", "rows": 1}
        event |= {"patients": [f"{p:016x}" for p in patients], "asked": [f"{p:016x}" for p in asked], "patients_by": by}
        events.append({key: value for key, value in event.items() if value not in ([], "")})
    frame = {"v": 1, "tenant": "t", "sidecar": "s", "epoch": "e", "seq": 0, "events": events}
    read = counter()
    assert read.read(orjson.dumps(frame))
    read.count(0, NOW)
    assert read.accounts.totals("t/a")[0].patients == len(expected)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.integers(-(1 << 70), 1 << 70), st.floats(), st.text(max_size=3),
    st.lists(st.one_of(st.text(max_size=18), st.integers()), max_size=2), st.just({}), st.just("0123456789abcdeg"),
    st.just(["0123456789ABCDEF"]), st.just(["0123456789abcdeg"]), st.just(["0123456789abcde"]),
)  # fmt: skip
FIELDS = [
    "v", "tenant", "sidecar", "epoch", "seq", "events", "time_ms", "kind", "listener", "session", "principal", "rows",
    "hidden_rows", "bytes", "patients", "patients_estimated", "patients_by", "asked", "flags", "columns", "source", "application",
    "fingerprint", "login", "query", "statement", "duration_us", "error", "detail", "evidence", "engine", "unknown",
]  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(FIELDS), VALUES), min_size=1, max_size=3), st.integers(0, 1))
def test_wrong_types_and_ranges_are_never_read(changes: list[tuple[str, Any]], which: int) -> None:
    frame = base()
    for name, value in changes:
        if name in frame:
            frame[name] = value
        elif frame["events"] and isinstance(frame["events"], list) and isinstance(frame["events"][-1], dict):
            frame["events"][-which][name] = value
    try:
        data = orjson.dumps(frame)
    except TypeError:  # an integer that JSON writers refuse
        return
    compare(data)


@settings(max_examples=1_000, deadline=None)
@given(st.data())
def test_damaged_bytes_are_never_read_otherwise_than_the_decoder_reads_them(data: st.DataObject) -> None:
    value = bytearray(orjson.dumps(base()))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(value) - 1))
        what = data.draw(st.sampled_from(["flip", "cut", "insert", "delete", "double"]))
        if what == "flip":
            value[at] = data.draw(st.integers(0, 255))
        elif what == "cut":
            del value[at:]
        elif what == "insert":
            value[at:at] = data.draw(
                st.sampled_from([b" ", b'"', b"\\", b",", b"}", b"0", b"-", b".5", b"\xff", b"e1", b"null"])
            )
        elif what == "delete":
            del value[at]
        else:
            value[at:at] = value[at : at + data.draw(st.integers(1, 40))]
        if not value:
            return
    compare(bytes(value))


@pytest.mark.parametrize("bad", [
    b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe0\x80\x80", b"\xf8\x88\x80\x80\x80", b"\x80", b"\xc3",
])  # fmt: skip
def test_what_is_no_utf8_is_left_to_the_decoder(bad: bytes) -> None:
    value = orjson.dumps(base()).replace("dr.é".encode(), b"dr." + bad)
    assert not compare(value)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"rows":3', b'"rows":03'), (b'"rows":3', b'"rows":3.0'), (b'"rows":3', b'"rows":-3'), (b'"rows":3', b'"rows":3e2'),
        (b'"rows":3', b'"rows":9007199254740992'), (b'"rows":3', b'"rows":99999999999999999999999'),
        (b'"v":1', b'"v":2'), (b'"v":1', b'"v":true'), (b'"seq":3', b'"seq":-1'), (b'"kind":"query"', b'"kind":"quer"'),
        (b'"principal":"x"', b'"principal":""'), (b'"session":"s"', b'"session":1'), (b'}]}', b'}],}'), (b'}]}', b'}]}x'),
        (b'"00000000000000aa"', b'"0000000000000xaa"'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_both(before: bytes, after: bytes) -> None:
    value = orjson.dumps(base()).replace(before, after)
    assert value != orjson.dumps(base())
    assert not compare(value)


@pytest.mark.parametrize("before", [b'"rows":3', b'{"time_ms"', b'"events":['])
def test_unusual_forms_are_declined_and_decoded(before: bytes) -> None:
    value = orjson.dumps(base())
    for after in (before + b" ", b" " + before, before.replace(b'"', b'"later":[1,{"x":null}],"', 1)):
        made = value.replace(before, after, 1)
        if compare(made):
            assert not counter().read(made)


def test_a_field_twice_is_the_decoders_to_judge() -> None:
    value = orjson.dumps(base()).replace(b'"rows":3', b'"rows":3,"rows":4')
    read = counter()
    assert not read.read(value)
    assert decode_frame(value).events[0]["rows"] == 4


@given(st.integers(0, (1 << 64) - 1))
@example(0)
@settings(max_examples=200, deadline=None)
def test_digests_in_both_cases(digest: int) -> None:
    for text in (f"{digest:016x}", f"{digest:016X}"):
        frame = base()
        frame["events"][0]["patients"] = [text]
        assert compare(orjson.dumps(frame), must_read=True)


def test_every_byte_as_a_hex_digit() -> None:
    for byte in range(256):
        for place in range(16):
            digits = bytearray(b"0123456789abcdef")
            digits[place] = byte
            compare(orjson.dumps(base()).replace(b"00000000000000aa", bytes(digits)))


def test_nothing_of_a_bad_frame_is_counted() -> None:
    value = orjson.dumps(base()).replace(b'"rows":5', b'"rows":-5')
    read = counter()
    assert not read.read(value)
    assert read.events == 0
    assert len(read.accounts) == 0
