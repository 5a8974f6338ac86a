"""A Kafka consumer that has lost a partition without an error: the brokers hold more than it has read, and nothing of it comes.

Met with kafka-python 3.0 in the chaos run after a broker with a full disk was away for most of a minute and came back: everything
else went on, one partition's records came no more until the process was started again. Whoever reads therefore asks now and then
where the partitions end, and takes a new consumer when one of them has not moved since the last time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kafka.errors import KafkaError

LOOK_S = 10.0
ASK_MS = 1_000
UNANSWERED = 3
"""So many times in a row the question may stay without an answer: brokers may be away."""


class StandsStillError(KafkaError):  # type: ignore[misc]
    """Close the consumer and make a new one."""


class Standstill:
    """Of one consumer that reads without pause, each partition from a position that only grows."""

    def __init__(self, consumer: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._consumer = consumer
        self._clock = clock
        self._looked = clock()
        self._behind: dict[Any, int] = {}
        """Partitions that held more at the last look -> where they stood."""
        self._unanswered = 0

    def check(self) -> None:
        """After each poll; asks the brokers every LOOK_S. Raises StandsStillError."""
        now = self._clock()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        assigned = list(self._consumer.assignment())
        try:
            ends = self._consumer.end_offsets(assigned, timeout_ms=ASK_MS)
            stood = {at: self._consumer.position(at, timeout_ms=ASK_MS) for at in assigned}
        except KafkaError:
            self._unanswered += 1
            if self._unanswered >= UNANSWERED:
                raise StandsStillError(f"{UNANSWERED} questions unanswered") from None
            return
        self._unanswered = 0
        behind = {at: stood[at] for at in assigned if ends.get(at) is not None and stood[at] < ends[at]}
        lost = [at for at, position in behind.items() if self._behind.get(at) == position]
        self._behind = behind
        if lost:
            raise StandsStillError(", ".join(f"{at.topic}/{at.partition} at {behind[at]}" for at in sorted(lost)))
