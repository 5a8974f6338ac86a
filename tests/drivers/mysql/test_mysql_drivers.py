"""Every driver's scenario, direct and through the sidecar: nobody can tell the difference, and every row is counted."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from exfilguard.wire.mysql.messages import CLIENT_OPTIONAL_RESULTSET_METADATA
from tests.drivers.bench import MODES, Bench
from tests.drivers.mysql.drivers import DRIVERS, play
from tests.drivers.mysql.servers import ORACLE
from tests.drivers.test_drivers import FULL, RECORD, assert_same, first_difference, settled
from tests.integration.stack import Tap, wait_for
from tests.wire import mysql_oracle
from tests.wire.transcript import FOLDER, save

MAX_TRANSCRIPT_BYTES = 60_000


LEFT = re.compile(rb".\0\0.\xff..#08S01Got an error reading communication packets$", re.DOTALL)

COUNTED_FIRST = ("pymysql", "mysqlclient", "mariadb-python", "connector-j", "php", "mariadb-dump-compressed")
"""Run in `enforce` too by default: between them they use all of the protocol."""


def matrix() -> list[tuple[str, str, str]]:
    """(driver, server, mode). By default each driver in `observe` on Debian's server and some in `enforce`; all of them, on the
    newer server too, by `make drivers`."""
    versions = ("10.11", "11.4", ORACLE) if FULL else ("10.11",)
    out = [
        (driver, version, mode)
        for version in versions
        for driver in DRIVERS
        for mode in MODES
        if FULL or mode == "observe" or driver in COUNTED_FIRST
    ]
    return out if FULL else [*out, *((driver, ORACLE, "observe") for driver in ("pymysql", "node", "connector-j"))]


def told(conversations: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """As the guard passes it on: Oracle's greeting without the one capability that docs/ARCHITECTURE.md says it leaves out. And
    without what the server says to a client that has left in the middle of its login: it may arrive, or not."""
    out = []
    for client, server in conversations:
        greeting = bytearray(server)
        # header 4, version 10, the server's version and a NUL, thread 4, salt 8 + 1, low capabilities 2, character set, status 2
        upper = server.index(0, 5) + 1 + 4 + 9 + 2 + 1 + 2
        capabilities = int.from_bytes(greeting[upper : upper + 2], "little") << 16
        capabilities &= ~CLIENT_OPTIONAL_RESULTSET_METADATA
        greeting[upper : upper + 2] = (capabilities >> 16).to_bytes(2, "little")
        out.append((client, LEFT.sub(b"", bytes(greeting))))
    return sorted(out)


@pytest.mark.parametrize(("name", "version", "mode"), [pytest.param(*case, id="-".join(case)) for case in matrix()])
def test_a_driver_cannot_tell_the_difference(
    mysql_bench: Bench, name: str, version: str, mode: str, record_property: Callable[[str, object], None]
) -> None:
    bench, driver = mysql_bench, DRIVERS[name]
    server = bench.server(version)

    if (name, version) not in bench.direct:
        server.reset()
        outcome = play(driver, server.port)
        bench.direct[name, version] = outcome, server.left_behind()
    expected, left_behind = bench.direct[name, version]

    inner, outer = bench.inner[version], bench.outer[mode, version]
    inner.conversations.clear()
    outer.conversations.clear()
    since = len(bench.new_events())
    server.reset()
    seen = play(driver, outer.port)

    assert_same(seen, expected)
    behind = first_difference(server.left_behind(), left_behind, "")
    assert behind is None, f"what was left behind differs {behind}"
    said = settled(outer)
    assert said, "the scenario went through the guard"
    if mode == "observe":
        wait_for(lambda: told(settled(inner)) == told(said), 20.0, "bytes out equal bytes in")
    if RECORD and mode == "observe" and version == "10.11":
        record(outer, name)
    found = [mysql_oracle.seen(client, answers) for client, answers in said]
    delivered = sum(conversation.rows for conversation in found)
    if driver.exact:
        assert delivered == seen.rows, "the taps and the client agree about the rows"
    assert delivered > 0
    record_property("rows", delivered)
    record_property("bytes", sum(len(part) for conversation in said for part in conversation))
    listener = f"{mode}-{version}"
    deadline = time.monotonic() + 30
    while bench.counted(listener, since) != delivered and time.monotonic() < deadline:
        time.sleep(0.02)
    events = bench.events[since:]
    assert not [e for e in events if e["kind"] == "desynced"]
    assert bench.counted(listener, since) == delivered, "rows counted equal rows received"


def record(tap: Tap, name: str) -> None:
    """The largest conversations of a scenario that are small enough to keep."""
    sized = sorted(tap.conversations, key=lambda c: len(c.client) + len(c.server), reverse=True)
    kept = [c for c in sized if c.server and len(c.client) + len(c.server) <= MAX_TRANSCRIPT_BYTES]
    for number, conversation in enumerate(kept[:3], 1):
        save(FOLDER / "mysql" / f"{name}-{number}.txt", conversation.steps, f"{name}, MariaDB 10.11")
