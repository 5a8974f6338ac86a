"""A small run of bench-hooks: the server and the responder are killed at random, and every account ends as it was."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from bench.hooks import Soak
from exfilguard.respond import reconcile

from .labs import LABS, enterable, missing


@pytest.mark.parametrize(("name", "cycles"), [("postgres", 12), ("ldap", 40), ("mysql", 6)])
def test_every_account_ends_in_the_right_state_and_the_chain_verifies(
    name: str, cycles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if needed := missing(name):
        pytest.skip(f"not installed: {needed}")
    monkeypatch.setattr(reconcile, "MAX_BACKOFF_S", 0.5)
    with tempfile.TemporaryDirectory(prefix="exfilguard-soak-") as directory:
        lab = LABS[name](enterable(Path(directory)))
        lab.start()
        try:

            async def play() -> Soak:
                soak = Soak(lab, seed=7)
                await soak.run(cycles)
                return soak

            soak = asyncio.run(play())
        finally:
            lab.stop()
    assert soak.wrong == []
    assert soak.record.broken() == 0
    assert soak.kills
    assert soak.crashes
