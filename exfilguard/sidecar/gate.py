"""What every read of a listener's sessions looks at, in one compiled place: a look costs no call."""

from __future__ import annotations

from collections.abc import Mapping

from ..events.verdict import Verdict
from ..runtime.stats import Histogram

ADDED_BOUNDS_S = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.005, 0.02, 0.1)


class Gate:
    """One listener's."""

    def __init__(self) -> None:
        self.telling = False
        """The relay ends: who asks something new is told so instead."""
        self.screens = False
        """Requests are looked at before they are sent."""
        self.standing: Mapping[str, Verdict] = {}
        """The worker's verdicts, of anybody: while there is none, nobody's is looked up."""
        self.added = Histogram(ADDED_BOUNDS_S)
        """Seconds from when a read was found ready until the relay was done with it."""
