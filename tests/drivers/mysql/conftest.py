"""MariaDB, each version, and MySQL behind the guard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.bench import Bench
from tests.drivers.mysql.servers import ORACLE, Server, installation
from tests.integration.conftest import enterable_directory

VERSIONS = ("10.11", "11.4", ORACLE)


@pytest.fixture(scope="session")
def mysql_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with enterable_directory() as directory:

        def start(version: str) -> Server:
            installation(version)  # skips when it is not there
            return Server(version, Path(directory))

        made = Bench(
            tmp_path_factory.mktemp("mysql-drivers") / "data",
            VERSIONS,
            start,
            engine="mariadb",
            patient_columns=["patient.id", "sejour.patient_id"],
        )
        try:
            yield made
        finally:
            made.stop()
