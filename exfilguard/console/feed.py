"""The topics that the pages show, followed for as long as the console lives. One thread; the state is whole once `reading`."""

from __future__ import annotations

import logging
import threading
import time

from kafka.errors import KafkaError

from ..config.schema import Config
from ..errors import CodecError
from ..events.codec import decode_action, decode_verdict
from ..events.topics import Topics
from ..runtime.kafka import TopicWatch, follow
from .standings import FRESH_S, Standings, Totals
from .state import ConsoleState

log = logging.getLogger(__name__)

RETRY_S = 0.5
WATCH_S = 2.0


class Feed:
    """Fills a ConsoleState and the Standings."""

    def __init__(self, config: Config, state: ConsoleState) -> None:
        self._config = config
        self._state = state
        self.standings = Standings()
        self._reading_since = 0.0
        self._topics = Topics(config.kafka.prefix)
        self._watch = TopicWatch(config, needs=(self._topics.verdicts, self._topics.actions, self._topics.standings))
        self._stop = threading.Event()
        self.reading = False
        """The broker answers, and what it has was read."""
        self.undecodable = 0
        self._threads = [
            threading.Thread(target=self._look, name="topics", daemon=True),
            threading.Thread(target=self._run, name="feed", daemon=True),
        ]

    @property
    def detectors(self) -> int | None:
        """How many detectors speak; None while it is too early to know."""
        now = time.monotonic()
        heard = self.standings.detectors(now)
        return heard if heard or (self.reading and now - self._reading_since > FRESH_S) else None

    def near(self) -> dict[str, Totals]:
        """account -> totals of its windows, of those nearest to a limit."""
        return self.standings.accounts(time.monotonic())

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5.0)

    def _look(self) -> None:
        while not self._stop.is_set():
            if not self._watch.look():
                self.reading = False
            self._stop.wait(WATCH_S)
        self._watch.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                topics = (self._topics.verdicts, self._topics.actions, self._topics.standings)
                for portion in follow(self._config, self._watch, topics, self._stop):
                    for topic, value in portion:
                        self._take(topic, value)
                    if not self.reading and not portion:
                        self._reading_since = time.monotonic()
                        self.reading = True
            except (KafkaError, OSError, AssertionError) as error:
                self.reading = False
                log.warning("the topics cannot be followed (%s): trying again", type(error).__name__)
            self._stop.wait(RETRY_S)

    def _take(self, topic: str, value: bytes) -> None:
        try:
            if topic == self._topics.verdicts:
                self._state.learn(decode_verdict(value))
            elif topic == self._topics.standings:
                self.undecodable += not self.standings.learn(value, time.monotonic())
            else:
                self._state.record(decode_action(value))
        except CodecError:
            self.undecodable += 1
