"""One network namespace a machine, joined by a bridge: links can be taken down between them. Needs root; without it every
machine is loopback, and nothing can be cut.

    this machine (clients, Prometheus)  ── bridge ──┬── kafka-1, kafka-2, kafka-3
                                                    ├── east (sidecar), west (sidecar)
                                                    └── core (detectors, responder, console, archive)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from typing import Any

from exfilguard.embedded.kafka_cluster import Host
from exfilguard.errors import EmbeddedError

LOOPBACK = "127.0.0.1"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise EmbeddedError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Network:
    """Machines by name. Everything it makes carries this process's number and is removed by `close`."""

    def __init__(self, names: list[str]) -> None:
        self.hosts = {name: Host() for name in names}
        self.separate = False
        self.why_not = ""
        """What keeps the machines from being separate, and what would help; empty when they are."""
        self.here = LOOPBACK
        """Where the machines reach this one."""
        self._id = f"{os.getpid() % 10_000:04d}"
        self._bridge = f"exg{self._id}"
        if os.geteuid():
            self.why_not = "network namespaces need root: run it with sudo to have a machine each"
        elif not shutil.which("ip"):
            self.why_not = "`ip` is not installed: apt install iproute2"
        else:
            try:
                self._build(names)
                self.separate = True
            except EmbeddedError as error:
                self.close()
                self.hosts = {name: Host() for name in names}
                self.here = LOOPBACK
                self.why_not = f"network namespaces cannot be made here ({error}): a container needs CAP_NET_ADMIN and CAP_SYS_ADMIN"

    def _build(self, names: list[str]) -> None:
        # A private range of the documentation's kind would not be routed by the kernel: 10/8, one net a run.
        base = f"10.213.{os.getpid() % 250 + 1}"
        self.here = f"{base}.254"
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.here}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for number, name in enumerate(names, 1):
            space = self._space(name)
            _ip("netns", "add", space)
            outside, inside = self._link(name), f"exi{self._id}{number}"
            _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
            _ip("link", "set", outside, "master", self._bridge, "up")
            _ip("link", "set", inside, "netns", space)
            address = f"{base}.{number}"
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", inside)
            _ip("-n", space, "link", "set", inside, "up")
            _ip("-n", space, "link", "set", "lo", "up")
            self.hosts[name] = Host(address, ["ip", "netns", "exec", space])

    def _space(self, name: str) -> str:
        return f"exg{self._id}-{name}"

    def _link(self, name: str) -> str:
        return f"exo{self._id}{list(self.hosts).index(name) + 1}"

    def cut(self, name: str) -> None:
        """The machine is there and nobody reaches it. Raises EmbeddedError."""
        _ip("link", "set", self._link(name), "down")

    def heal(self, name: str) -> None:
        _ip("link", "set", self._link(name), "up")

    def close(self) -> None:
        for name in self.hosts:
            with contextlib.suppress(EmbeddedError):
                _ip("netns", "del", self._space(name))
            with contextlib.suppress(EmbeddedError):
                _ip("link", "del", self._link(name))
        with contextlib.suppress(EmbeddedError):
            _ip("link", "del", self._bridge)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
