"""The migration to more partitions: every account's windows go to the partition that its events will go to.

With more partitions `hash(tenant, principal) % partitions` changes, so an account's events arrive where its windows are not. This
moves them while nothing else runs. Before: the sidecars' shippers are stopped (queries go on, events wait in the spool), the
detectors have read everything and are stopped. The order makes it safe to interrupt and to run again:

    1. read every partition's snapshots; refuse if a partition holds frames that were not counted yet
    2. write the accounts to where they belong, each partition's marker behind them
    3. delete what lies where it does not belong any more
    4. only then give the queries topic its new partitions

An account that a first, interrupted run left in two places is the same in both; its place is where it belongs. Sums over accounts
stay where they are: they are added up over all partitions anyhow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import SnapshotError
from ..events.topics import principal_hash
from .engine import Engine

Record = tuple[bytes, bytes | None]


@dataclass(slots=True)
class Moved:
    """What to write to the snapshots topic, by partition."""

    records: list[list[Record]]
    """Accounts, then the marker."""
    deletions: list[list[Record]]
    """After all of the above is acknowledged."""
    accounts: int
    """Accounts in all."""
    moved: int
    """Accounts that changed their partition."""


def repartition(
    engines: Sequence[Engine], ends: Sequence[int], keys: Sequence[Sequence[bytes]], fresh: Sequence[Engine]
) -> Moved:
    """Pure. `engines`: restored, one per partition there is; `ends`: the end of each queries partition; `keys`: of the snapshot
    records each was restored from; `fresh`: empty engines, one per partition there shall be. Raises SnapshotError."""
    for partition, (engine, end) in enumerate(zip(engines, ends, strict=True)):
        if engine.next_offset < end:
            raise SnapshotError(
                f"partition {partition} holds {end - engine.next_offset} records that no detector has counted: start the "
                "detectors, wait until consumer_lag_records is 0, stop them, and run this again"
            )
    if len(fresh) < len(engines):
        raise SnapshotError("Kafka cannot take partitions away: give a larger number")
    accounts = moved = 0
    for partition, engine in enumerate(engines):
        target = fresh[partition]
        target.next_offset = engine.next_offset
        target.sources = engine.sources
        target.checkpoints.number = engine.checkpoint
        for name, store in engine.dimensions.items():
            for key in store:
                target.dimensions[name].load(key, store.dump(key))
    for home in (True, False):  # where it belongs first: an interrupted run may have left a copy elsewhere
        for partition, engine in enumerate(engines):
            for account in engine.store:
                tenant, _, principal = account.partition("/")
                belongs = principal_hash(tenant, principal) % len(fresh)
                if (belongs == partition) is not home or account in fresh[belongs].store:
                    continue
                fresh[belongs].store.load(account, engine.store.dump(account))
                accounts += 1
                moved += not home
    out = Moved([], [], accounts, moved)
    for engine in fresh:
        for store in (engine.store, *engine.dimensions.values()):
            store.mark_all()
        engine.checkpoints.moved = True
        checkpoint = engine.begin_checkpoint()
        records: list[Record] = []
        if checkpoint is not None:
            while made := engine.next_records(checkpoint):
                records += made
            records.append(checkpoint.marker)
        out.records.append(records)
    for partition, held in enumerate(keys):
        written = {key for key, _ in out.records[partition]}
        out.deletions.append([(key, None) for key in held if key not in written and key != b"m"])
    return out
