"""What this detector tells the consoles, on whatever host they run: its accounts nearest to a limit, with their windows.

One record a worker on the topic `standings`, which replaces the one before: at most every `EVERY_S` when something changed, and every
`REPEAT_S` or so in any case, so that a reader can tell a quiet detector from one that is gone. Names of accounts and counts, no patient.
A record that is lost is made good by the next one, so nobody waits for its acknowledgement.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from aiokafka.errors import KafkaError

from ..config.schema import Config
from ..detect.judge import Judge
from ..detect.reach import share
from ..events.topics import Topics
from ..windows import Totals
from .app import Producer

log = logging.getLogger(__name__)

VERSION = 1
MOST = 15
PORTION = 100
"""Accounts ranked at once: about a millisecond."""
EVERY_S = 2.0
REPEAT_S = 3.0


class Standings:
    """One detector's word."""

    def __init__(self, config: Config, worker: str, judge_of: Callable[[str], Judge], producer: Producer) -> None:
        self._topic = Topics(config.kafka.prefix).standings
        self._name = f"{worker}@{config.sidecar_id}"
        self._judge_of = judge_of
        self._producer = producer
        self._said = b""
        self._said_at = 0.0

    def _share(self, account: str, totals: Sequence[Totals]) -> float:
        tenant, _, principal = account.partition("/")
        return share(self._judge_of(tenant).limits_of(principal), totals)

    async def record(self, active: Sequence[tuple[str, Sequence[Totals]]]) -> bytes:
        """`active`: the accounts seen lately, with their windows."""
        shares: list[tuple[float, str, Sequence[Totals]]] = []
        for start in range(0, len(active), PORTION):
            shares += [
                (self._share(account, totals), account, totals) for account, totals in active[start : start + PORTION]
            ]
            await asyncio.sleep(0)  # frames have their turn
        ranked = heapq.nlargest(MOST, shares, key=lambda item: item[0])
        accounts = [[account, [list(total) for total in totals]] for part, account, totals in ranked if part > 0]
        return orjson.dumps({"v": VERSION, "worker": self._name, "accounts": accounts})

    async def publish(self, active: Sequence[tuple[str, Sequence[Totals]]]) -> None:
        """Call it every `EVERY_S`; what Kafka does not take is said again later."""
        record: Any = await self.record(active)
        if record == self._said and time.monotonic() - self._said_at < REPEAT_S:
            return
        try:
            producer = await self._producer.ready()
            await producer.send(self._topic, key=self._name.encode(), value=record)
        except (KafkaError, OSError) as error:
            log.warning("the standings were not published (%s): the next ones are", type(error).__name__)
            return
        self._said, self._said_at = record, time.monotonic()
