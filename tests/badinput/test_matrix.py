"""The matrix as a whole, and what has no line in it: memory, descriptors, silence, one byte at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.badinput.case import CANARY, Case
from tests.badinput.page import CASES, PAGE, page
from tests.badinput.stand import PROXIED, SETTINGS, Stand
from tests.integration.stack import rss_kib, wait_for
from tests.integration.test_relay import certificate

GROWTH_KIB = 24_000
AGAIN = "observe, close"


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    directory = tmp_path_factory.mktemp("badinput")
    made = Stand(directory, certificate(directory))
    yield made
    made.close()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_every_outcome_is_as_the_page_says(stand: Stand) -> None:
    spool = Path(stand.stack.config.data_dir) / "spool"
    wait_for(
        lambda: any(spool.glob("*/*.seg")), message="the neighbour's login is written down"
    )  # a descriptor that stays
    before = descriptors(stand.pid)
    outcomes: dict[tuple[str, Case], dict[str, str]] = {}
    for engine, cases in CASES.items():
        for case in cases:
            found = outcomes[engine, case] = {}
            for settings in SETTINGS:
                once = case.phase == PROXIED and found
                found[settings] = next(iter(found.values())) if once else stand.play(engine, settings, case)
    seen = page(outcomes)
    if os.environ.get("UPDATE_BAD_INPUT"):
        PAGE.write_text(seen, encoding="utf-8")
    said = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    different = [
        f"- {old}\n+ {new}" for old, new in zip(said.splitlines(), seen.splitlines(), strict=False) if old != new
    ]
    assert seen == said, "\n".join(different[:20])
    assert stand.stack.parts["relay"].alive
    wait_for(lambda: descriptors(stand.pid) <= before, message="every descriptor is given back")
    wait_for(lambda: stand.stack.total("sessions") == 1, message="the neighbour's session is left")
    log = stand.stack.log("relay")
    for secret in (CANARY, "Traceback", "SELECT", "patient", "secr"):
        assert secret not in log
    # The second and third time nothing is new: what memory grows by both times is lost.
    grown = []
    for _ in range(2):
        before_kib = rss_kib(stand.pid)
        for engine, cases in CASES.items():
            for case in cases:
                assert stand.play(engine, AGAIN, case) == outcomes[engine, case][AGAIN]
        grown.append(rss_kib(stand.pid) - before_kib)
    assert min(grown) < GROWTH_KIB
