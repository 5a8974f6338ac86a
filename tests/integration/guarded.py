"""A relay in front of the hospital's database, without a broker: what the relay's tests start from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from exfilguard.config.schema import Config, KafkaConfig, ListenerConfig, SidecarConfig, SpoolConfig
from exfilguard.events.codec import check_event
from exfilguard.sidecar.spool import SpoolReader

from .stack import Stack, listener, port_of

if TYPE_CHECKING:
    from .conftest import Hospital

Relay = Callable[..., "Guarded"]


class Guarded:
    """A running relay and how to reach it."""

    def __init__(self, stack: Stack, hospital: Hospital) -> None:
        self.stack = stack
        self.hospital = hospital
        self.port = port_of(stack.config.listener[0].listen)

    def dsn(self, user: str = "dpi_export") -> str:
        return self.hospital.dsn(user, self.port)

    def events(self) -> list[dict[str, Any]]:
        """What the relay has spooled so far."""
        reader = SpoolReader(self.stack.data_dir / "spool" / "0")
        out: list[dict[str, Any]] = []
        for _ in range(1000):
            before = reader.position
            part = reader.read(10_000, 1 << 24)
            out += [check_event(orjson.loads(r.payload)) for r in part]
            if not part and reader.position == before:
                break
        return out

    def counted(self, principal: str = "dpi_export") -> int:
        return sum(e.get("rows", 0) for e in self.events() if e["principal"] == principal)


@pytest.fixture
def relay(tmp_path: Path, hospital: Hospital) -> Iterator[Relay]:
    started: list[Stack] = []

    def start(
        spool: SpoolConfig | None = None,
        upstream: str = "",
        sidecar: SidecarConfig | None = None,
        beside: Sequence[ListenerConfig] = (),
        **changes: Any,
    ) -> Guarded:
        config = Config(
            tenant="clinic",
            data_dir=str(tmp_path / "data"),
            kafka=KafkaConfig(bootstrap="127.0.0.1:9"),
            spool=spool or SpoolConfig(),
            sidecar=sidecar or SidecarConfig(),
            listener=[listener(upstream or hospital.upstream, **changes), *beside],
        )
        stack = Stack(config)
        started.append(stack)
        for number in range(config.sidecar.workers):
            stack.start("relay", "--worker", str(number), key="relay" if number == 0 else f"relay-{number}")
            stack.relay_ready(number)
        return Guarded(stack, hospital)

    yield start
    for stack in started:
        stack.stop()
