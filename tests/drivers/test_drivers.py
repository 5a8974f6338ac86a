"""Every driver's scenario, direct and through the sidecar: nobody can tell the difference, and every row is counted."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.drivers.bench import MODES, Bench
from tests.drivers.drivers import DRIVERS, Outcome, play
from tests.integration.stack import Tap, wait_for
from tests.wire.oracle import rows_delivered
from tests.wire.transcript import FOLDER, save, shortened

FULL = bool(os.environ.get("ALL_DRIVERS"))
"""Every driver on every server in every mode: `make drivers`."""


RECORD = bool(os.environ.get("RECORD_TRANSCRIPTS"))
"""Write tests/wire/transcripts anew: `make transcripts`."""


RICH = ("psycopg", "asyncpg", "node-postgres", "pgjdbc")
"""Their transcripts are kept whole, or nearly: they use the most of the protocol."""


def matrix() -> list[tuple[str, str, str]]:
    """(driver, server, mode). By default each driver in both modes on the newest server, some on the older ones too."""
    out = [(driver, "18", mode) for driver in DRIVERS for mode in MODES]
    older = tuple(DRIVERS) if FULL else ("psycopg", "pg_dump")
    out += [
        (driver, server, mode)
        for server in ("17", "16", "15", "14", "13")
        for driver in older
        for mode in MODES
        if (FULL or mode == "observe") and int(server) >= DRIVERS[driver].oldest
    ]
    return out


def settled(tap: Tap) -> list[tuple[bytes, bytes]]:
    """What was said, when every connection has ended. In the order of words, since connections may be made at once."""
    wait_for(lambda: all(c.over for c in tap.conversations), message="all connections have ended")
    return sorted((bytes(c.client), bytes(c.server)) for c in tap.conversations)


@pytest.mark.parametrize(("name", "version", "mode"), [pytest.param(*case, id="-".join(case)) for case in matrix()])
def test_a_driver_cannot_tell_the_difference(
    bench: Bench, name: str, version: str, mode: str, record_property: Callable[[str, object], None]
) -> None:
    driver, server = DRIVERS[name], bench.server(version)

    if (name, version) not in bench.direct:
        server.reset()
        outcome = play(driver, server.port, server.clients, server.account)
        bench.direct[name, version] = outcome, server.left_behind()
    expected, left_behind = bench.direct[name, version]

    inner, outer = bench.inner[version], bench.outer[mode, version]
    inner.conversations.clear()
    outer.conversations.clear()
    since = len(bench.new_events())
    server.reset()
    seen = play(driver, outer.port, server.clients, server.account)

    assert_same(seen, expected)
    behind = first_difference(server.left_behind(), left_behind, "")
    assert behind is None, f"what was left behind differs {behind}"
    said, heard = settled(outer), settled(inner)
    assert said, "the scenario went through the guard"
    if RECORD and mode == "observe":
        record(outer, name, version)
    if mode == "observe":
        wait_for(lambda: settled(inner) == said, 20.0, "bytes out equal bytes in")
    delivered = sum(rows_delivered(stream) for _, stream in said)
    if driver.exact:
        assert delivered == seen.rows, "the taps and the client agree about the rows"
    assert delivered > 0
    record_property("rows", delivered)
    record_property("bytes", sum(len(part) for conversation in said for part in conversation))
    listener = f"{mode}-{version}"
    deadline = time.monotonic() + 30
    while bench.counted(listener, since) != delivered and time.monotonic() < deadline:
        time.sleep(0.02)
    assert bench.counted(listener, since) == delivered, "rows counted equal rows received"
    desynced = [e for e in bench.events[since:] if e["kind"] == "desynced"]
    assert not desynced
    assert heard


def record(tap: Tap, name: str, version: str) -> None:
    """The largest conversations of a scenario, one more of each that is a refused login, without those of a cancel."""
    found = sorted(
        (c for c in tap.conversations if c.server), key=lambda c: len(c.client) + len(c.server), reverse=True
    )
    chosen = found[:1] if name.startswith(("pg_", "pgbench")) else found[:2]
    chosen += [c for c in found[2:] if b"C28P01" in c.server][:1]
    for number, conversation in enumerate(chosen, 1):
        steps = shortened(conversation.steps, 60_000 if version == "18" and name in RICH else 12_000)
        if steps:
            save(FOLDER / f"{name}-{version}-{number}.txt", steps, f"{name}, PostgreSQL {version}")


def assert_same(seen: Outcome, expected: Outcome) -> None:
    """Fails with the first difference and where it is, in a line: values may be megabytes."""
    found = first_difference(dataclasses.asdict(seen), dataclasses.asdict(expected), "")
    if found is not None:
        pytest.fail(f"through the guard and direct differ {found}")


def first_difference(seen: Any, expected: Any, where: str) -> str | None:
    """`at PATH: SEEN, not EXPECTED`, both shortened from where they part; a step is named as its scenario names it."""
    if seen == expected:
        return None
    if isinstance(seen, dict) and isinstance(expected, dict) and seen.keys() == expected.keys():
        return next(filter(None, (first_difference(seen[k], expected[k], f"{where}.{k}") for k in expected)), None)
    if isinstance(seen, list) and isinstance(expected, list):
        for at, (one, other) in enumerate(zip(seen, expected, strict=False)):
            named = isinstance(other, list) and len(other) == 3 and isinstance(other[0], str) and where == ".steps"
            if found := first_difference(one, other, f"{where}[{at}]" + (f" ({other[0]!r})" if named else "")):
                return found
        return f"at {where}: {len(seen)} elements, not {len(expected)}"
    shown, wanted = (value if isinstance(value, str) else repr(value) for value in (seen, expected))
    same = next(
        (at for at, (a, b) in enumerate(zip(shown, wanted, strict=False)) if a != b), min(len(shown), len(wanted))
    )
    start = max(0, same - 20)
    return f"at {where}, character {same}: {shown[start : start + 80]!r}, not {wanted[start : start + 80]!r}"


def test_a_difference_is_told_in_a_line() -> None:
    one = Outcome(0, [["a step", [[1, "x" * 5_000]], []], ["packed", [[1, "y" * 5_000 + "1"]], []]], 2, "")
    assert first_difference(dataclasses.asdict(one), dataclasses.asdict(one), "") is None
    for other, told in (
        (dataclasses.replace(one, rows=3), "at .rows, character 0: '2', not '3'"),
        (dataclasses.replace(one, steps=one.steps[:1]), "at .steps: 2 elements, not 1"),
        (dataclasses.replace(one, steps=[one.steps[0], ["packed", [[1, "y" * 5_000 + "2"]], []]]),
         f"at .steps[1] ('packed')[1][0][1], character 5000: '{'y' * 20}1', not '{'y' * 20}2'"),
        (dataclasses.replace(one, steps=[["a step", {"error": "E"}, []]]), "at .steps[0] ('a step')[1], character 0: "),
    ):  # fmt: skip
        found = first_difference(dataclasses.asdict(one), dataclasses.asdict(other), "")
        assert found is not None
        assert found.startswith(told)
        assert len(found) < 300
