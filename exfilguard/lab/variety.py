"""Random thieves: many ways to take the same patients, each of which says exactly whom its own connection received.

Rows are read as they come (libpq's single-row mode): a result that is cut counts for what had arrived.
`visible`: the identifier is a column of the result, so the guard must name exactly these patients. Else it can only estimate.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

MAX_QUERIES = 60
PAUSE_S = 0.005


@dataclass(slots=True)
class Haul:
    """What one thief has got."""

    way: str
    visible: bool
    patients: set[int] = field(default_factory=set)
    rows: int = 0
    sqlstate: str = ""
    """Of what ended it; empty when the thief stopped by itself."""


def steal(dsn: str, rng: random.Random, patients: int, way: str = "") -> Haul:
    """One attack, in a random way unless named, until the thief has enough or is stopped."""
    way = way or rng.choice(sorted(_WAYS))
    visible, take = _WAYS[way]
    haul = Haul(way, visible)
    try:
        for connection in _connections(dsn, rng, way):
            with connection:
                for patient in take(connection, rng, patients):
                    haul.rows += 1
                    haul.patients.add(patient)
    except psycopg.Error as error:
        haul.sqlstate = error.sqlstate or "08006"
    return haul


def _connections(dsn: str, rng: random.Random, way: str) -> Iterator[psycopg.Connection[Any]]:
    for _ in range(rng.randrange(2, 6) if way == "reconnect" else 1):
        yield psycopg.connect(dsn, autocommit=True, application_name="dpi-export", connect_timeout=10)


def _pages(connection: psycopg.Connection[Any], rng: random.Random, patients: int) -> Iterator[int]:
    last, size = rng.randrange(patients), rng.choice([1, 7, 50, 500])
    for _ in range(rng.randrange(1, MAX_QUERIES)):
        found = 0
        query = "SELECT * FROM patient WHERE id > %s ORDER BY id LIMIT %s"
        for row in connection.cursor().stream(query, (last, size)):
            last, found = row[0], found + 1
            yield last
        if found < size:
            return
        time.sleep(PAUSE_S)  # the application shows a page


def _everything(connection: psycopg.Connection[Any], rng: random.Random, patients: int) -> Iterator[int]:
    for row in connection.cursor().stream("SELECT nom_naissance, adresse, id FROM patient"):
        yield row[2]


def _one_by_one(connection: psycopg.Connection[Any], rng: random.Random, patients: int) -> Iterator[int]:
    for _ in range(rng.randrange(5, 300)):
        query = "SELECT nom_usage, id FROM patient WHERE id = %s"
        yield from (row[1] for row in connection.cursor().stream(query, (rng.randrange(1, patients + 1),)))


def _listed(connection: psycopg.Connection[Any], rng: random.Random, patients: int) -> Iterator[int]:
    for _ in range(rng.randrange(1, 12)):
        some = rng.sample(range(1, patients + 1), rng.randrange(1, 120))
        wanted = sql.SQL(", ").join(map(sql.Literal, some))
        query = sql.SQL("SELECT ville, id AS numero FROM patient WHERE id IN ({})").format(wanted)
        yield from (row[1] for row in connection.cursor().stream(query))
        time.sleep(PAUSE_S)


def _cursor(connection: psycopg.Connection[Any], rng: random.Random, patients: int) -> Iterator[int]:
    size = rng.choice([10, 100, 400])
    with connection.transaction():
        connection.execute("DECLARE c CURSOR FOR SELECT telephone, id FROM patient ORDER BY ville")
        for _ in range(rng.randrange(1, 15)):
            yield from (row[1] for row in connection.cursor().stream(f"FETCH {size} FROM c"))


def _joined(connection: psycopg.Connection[Any], rng: random.Random, patients: int) -> Iterator[int]:
    low = rng.randrange(patients)
    query = "SELECT p.nom_naissance, s.motif, s.patient_id AS x FROM sejour s JOIN patient p ON p.id = s.patient_id WHERE p.id BETWEEN %s AND %s"
    for row in connection.cursor().stream(query, (low, low + rng.randrange(1, 1_500))):
        yield row[2]


def _binary(connection: psycopg.Connection[Any], rng: random.Random, patients: int) -> Iterator[int]:
    query = "SELECT id, nir FROM patient WHERE id %% %s = 0"
    found = connection.cursor().stream(query, (rng.randrange(7, 400),), binary=True)
    yield from (row[0] for row in found)


def _reports(connection: psycopg.Connection[Any], rng: random.Random, patients: int) -> Iterator[int]:
    low = rng.randrange(patients)
    query = "SELECT texte, patient_id FROM compte_rendu WHERE patient_id > %s ORDER BY patient_id LIMIT %s"
    yield from (row[1] for row in connection.cursor().stream(query, (low, rng.randrange(1, 800))))


def _names(connection: psycopg.Connection[Any], rng: random.Random, patients: int) -> Iterator[int]:
    low = rng.randrange(patients)
    query = "SELECT nom_naissance, prenoms, ipp FROM patient WHERE id > %s ORDER BY id LIMIT %s"
    yield from (
        int(row[2].removeprefix("IPP")) for row in connection.cursor().stream(query, (low, rng.randrange(1, 900)))
    )


def _copied(connection: psycopg.Connection[Any], rng: random.Random, patients: int) -> Iterator[int]:
    query = f"COPY (SELECT * FROM patient WHERE id % {rng.randrange(5, 200)} = 1) TO STDOUT"  # noqa: S608
    with connection.cursor() as cursor, cursor.copy(query) as lines:
        for line in _whole_lines(lines):
            yield int(line.partition(b"\t")[0])


def _whole_lines(portions: Any) -> Iterator[bytes]:
    rest = b""
    for portion in portions:
        *lines, rest = (rest + bytes(portion)).split(b"\n")
        yield from lines


def _packed(connection: psycopg.Connection[Any], rng: random.Random, patients: int) -> Iterator[int]:
    query = (
        "SELECT json_agg(json_build_object('n', nom_naissance, 'i', id))::text FROM patient WHERE id BETWEEN %s AND %s"
    )
    low = rng.randrange(patients)
    for _ in range(rng.randrange(1, 4)):
        for row in connection.cursor().stream(query, (low, low + rng.randrange(1, 300))):
            yield from (item["i"] for item in json.loads(row[0] or "[]"))


_WAYS: dict[str, tuple[bool, Callable[[psycopg.Connection[Any], random.Random, int], Iterator[int]]]] = {
    "pages": (True, _pages),
    "everything": (True, _everything),
    "one by one": (True, _one_by_one),
    "listed": (True, _listed),
    "cursor": (True, _cursor),
    "joined": (True, _joined),
    "binary": (True, _binary),
    "reports": (True, _reports),
    "reconnect": (True, _pages),
    "names": (False, _names),
    "copied": (True, _copied),
    "packed": (False, _packed),
}
WAYS = tuple(_WAYS)
