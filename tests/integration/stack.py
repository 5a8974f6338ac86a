"""What the integration tests stand on: the parts as real processes, taps that record bytes, an oracle that reads Kafka."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
from aiokafka.errors import KafkaError

from exfilguard.cli.common import write_resolved
from exfilguard.config.schema import Config, KafkaConfig, ListenerConfig
from exfilguard.embedded.broker import FETCH_WAIT_MS, EmbeddedBroker
from exfilguard.embedded.child import free_port
from exfilguard.embedded.kafka import ApacheKafka
from exfilguard.errors import BrokerError
from exfilguard.events.codec import encode_verdict
from exfilguard.events.topics import Topics
from exfilguard.events.verdict import Verdict
from exfilguard.runtime.process import Part, own_command
from exfilguard.runtime.stats import Snapshot, read_all, run_dir, short_path, total
from exfilguard.stream.app import read_partition
from exfilguard.stream.checkpoint import Restore
from exfilguard.stream.engine import Engine

PASSWORD = "correct horse"
DATABASE = "dpi"


def wait_for(what: Callable[[], Any], seconds: float = 20.0, message: str = "") -> Any:
    """The first true value of `what`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:.0f} s: {message or what}")


@contextlib.contextmanager
def meanwhile(action: Callable[[], Any], every_s: float = 0.3, times: int = 1_000) -> Iterator[None]:
    """`action` beside the body, every `every_s` until the body is through: what it is to hit may be late on a busy machine.

    What it raises is raised here, in the body's own thread: a thread that dies by itself writes its traceback while pytest may be
    writing another, and Python 3.11 parses the source for both with one counter ("AST constructor recursion depth mismatch").
    """
    over, errors = threading.Event(), []

    def run() -> None:
        for _ in range(times):
            if over.wait(every_s):
                return
            try:
                action()
            except Exception as error:
                errors.append(error)
                return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)
    if errors:
        raise errors[0]


class Stack:
    """Parts of one installation, below `data_dir`, each a process of its own. Not supervised: tests kill and start them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.data_dir = Path(config.data_dir)
        self.path = self.data_dir / "resolved.toml"
        write_resolved(config, self.path)
        self.parts: dict[str, Part] = {}

    def start(self, name: str, *arguments: str, key: str | None = None) -> Part:
        """`name`: relay, shipper, detector, responder, exporter."""
        key = key or name
        argv = own_command(name, "--config", str(self.path), *arguments)
        part = self.parts[key] = Part(key, argv, self.data_dir / "logs" / f"{key}.log")
        part.start()
        return part

    def kill(self, key: str, signum: int = signal.SIGKILL) -> None:
        part = self.parts.pop(key)
        assert part.process is not None
        part.process.send_signal(signum)
        part.process.wait(20)

    def stop(self) -> None:
        for key in list(reversed(self.parts)):
            part = self.parts.pop(key)
            if part.process is not None and part.alive:
                part.process.terminate()
                try:
                    part.process.wait(20)
                except Exception:
                    part.process.kill()
                    part.process.wait()
                    raise

    def log(self, key: str) -> str:
        path = self.data_dir / "logs" / f"{key}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def snapshot(self, name: str) -> Snapshot | None:
        return read_all(self.data_dir).get(name)

    def total(self, metric: str, **labels: str) -> float:
        return total(self.data_dir, metric, **labels)

    def tell(self, verdict: Verdict) -> None:
        """As the shipper tells it to the first relay."""
        with socket.socket(socket.AF_UNIX) as control:
            with short_path(run_dir(self.data_dir) / "relay-0.sock") as address:
                control.connect(address)
            control.sendall(b'{"verdict":' + encode_verdict(verdict) + b"}\n")

    def relay_ready(self, number: int = 0) -> None:
        wait_for(lambda: self.snapshot(f"relay-{number}"), message=f"relay: {self.log('relay')[-500:]}")

    def detector_ready(self, worker: str = "1") -> None:
        def ready() -> bool:
            found = self.snapshot(f"detector-{worker}")
            return found is not None and bool(found.details["ready"])

        wait_for(ready, 60.0, f"detector: {self.log('detector')[-500:]}")

    def responder_ready(self) -> None:
        def ready() -> bool:
            found = self.snapshot("responder")
            return found is not None and bool(found.details["partitions"])

        wait_for(ready, 60.0, f"responder: {self.log('responder')[-500:]}")


def kafka_config(broker: EmbeddedBroker | ApacheKafka | str, **changes: Any) -> KafkaConfig:
    """For this broker, or for an address."""
    if isinstance(broker, str):
        return KafkaConfig(bootstrap=broker, **changes)
    if isinstance(broker, EmbeddedBroker):
        changes["fetch_wait_ms"] = FETCH_WAIT_MS
    return KafkaConfig(bootstrap=broker.bootstrap, **changes)


def listener(upstream: str, **changes: Any) -> ListenerConfig:
    """A listener on a free port."""
    made = ListenerConfig(
        name="dpi",
        listen=f"127.0.0.1:{free_port()}",
        upstream=upstream,
        patient_columns=["patient.id", "sejour.patient_id"],
    )
    return replace(made, **changes)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@dataclass(slots=True)
class Conversation:
    """One connection through a tap."""

    client: bytearray = field(default_factory=bytearray)
    server: bytearray = field(default_factory=bytearray)
    steps: list[tuple[str, bytes]] = field(default_factory=list)
    """(`>` from the client or `<` from the server, bytes) in their order; every piece is noted before it is passed on."""
    open_ends: int = 2

    @property
    def over(self) -> bool:
        return self.open_ends == 0


class Tap:
    """A TCP proxy that records both directions of every connection, in the order of connections."""

    def __init__(self, upstream_port: int, port: int = 0) -> None:
        self._upstream_port = upstream_port
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self.conversations: list[Conversation] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._upstream_port))
            record = Conversation()
            self.conversations.append(record)
            for source, target, side in ((client, server, ">"), (server, client, "<")):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pump, args=(source, target, record, side), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket, record: Conversation, side: str) -> None:
        seen = record.client if side == ">" else record.server
        try:
            while data := source.recv(1 << 16):
                seen += data
                record.steps.append((side, data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return
        finally:
            record.open_ends -= 1
            if record.over:
                source.close()
                target.close()

    def close(self) -> None:
        # Closing alone would leave the accepting thread, and the port, where they are.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


async def stored_totals(config: Config, partitions: int) -> dict[str, list[tuple[int, ...]]]:
    """What the detector has in its snapshots: account -> totals per window, read as a new owner would."""
    out: dict[str, list[tuple[int, ...]]] = {}
    for partition in range(partitions):
        restore, engine = Restore(), Engine(lambda tenant: None, {}, 1_000_000)  # type: ignore[arg-type,return-value]
        async for record in read_partition(config, Topics(config.kafka.prefix).snapshots, partition, 0):
            restore.add(record.key, record.value)
        restore.fill(engine)
        out |= {key: [tuple(t) for t in engine.store.totals(key)] for key in engine.store}
    return out


def settled_totals(
    config: Config,
    partitions: int,
    enough: Callable[[dict[str, Any]], bool],
    seconds: float = 40.0,
    *,
    made: bool = False,
) -> Any:
    """The stored totals once `enough` holds, or what they are after `seconds`. `made`: the topics are known to be there."""
    import asyncio

    deadline = time.monotonic() + seconds
    while True:
        try:
            # Not before the topics are there: looking for one would make it, with the broker's number of partitions.
            there = made or (Path(config.data_dir) / "topics.json").is_file()
            found = asyncio.run(stored_totals(config, partitions)) if there else {}
        except (KafkaError, BrokerError, OSError):
            found = {}
        if enough(found) or time.monotonic() > deadline:
            return found
        time.sleep(0.3)


def connect(dsn: str, **options: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(dsn, autocommit=True, connect_timeout=10, **options)


def rss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
