"""PostgreSQL, each version, behind the guard."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers import table
from tests.drivers.bench import Bench
from tests.drivers.servers import Server, bin_dir
from tests.integration.conftest import enterable_directory

VERSIONS = ("18", "17", "16", "15", "14", "13")


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


# -- the page of results ----------------------------------------------------------------------------------------------

_CASE = re.compile(r"test_a_driver_cannot_tell_the_difference\[(.+)-([^-]+)-([^-]+)\]$")
_seen: dict[str, table.Case] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """With ALL_DRIVERS each case's outcome goes into docs/DRIVERS.md."""
    found = _CASE.search(report.nodeid)
    if found is None or not os.environ.get("ALL_DRIVERS") or not (report.when == "call" or report.outcome != "passed"):
        return
    driver, server, mode = found.groups()
    said = dict(report.user_properties)
    case = table.Case(
        "mysql" if "/mysql/" in report.nodeid else "postgres", driver, server, mode, report.outcome,
        int(str(said.get("rows", 0))), int(str(said.get("bytes", 0))), round(report.duration, 1),
        datetime.datetime.now(datetime.UTC).date().isoformat(),
    )  # fmt: skip
    _seen[case.key] = case


def pytest_sessionfinish() -> None:
    if _seen:
        table.add(_seen.values())
