"""PostgreSQL's shortcut in C (observe/_quick.pyx) against the general path: the same events, bytes and state, whatever comes."""

from __future__ import annotations

import random

from tests.fuzz import copies, mutate
from tests.fuzz.postgres import Postgres
from tests.fuzz.target import Input
from tests.wire.transcript import Step


class Quick(Postgres):
    """See target.Target."""

    name = "quick"

    def __init__(self) -> None:
        super().__init__()
        from tests.observe import test_quick  # skips where there is nothing compiled

        self._test = test_quick
        self.shortcuts = 0

    def make(self, rng: random.Random) -> Input:
        """Mostly what the shortcut takes, with a byte or a message changed here and there; the rest as recorded and cut anywhere."""
        if rng.random() < 0.1:
            return super().make(rng)
        steps: list[Step] = [(side, data) for side, data, _ in self._test.session(rng)]
        if (
            rng.random() < 0.2
        ):  # a COPY somewhere, which the shortcut leaves to the general path, and what it leaves behind
            at = rng.randrange(1, len(steps) + 1)
            steps[at:at] = mutate.cut(rng, copies.conversation(rng, self.tables))
        mutate.damaged(rng, steps, rng.choice((0, 0, 1, 2)))
        return Input(tuple(steps))

    def run_session(self, given: Input) -> None:
        steps = [(side, data, 1000 + now) for now, (side, data) in enumerate(given.steps)]
        self.shortcuts += self._test.compare(steps, self._test.Rules(), tables=self.tables)
