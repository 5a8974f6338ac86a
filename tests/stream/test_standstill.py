"""A consumer that has lost a partition is noticed; one that is slow, or whose brokers are away for a moment, is left alone."""

from __future__ import annotations

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from exfilguard.runtime.standstill import LOOK_S, UNANSWERED, StandsStillError, Standstill

ONE, TWO = TopicPartition("t", 0), TopicPartition("t", 1)


class Consumer:
    """Positions and ends as the test sets them."""

    def __init__(self) -> None:
        self.ends = {ONE: 0, TWO: 0}
        self.at = {ONE: 0, TWO: 0}
        self.answers = True
        self.asked = 0

    def assignment(self) -> set[TopicPartition]:
        return set(self.ends)

    def end_offsets(self, partitions: list[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        self.asked += 1
        if not self.answers:
            raise KafkaTimeoutError()
        return {at: self.ends[at] for at in partitions}

    def position(self, at: TopicPartition, timeout_ms: int) -> int:
        return self.at[at]


class Watch:
    """Looks at a consumer on a clock of its own."""

    def __init__(self) -> None:
        self.consumer = Consumer()
        self.now = 0.0
        self.standstill = Standstill(self.consumer, lambda: self.now)

    def look(self) -> None:
        self.now += LOOK_S
        self.standstill.check()


def test_a_partition_that_holds_more_and_does_not_move_is_named() -> None:
    watch = Watch()
    watch.consumer.ends = {ONE: 10, TWO: 10}
    watch.look()
    watch.consumer.at = {ONE: 9, TWO: 0}  # one goes on
    with pytest.raises(StandsStillError, match="t/1 at 0"):
        watch.look()


def test_one_that_is_behind_and_moves_or_has_read_everything_is_left_alone() -> None:
    watch = Watch()
    for n in range(1, 20):
        watch.consumer.ends = {ONE: 1_000, TWO: 5}
        watch.consumer.at = {ONE: n, TWO: 5}
        watch.look()


def test_what_came_only_just_now_has_until_the_next_look() -> None:
    watch = Watch()
    for n in range(5):  # read in time, again and again, and each time something new at the moment of the look
        watch.consumer.ends[ONE] = n + 1
        watch.consumer.at[ONE] = n
        watch.look()


def test_brokers_that_do_not_answer_have_some_patience_and_one_answer_renews_it() -> None:
    watch = Watch()
    for _ in range(3):
        watch.consumer.answers = False
        for _ in range(UNANSWERED - 1):
            watch.look()
        watch.consumer.answers = True
        watch.look()
    watch.consumer.answers = False
    for _ in range(UNANSWERED - 1):
        watch.look()
    with pytest.raises(StandsStillError):
        watch.look()


def test_the_brokers_are_asked_now_and_then_only() -> None:
    watch = Watch()
    for _ in range(1_000):
        watch.now += LOOK_S / 100
        watch.standstill.check()
    assert 8 <= watch.consumer.asked <= 10
