"""Times as a calendar has them."""

from __future__ import annotations

import datetime as dt

LAST_S = int(dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC).timestamp())


def moment_of(time_ms: int) -> dt.datetime:
    """UTC, whole seconds. A later time than the calendar has, which anybody may write who can write an event, is its last one."""
    return dt.datetime.fromtimestamp(min(time_ms // 1000, LAST_S), dt.UTC)
