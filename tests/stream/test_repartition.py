"""More partitions: every account's windows are where its next events will be, whatever interrupts the move."""

from __future__ import annotations

import random

import pytest

from exfilguard.errors import SnapshotError
from exfilguard.events.topics import principal_hash
from exfilguard.stream.checkpoint import Restore
from exfilguard.stream.engine import Engine
from exfilguard.stream.repartition import Moved, Record, repartition

from .test_engine import NOW, event, frame, new, snapshot, totals

ACCOUNTS = [f"p{n}" for n in range(40)]


class Topic:
    """Queries and snapshots of an installation, in memory."""

    def __init__(self, partitions: int) -> None:
        self.snapshots: list[list[Record]] = [[] for _ in range(partitions)]
        self.ends = [0] * partitions
        self.seqs = [0] * partitions

    def restored(self) -> tuple[list[Engine], list[list[bytes]]]:
        engines, keys = [], []
        for records in self.snapshots:
            restore, engine = Restore(), new()
            for key, value in records:
                restore.add(key, value)
            restore.fill(engine)
            engines.append(engine)
            keys.append([key for key, _ in records])
        return engines, keys

    def run(self, rng: random.Random, frames: int, epoch: str) -> dict[str, int]:
        """Detectors that start, count some frames and stop. Returns the rows that were sent."""
        engines, _ = self.restored()
        sent: dict[str, int] = {}
        for _ in range(frames):
            name, rows = rng.choice(ACCOUNTS), rng.randrange(1, 50)
            partition = principal_hash("t", name) % len(engines)
            value = frame(self.seqs[partition], event(name, rows, (rng.randrange(200),)), epoch=epoch)
            assert not engines[partition].feed(self.ends[partition], value, NOW).reason
            self.seqs[partition] += 1
            self.ends[partition] += 1
            sent[f"t/{name}"] = sent.get(f"t/{name}", 0) + rows
        for engine, records in zip(engines, self.snapshots, strict=True):
            snapshot(engine, records)
        return sent

    def all_totals(self) -> dict[str, list[tuple[int, ...]]]:
        out: dict[str, list[tuple[int, ...]]] = {}
        for partition, engine in enumerate(self.restored()[0]):
            for account, found in totals(engine).items():
                assert principal_hash("t", account[2:]) % len(self.snapshots) == partition
                assert account not in out
                out[account] = found
        return out

    def grow(self, partitions: int) -> Moved:
        engines, keys = self.restored()
        return repartition(engines, self.ends[: len(engines)], keys, [new() for _ in range(partitions)])

    def write(self, moved: Moved, most: int | None = None) -> None:
        self.snapshots += [[] for _ in range(len(moved.records) - len(self.snapshots))]
        left = most if most is not None else 1 << 30
        for part in (moved.records, moved.deletions):
            for records, new_ones in zip(self.snapshots, part, strict=False):
                records += new_ones[:left]
                left -= min(left, len(new_ones))


@pytest.mark.parametrize("interrupted", [None, 0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 6), (4, 4)])
def test_totals_are_the_oracles_before_and_after(before: int, after: int, interrupted: int | None) -> None:
    rng = random.Random(before * 10 + after)
    topic = Topic(before)
    rows = topic.run(rng, 300, "a")
    expected = topic.all_totals()
    if interrupted is not None:
        topic.write(topic.grow(after), interrupted)
        topic.ends += [0] * (len(topic.snapshots) - len(topic.ends))
    moved = topic.grow(after)
    topic.write(moved)
    assert moved.accounts == len(expected)
    assert topic.all_totals() == expected
    topic.ends = (topic.ends + [0] * after)[:after]
    topic.seqs = [0] * after  # the shipper begins a new epoch
    for account, more in topic.run(rng, 300, "b").items():
        rows[account] = rows.get(account, 0) + more
    assert {account: found[-1][0] for account, found in topic.all_totals().items()} == rows


def test_uncounted_frames_stop_the_move() -> None:
    topic = Topic(2)
    topic.run(random.Random(1), 20, "a")
    topic.ends[1] += 3
    with pytest.raises(SnapshotError, match="3 records that no detector has counted"):
        topic.grow(4)


def test_fewer_is_refused() -> None:
    with pytest.raises(SnapshotError, match="larger number"):
        Topic(3).grow(2)
