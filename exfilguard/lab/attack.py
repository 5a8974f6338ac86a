"""The thief: somebody with the password of a privileged application account, and standard tools. Counts what really arrived.

Every function reads row by row (libpq's single-row mode, or COPY's lines), so that a result that is cut in the middle counts
for what had come by then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg

from ..runtime.clock import now_ms

Method = Literal["pages", "select", "copy"]
PAGE = 500


@dataclass(slots=True)
class Loot:
    """What one attempt brought in. Times in milliseconds since the Unix epoch."""

    started_ms: int = 0
    rows: int = 0
    patients: set[int] = field(default_factory=set)
    arrivals: list[tuple[int, int]] = field(default_factory=list)
    """(time, distinct patients so far), one entry per millisecond at most."""
    ended_ms: int = 0
    sqlstate: str = ""
    """Of the error that ended it; empty when everything was taken."""
    message: str = ""

    def took(self, patient: int) -> None:
        self.rows += 1
        self.patients.add(patient)
        now = now_ms()
        if not self.arrivals or self.arrivals[-1][0] != now:
            self.arrivals.append((now, len(self.patients)))
        else:
            self.arrivals[-1] = (now, len(self.patients))

    def crossed_ms(self, limit: int) -> int:
        """When the thief first held more than `limit` patients; 0 when never."""
        return next((at for at, count in self.arrivals if count > limit), 0)

    @property
    def last_row_ms(self) -> int:
        return self.arrivals[-1][0] if self.arrivals else 0


def dump(dsn: str, method: Method = "pages", loot: Loot | None = None, pause_s: float = 0.0) -> Loot:
    """Take the patient table until it is whole or something stops it. `loot` may be watched from another thread; `pause_s`
    is between two pages."""
    loot = loot if loot is not None else Loot()
    loot.started_ms = loot.started_ms or now_ms()
    try:
        with psycopg.connect(dsn, autocommit=True, application_name="dpi-export", connect_timeout=10) as connection:
            for patient in _READERS[method](connection, pause_s):
                loot.took(patient)
    except psycopg.Error as error:
        loot.sqlstate = error.sqlstate or "08006"
        loot.message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    loot.ended_ms = now_ms()
    return loot


def _pages(connection: psycopg.Connection[Any], pause_s: float) -> Iterator[int]:
    last = 0
    while True:
        found = 0
        cursor = connection.cursor()
        for row in cursor.stream("SELECT * FROM patient WHERE id > %s ORDER BY id LIMIT %s", (last, PAGE)):
            last = row[0]
            found += 1
            yield last
        if found < PAGE:
            return
        if pause_s:
            time.sleep(pause_s)


def _select(connection: psycopg.Connection[Any], _: float) -> Iterator[int]:
    for row in connection.cursor().stream("SELECT * FROM patient"):
        yield row[0]


def _copy(connection: psycopg.Connection[Any], _: float) -> Iterator[int]:
    with connection.cursor() as cursor, cursor.copy("COPY patient TO STDOUT") as lines:
        for line in lines:
            yield int(bytes(line).partition(b"\t")[0])


_READERS = {"pages": _pages, "select": _select, "copy": _copy}


def try_login(dsn: str) -> str:
    """The SQLSTATE that refuses a fresh login, or empty when it works."""
    try:
        with psycopg.connect(dsn, connect_timeout=10) as connection:
            connection.execute("SELECT 1")
        return ""
    except psycopg.Error as error:
        # libpq reports a refused login as a connection failure without SQLSTATE.
        return error.sqlstate or "28000"
