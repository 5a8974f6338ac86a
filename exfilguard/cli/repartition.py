"""`exfilguard repartition`: more partitions for more detectors, the accounts' windows moved along. See stream/repartition.py."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

from kafka.admin import NewPartitions
from kafka.errors import KafkaError

from ..config.schema import Config
from ..errors import BrokerError
from ..events.topics import Topics
from ..runtime.kafka import TIMEOUT_S, admin_client, ensure_topics, producer_of
from .common import add_config_option, load

TEXT = (
    "move the accounts' windows to more partitions; stop the shippers and, once they have read everything, the detectors first "
    "(docs/SCALING.md)"
)


def register(commands: Any) -> None:
    parser = commands.add_parser("repartition", help=TEXT, description=TEXT)
    add_config_option(parser)
    parser.add_argument("--partitions", type=int, required=True, help="how many the queries topic shall have")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..stream.repartition import repartition  # Faust takes a second to import: only where it is needed

    config = load(args)
    topics = Topics(config.kafka.prefix)
    try:
        admin = admin_client(config)
        found = ensure_topics(admin, config)
        before = found[topics.queries][1]
        held = found[topics.snapshots][1]
        if held < args.partitions:
            admin.create_partitions({topics.snapshots: NewPartitions(args.partitions)})
    except (KafkaError, OSError) as error:
        raise BrokerError(
            f"{config.kafka.bootstrap} did not answer ({type(error).__name__}): nothing has changed"
        ) from None
    engines: list[Any] = []
    ends: list[int] = []
    keys: list[list[bytes]] = []
    for partition in range(max(before, min(held, args.partitions))):
        engine, end, known = asyncio.run(_restored(config, topics, partition, partition < before))
        engines.append(engine)
        ends.append(end)
        keys.append(known)
        print(f"partition {partition}: {len(engine.store):,} accounts", file=sys.stderr)
    moved = repartition(engines, ends, keys, [_engine(config) for _ in range(max(args.partitions, len(engines)))])
    with producer_of(config) as producer:
        for part in (moved.records, moved.deletions):
            sent = [
                producer.send(topics.snapshots, key=key, value=value, partition=partition)
                for partition, records in enumerate(part)
                for key, value in records
            ]
            for one in sent:
                one.get(timeout=TIMEOUT_S)
    if before < args.partitions:
        admin.create_partitions({topics.queries: NewPartitions(args.partitions)})
    admin.close()
    print(
        f"{moved.accounts:,} accounts, {moved.moved:,} of them moved; {topics.queries} has {args.partitions} partitions. "
        "Start the detectors, then the shippers."
    )
    return 0


def _engine(config: Config) -> Any:
    from ..stream.engine import Engine

    nobody: Any = None  # no frame is fed, so nobody is asked for a judge
    return Engine(nobody, {}, config.detector.max_patients, max_accounts=config.detector.max_accounts)


async def _restored(config: Config, topics: Topics, partition: int, there: bool) -> tuple[Any, int, list[bytes]]:
    from ..stream.app import read_partition
    from ..stream.checkpoint import Restore

    restore, keys, engine = Restore(), [], _engine(config)
    async for record in read_partition(config, topics.snapshots, partition, 0):
        restore.add(record.key, record.value)
        keys.append(record.key)
    restore.fill(engine)
    end = engine.next_offset
    if there:
        async for record in read_partition(config, topics.queries, partition, engine.next_offset):
            end = record.offset + 1
    return engine, end, list(dict.fromkeys(keys))
