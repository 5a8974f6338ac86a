"""From spool to frames: crashes at every point resend the same frames; what the detector keeps is each event once."""

from __future__ import annotations

import errno
from collections import defaultdict
from os import truncate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilguard.events.codec import decode_frame, encode_event
from exfilguard.events.query import QueryEvent
from exfilguard.sidecar.lane import Lane
from exfilguard.sidecar.plan import OutFrame, PlanWriter, plans
from exfilguard.sidecar.spool import SpoolReader, SpoolWriter, delete_segment, done_path, segment_path, segments

SEGMENT = 1 << 13


class Log:
    """A broker's log, and the rule of the detector: each (sidecar, epoch, seq) of a partition once."""

    def __init__(self) -> None:
        self.records: list[tuple[int, bytes]] = []

    def take(self, frames: list[OutFrame]) -> None:
        self.records += [(f.partition, f.value) for f in frames]

    def events(self) -> dict[str, int]:
        """How often each event is counted, after duplicates are dropped."""
        seen: dict[tuple[int, str, int], bytes] = {}
        counted: dict[str, int] = defaultdict(int)
        for partition, value in self.records:
            frame = decode_frame(value)
            key = (partition, frame.epoch, frame.seq)
            if key in seen:
                assert seen[key] == value, "a sequence number was used twice for different events"
                continue
            seen[key] = value
            for event in frame.events:
                counted[event["session"]] += 1
        return dict(counted)

    def sequences(self) -> dict[tuple[int, str], list[int]]:
        found: dict[tuple[int, str], set[int]] = defaultdict(set)
        for partition, value in self.records:
            frame = decode_frame(value)
            found[(partition, frame.epoch)].add(frame.seq)
        return {key: sorted(seqs) for key, seqs in found.items()}


class Short:
    """A file whose disk has room for so much of the next line, and is free then."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, line: bytes) -> int:
        room, self.room = self.room, 1 << 20
        return int(self.file.write(line[:room]))

    def close(self) -> None:
        self.file.close()


def append(writer: SpoolWriter, numbers: range) -> None:
    for n in numbers:
        event = QueryEvent(time_ms=n, kind="query", listener="l", session=f"e{n}", principal=f"p{n % 5}", rows=n)
        writer.append(n % 5 * 7, 1000 + n, encode_event(event))


def lane(directory: Path, partitions: int = 3, boot: str = "b1", frame_events: int = 4) -> Lane:
    made = Lane(directory, "t", "host-0", boot, frame_events)
    made.open(partitions)
    return made


def once(last: int) -> dict[str, int]:
    return {f"e{n}": 1 for n in range(last)}


def test_every_event_once_and_sequences_without_gap(tmp_path: Path) -> None:
    writer, log, ship = SpoolWriter(tmp_path, SEGMENT, 1 << 20), Log(), lane(tmp_path)
    append(writer, range(300))
    for _ in range(100):
        log.take(ship.take())
        ship.acknowledge()
    assert log.events() == once(300)
    assert all(seqs == list(range(len(seqs))) for seqs in log.sequences().values())
    assert all(len(decode_frame(v).events) <= 4 for _, v in log.records)


CRASH_AFTER = st.sampled_from(["take", "send", "acknowledge", "nothing"])


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), CRASH_AFTER), min_size=1, max_size=14))
def test_a_crash_at_any_point_loses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]
) -> None:
    directory = tmp_path_factory.mktemp("lane")
    writer, log, ship = SpoolWriter(directory, SEGMENT, 1 << 22), Log(), lane(directory)
    total = 0
    for count, crash in steps:
        append(writer, range(total, total + count))
        total += count
        frames = ship.take()
        if crash == "take":
            ship = lane(directory)
            continue
        log.take(frames)
        if crash == "send":
            ship = lane(directory)
            continue
        ship.acknowledge()
        if crash == "acknowledge":
            ship = lane(directory)
    for _ in range(200):
        log.take(ship.take())
        ship.acknowledge()
    assert log.events() == once(total)
    assert all(seqs == list(range(len(seqs))) for seqs in log.sequences().values())


def test_the_same_batch_until_acknowledged(tmp_path: Path) -> None:
    append(SpoolWriter(tmp_path, SEGMENT, 1 << 20), range(30))
    ship = lane(tmp_path)
    first = ship.take()
    assert ship.take() == first
    assert lane(tmp_path).take() == first
    ship.acknowledge()
    assert ship.take() == []
    assert ship.oldest_ms == 0


def test_a_broker_that_forgot_gets_everything_kept_as_it_was(tmp_path: Path) -> None:
    writer, log, ship = SpoolWriter(tmp_path, SEGMENT, 1 << 20), Log(), lane(tmp_path)
    for start in range(0, 400, 40):
        append(writer, range(start, start + 40))
        log.take(ship.take())
        ship.acknowledge()
        if start == 200:
            ship = lane(tmp_path)
    again = Log()
    for frames in ship.replay_all():
        again.take(frames)
    assert again.events() == log.events()
    assert set(again.records) == set(log.records)


def test_after_a_reboot_a_new_epoch_begins_and_nothing_is_lost(tmp_path: Path) -> None:
    writer, log, ship = SpoolWriter(tmp_path, SEGMENT, 1 << 20), Log(), lane(tmp_path)
    append(writer, range(20))
    log.take(ship.take())
    ship.acknowledge()
    ship = lane(tmp_path, boot="b2")
    append(writer, range(20, 40))
    for _ in range(5):
        log.take(ship.take())
        ship.acknowledge()
    assert log.events() == once(40)
    assert len({epoch for _, epoch in log.sequences()}) == 2


def test_another_number_of_partitions_begins_a_new_epoch(tmp_path: Path) -> None:
    writer, log, ship = SpoolWriter(tmp_path, SEGMENT, 1 << 20), Log(), lane(tmp_path)
    append(writer, range(20))
    ship.take()
    ship = lane(tmp_path, partitions=5)
    for _ in range(5):
        log.take(ship.take())
        ship.acknowledge()
    assert log.events() == once(20)


def test_what_a_crash_left_in_flight_is_done_once_it_is_acknowledged(tmp_path: Path) -> None:
    """Another number of partitions sends what waits under a new epoch, where nobody drops it as seen before."""
    for behind in (0, 10):
        directory = tmp_path / str(behind)
        writer, log = SpoolWriter(directory, SEGMENT, 1 << 20), Log()
        append(writer, range(10))
        log.take(lane(directory).take())
        ship = lane(directory)
        log.take(ship.take())
        ship.acknowledge()
        append(writer, range(10, 10 + behind))
        log.take(ship.take())
        ship.acknowledge()
        ship.open(5)
        log.take(ship.take())
        assert log.events() == once(10 + behind)


@pytest.mark.parametrize("written", [0, 2, 4])
def test_a_plan_that_a_full_disk_cut_short_still_tells_what_follows(tmp_path: Path, written: int) -> None:
    writer, log, ship = SpoolWriter(tmp_path, SEGMENT, 1 << 20), Log(), lane(tmp_path)
    append(writer, range(10))
    log.take(ship.take())
    ship._plan._file = Short(ship._plan._file, written)
    ship.acknowledge()
    append(writer, range(10, 20))
    log.take(ship.take())
    append(writer, range(20, 30))
    ship = lane(tmp_path)
    for _ in range(5):
        log.take(ship.take())
        ship.acknowledge()
    assert log.events() == once(30)
    assert all(seqs == list(range(len(seqs))) for seqs in log.sequences().values())


def test_acknowledged_segments_expire_but_the_newest(tmp_path: Path) -> None:
    writer, ship = SpoolWriter(tmp_path, SEGMENT, 1 << 20), lane(tmp_path)
    append(writer, range(400))
    while ship.take():
        ship.acknowledge()
    held = segments(tmp_path)
    done = [n for n in held if done_path(tmp_path, n).exists()]
    assert done == held[:-1]
    ship.expire(retain_ms=3_600_000)
    assert segments(tmp_path) == held
    ship.expire(retain_ms=-1000)
    assert segments(tmp_path) == held[-2:]
    assert [n for n, _ in plans(tmp_path)] == held[-2:]


def test_a_full_disk_gives_up_what_is_acknowledged_then_goes_on_without_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, log, ship = SpoolWriter(tmp_path, SEGMENT, 1 << 20), Log(), lane(tmp_path)
    append(writer, range(200))
    for _ in range(2):
        log.take(ship.take())
        ship.acknowledge()
    held = len(segments(tmp_path))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PlanWriter, "_write", full)
    for _ in range(20):
        log.take(ship.take())
        ship.acknowledge()
    monkeypatch.undo()
    assert ship.unplanned > 0
    assert len(segments(tmp_path)) < held
    append(writer, range(200, 260))
    for _ in range(20):
        log.take(ship.take())
        ship.acknowledge()
    assert log.events() == once(260)


def test_a_spool_that_can_only_be_read_is_sent_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that was mounted read-only after an error: nothing of it was sent, or the shipper ended again and again."""
    writer, log, ship = SpoolWriter(tmp_path, SEGMENT, 1 << 20), Log(), lane(tmp_path)
    append(writer, range(200))
    for _ in range(2):
        log.take(ship.take())
        ship.acknowledge()

    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(PlanWriter, "_write", refuse)
    monkeypatch.setattr("exfilguard.sidecar.lane.delete_segment", refuse)
    for _ in range(20):
        log.take(ship.take())
        ship.acknowledge()
        ship.expire(0)
    assert log.events() == once(200)


def test_what_is_deleted_while_it_is_replayed_is_not_the_next_segment_under_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer makes room at any moment."""
    writer, log, ship = SpoolWriter(tmp_path, SEGMENT, 1 << 20), Log(), lane(tmp_path)
    append(writer, range(200))
    while frames := ship.take():
        log.take(frames)
        ship.acknowledge()

    class Late(SpoolReader):
        def __init__(self, directory: Path) -> None:
            delete_segment(directory, 1)
            super().__init__(directory)

    monkeypatch.setattr("exfilguard.sidecar.lane.SpoolReader", Late)
    again = Log()
    for frames in ship.replay_all():
        again.take(frames)
    assert again.records
    assert set(again.records) < set(log.records)


def test_a_broker_that_forgot_gets_what_was_planned_anew_for_other_partitions_once(tmp_path: Path) -> None:
    writer, log, ship = SpoolWriter(tmp_path, SEGMENT, 1 << 20), Log(), lane(tmp_path)
    append(writer, range(10))
    ship.take()
    ship.acknowledge()
    append(writer, range(10, 20))
    ship.take()
    ship.open(5)
    append(writer, range(20, 30))
    for _ in range(3):
        ship.take()
        ship.acknowledge()
    for frames in ship.replay_all():
        log.take(frames)
    assert log.events() == once(30)


@pytest.mark.parametrize("boot", ["b1", "b2"])
def test_a_segment_lost_with_a_batch_in_flight_takes_no_other_event_with_it(tmp_path: Path, boot: str) -> None:
    """Its numbers may be used: what follows begins a new epoch."""
    writer, log, ship = SpoolWriter(tmp_path, SEGMENT, 1 << 20), Log(), lane(tmp_path)
    append(writer, range(20))
    log.take(ship.take())
    (number,) = segments(tmp_path)
    truncate(segment_path(tmp_path, number), 0)
    append(SpoolWriter(tmp_path, SEGMENT, 1 << 20), range(20, 40))
    ship = lane(tmp_path, boot=boot)
    for _ in range(5):
        log.take(ship.take())
        ship.acknowledge()
    assert log.events() == once(40)
