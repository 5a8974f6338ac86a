"""Real servers, started once: PostgreSQL with the lab's hospital, the embedded broker, Apache Kafka."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.embedded.kafka import ApacheKafka
from exfilguard.embedded.maven import missing_programs
from exfilguard.embedded.postgres import EmbeddedPostgres
from exfilguard.lab import patients

from .guarded import relay
from .stack import DATABASE, PASSWORD

PATIENTS = 8_000

__all__ = ["PATIENTS", "Hospital", "relay"]


class Hospital:
    """The lab's database, and connection strings to it."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server
        self.port = server.port
        self.upstream = f"127.0.0.1:{server.port}"
        self.admin_dsn = psycopg.conninfo.make_conninfo(server.admin_dsn, dbname=DATABASE)

    def dsn(self, user: str, port: int | None = None) -> str:
        return self.server.dsn(user, PASSWORD, DATABASE, port=port)


@contextlib.contextmanager
def enterable_directory() -> Iterator[Path]:
    """A temporary directory that another user may enter: started by root, PostgreSQL runs as one. pytest's own would not do:
    every new session closes them again."""
    with tempfile.TemporaryDirectory(prefix="exfilguard-tests-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="session")
def hospital() -> Iterator[Hospital]:
    with enterable_directory() as directory, EmbeddedPostgres(directory / "server") as server:
        with psycopg.connect(server.admin_dsn, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
        found = Hospital(server)
        patients.load(found.admin_dsn, PATIENTS, 1, PASSWORD)
        yield found


@pytest.fixture(scope="session")
def tansu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(log_path=tmp_path_factory.mktemp("tansu") / "broker.log") as broker:
        yield broker


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    if missing := missing_programs():
        pytest.skip(f"Apache Kafka needs {missing}")
    with ApacheKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(params=["tansu", "apache_kafka"])
def broker(request: pytest.FixtureRequest) -> EmbeddedBroker | ApacheKafka:
    """Both brokers run the same tests."""
    found: EmbeddedBroker | ApacheKafka = request.getfixturevalue(request.param)
    return found
