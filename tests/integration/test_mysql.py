"""The relay in front of a real MariaDB, with the clients people use. No broker: nothing of this may need one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exfilguard.embedded.mariadb import EmbeddedMariadb, missing_programs

from . import mysql
from .conftest import enterable_directory
from .mysql import PATIENTS, GuardedMysql
from .stack import wait_for

Relay = Callable[..., GuardedMysql]


@pytest.fixture(scope="module")
def mariadb() -> Iterator[EmbeddedMariadb]:
    if missing := missing_programs():
        pytest.skip(f"MariaDB needs {missing}")
    with enterable_directory() as directory, EmbeddedMariadb(directory / "server") as server:
        mysql.load(server)
        yield server


@pytest.fixture
def relay(tmp_path: Path, mariadb: EmbeddedMariadb) -> Iterator[Relay]:
    started: list[GuardedMysql] = []

    def start(upstream: str = "", **changes: Any) -> GuardedMysql:
        found = GuardedMysql(tmp_path / f"data{len(started)}", upstream or f"127.0.0.1:{mariadb.port}", **changes)
        started.append(found)
        return found

    yield start
    for guarded in started:
        guarded.stop()


def test_rows_and_patients_are_counted(relay: Relay) -> None:
    guarded = relay()
    with guarded.connect() as connection, connection.cursor() as cursor:
        assert cursor.execute("SELECT id AS x FROM patient WHERE id <= 10") == 10
        assert cursor.execute("SELECT * FROM patient") == PATIENTS
    wait_for(lambda: guarded.counted() == PATIENTS + 10)
    assert len(guarded.patients()) == PATIENTS
