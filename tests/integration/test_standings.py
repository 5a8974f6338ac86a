"""Two detectors, each on a host of its own, and a console on a third: it shows the accounts of both, and whose clock is off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exfilguard.config.schema import SidecarConfig
from exfilguard.console.feed import Feed
from exfilguard.console.state import ConsoleState
from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.events.codec import encode_event, encode_frame, frame_head
from exfilguard.events.query import QueryEvent
from exfilguard.events.topics import Topics, principal_hash
from exfilguard.runtime.kafka import producer_of

from .pipeline import PARTITIONS, TENANT, Load, installation
from .stack import Stack, wait_for

AHEAD_S = 90


@pytest.fixture
def hosts(tmp_path: Path, tansu: EmbeddedBroker) -> Iterator[tuple[Stack, Stack, Load]]:
    ward, load = installation(tmp_path / "ward", tansu)
    lab = Stack(replace(ward.config, data_dir=str(tmp_path / "lab"), sidecar=SidecarConfig(id="lab")))
    yield ward, lab, load
    ward.stop()
    lab.stop()


def partitions_of(stack: Stack) -> int:
    found = stack.snapshot("detector-1")
    return len(found.details["partitions"]) if found is not None and found.details["ready"] else 0


def test_a_console_on_a_third_host_hears_all_detectors(hosts: tuple[Stack, Stack, Load]) -> None:
    ward, lab, load = hosts
    ward.start("shipper")
    ward.start("detector")
    lab.start("detector")
    feed = Feed(ward.config, ConsoleState())
    feed.start()
    try:
        wait_for(lambda: partitions_of(ward) and partitions_of(lab), 60)
        assert partitions_of(ward) + partitions_of(lab) == PARTITIONS

        def rows_told() -> dict[str, int]:
            return {account: totals[-1][0] for account, totals in feed.near().items()}

        def everybody_works() -> bool:
            load.write(20)
            return rows_told().keys() == load.rows.keys()

        wait_for(everybody_works, 60, "all accounts")
        rows = dict(load.rows)
        wait_for(lambda: rows_told() == rows, 40, "the accounts of both, with all their rows")
        assert feed.detectors == 2
        assert feed.undecodable == 0
        # One host's clock is ahead: its sidecar says so with every record.
        with producer_of(ward.config) as producer:
            frame = encode_frame(
                frame_head(TENANT, "night-0", "e1"),
                0,
                [encode_event(QueryEvent(time.time_ns() // 1_000_000, "query", "l", "s", "account1", rows=1))],
            )
            producer.send(
                Topics(ward.config.kafka.prefix).queries,
                value=frame,
                partition=principal_hash(TENANT, "account1") % PARTITIONS,
                timestamp_ms=time.time_ns() // 1_000_000 + AHEAD_S * 1000,
            ).get(timeout=20)

        def skew(sidecar: str) -> float:
            return sum(stack.total("clock_skew_seconds", sidecar=sidecar) for stack in (ward, lab))

        assert AHEAD_S - 20 < wait_for(lambda: skew("night-0"), 30) <= AHEAD_S
        assert -20 < skew("host-0") <= 0
        # A detector that is gone is missed, and the other one speaks for its accounts, once they work.
        lab.stop()
        wait_for(lambda: everybody_works() and feed.detectors == 1, 60, "one takes over")
    finally:
        feed.stop()
