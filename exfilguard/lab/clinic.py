"""A normal clinic: people who search, open files, read reports, and the nightly batch. Measured from their own side.

Behaviour per account: a doctor opens a file every few seconds (search by name, identity, stays, reports); a nurse goes
through the unit's list; a secretary searches and opens identities. A real shift is slower by a factor of twenty: the demo
has a minute, and must stay far from the limits all the same.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from dataclasses import dataclass, field

import psycopg

from .patients import BATCH_ACCOUNT, UNITS, Staff

SEARCH = "SELECT id, ipp, nom_naissance, prenoms, date_naissance FROM patient WHERE nom_naissance LIKE %s ORDER BY prenoms LIMIT 20"
IDENTITY = "SELECT * FROM patient WHERE id = %s"
STAYS = "SELECT * FROM sejour WHERE patient_id = %s ORDER BY entree DESC"
REPORTS = (
    "SELECT redige, titre, texte, patient_id FROM compte_rendu WHERE patient_id = %s ORDER BY redige DESC LIMIT 10"
)
WARD = "SELECT s.patient_id, s.iep, s.entree, s.motif FROM sejour AS s WHERE s.uf = %s ORDER BY s.entree DESC LIMIT 15"
BATCH = "SELECT patient_id, iep, uf, entree, sortie FROM sejour ORDER BY id LIMIT %s"


@dataclass(slots=True)
class Tally:
    """What the clinic's people saw."""

    queries: int = 0
    refused: int = 0
    rows: int = 0
    batch_rows: int = 0
    errors: list[str] = field(default_factory=list)
    """SQLSTATE or kind of the first few failures."""
    latencies_s: list[float] = field(default_factory=list)

    def percentile_ms(self, share: float) -> float:
        """Of the queries' latency as the client saw it; 0 without any."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 if ordered else 0.0


class Clinic:
    """Runs in a thread of its own, with one connection per account, until stopped."""

    def __init__(self, dsns: dict[str, str], people: Staff, patients: int, seed: int, think_s: float = 0.8) -> None:
        self._dsns = dsns
        self._people = people
        self._patients = patients
        self._seed = seed
        self._think_s = think_s
        self.tally = Tally()
        self.connected = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clinic", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when everybody has logged out."""
        self._stop.set()
        self._thread.join(20.0)

    def _run(self) -> None:
        asyncio.run(self._everybody())

    async def _everybody(self) -> None:
        work = [self._person(login, i) for i, login in enumerate(self._people.all)]
        if BATCH_ACCOUNT in self._dsns:
            work.append(self._batch())
        await asyncio.gather(*work)

    async def _person(self, login: str, number: int) -> None:
        rng = random.Random(self._seed * 1_000 + number)
        await asyncio.sleep(rng.random() * self._think_s)
        connection: psycopg.AsyncConnection | None = None
        while not self._stop.is_set():
            try:
                if connection is None or connection.closed:
                    connection = await psycopg.AsyncConnection.connect(
                        self._dsns[login], autocommit=True, application_name="dpi-web"
                    )
                    self.connected += 1
                await self._act(connection, login, rng)
            except psycopg.Error as error:
                self._failed(error)
                await asyncio.sleep(0.5)
            await asyncio.sleep(rng.expovariate(1 / self._think_s))
        if connection is not None:
            await connection.close()

    async def _act(self, connection: psycopg.AsyncConnection, login: str, rng: random.Random) -> None:
        # A person works with the files of the day: a few dozen, opened again and again.
        patient = 1 + (hash_of(login) + rng.randrange(40) * 97) % self._patients
        if login.startswith("ide."):
            await self._ask(connection, WARD, (UNITS[hash_of(login) % len(UNITS)],))
        elif rng.random() < 0.2:
            await self._ask(connection, SEARCH, (f"{'MBDLRG'[rng.randrange(6)]}{'AEO'[rng.randrange(3)]}R%",))
        await self._ask(connection, IDENTITY, (patient,))
        if not login.startswith("sec."):
            await self._ask(connection, STAYS, (patient,))
            await self._ask(connection, REPORTS, (patient,))

    async def _ask(self, connection: psycopg.AsyncConnection, query: str, parameters: tuple[object, ...]) -> None:
        began = time.perf_counter()
        cursor = await connection.execute(query, parameters)
        self.tally.rows += len(await cursor.fetchall())
        self.tally.queries += 1
        self.tally.latencies_s.append(time.perf_counter() - began)

    async def _batch(self) -> None:
        """The nightly extraction for the statistics department, streamed."""
        await asyncio.sleep(1.0)
        try:
            async with await psycopg.AsyncConnection.connect(
                self._dsns[BATCH_ACCOUNT], autocommit=True, application_name="pmsi"
            ) as connection:
                cursor = connection.cursor()
                async for _ in cursor.stream(BATCH, (min(15_000, self._patients // 3),)):
                    self.tally.batch_rows += 1
                self.tally.queries += 1
        except psycopg.Error as error:
            self._failed(error)

    def _failed(self, error: psycopg.Error) -> None:
        self.tally.refused += 1
        if len(self.tally.errors) < 10:
            self.tally.errors.append(error.sqlstate or type(error).__name__)


def hash_of(login: str) -> int:
    """The same on every run, which `hash()` is not."""
    return sum(ord(c) * 31**i for i, c in enumerate(login[:8]))
