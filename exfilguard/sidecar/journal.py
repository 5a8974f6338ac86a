"""What one relay process records: events into the spool, each account's partition hash, which shapes' texts were told.

A full spool is counted, and the gap becomes an event. Two ways in: `append` takes an event, `ListenerOutlet.put` bytes that an
observer has encoded (observe/outlet.py).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from ..errors import SpoolFull
from ..events.codec import encode_event
from ..events.query import QueryEvent
from ..events.topics import principal_hash
from ..observe.outlet import Outlet
from .spool import SpoolWriter

log = logging.getLogger(__name__)

MAX_HASHES = 100_000
MAX_NAMES = 1_000_000
"""Of the columns of all shapes that were told: one has up to a hundred, which may be its own."""


class Counters:
    """Plain integers of one listener."""

    def __init__(self) -> None:
        self.queries = 0
        self.rows = 0
        self.patients = 0
        self.result_bytes = 0
        self.connections = 0
        self.refused = 0
        self.garbage = 0
        self.desynced = 0
        self.login_timeouts = 0
        self.tls_failures = 0
        self.upstream_failures = 0
        self.local_cuts = 0
        self.verdict_cuts = 0
        self.records_past_limit = 0
        self.spool_gap = 0
        self.idle_closed = 0
        self.cancels_failed = 0


class Journal:
    """One relay process's records."""

    def __init__(self, tenant: str, directory: Path, segment_bytes: int, max_bytes: int) -> None:
        self.tenant = tenant
        self.directory = directory
        self.spool = SpoolWriter(directory, segment_bytes, max_bytes, bells=directory.parent)
        self.full = False
        self.recorded = 0
        """Events appended since the start."""
        self._gap = 0
        self._hashes: dict[str, int] = {}
        self._shapes: dict[str, tuple[str, ...]] = {}
        """fingerprint -> columns: what was already told of it"""
        self._names = 0

    def told(self, fingerprint: str, columns: tuple[str, ...]) -> bool:
        """True when a shape's text need not be sent any more."""
        told = self._shapes.get(fingerprint)
        # Told again when the columns were not known yet, or a `SELECT *` has got others.
        if told is not None and (told is columns or told == columns or not columns):
            return True
        names = self._names + len(columns) - (len(told) if told is not None else 0)
        if names <= MAX_NAMES and (told is not None or len(self._shapes) < MAX_HASHES):
            self._names = names
            self._shapes[fingerprint] = columns
        return False

    def append(self, counters: Counters, event: QueryEvent) -> None:
        """Never raises and never waits."""
        if event.query and self.told(event.fingerprint, event.columns):
            event = replace(event, query="", columns=())
        self.put(counters, event.listener, event.principal, event.time_ms, encode_event(event))

    def put(self, counters: Counters, listener: str, principal: str, time_ms: int, payload: bytes) -> None:
        """An encoded event. Never raises and never waits."""
        if self._gap and not self._tell_gap(counters, listener, time_ms):
            self._gap += 1
            counters.spool_gap += 1
        elif not self._write(counters, principal, time_ms, payload):
            if not self._gap:
                log.error(
                    "the spool is full or its disk is: free space below %s or raise spool.max_bytes", self.directory
                )
            self._gap += 1
            counters.spool_gap += 1

    def _tell_gap(self, counters: Counters, listener: str, time_ms: int) -> bool:
        note = QueryEvent(
            time_ms=time_ms, kind="gap", listener=listener, session="-", principal="unknown",
            detail=f"{self._gap} events not recorded: the spool was full",
        )  # fmt: skip
        if not self._write(counters, note.principal, time_ms, encode_event(note)):
            return False
        self._gap = 0
        log.warning("the spool has room again; the gap was recorded")
        return True

    def _write(self, counters: Counters, principal: str, time_ms: int, payload: bytes) -> bool:
        hashed = self._hashes.get(principal)
        if hashed is None:
            if len(self._hashes) >= MAX_HASHES:
                self._hashes.clear()
            hashed = self._hashes[principal] = principal_hash(self.tenant, principal)
        try:
            self.spool.append(hashed, time_ms, payload)
        except SpoolFull:
            self.full = True
            return False
        except ValueError:
            log.error("an event larger than a spool segment was left out: raise spool.segment_bytes")
            counters.spool_gap += 1  # but not the `gap` event's: the spool is not full
            return True
        self.full = False
        self.recorded += 1
        return True


class ListenerOutlet(Outlet):
    """Statements of one listener's sessions, straight into the journal."""

    def __init__(self, journal: Journal, counters: Counters, listener: str) -> None:
        self.journal = journal
        self.counters = counters
        self.listener = listener

    def told(self, fingerprint: str, columns: tuple[str, ...]) -> bool:
        return self.journal.told(fingerprint, columns)

    def put(
        self, principal: str, time_ms: int, payload: bytes, rows: int, size: int, patients: int, final: bool
    ) -> None:
        counters = self.counters
        counters.rows += rows
        counters.result_bytes += size
        counters.patients += patients
        if final:
            counters.queries += 1
        self.journal.put(counters, self.listener, principal, time_ms, payload)
