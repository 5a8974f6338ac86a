"""`make bench-scrape`: how long Prometheus waits for /metrics, and how much comes, with 5,000 sessions and 10,000 accounts.

Real processes: 5,000 clients logged in through the relay (against a server that only accepts), 10,000 accounts' events through the spool,
shipper, broker and detector, and the exporter over HTTP, as Prometheus asks it. QUICK=1: fewer scrapes, the same sizes.
"""

from __future__ import annotations

import asyncio
import resource
import struct
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from exfilguard.config.schema import Config, DetectorConfig, ExporterConfig, SidecarConfig
from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.embedded.child import free_port
from tests.integration.pipeline import PARTITIONS, QUIET_POLICY, TENANT, Load
from tests.integration.stack import Stack, kafka_config, listener

from .relay_idle import LOGGED_IN
from .report import QUICK, Report, percentile

SESSIONS = 5_000
ACCOUNTS = 10_000
EVENTS = 60_000
SCRAPES = 20 if QUICK else 200
BAR_S = 0.2
BAR_BYTES = 5_000_000


def scrape(url: str) -> tuple[float, bytes]:
    """Seconds until the last byte, and the bytes."""
    started = time.perf_counter()
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read()
    return time.perf_counter() - started, text


async def logged_in(port: int, count: int) -> list[asyncio.StreamWriter]:
    body = b"user\0bench\0database\0bench\0\0"
    hello = struct.pack("!II", len(body) + 8, 196608) + body

    async def connect() -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(hello)
        await reader.readexactly(len(LOGGED_IN))
        return writer

    held: list[asyncio.StreamWriter] = []
    while len(held) < count:
        held += await asyncio.gather(*(connect() for _ in range(min(100, count - len(held)))))
    return held


async def measure(stack: Stack, load: Load, upstream: asyncio.Server, report: Report) -> None:
    loop = asyncio.get_running_loop()
    port = int(stack.config.listener[0].listen.rpartition(":")[2])
    held = await logged_in(port, SESSIONS)
    await loop.run_in_executor(None, load.write, EVENTS)
    url = f"http://{stack.config.exporter.listen}/metrics"
    deadline = time.monotonic() + 60
    while stack.total("events_processed_total") < EVENTS or stack.total("sessions") < SESSIONS:
        if time.monotonic() > deadline:
            raise SystemExit("error: the events were not counted in time, or not all sessions are there")
        await asyncio.sleep(0.2)
    if stack.total("window_accounts") < ACCOUNTS * 0.98:
        raise SystemExit(f"error: {stack.total('window_accounts'):.0f} accounts were counted, {ACCOUNTS} were meant")
    await asyncio.sleep(2.5)  # the detector's own round
    times, text = [], b""
    for _ in range(SCRAPES):
        seconds, text = await loop.run_in_executor(None, scrape, url)
        times.append(seconds)
    if f'exfilguard_sessions{{listener="dpi",tenant="{stack.config.tenant}"}} {SESSIONS}.0'.encode() not in text:
        raise SystemExit("error: the scrape does not show the sessions")
    report.bar("scrape_p50_ms", 1000 * percentile(times, 0.5), 1000 * BAR_S)
    report.bar("scrape_p99_ms", 1000 * percentile(times, 0.99), 1000 * BAR_S)
    report.bar("scrape_bytes", len(text), BAR_BYTES)
    report.facts |= {
        "sessions": SESSIONS,
        "accounts": int(stack.total("window_accounts")),
        "scrapes": SCRAPES,
        "series": sum(not line.startswith(b"#") for line in text.splitlines()),
    }
    for writer in held:
        writer.close()
    upstream.close()


async def bench(directory: Path, broker: EmbeddedBroker, report: Report) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(LOGGED_IN)

    upstream = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=1024)
    address = f"127.0.0.1:{upstream.sockets[0].getsockname()[1]}"
    data = directory / "data"
    data.mkdir()
    (data / "policy.toml").write_text(QUIET_POLICY, encoding="utf-8")
    config = Config(
        tenant=TENANT,
        data_dir=str(data),
        kafka=kafka_config(broker, prefix="scrape", partitions=PARTITIONS),
        # The relay writes the first spool; the accounts' events come through a second one, as of a second worker.
        sidecar=SidecarConfig(id="host", workers=2),
        listener=[replace(listener(address), max_sessions=SESSIONS + 100)],
        detector=DetectorConfig(policy=str(data / "policy.toml")),
        exporter=ExporterConfig(listen=f"127.0.0.1:{free_port()}"),
    )
    stack, load = Stack(config), Load(data, accounts=ACCOUNTS, lane=1)
    with ExitStack() as parts:
        parts.callback(stack.stop)
        stack.start("shipper")
        stack.start("relay")
        stack.start("detector")
        stack.start("exporter")
        await asyncio.to_thread(stack.relay_ready)
        await asyncio.to_thread(stack.detector_ready)
        await measure(stack, load, upstream, report)


def main() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    report = Report("scrape")
    with tempfile.TemporaryDirectory(prefix="exfilguard-scrape-") as name:
        directory = Path(name)
        with EmbeddedBroker(log_path=directory / "broker.log") as broker:
            asyncio.run(bench(directory, broker, report))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
