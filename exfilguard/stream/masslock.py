"""The mass-lock stop of all responders together: N accounts in M minutes, however many processes share the partitions.

    verdict ──► claim, to partition 0 of the actions topic ──► read back ──► admitted │ held

Kafka gives the claims of all processes one order, each process counts them in that order with the same rule, so all come to the
same answer, and a restart comes to it again from the record. Nothing is admitted before the record has been read to its end.
What no hook knew is given back by a `released` record. Times are the claimers': clocks that differ move the window by as much.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from aiokafka.errors import KafkaError

from ..config.schema import Config
from ..errors import BrokerError, CodecError
from ..events.action import MASS_LOCK, Action, Outcome
from ..events.codec import decode_action
from ..events.topics import Topics
from ..events.verdict import Verdict
from ..respond.masslock import MassLockStop
from ..runtime.clock import now_ms
from ..runtime.tasks import spawn
from .app import follow

log = logging.getLogger(__name__)

PARTITION = 0
RETRY_S = 0.5
WAIT_MS = 30
"""A claim is on the way of every suspension."""
MAX_DECISIONS = 100_000
"""More are forgotten, the oldest first: such an account claims once more."""

Write = Callable[[Action], Coroutine[Any, Any, None]]


class SharedMassLock:
    """An Admission (respond/masslock.py). `write` puts an action on PARTITION; `decided` is called when answers have changed."""

    def __init__(self, config: Config, write: Write, decided: Callable[[], None]) -> None:
        self._config = config
        self._write = write
        self._decided = decided
        self._decisions: OrderedDict[str, tuple[int, bool]] = OrderedDict()
        """key -> (revision of the verdict, admitted)"""
        self._asked: dict[str, int] = {}
        self._stop = self._new_stop()
        self._latest_ms = 0
        self.caught_up = False

    def _new_stop(self) -> MassLockStop:
        responder = self._config.responder
        return MassLockStop(responder.mass_lock_accounts, responder.mass_lock_window_ms)

    # -- asked by the reconciler ----------------------------------------------------------------------------------------

    def admits(self, verdict: Verdict, now_ms: int) -> bool | None:
        if not self._stop.accounts or verdict.issuer.startswith("operator:"):
            return True
        if not self.caught_up:
            return None
        revision, admitted = self._decisions.get(verdict.key, (-1, False))
        if revision == verdict.revision:
            return admitted
        if self._asked.get(verdict.key) != verdict.revision:
            self._asked[verdict.key] = verdict.revision
            text = "counted by the mass-lock stop"
            spawn(self._write(_action(verdict.tenant, verdict.principal, "claimed", verdict.revision, text)), "claim")
        return None

    def remember(self, key: str, at_ms: int, now_ms: int) -> None:
        """The claims are the record."""

    def forget(self, key: str) -> None:
        if self._stop.accounts:
            tenant, _, principal = key.partition("/")
            spawn(self._write(_action(tenant, principal, "released", 0, "no hook knows it")), "release of a claim")

    # -- the record -----------------------------------------------------------------------------------------------------

    def read(self, action: Action) -> None:
        """One record of PARTITION, in its order."""
        if action.hook != MASS_LOCK or action.tenant != self._config.tenant:
            return
        if action.outcome == "released":
            self._stop.forget(action.key)
        elif action.outcome == "claimed":
            # A clock behind the others must not bring back what has expired.
            self._latest_ms = max(self._latest_ms, action.started_ms)
            admitted = self._stop.take(action.key, self._latest_ms)
            self._decisions[action.key] = (action.verdict_revision, admitted)
            self._decisions.move_to_end(action.key)
            if self._asked.get(action.key) == action.verdict_revision:
                del self._asked[action.key]
            while len(self._decisions) > MAX_DECISIONS:
                self._decisions.popitem(last=False)

    async def run(self) -> None:
        """Follows the record for as long as the process lives."""
        if not self._stop.accounts:
            return
        while True:
            try:
                self._start_over()
                async for portion in follow(self._config, Topics(self._config.kafka.prefix).actions, 1, WAIT_MS):
                    news = False
                    for record in portion:
                        if record is None:
                            news = news or not self.caught_up
                            self.caught_up = True
                        else:
                            news = True
                            with contextlib.suppress(CodecError):
                                self.read(decode_action(record.value))
                    if news and self.caught_up:
                        self._decided()
            except (KafkaError, BrokerError, OSError) as error:
                log.warning("the mass-lock stop cannot read its record yet (%s)", type(error).__name__)
            await asyncio.sleep(RETRY_S)

    def _start_over(self) -> None:
        self._stop, self._latest_ms, self.caught_up = self._new_stop(), 0, False
        self._decisions.clear()
        self._asked.clear()


def _action(tenant: str, principal: str, outcome: Outcome, revision: int, detail: str) -> Action:
    now = now_ms()
    return Action(tenant, principal, MASS_LOCK, "lock", outcome, False, revision, now, now, detail)
