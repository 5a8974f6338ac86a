"""The loops over spooled records: compiled and interpreted are the same, and the compiled ones were loaded."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from exfilguard.sidecar import _records
from exfilguard.sidecar.spool import HEADER, _checksum

SOURCE = Path(_records.__file__).with_name("_records.py")


def interpreted() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("plain_records", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plain_records"] = module
    spec.loader.exec_module(module)
    return module


PLAIN = interpreted()
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
