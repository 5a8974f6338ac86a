"""The shipper's whole cost, as a process: `python -m bench.relay_shipper [EVENTS_A_SECOND ..]`; relay_stages.py takes a figure from it.

A writer appends pgbench's event to a spool at an even rate, as the relay would, in portions of a millisecond; the shipper is the
real one and publishes to the embedded broker. CPU is what /proc/PID/stat says of the shipper until everything is acknowledged.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from exfilguard.cli.common import write_resolved
from exfilguard.config.schema import Config
from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.events.topics import principal_hash
from exfilguard.runtime.process import Part, own_command
from exfilguard.runtime.stats import read_all, run_dir
from exfilguard.sidecar.spool import SpoolWriter

from .relay_paths import Way, config, published, wait_for

RATES = (5_000, 35_000)
WARM_S, SECONDS = 1.0, 4.0
PORTION_S = 0.001


def measure(payload: bytes, rates: tuple[int, ...] = RATES, seconds: float = SECONDS) -> list[tuple[int, float]]:
    """(events a second, microseconds of CPU an event) for each rate, and first (0, milliseconds of CPU a second) without events."""
    with tempfile.TemporaryDirectory(prefix="exfilguard-bench-") as name, EmbeddedBroker() as broker:
        settings = config(Path(name), broker.bootstrap, 2, "127.0.0.1:1", [])
        with _shipper(settings) as shipper:
            return shipper.figures(payload, rates, seconds)


class _shipper:
    def __init__(self, settings: Config) -> None:
        self.directory = Path(settings.data_dir)
        self.settings = settings
        path = self.directory / "resolved.toml"
        write_resolved(settings, path)
        run_dir(self.directory)
        self.part = Part("shipper", own_command("shipper", "--config", str(path)), self.directory / "shipper.log")
        self.writer = SpoolWriter(
            self.directory / "spool" / "0",
            settings.spool.segment_bytes,
            settings.spool.max_bytes,
            self.directory / "spool",
        )

    def __enter__(self) -> _shipper:
        self.part.start()
        wait_for(lambda: read_all(self.directory).get("shipper"), "the shipper")
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()
        if self.part.process is not None:
            self.part.process.terminate()
            self.part.process.wait(15)

    def cpu_s(self) -> float:
        return sum(Way.cpu_parts_s(self.part.pid))

    def figures(self, payload: bytes, rates: tuple[int, ...], seconds: float) -> list[tuple[int, float]]:
        self._append(payload, 5_000, WARM_S)
        before = self.cpu_s()
        time.sleep(seconds)
        out = [(0, (self.cpu_s() - before) * 1e3 / seconds)]
        for rate in rates:
            before = self.cpu_s()
            count = self._append(payload, rate, seconds)
            out.append((rate, (self.cpu_s() - before) * 1e6 / count))
        return out

    def _append(self, payload: bytes, rate: int, seconds: float) -> int:
        """Returns how many, all of them published."""
        before = published(self.directory)
        hashed, count = principal_hash("bench", "bench"), 0
        began = time.monotonic()
        while (since := time.monotonic() - began) < seconds:
            for _ in range(int(since * rate) - count):
                self.writer.append(hashed, 1_795_500_000_000, payload)
                count += 1
            time.sleep(PORTION_S)
        wait_for(lambda: published(self.directory) >= before + count, "the spool to be published", 30.0)
        return count


def main() -> int:
    from .relay_stages import pgbench_event

    rates = tuple(int(rate) for rate in sys.argv[1:]) or RATES
    for rate, cost in measure(pgbench_event(), rates):
        print(f"{rate:7} events/s  {cost:6.2f} {'us of CPU an event' if rate else 'ms of CPU a second'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
