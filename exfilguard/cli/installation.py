"""Everything on one machine: the processes of an installation, started, watched and stopped. Used by `up` and `demo`."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..config.load import load_config, parse_address
from ..config.schema import Config
from ..embedded.broker import FETCH_WAIT_MS, EmbeddedBroker
from ..embedded.child import free_port, port_is_taken
from ..errors import EmbeddedError
from ..runtime.holding import hold
from ..runtime.kafka import broker_answers
from ..runtime.process import Part, Supervisor, own_command
from ..runtime.stats import Snapshot, read_all, total
from .common import RESOLVED, write_resolved

log = logging.getLogger(__name__)

READY_S = 60.0
EMBEDDED_BROKER_BYTES = 1 << 30
"""The embedded broker never gives memory back. Beyond this it is restarted: the spool publishes again what it keeps, the
detector's windows stay (see docs/ARCHITECTURE.md)."""
EMBEDDED_SPOOL_BYTES = 256 << 20
EMBEDDED_SNAPSHOT_MS = 15_000
"""Every snapshot stays in the embedded broker's memory; a longer pause only means a longer read after a crash."""
MEASURE_S = 5.0
EMBEDDED_PARTITIONS = 4
"""The embedded broker makes a topic by itself, with this many partitions, as soon as somebody asks for it."""


@dataclass(frozen=True, slots=True)
class State:
    """How far the start has come."""

    waiting_for: str
    snapshots: dict[str, Snapshot | None]


class Installation:
    """All parts of one configuration, below its data directory."""

    def __init__(self, config: Config, *, console: bool = False) -> None:
        """`console`: with the operator's pages, when their port is free: a guard without pages is better than none."""
        host, port = parse_address(config.console.listen)
        self.console = console and not port_is_taken(port, host)
        self.data_dir = Path(config.data_dir).resolve()
        self.log_dir = self.data_dir / "logs"
        self.path = self.data_dir / RESOLVED
        kafka = config.kafka
        self._broker: EmbeddedBroker | None = None
        if kafka.bootstrap == "embedded":
            self._broker = EmbeddedBroker(_kept_port(self.path))
            kafka = replace(
                kafka,
                bootstrap=self._broker.bootstrap,
                partitions=EMBEDDED_PARTITIONS,
                replication=1,
                fetch_wait_ms=FETCH_WAIT_MS,
            )
            spool, detector = config.spool, config.detector
            config = replace(
                config,
                spool=replace(
                    spool, max_bytes=max(2 * spool.segment_bytes, min(spool.max_bytes, EMBEDDED_SPOOL_BYTES))
                ),
                detector=replace(detector, snapshot_ms=max(detector.snapshot_ms, EMBEDDED_SNAPSHOT_MS)),
            )
        self.config = replace(config, kafka=kafka, data_dir=str(self.data_dir))
        self.supervisor = Supervisor()
        self._held: int | None = None
        """Keeps the data directory this installation's own."""
        self.broker_max_bytes = EMBEDDED_BROKER_BYTES
        self._measured = 0.0

    @property
    def embedded_broker(self) -> bool:
        return self._broker is not None

    def start(self, tell: Callable[[str], None] = lambda text: None) -> None:
        """Returns when every part works. Raises EmbeddedError, ConfigError."""
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._held = hold(self.data_dir / "run" / "up.lock")
        if self._held is None:
            raise EmbeddedError(
                f"an installation already runs with data_dir {self.data_dir}: stop it first, or choose another data_dir"
            )
        for left in (self.data_dir / "run").glob("*.stats"):
            left.unlink()  # of processes of the last time
        write_resolved(self.config, self.path)
        load_config(self.path, {})  # flags and file together are checked once more, before anything is started
        parts = self.supervisor.parts
        if self._broker is not None:
            parts.append(Part("broker", self._broker.argv, self.log_dir / "broker.log"))
            self.supervisor.start()
            self._wait_for_broker()
        # The archive is started first, so that it is stopped last: what the sidecar still publishes is in it.
        names = [*(["archive"] if self.config.archive.enabled else []), "sidecar", "detector", "responder", "exporter"]
        names += ["console"] if self.console else []
        for name in names:
            parts.append(Part(name, own_command(name, "--config", str(self.path)), self.log_dir / f"{name}.log"))
        self.supervisor.start()
        deadline = time.monotonic() + READY_S
        while (state := self.state()).waiting_for:
            tell(state.waiting_for)
            self.supervisor.check()
            restarted = [part for part in parts if part.restarts]
            if restarted or time.monotonic() > deadline:
                name = restarted[0].name if restarted else state.waiting_for.partition(" ")[0]
                self.stop()
                raise EmbeddedError(f"{name} does not start: {self._last_words(name)}")
            time.sleep(0.05)

    def _wait_for_broker(self) -> None:
        broker = self._broker
        deadline = time.monotonic() + READY_S
        while broker is not None and not broker_answers(broker.bootstrap):
            if not self.supervisor.parts[0].alive or time.monotonic() > deadline:
                self.stop()
                raise EmbeddedError(f"the embedded broker does not start: {self._last_words('broker')}")
            time.sleep(0.02)

    def _last_words(self, name: str) -> str:
        path = self.log_dir / f"{name}.log"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        return f"{lines[-1] if lines else 'it left no log'} (see {path})"

    def state(self) -> State:
        """Which part is not ready yet; empty when all are."""
        found = read_all(self.data_dir)
        relays = sum(name.startswith("relay-") and one is not None for name, one in found.items())
        detector, responder = found.get("detector-1"), found.get("responder")
        waiting = ""
        if relays < self.config.sidecar.workers or found.get("shipper") is None:
            waiting = "sidecar"
        elif detector is None or not detector.details.get("ready"):
            waiting = "detector (joining its consumer group)"
        elif responder is None or not responder.details.get("partitions"):
            waiting = "responder (joining its consumer group)"
        return State(waiting, found)

    def total(self, metric: str, **labels: str) -> float:
        """A figure summed over all processes, as they report it."""
        return total(self.data_dir, metric, **labels)

    def check(self) -> None:
        """Restart what has ended, and an embedded broker that has grown too large. Call it every 100 ms or so."""
        self.supervisor.check()
        now = time.monotonic()
        if self._broker is not None and now - self._measured > MEASURE_S:
            self._measured = now
            broker = self.supervisor.parts[0]
            if (
                broker.alive
                and (size := resident_bytes(broker.pid)) > self.broker_max_bytes
                and broker.process is not None
            ):
                log.warning("the embedded broker uses %d MB and is restarted; nothing is lost", size >> 20)
                broker.process.terminate()

    def stop(self) -> None:
        """The sidecar first, so that what it still holds is published; the broker last."""
        self.supervisor.stop(grace_s=20.0)
        if self._held is not None:
            os.close(self._held)
            self._held = None


def resident_bytes(pid: int) -> int:
    """Memory of a process; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _kept_port(resolved: Path) -> int:
    """The port the embedded broker had the last time, when it is free: clients may have been configured with it."""
    if resolved.is_file():
        host, _, port = load_config(resolved, {}).kafka.bootstrap.rpartition(":")
        if host == "127.0.0.1" and not port_is_taken(int(port)):
            return int(port)
    return free_port()
