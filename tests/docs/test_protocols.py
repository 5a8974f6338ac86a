"""docs/PROTOCOLS.md names tests: each of them exists, and each step of a scenario that it quotes."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "PROTOCOLS.md"


def test_every_test_it_names_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 60
    for path, name in named:
        assert re.search(rf"^(?:async )?def {name}\(", (TESTS / path).read_text(encoding="utf-8"), re.MULTILINE), (
            path,
            name,
        )


def test_every_step_of_a_scenario_it_quotes_exists() -> None:
    quoted = re.findall(r'`(drivers/[\w/]+\.\w+)`((?:,? "[^"]+")+)', PAGE.read_text(encoding="utf-8"))
    assert len(quoted) > 5
    for path, steps in quoted:
        source = (TESTS / path).read_text(encoding="utf-8")
        for step in re.findall(r'"([^"]+)"', steps):
            assert f'"{step}"' in source, (path, step)


def test_nothing_in_its_tables_is_left_unheld() -> None:
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("|") and not line.startswith(("|---", "| point")):
            assert all(cell.strip() for cell in line.strip("|").split("|")), line
            assert "`" in line, line
