"""client - tap - relay - tap - database, for every server and both modes, in one relay process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from exfilguard.config.schema import Config, KafkaConfig, ListenerConfig
from exfilguard.embedded.child import free_port
from exfilguard.events.codec import check_event
from exfilguard.sidecar.spool import SpoolReader
from tests.integration.stack import Stack, Tap, port_of

MODES = ("observe", "enforce")
UNREACHED = 1_000_000_000


class Bench:
    """The servers, the guard between two taps, and what the guard has said."""

    def __init__(self, data_dir: Path, versions: Sequence[str], start: Callable[[str], Any], **listener: Any) -> None:
        """`start`: a version's server, or the test is skipped; `listener`: what all listeners have in common."""
        self._start = start
        self._servers: dict[str, Any] = {}
        self.inner: dict[str, Tap] = {}
        self.outer: dict[tuple[str, str], Tap] = {}
        self.direct: dict[tuple[str, str], Any] = {}
        self._upstream = {version: free_port() for version in versions}
        listeners = [
            ListenerConfig(
                name=f"{mode}-{version}",
                listen=f"127.0.0.1:{free_port()}",
                upstream=f"127.0.0.1:{self._upstream[version]}",
                mode="enforce" if mode == "enforce" else "observe",
                budget_rows=UNREACHED if mode == "enforce" else 0,
                budget_patients=UNREACHED if mode == "enforce" else 0,
                **listener,
            )
            for version in versions
            for mode in MODES
        ]
        config = Config(
            tenant="clinic", data_dir=str(data_dir), kafka=KafkaConfig(bootstrap="127.0.0.1:9"), listener=listeners
        )
        self.stack = Stack(config)
        self.stack.start("relay")
        self.stack.relay_ready()
        for one in listeners:
            mode, _, version = one.name.partition("-")
            self.outer[mode, version] = Tap(port_of(one.listen))
        self._reader = SpoolReader(data_dir / "spool" / "0")
        self.events: list[dict[str, Any]] = []

    def server(self, version: str) -> Any:
        """Started when it is first asked for."""
        if version not in self._servers:
            server = self._servers[version] = self._start(version)
            self.inner[version] = Tap(server.port, self._upstream[version])
        return self._servers[version]

    def new_events(self) -> list[dict[str, Any]]:
        """What the relay has spooled, all of it."""
        while True:
            before = self._reader.position
            part = self._reader.read(10_000, 1 << 24)
            self.events += [check_event(orjson.loads(record.payload)) for record in part]
            if not part and self._reader.position == before:
                return self.events

    def counted(self, listener: str, since: int) -> int:
        return sum(e.get("rows", 0) for e in self.new_events()[since:] if e["listener"] == listener)

    def stop(self) -> None:
        self.stack.stop()
        for tap in (*self.outer.values(), *self.inner.values()):
            tap.close()
        with ThreadPoolExecutor() as pool:  # each takes seconds to write down what it has
            list(pool.map(lambda server: server.stop(), self._servers.values()))
