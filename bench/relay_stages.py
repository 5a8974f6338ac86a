"""What a small query costs the sidecar, stage by stage, without sockets: `python -m bench.relay_stages [mysql]`; `make bench-relay` puts it on its page.
Only the last one, the shipper's whole process (relay_shipper.py), has sockets, a broker and waking up in it.

Each stage is run by itself, many times over, on the bytes of pgbench's own query: the best of several turns counts, in nanoseconds
a query. The sockets' share is what the relay's system time was in the run.
"""

from __future__ import annotations

import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exfilguard.events.topics import principal_hash
from exfilguard.observe.asked import AskedColumns
from exfilguard.observe.contexts import Contexts
from exfilguard.observe.identity import Identity, Rules
from exfilguard.observe.mysql.quick import Reader as MysqlReader
from exfilguard.observe.mysql.session import MysqlObserver
from exfilguard.observe.outlet import Outlet
from exfilguard.observe.patients import Digester, PatientColumns
from exfilguard.observe.quick import Reader
from exfilguard.observe.session import SessionObserver
from exfilguard.observe.tally import Setting
from exfilguard.sidecar.lane import Lane
from exfilguard.sidecar.spool import SpoolWriter

from . import relay_stages_mysql
from .relay_shipper import measure as shipper_us

TURNS, TIMES = 5, 20_000
LOAD = 35_000
"""Events a second: about what 16 clients of pgbench make."""
INT4 = 23
SQL = "SELECT abalance FROM pgbench_accounts WHERE aid = "

Stages = list[tuple[str, str, float]]
"""(protocol, stage, nanoseconds a query)."""


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


READY = message(b"Z", b"I")
FIELD = b"abalance\0" + struct.pack("!IhIhih", 16_400, 3, INT4, 4, -1, 0)
DESCRIPTION = message(b"T", struct.pack("!H", 1) + FIELD)
ROW = message(b"D", struct.pack("!HI", 1, 4) + b"1234")
DONE = message(b"C", b"SELECT 1\0") + READY


class Dropped(Outlet):
    """Keeps the last event, and knows every shape."""

    payload = b""

    def told(self, fingerprint: str, columns: tuple[str, ...]) -> bool:
        return True

    def put(
        self, principal: str, time_ms: int, payload: bytes, rows: int, size: int, patients: int, final: bool
    ) -> None:
        self.payload = payload


def observer(kind: type[SessionObserver], outlet: Outlet) -> SessionObserver:
    columns = PatientColumns(["pgbench_accounts.aid"])
    asked = AskedColumns(["pgbench_accounts.aid"])
    made = kind(
        Setting("bench", Digester(b"0123456789abcdef"), 1000, 200, outlet=outlet), "0123456789abcdef", "127.0.0.1", columns,
        Identity(Rules(), Contexts({}), "s", "127.0.0.1"), asked=asked,
    )  # fmt: skip
    made.startup({"user": "bench", "database": "bench", "application_name": "pgbench"})
    made.observed(message(b"R", b"\0\0\0\0") + message(b"K", b"\0\0\0\7secr") + READY, 1)
    prepared = (SQL + "$1").encode()
    made.client_data(message(b"P", b"P0\0" + prepared + b"\0\0\0") + message(b"S"), 1)
    made.observed(message(b"1") + READY, 1)
    return made


def exchange(protocol: str, n: int) -> tuple[bytes, bytes]:
    if protocol == "simple":
        return message(b"Q", SQL.encode() + b"%d;\0" % n), DESCRIPTION + ROW + DONE
    number = b"%d" % n
    bind = b"\0P0\0" + struct.pack("!HHI", 0, 1, len(number)) + number + struct.pack("!Hh", 1, 0)
    request = message(b"B", bind) + message(b"D", b"P\0") + message(b"E", b"\0\0\0\0\0") + message(b"S")
    return request, message(b"2") + DESCRIPTION + ROW + DONE


def pgbench_event() -> bytes:
    """The event of one of pgbench's queries, as it goes into the spool."""
    outlet = Dropped()
    made = observer(Reader, outlet)
    request, answer = exchange("prepared", 100_000)
    made.client_data(request, 1000)
    made.observed(answer, 1001)
    return outlet.payload


def best_ns(work: Callable[[], None], times: int = TIMES) -> float:
    """Nanoseconds of one of so many, in the best of TURNS."""
    found = []
    for _ in range(TURNS):
        began = time.perf_counter_ns()
        work()
        found.append((time.perf_counter_ns() - began) / times)
    return min(found)


def _turn(made: Any, said: list[tuple[bytes, bytes]]) -> tuple[float, float]:
    """Nanoseconds of a request and of its answer; two readings of the clock, which cost about 100, are in the first."""
    clock = time.perf_counter_ns
    asked, began = 0, clock()
    for request, answer in said:
        before = clock()
        made.client_data(request, 1000)
        asked += clock() - before
        made.observed(answer, 1001)
    whole = clock() - began
    return asked / len(said), (whole - asked) / len(said)


def measure(engine: str = "postgres") -> Stages:
    """All stages. Their sum is the sidecar's own work on a query, up to Kafka's client."""
    out: Stages = []
    outlet = Dropped()
    make, said_by, kinds = OF_ENGINE[engine]
    for protocol in ("simple", "prepared"):
        said = [said_by(protocol, 100_000 + n) for n in range(TIMES)]
        for name, kind in zip(("", ", general path"), kinds, strict=True):
            request_ns, answer_ns = min((_turn(make(kind, outlet), said) for _ in range(TURNS)), key=sum)
            out.append((protocol, f"request{name}", request_ns))
            out.append((protocol, f"answer and event{name}", answer_ns))
        out += _behind(protocol, outlet.payload)
    if engine != "postgres":
        return out
    out += [
        ("any", f"shipper's process at {rate:,}/s", us * 1000)
        for rate, us in shipper_us(pgbench_event(), (LOAD,))
        if rate
    ]
    return out


def _behind(protocol: str, payload: bytes) -> Stages:
    """Of these, the digest is part of the request; spool and frames come behind the event."""
    digest = Digester(b"0123456789abcdef").digest
    out = [
        (protocol, "of the request: one digest", best_ns(lambda: [digest(b"123456") for _ in range(TIMES)] and None))
    ]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "spool"
        writer = SpoolWriter(directory, 64 << 20, 1 << 30)
        hashed = principal_hash("bench", "bench")

        def spool() -> None:
            for _ in range(TIMES):
                writer.append(hashed, 1_795_500_000_000, payload)

        out.append((protocol, "spool", best_ns(spool)))
        lane = Lane(directory, "bench", "bench-0", "boot", 1_000)
        lane.open(8)
        began, count = time.perf_counter_ns(), 0
        while frames := lane.take():
            count += sum(frame.events for frame in frames)
            lane.acknowledge()
        out.append((protocol, "shipper: frames", (time.perf_counter_ns() - began) / max(1, count)))
        lane.close()
        writer.close()
    return out


OF_ENGINE: dict[str, tuple[Any, Any, tuple[Any, Any]]] = {
    "postgres": (observer, exchange, (Reader, SessionObserver)),
    "mysql": (relay_stages_mysql.observer, relay_stages_mysql.exchange, (MysqlReader, MysqlObserver)),
}
"""How an observer is made, what client and server say, the observer with the shortcut and the general one."""


def main() -> int:
    for protocol, stage, ns in measure(*sys.argv[1:2]):
        print(f"{protocol:9} {stage:34} {ns:8.0f} ns")
    return 0


if __name__ == "__main__":
    sys.exit(main())
