"""MySQL's shortcut in C (observe/mysql/_quick.pyx) against the general path: the same events, bytes and state, whatever comes."""

from __future__ import annotations

import random

from tests.fuzz import mutate
from tests.fuzz.mysql import CAPABILITIES, Mysql
from tests.fuzz.target import Input
from tests.wire.transcript import Step


class MysqlQuick(Mysql):
    """See target.Target."""

    name = "mysql-quick"

    def __init__(self) -> None:
        super().__init__()
        from tests.observe import test_mysql_quick  # skips where there is nothing compiled

        self._test = test_mysql_quick
        self.shortcuts = 0

    def make(self, rng: random.Random) -> Input:
        """Mostly what the shortcut takes, with a byte or a packet changed here and there; the rest as recorded and cut anywhere."""
        if rng.random() < 0.1:
            return super().make(rng)
        shape = rng.randrange(len(self._test.CAPABILITIES))
        steps: list[Step] = [(side, data) for side, data, _ in self._test.session(rng, self._test.CAPABILITIES[shape])]
        mutate.damaged(rng, steps, rng.choice((0, 0, 1, 2)))
        return Input((("=", bytes((len(CAPABILITIES) * 2 + shape,))), *steps))

    def run_session(self, given: Input) -> None:
        """The first step tells what was agreed on, beyond the engine's own target's in that of the test."""
        shape, steps = given.steps[0][1][0], given.steps[1:]
        own = shape - len(CAPABILITIES) * 2
        capabilities = self._test.CAPABILITIES[own] if own >= 0 else CAPABILITIES[shape % len(CAPABILITIES)]
        self.shortcuts += self._test.compare(
            [(side, data, 1000 + now) for now, (side, data) in enumerate(steps)], capabilities
        )
