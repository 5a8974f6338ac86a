"""The spool: what is appended is read, whatever dies in between, and it never outgrows its bound."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilguard.errors import SpoolFull
from exfilguard.sidecar import spool
from exfilguard.sidecar.spool import (
    HEADER,
    Position,
    Record,
    SpoolReader,
    SpoolWriter,
    done_path,
    pending_bytes,
    segments,
)

SEGMENT = 1 << 12


def record(number: int, size: int = 50) -> Record:
    return Record(number % 97, 1_700_000_000_000 + number, (b"%d:" % number).ljust(size, b"x"))


def fill(writer: SpoolWriter, numbers: range, size: int = 50) -> list[Record]:
    out = [record(n, size) for n in numbers]
    for r in out:
        writer.append(r.hash, r.time_ms, r.payload)
    return out


def read_all(directory: Path, start: Position | None = None, step: int = 7) -> list[Record]:
    reader = SpoolReader(directory, start)
    out: list[Record] = []
    for _ in range(10_000):
        before = reader.position
        part = reader.read(step, 1 << 20)
        out += part
        if not part and reader.position == before:
            return out
    raise AssertionError("the reader does not come to an end")


def test_reads_what_was_appended_over_many_segments(tmp_path: Path) -> None:
    written = fill(SpoolWriter(tmp_path, SEGMENT, 1 << 20), range(500))
    assert len(segments(tmp_path)) > 5
    assert read_all(tmp_path) == written


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=900), max_size=60),
    st.lists(st.integers(0, 59), max_size=4),
    st.integers(1, 9),
)
def test_any_sizes_and_any_restarts_of_the_writer(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], restarts: list[int], step: int
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    writer = SpoolWriter(directory, SEGMENT, 1 << 20)
    for i, payload in enumerate(payloads):
        if i in restarts:
            writer = SpoolWriter(directory, SEGMENT, 1 << 20)  # the old one died: no close()
        writer.append(i, 1000 + i, payload)
    assert read_all(directory, step=step) == [Record(i, 1000 + i, p) for i, p in enumerate(payloads)]


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    writer, reader = SpoolWriter(tmp_path, SEGMENT, 1 << 20), SpoolReader(tmp_path)
    for start in range(0, 200, 3):
        written = fill(writer, range(start, start + 3))
        got: list[Record] = []
        while len(got) < 3:
            got += reader.read(10, 1 << 20)
        assert got == written
        assert reader.read(10, 1 << 20) == []


def test_goes_on_from_a_position(tmp_path: Path) -> None:
    written = fill(SpoolWriter(tmp_path, SEGMENT, 1 << 20), range(120))
    reader = SpoolReader(tmp_path)
    first = reader.read(33, 1 << 20)
    assert first + read_all(tmp_path, reader.position) == written


def test_a_batch_ends_with_its_segment_and_at_until(tmp_path: Path) -> None:
    fill(SpoolWriter(tmp_path, SEGMENT, 1 << 20), range(120))
    reader = SpoolReader(tmp_path)
    batch = reader.read(1000, 1 << 20)
    assert reader.position.segment == 1
    middle = (HEADER.size + 50) * 10
    again = SpoolReader(tmp_path, Position(1, 0))
    assert again.read(1000, 1 << 20, until=middle) == batch[:10]
    assert again.position == Position(1, middle)


def test_full_is_said_and_acknowledged_segments_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "RETRY_S", 0.0)
    writer = SpoolWriter(tmp_path, SEGMENT, 3 * SEGMENT)
    written = []
    with pytest.raises(SpoolFull):
        for n in range(1000):
            written += fill(writer, range(n, n + 1))
    assert writer.bytes == 3 * SEGMENT
    done_path(tmp_path, 1).touch()
    more = fill(writer, range(1000, 1020))
    assert segments(tmp_path) == [2, 3, 4]
    assert not done_path(tmp_path, 1).exists()
    assert read_all(tmp_path)[-20:] == more


def test_a_full_disk_is_said_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "RETRY_S", 0.0)
    writer = SpoolWriter(tmp_path, SEGMENT, 1 << 20)
    real = os.posix_fallocate

    def no_room(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(SpoolFull, match="No space left"):
        fill(writer, range(1))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, "posix_fallocate", real)
    written = fill(writer, range(5))
    assert read_all(tmp_path) == written


def test_a_writer_begins_where_nothing_can_be_written_and_goes_on_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a relay that ends while its file system can only be read does not start again, and nobody reaches the database."""
    died = SpoolWriter(tmp_path, SEGMENT, 1 << 20)
    died.append(1, 0, b"before")

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(spool, "RETRY_S", 0.0)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fstat", refuse)
        broken.setattr(os, "posix_fallocate", refuse)
        writer = SpoolWriter(tmp_path, SEGMENT, 1 << 20)
        with pytest.raises(SpoolFull):
            writer.append(1, 0, b"lost")
    writer.append(1, 0, b"after")
    reader = SpoolReader(tmp_path)
    found = [record.payload for _ in range(2 * spool.LOOKS) for record in reader.read(10, 1 << 20)]
    assert (found, reader.damaged) == ([b"before", b"after"], 0)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fstat", lambda _: os.stat(tmp_path / "no such file"))
        with pytest.raises(OSError, match="No such file"):
            SpoolWriter(tmp_path, SEGMENT, 1 << 20)


def test_a_full_disk_is_given_the_acknowledged_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SpoolWriter(tmp_path, SEGMENT, 1 << 20)
    fill(writer, range(200))
    held = segments(tmp_path)
    real = os.posix_fallocate

    def room_for_as_many(descriptor: int, offset: int, size: int) -> None:
        if len(segments(tmp_path)) >= len(held):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", room_for_as_many)
    for number in held[:2]:
        done_path(tmp_path, number).touch()
    more = fill(writer, range(200, 300))
    assert segments(tmp_path) == [*held[2:], held[-1] + 1, held[-1] + 2]
    assert read_all(tmp_path)[-100:] == more


def test_an_event_larger_than_a_segment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="larger"):
        SpoolWriter(tmp_path, SEGMENT, 1 << 20).append(1, 1, b"x" * SEGMENT)


def test_damage_costs_one_record_and_is_counted(tmp_path: Path) -> None:
    written = fill(SpoolWriter(tmp_path, SEGMENT, 1 << 20), range(100))
    path = spool.segment_path(tmp_path, 1)
    data = bytearray(path.read_bytes())
    data[(HEADER.size + 50) * 4 + HEADER.size + 5] ^= 0xFF
    path.write_bytes(bytes(data))
    reader = SpoolReader(tmp_path)
    got: list[Record] = []
    for _ in range(20):
        got += reader.read(1000, 1 << 20)
    assert got == written[:4] + written[5:]
    assert reader.damaged == 1


def test_a_length_that_cannot_be_ends_the_segment(tmp_path: Path) -> None:
    written = fill(SpoolWriter(tmp_path, SEGMENT, 1 << 20), range(100))
    per_segment = (SEGMENT - 4) // (HEADER.size + 50)
    path = spool.segment_path(tmp_path, 1)
    data = bytearray(path.read_bytes())
    data[(HEADER.size + 50) * 4 : (HEADER.size + 50) * 4 + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(bytes(data))
    reader = SpoolReader(tmp_path)
    got: list[Record] = []
    for _ in range(20):
        got += reader.read(1000, 1 << 20)
    assert got == written[:4] + written[per_segment:]
    assert reader.damaged == 1


def test_pending_bytes_counts_records_not_reserved_space(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, SEGMENT, 1 << 20)
    assert pending_bytes(tmp_path, Position(0, 0)) == 0
    fill(writer, range(3))
    assert pending_bytes(tmp_path, Position(1, 0)) == 3 * (HEADER.size + 50)
    reader = SpoolReader(tmp_path)
    reader.read(10, 1 << 20)
    assert pending_bytes(tmp_path, reader.position) == 0


@pytest.mark.parametrize("emptied", [1, 2, 3])
def test_a_segment_without_a_byte_holds_nothing_and_stops_nobody(tmp_path: Path, emptied: int) -> None:
    """So a crash of the machine may leave the first, one in the middle, or the newest."""
    writer = SpoolWriter(tmp_path, SEGMENT, 1 << 20)
    written = fill(writer, range(120))
    per_segment = (SEGMENT - 4) // (HEADER.size + 50)
    assert segments(tmp_path) == [1, 2, 3]
    assert len(written) > 2 * per_segment
    os.truncate(spool.segment_path(tmp_path, emptied), 0)
    reader = SpoolReader(tmp_path, Position(emptied, 40))
    reader.read(1, 1 << 20)
    more = fill(SpoolWriter(tmp_path, SEGMENT, 1 << 20), range(120, 125))
    left = written[: (emptied - 1) * per_segment] + written[emptied * per_segment :] + more
    assert read_all(tmp_path) == left
    assert pending_bytes(tmp_path, Position(0, 0)) > 0
    assert (reader.read(200, 1 << 20) or reader.read(200, 1 << 20))[-1] in left
