"""Where an observer's compiled half writes its events, each of them read back."""

from __future__ import annotations

import orjson

from exfilguard.events.codec import check_event
from exfilguard.observe import outlet as outlets


class Checked(outlets.Outlet):
    """Takes what the relay would spool, and reads it back."""

    def __init__(self) -> None:
        self.rows = 0
        self._told: set[tuple[str, tuple[str, ...]]] = set()

    def told(self, fingerprint: str, columns: tuple[str, ...]) -> bool:
        known = (fingerprint, columns) in self._told
        self._told.add((fingerprint, columns))
        return known

    def put(
        self, principal: str, time_ms: int, payload: bytes, rows: int, size: int, patients: int, final: bool
    ) -> None:
        event = check_event(orjson.loads(payload))
        assert (event["principal"], event.get("rows", 0)) == (principal, rows)
        self.rows += rows
