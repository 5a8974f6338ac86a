"""Documentation, dashboards and code agree: each fact has one place, and these tests hold the others to it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from exfilguard.exporter.catalogue import METRICS, PREFIX, render
from grafana.boards import BOARDS, build

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "exfilguard").rglob("*.py"))


def test_the_metrics_page_is_generated_from_the_catalogue() -> None:
    page = (ROOT / "docs" / "METRICS.md").read_text(encoding="utf-8")
    assert page == render() + "\n", "run: make docs"


def test_every_metric_a_process_reports_is_in_the_catalogue_and_the_other_way_round() -> None:
    reported = set()
    for path in SOURCES:
        if path.name != "catalogue.py":
            reported |= set(
                re.findall(
                    r'\(?"([a-z_]+(?:_total|_seconds|_bytes|_records|_accounts|_files|_partitions)|standing_verdicts|allowances_ending|sessions|process_up)"',
                    path.read_text(),
                )
            )
    assert reported & METRICS.keys() == METRICS.keys(), METRICS.keys() - reported
    counted = {name for name in reported if name.endswith("_total")}
    assert counted <= METRICS.keys(), counted - METRICS.keys()


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_generated_and_shows_only_metrics_that_exist(name: str) -> None:
    text = (ROOT / "grafana" / "dashboards" / f"{name}.json").read_text(encoding="utf-8")
    assert text == build(name), "run: make dashboards"
    used = set(re.findall(PREFIX + r"([a-z_]+)", text))
    known = set(METRICS) | {
        f"{n}_{s}" for n, m in METRICS.items() if m.kind == "histogram" for s in ("bucket", "count", "sum")
    }
    assert used
    assert used <= known, used - known


def test_no_dashboard_is_left_over() -> None:
    assert {path.stem for path in (ROOT / "grafana" / "dashboards").glob("*.json")} == set(BOARDS)


def test_the_runbook_names_only_metrics_that_exist() -> None:
    text = (ROOT / "docs" / "RUNBOOK.md").read_text(encoding="utf-8")
    for name in re.findall(r"^\| `([a-z_]+)", text, re.MULTILINE):
        assert name in METRICS, name


def test_every_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs" / "DEPENDENCIES.md").read_text(encoding="utf-8")
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        name = re.split(r"[\[<>=]", requirement)[0]
        assert name in page, f"{name} is not in docs/DEPENDENCIES.md"


def test_the_tests_that_the_architecture_names_exist() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_[a-z_]+)\*?`", page):
        assert f"def {name}" in tests, name


def test_the_page_of_the_drivers_is_what_the_matrix_found() -> None:
    from tests.drivers import table

    said = table.PAGE.read_text(encoding="utf-8")
    versions = re.compile(r"^(\| [a-z_0-9-]+ \|)[^|]*\|", re.MULTILINE)  # of the machine it ran on
    assert versions.sub(r"\1", table.page(table.load().values())) == versions.sub(r"\1", said)
    assert " failed" not in said
