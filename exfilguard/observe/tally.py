# cython: annotation_typing=False
"""What one session has delivered and not yet told: rows, bytes, patients, and the events that tell them.

The part of an observer (observer.py) in which no protocol has a say; it is a Sink of its readers, so that an observer is one object.
Times are milliseconds since the Unix epoch.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

from ..events.codec import encode_fields
from ..events.query import Engine, Evidence, Flag, Kind, PatientsBy, QueryEvent
from ..wire.sink import Sink
from . import digests
from .outlet import Outlet, asked_part, encode_query, flags_part, text_part
from .patients import Digester

MAX_PATIENTS = 20_000
"""Patients of one event. Packed into a few cells they come faster than events do, and one event with all of them would be larger
than a broker takes (1 MB): nothing behind it would be published any more."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What every session of a listener shares."""

    listener: str
    digester: Digester
    progress_rows: int
    """A long result reports after this many rows,"""
    progress_ms: int
    """or after this long."""
    large_value_bytes: int = 1 << 20
    """A row beyond is flagged."""
    outlet: Outlet | None = None
    """Where statements are written to, instead of being returned as events."""


class Tally(Sink):
    """Counts of one session. The observer of a protocol adds to them and says when a statement is over."""

    engine: Engine

    def __init__(self, setting: Setting, session_id: str, source: str) -> None:
        self.setting = setting
        self.digester = setting.digester
        self.outlet = setting.outlet
        self._constant = b""
        self._constant_of: tuple[object, object, object, object, object] = (None, None, None, None, None)
        self._progress_rows, self._progress_ms = setting.progress_rows, setting.progress_ms
        self._large_value_bytes = setting.large_value_bytes
        self.session_id = session_id
        self.source = source
        self.principal = ""
        self.evidence: Evidence = "login"
        self.login = self.database = self.application = ""
        self.logged_in = False
        self.always: tuple[Flag, ...] = ()
        """Flags of all events of this session."""
        # the statement whose result is flowing
        self.patients_by: PatientsBy = ""
        self.delivered = 0
        """Rows of this statement so far, reported or not."""
        self.ordinal = 0
        # not yet reported
        self.packed = self.large = False
        """Several identifiers in one cell, a value beyond the configured size."""
        self._rows = 0
        self._bytes = 0
        self._patients = digests.DigestSet()
        self._estimated = 0
        self._reported_ms = 0
        # the portion now being read
        self.now = 0
        self.events: list[QueryEvent] = []
        self.portion_rows = 0
        self.portion_patients = digests.DigestSet()
        self._keeps_portion = True  # somebody asks whose patients the portion held
        self.portion_estimated = 0
        self._portion_new = 0  # of its patients, those that are not in the allowance already
        self._allowed_patients: int | None = None
        self._known_patients: Container[str] = ()

    def untold(self) -> bool:
        """True while rows were counted, or patients seen, that no event has told yet: the identifier may come after its row
        was told."""
        return self._rows > 0 or self._estimated > 0 or bool(self._patients)

    def begin_portion(self, now_ms: int, allowed_patients: int | None, known_patients: Container[str] | None) -> None:
        """The server's next bytes are about to be read."""
        self.now = now_ms
        self.events = []
        self.portion_rows = 0
        self.portion_patients.clear()
        self._keeps_portion = True
        self.portion_estimated = self._portion_new = 0
        self._allowed_patients = allowed_patients
        self._known_patients = known_patients if known_patients is not None else ()

    def count(self, rows: int, size: int) -> None:
        """Rows that pass, and their bytes; 0 rows for more bytes of one that was counted."""
        if rows:
            if not self.delivered:
                self._reported_ms = self.now
            self.delivered += rows
            self._rows += rows
            self.portion_rows += rows
        self._bytes += size
        if size > self._large_value_bytes:
            self.large = True  # rows that are counted together come in one portion, which is smaller

    def estimate(self, patients: int) -> None:
        """Further patients, by estimate."""
        self._estimated += patients
        self.portion_estimated += patients

    def found(self, patients: Iterable[str]) -> None:
        """Digests of the patients of rows that pass."""
        self._patients.update(patients)
        if self._keeps_portion:
            self.portion_patients.update(patients)

    def gathering(self) -> digests.DigestSet:
        """Where a loop over rows that pass puts the digests of their patients; then `gathered`."""
        return digests.DigestSet() if self._keeps_portion else self._patients

    def gathered(self, found: digests.DigestSet, further: int) -> None:
        """What such a loop has found, and how many more patients its rows stand for."""
        if self._keeps_portion:
            self.found(found)
        if further:
            self.estimate(further)

    def admit(self, patients: list[str], further: int) -> bool:
        """One row's patients, and how many more it stands for: False, and nothing counted, when the allowance ends before it."""
        allowed = self._allowed_patients
        if allowed is not None:
            seen, known = self.portion_patients, self._known_patients
            fresh = {digest for digest in patients if digest not in seen and digest not in known}
            if (fresh or further) and self._portion_new + self.portion_estimated + len(fresh) + further > allowed:
                return False
            self._portion_new += len(fresh)
        self.found(patients)
        if further:
            self.estimate(further)
        return True

    def tick(self, now_ms: int, events: list[QueryEvent] | None = None) -> list[QueryEvent]:
        """A progress event when enough rows or enough time went by. Call it now and then while `untold`."""
        out = [] if events is None else events
        if self.untold() and (self._rows >= self._progress_rows or now_ms - self._reported_ms >= self._progress_ms):
            self.now = now_ms
            self.events = out
            self.report("progress")
        return out

    def current(self) -> Any:
        """The request whose result is flowing, None where there is none; the observer's to say, and what is asked of it here."""
        return None

    def shape(self, request: Any) -> tuple[str, str, int]:
        """(fingerprint, normalised text, when it was asked) of its statement."""
        return "", "", 0

    def statement_flags(self, request: Any, fingerprint: str) -> tuple[Flag, ...]:
        """Flags of its statement, whose shape this is."""
        return ()

    def statement_asked(self, request: Any) -> list[str]:
        """Digests of the patients it asked for."""
        return []

    def statement_columns(self) -> tuple[str, ...]:
        """Names of its result's columns, plain identifiers only; the observer's to say."""
        return ()

    def report(self, kind: Kind, hidden_rows: int = 0, error: str = "") -> None:
        """Tell all that was not reported yet: to the outlet, or as an event."""
        if len(self._patients) > MAX_PATIENTS:
            self._report_patients()
        request = self.current()
        fingerprint, text, asked_ms = self.shape(request)
        flags = self.statement_flags(request, fingerprint)
        if self.packed or self.large:
            flags = (*flags, *(("packed",) if self.packed else ()), *(("large_value",) if self.large else ()))
            self.packed = self.large = False
        if self.always:
            flags = (*flags, *[flag for flag in self.always if flag not in flags])
        final = kind == "query"
        if final:
            self.ordinal += 1
        statement = self.ordinal if final else self.ordinal + 1
        duration_us = max(0, self.now - asked_ms) * 1000 if final and asked_ms else 0
        asked = self.statement_asked(request) if final else None
        if error:
            text = ""  # a statement the server refused may hold anything, even a name between quotes
        columns = self.statement_columns() if text else ()
        outlet = self.outlet
        if outlet is None:
            self.events.append(
                self.event(
                    kind,
                    statement=statement,
                    fingerprint=fingerprint,
                    query=text,
                    columns=columns,
                    rows=self._rows,
                    hidden_rows=hidden_rows,
                    bytes=self._bytes,
                    patients=tuple(self._patients),
                    patients_estimated=self._estimated,
                    patients_by=self.patients_by,
                    flags=flags,
                    asked=tuple(asked or ()),
                    duration_us=duration_us,
                    error=error,
                )
            )
        else:
            told = b""
            if text and not outlet.told(fingerprint, columns):
                told = text_part(text, columns)
            if flags:
                told += flags_part(flags)
            if asked:
                told += asked_part(asked)
            payload = encode_query(
                self.now, final, self._constant_now(), statement, fingerprint, told, self._rows, hidden_rows,
                self._bytes, self._patients.json(), self._estimated, self.patients_by, duration_us, error,
            )  # fmt: skip
            patients = len(self._patients) + self._estimated
            outlet.put(self.principal, self.now, payload, self._rows, self._bytes, patients, final)
        self._rows = self._bytes = self._estimated = 0
        self._patients.clear()
        self._reported_ms = self.now

    def _report_patients(self) -> None:
        """More patients than one event holds: all but the last of them, in events of their own."""
        patients = list(self._patients)
        rows, size, estimated = self._rows, self._bytes, self._estimated
        self._rows = self._bytes = self._estimated = 0
        while len(patients) > MAX_PATIENTS:
            self._patients.clear()
            self._patients.update(patients[:MAX_PATIENTS])
            self.report("progress")
            patients = patients[MAX_PATIENTS:]
        self._patients.update(patients)
        self._rows, self._bytes, self._estimated = rows, size, estimated

    def _constant_now(self) -> bytes:
        """The encoded fields that only a change of identity, or of the database, changes."""
        of = self._constant_of
        if (
            self.principal != of[0]  # each signed statement brings one of its own
            or self.evidence is not of[1]
            or self.application is not of[2]
            or self.login is not of[3]
            or self.database is not of[4]
        ):
            self._constant_of = (self.principal, self.evidence, self.application, self.login, self.database)
            self._constant = encode_fields(self._who())
        return self._constant

    def _who(self) -> dict[str, Any]:
        """What all statements of the session have in common, as long as nothing changes whom they are charged to."""
        return {
            "listener": self.setting.listener, "session": self.session_id, "principal": self.principal, "evidence": self.evidence,
            "engine": self.engine, "login": self.login, "database": self.database, "source": self.source,
            "application": self.application,
        }  # fmt: skip

    def event(self, kind: Kind, **values: Any) -> QueryEvent:
        """An event about this session."""
        if self.always:
            values.setdefault("flags", self.always)
        return QueryEvent(time_ms=self.now, kind=kind, **self._who(), **values)
