"""The bell between relays and shipper: who sleeps for an event is woken by it, by nothing else, and by none that came just before."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.sidecar import _records, bell, spool
from exfilguard.sidecar.bell import ANYTHING, NoBell, ringer, sleeper
from exfilguard.sidecar.spool import HEADER, SpoolReader, SpoolWriter

compiled = pytest.mark.skipif(not bell.COMPILED_BELL, reason="no C compiler at installation")
LONG_S = 60.0
"""Longer than any test may take: who is woken by the time instead of the bell fails by the test's own limit."""


def slept(one: bell._bell.Bell, seen: int, seconds: float = LONG_S) -> float:
    began = time.monotonic()
    one.sleep(seen, seconds)
    return time.monotonic() - began


def test_the_bell_is_compiled() -> None:
    assert bell.COMPILED_BELL or os.environ.get("EXFILGUARD_REQUIRE_COMPILED") != "1"


@compiled
def test_what_comes_between_arm_and_sleep_is_not_slept_over(tmp_path: Path) -> None:
    one = sleeper(tmp_path)
    writer = SpoolWriter(tmp_path / "0", 1 << 13, 1 << 20, bells=tmp_path)
    seen = one.arm(ANYTHING)
    writer.append(1, 1, b"event")
    assert slept(one, seen) < LONG_S / 2


@compiled
def test_another_process_wakes_the_sleeper(tmp_path: Path) -> None:
    one = sleeper(tmp_path)
    seen = one.arm(ANYTHING)
    code = (
        "import sys, time; from pathlib import Path; from exfilguard.sidecar.spool import SpoolWriter; "
        "where = Path(sys.argv[1]); time.sleep(0.2); "
        "SpoolWriter(where / '0', 8192, 1 << 20, bells=where).append(1, 1, b'event')"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as other:
        assert slept(one, seen) < LONG_S / 2
        assert len(SpoolReader(tmp_path / "0").read(9, 1 << 20)) == 1
        assert other.wait(30) == 0


@compiled
def test_a_short_event_does_not_wake_who_waits_for_a_long_one(tmp_path: Path) -> None:
    one = sleeper(tmp_path)
    writer = SpoolWriter(tmp_path / "0", 1 << 13, 1 << 20, bells=tmp_path)
    writer.append(1, 1, b"first")  # the segment is there: from here on the compiled append rings
    seen = one.arm(100)
    writer.append(1, 1, b"x" * 99)
    assert slept(one, seen, 0.05) >= 0.04
    writer.append(1, 1, b"x" * 100)
    assert slept(one, seen) < LONG_S / 2


@compiled
def test_who_is_awake_is_not_rung_for(tmp_path: Path) -> None:
    one = sleeper(tmp_path)
    writer = SpoolWriter(tmp_path / "0", 1 << 13, 1 << 20, bells=tmp_path)
    rings = [0]
    for armed in (ANYTHING, None, ANYTHING):
        one.arm(ANYTHING)
        if armed is None:
            one.disarm()
        for _ in range(5):
            writer.append(1, 1, b"event")
        rings.append(int.from_bytes((tmp_path / "bell").read_bytes()[:4], "little"))
    assert rings == [0, 1, 1, 2]


@compiled
def test_many_rings_and_none_is_lost(tmp_path: Path) -> None:
    """A writer and a sleeper as the shipper is one: it sleeps only when it found nothing, and never for the whole time."""
    one = sleeper(tmp_path)
    writer = SpoolWriter(tmp_path / "0", 1 << 13, 1 << 24, bells=tmp_path)
    reader = SpoolReader(tmp_path / "0")
    count, read, longest = 3_000, 0, 0.0

    def write() -> None:
        for n in range(count):
            writer.append(n, n, b"event %d" % n)
            if n % 7 == 0:
                time.sleep(0.0001)

    thread = threading.Thread(target=write)
    thread.start()
    deadline = time.monotonic() + LONG_S
    while read < count and time.monotonic() < deadline:
        seen = one.arm(ANYTHING)
        if found := reader.read(100, 1 << 20):
            read += len(found)
        else:
            longest = max(longest, slept(one, seen))
    thread.join()
    assert read == count
    assert longest < LONG_S / 2


def test_without_a_bell_it_is_looked_again_and_again(tmp_path: Path) -> None:
    none = NoBell()
    began = time.monotonic()
    none.sleep(none.arm(ANYTHING), LONG_S)
    assert time.monotonic() - began < LONG_S / 2
    none.disarm()


def test_a_bell_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "bell").mkdir()
    assert ringer(tmp_path) is None
    assert isinstance(sleeper(tmp_path), NoBell)
    writer = SpoolWriter(tmp_path / "0", 1 << 13, 1 << 20, bells=tmp_path)
    writer.append(1, 1, b"event")
    assert len(SpoolReader(tmp_path / "0").read(9, 1 << 20)) == 1


@given(st.lists(st.binary(min_size=1, max_size=400), max_size=8), st.integers(0, 2**32 - 1), st.integers(0, 2**60))
def test_the_checksum_is_zlibs(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], hashed: int, time_ms: int
) -> None:
    directory = tmp_path_factory.mktemp("crc")
    writer = SpoolWriter(directory, 1 << 13, 1 << 20)
    for payload in payloads:
        writer.append(hashed, time_ms, payload)
    writer.close()
    data, at = b"".join(p.read_bytes() for p in directory.glob("*.seg")), 0
    for payload in payloads:
        length, crc, found, when = HEADER.unpack_from(data, at)
        assert (length, found, when) == (len(payload), hashed, time_ms)
        assert crc == zlib.crc32(payload, (hashed ^ time_ms) & 0xFFFFFFFF)
        at += HEADER.size + length
    assert _records.peek(data, 0)[0] == at
    assert spool.pending_bytes(directory, spool.Position(1, 0)) == at
