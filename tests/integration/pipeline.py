"""A load that is written into a spool as a relay does, and the oracle that adds it up. Used by the tests and by bench.chaos."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

from exfilguard.config.schema import Config, DetectorConfig, SidecarConfig
from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.embedded.kafka import ApacheKafka
from exfilguard.events.codec import encode_event
from exfilguard.events.query import QueryEvent
from exfilguard.events.topics import principal_hash
from exfilguard.sidecar.spool import SpoolWriter

from .stack import Stack, kafka_config

TENANT = "clinic"
PARTITIONS = 4

QUIET_POLICY = """
version = "quiet"
default_class = "anybody"
[class.anybody]
limits = [ { unit = "rows", window = "24h", alert = 1_000_000_000 } ]
"""


class Load:
    """Writes events into a spool and keeps the oracle's count: records and distinct patients per account."""

    def __init__(self, data_dir: Path, seed: int = 1, accounts: int = 12, lane: int = 0) -> None:
        self._writer = SpoolWriter(data_dir / "spool" / str(lane), 1 << 18, 1 << 28, bells=data_dir / "spool")
        self._rng = random.Random(seed)
        self._accounts = [f"account{n}" for n in range(accounts)]
        self.rows: dict[str, int] = defaultdict(int)
        self.patients: dict[str, set[str]] = defaultdict(set)
        self.events = 0

    def write(self, count: int, patients: int = 3) -> None:
        """`patients`: most in one event."""
        rng = self._rng
        for _ in range(count):
            principal = rng.choice(self._accounts)
            digests = tuple(f"{rng.randrange(4000):016x}" for _ in range(rng.randrange(patients + 1)))
            event = QueryEvent(
                time_ms=time.time_ns() // 1_000_000,
                kind="query",
                listener="l",
                session="s",
                principal=principal,
                rows=rng.randrange(30),
                patients=tuple(dict.fromkeys(digests)),
            )
            self._writer.append(principal_hash(TENANT, principal), event.time_ms, encode_event(event))
            self.rows[f"{TENANT}/{principal}"] += event.rows
            self.patients[f"{TENANT}/{principal}"] |= set(digests)
            self.events += 1

    def oracle(self) -> dict[str, tuple[int, int]]:
        return {key: (self.rows[key], len(self.patients[key])) for key in self.rows}

    def equals(self, totals: dict[str, Any]) -> bool:
        return {key: value[-1][:2] for key, value in totals.items()} == self.oracle()


def installation(
    directory: Path,
    broker: EmbeddedBroker | ApacheKafka | str,
    *,
    compression: Literal["lz4", "none"] = "lz4",
    **detector: Any,
) -> tuple[Stack, Load]:
    directory.mkdir(parents=True)
    policy = directory / "policy.toml"
    policy.write_text(QUIET_POLICY, encoding="utf-8")
    config = Config(
        tenant=TENANT,
        data_dir=str(directory),
        kafka=kafka_config(broker, prefix=f"t{time.time_ns()}", partitions=PARTITIONS, compression=compression),
        sidecar=SidecarConfig(id="host"),
        detector=DetectorConfig(policy=str(policy), snapshot_ms=200, **detector),
    )
    return Stack(config), Load(directory)
