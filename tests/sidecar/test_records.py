"""The loops over spooled records: compiled and interpreted are the same, and the compiled ones were loaded."""

from __future__ import annotations

import os
import threading
import time
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.events.codec import encode_frame, frame_head
from exfilguard.sidecar import _records, spool
from exfilguard.sidecar.spool import HEADER, _checksum
from tests.wire.interpreted import interpreted

PLAIN = interpreted(_records)
records = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**53), st.binary(max_size=40)), max_size=12)


def laid_out(items: list[tuple[int, int, bytes]]) -> bytes:
    return b"".join(
        HEADER.pack(len(payload), _checksum(hashed, time_ms, payload), hashed, time_ms) + payload
        for hashed, time_ms, payload in items
        if payload
    )


def test_the_compiled_loops_are_loaded() -> None:
    assert not PLAIN.COMPILED
    if os.environ.get("EXFILGUARD_REQUIRE_COMPILED") == "1":
        assert _records.COMPILED, (
            "exfilguard.sidecar._records was not compiled: is gcc there, did pip install build it?"
        )


@given(
    records, st.integers(0, 12), st.integers(1, 200), st.integers(0, 900), st.integers(0, 30), st.binary(max_size=30)
)
def test_take_parity(
    items: list[tuple[int, int, bytes]], most: int, most_bytes: int, until: int, at_record: int, tail: bytes
) -> None:
    data = laid_out(items) + tail
    at = len(laid_out(items[:at_record]))
    found: tuple[list[object], list[object]] = ([], [])
    ends = [m.take(data, at, until, most, most_bytes, out) for m, out in zip((_records, PLAIN), found, strict=True)]
    assert ends[0] == ends[1]
    assert found[0] == found[1]


@given(records, st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_loses_at_most_what_it_is_in(
    items: list[tuple[int, int, bytes]], where: int, value: int
) -> None:
    data = bytearray(laid_out(items))
    if not data:
        return
    data[where % len(data)] = value
    for module in (_records, PLAIN):
        out: list[tuple[int, int, bytes]] = []
        module.take(bytes(data), 0, len(data), 99, 1 << 20, out)
        assert all(payload in [p for _, _, p in items] for _, _, payload in out)


@pytest.mark.parametrize("module", [_records, PLAIN])
def test_a_record_whose_length_is_half_written_is_looked_at_again(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = laid_out([(7, 9, b"x" * 300)])
    torn = bytearray(whole)
    torn[1] = 0  # 44 of 300: the reader looked while its second byte was on its way

    def crc32(payload: bytes, start: int) -> int:
        torn[:] = whole
        return zlib.crc32(payload, start)

    monkeypatch.setattr(module, "_crc32", crc32)
    out: list[tuple[int, int, bytes]] = []
    assert module.take(torn, 0, len(torn), 9, 1 << 20, out) == (len(torn), 0, True)
    assert out == [(7, 9, b"x" * 300)]


@pytest.mark.skipif(spool._frames is None, reason="no C compiler at installation")
def test_and_so_is_one_that_becomes_a_frame() -> None:
    data = bytearray(laid_out([(7, 9, b"x" * ((96 << 20) + 1))]))
    data[0] = 0

    def write_on() -> None:
        time.sleep(0.005)  # the checksum of 96 MB takes longer
        data[0] = 1

    writer = threading.Thread(target=write_on)
    writer.start()
    end, damaged, _, _, frames = spool._frames.frames(data, 0, len(data), 9, 1 << 30, 1, 500, 1 << 30, b"{", [0])
    writer.join()
    assert (end, damaged, len(frames)) == (len(data), 0, 1)


@given(records, st.integers(1, 9), st.integers(1, 5), st.integers(1, 90))
def test_group_parity_and_bounds(
    items: list[tuple[int, int, bytes]], partitions: int, most: int, most_bytes: int
) -> None:
    frames = _records.group(items, partitions, most, most_bytes)
    assert frames == PLAIN.group(items, partitions, most, most_bytes)
    for partition in range(partitions):
        in_order = [payload for p, events in frames if p == partition for payload in events]
        assert in_order == [payload for hashed, _, payload in items if hashed % partitions == partition]
    for _, events in frames:
        assert 1 <= len(events) <= most
        assert len(events) == 1 or sum(map(len, events)) <= most_bytes


@pytest.mark.skipif(spool._frames is None, reason="no C compiler at installation")
@given(
    records, st.integers(0, 12), st.integers(1, 200), st.integers(0, 900), st.integers(0, 12), st.binary(max_size=30),
    st.integers(1, 9), st.integers(1, 5), st.integers(1, 90), st.none() | st.tuples(st.integers(0, 400), st.integers(0, 255)),
)  # fmt: skip
def test_taken_as_frames(
    items: list[tuple[int, int, bytes]], most: int, most_bytes: int, until: int, at_record: int, tail: bytes,
    partitions: int, frame_events: int, frame_bytes: int, broken: tuple[int, int] | None,
) -> None:  # fmt: skip
    data = bytearray(laid_out(items) + tail)
    if broken is not None and data:
        data[broken[0] % len(data)] = broken[1]
    at = len(laid_out(items[:at_record]))
    out: list[tuple[int, int, bytes]] = []
    end = PLAIN.take(bytes(data), at, until, most, most_bytes, out)
    prefix, seqs, expected = frame_head("t", "s", "e"), list(range(7, 7 + partitions)), []
    for p, events in PLAIN.group(out, partitions, frame_events, frame_bytes):
        expected.append((p, encode_frame(prefix, seqs[p], events), len(events)))
        seqs[p] += 1
    counted = list(range(7, 7 + partitions))
    found = spool._frames.frames(
        bytes(data), at, until, most, most_bytes, partitions, frame_events, frame_bytes, prefix, counted
    )
    assert found == (*end, out[0][1] if out else 0, expected)
    assert counted == seqs


def test_the_compiled_frames_are_loaded() -> None:
    assert spool.COMPILED_FRAMES or os.environ.get("EXFILGUARD_REQUIRE_COMPILED") != "1"
