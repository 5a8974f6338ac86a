"""The compiled MySQL observer and the same sources interpreted: one behaviour, on what was recorded and on what is malformed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from exfilguard.observe import tally
from exfilguard.observe.mysql import answers, commands, session

from . import mysql_twin

INPUTS = 3_000


def test_one_behaviour() -> None:
    compiled = all(not str(module.__file__).endswith(".py") for module in (tally, answers, commands, session))
    if not compiled:
        assert os.environ.get("EXFILGUARD_REQUIRE_COMPILED") != "1", (
            "the MySQL observer was not compiled: is gcc there?"
        )
        pytest.skip("no C compiler at installation")
    done = subprocess.run(
        [sys.executable, "-m", "tests.observe.mysql_twin", str(INPUTS)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    expected = done.stdout.removesuffix("\n").split("\n")
    assert len(expected) > INPUTS / 3
    for here, there in zip(mysql_twin.observations(INPUTS), expected, strict=True):
        assert here == there
