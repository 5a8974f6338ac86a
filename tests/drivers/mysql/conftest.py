"""client - tap - relay - tap - MariaDB, for each version and both modes, in one relay process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from exfilguard.config.schema import Config, KafkaConfig, ListenerConfig
from exfilguard.embedded.child import free_port
from exfilguard.events.codec import check_event
from exfilguard.sidecar.spool import SpoolReader
from tests.drivers.mysql.servers import Server, installation
from tests.integration.conftest import enterable_directory
from tests.integration.stack import Stack, Tap, port_of

VERSIONS = ("10.11", "11.4")
MODES = ("observe", "enforce")
UNREACHED = 1_000_000_000


class Bench:
    """The servers, the guard between two taps, and what the guard has said."""

    def __init__(self, directory: Path, data_dir: Path) -> None:
        self._directory = directory
        self._servers: dict[str, Server] = {}
        self.inner: dict[str, Tap] = {}
        self.outer: dict[tuple[str, str], Tap] = {}
        self.direct: dict[tuple[str, str], Any] = {}
        self._upstream = {version: free_port() for version in VERSIONS}
        listeners = [
            ListenerConfig(
                name=f"{mode}-{version}",
                engine="mariadb",
                listen=f"127.0.0.1:{free_port()}",
                upstream=f"127.0.0.1:{self._upstream[version]}",
                mode="enforce" if mode == "enforce" else "observe",
                budget_rows=UNREACHED if mode == "enforce" else 0,
                budget_patients=UNREACHED if mode == "enforce" else 0,
                patient_columns=["patient.id", "sejour.patient_id"],
            )
            for version in VERSIONS
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

    def server(self, version: str) -> Server:
        """Started when it is first asked for."""
        if version not in self._servers:
            installation(version)  # skips when it is not there
            server = self._servers[version] = Server(version, self._directory)
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
        for server in self._servers.values():
            server.stop()


@pytest.fixture(scope="session")
def mysql_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with enterable_directory() as directory:
        made = Bench(directory, tmp_path_factory.mktemp("mysql-drivers") / "data")
        try:
            yield made
        finally:
            made.stop()
