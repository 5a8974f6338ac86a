"""PostgreSQL, each version, behind the guard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.bench import Bench
from tests.drivers.servers import Server, bin_dir
from tests.integration.conftest import enterable_directory

VERSIONS = ("18", "16", "15")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with enterable_directory() as directory:

        def start(version: str) -> Server:
            bin_dir(version)  # skips when it is not there
            return Server(version, Path(directory))

        made = Bench(
            tmp_path_factory.mktemp("drivers") / "data",
            VERSIONS,
            start,
            patient_columns=["care.patient.id", "care.sejour.patient_id"],
        )
        try:
            yield made
        finally:
            made.stop()
