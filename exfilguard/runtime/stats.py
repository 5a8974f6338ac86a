"""Every process's figures, asked for at scrape time over a Unix socket: plain integers, no lock per row.

A process registers a function that returns a `Snapshot` and serves it at `<data_dir>/run/<role>-<instance>.stats`.
The exporter connects to every such socket; one that does not answer is a process that is down.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from .clock import now_ms

log = logging.getLogger(__name__)

Labels = dict[str, str]
RETRY_S = 0.1
DISK_TROUBLE = frozenset((errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO))
"""A file system that is full, broken, or was mounted read-only after an error: no reason not to start what care needs."""


@dataclass(slots=True)
class Snapshot:
    """What one process counted since it started. Names are those of exporter/catalogue.py, without the prefix."""

    role: str
    instance: str
    values: list[tuple[str, Labels, float]] = field(default_factory=list)
    """(metric, labels, value) of counters and gauges."""
    histograms: list[tuple[str, Labels, list[tuple[float, int]], float]] = field(default_factory=list)
    """(metric, labels, cumulative [(upper bound, count)], sum); the last bound is infinity, written as 1e308."""
    details: dict[str, Any] = field(default_factory=dict)
    """For `exfilguard status`; never a patient value. `began_ms`: when the process began to answer."""


def run_dir(data_dir: str | os.PathLike[str]) -> Path:
    """Sockets of the running processes. Created when missing, for the owner only."""
    path = Path(data_dir) / "run"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


class Histogram:
    """Fixed buckets, one integer each. Values in seconds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        i = 0
        for bound in self.bounds:
            if value <= bound:
                break
            i += 1
        self.counts[i] += 1
        self.total += value

    def cumulative(self) -> list[tuple[float, int]]:
        out: list[tuple[float, int]] = []
        running = 0
        for bound, count in zip((*self.bounds, 1e308), self.counts, strict=True):
            running += count
            out.append((bound, running))
        return out


class StatsServer:
    """Answers each connection with the current snapshot, from a daemon thread that sleeps in accept(). Nobody is answered, and the
    exporter says that this process is down, where its disk takes no socket."""

    def __init__(self, path: Path, snapshot: Callable[[], Snapshot]) -> None:
        self.path = path
        self._snapshot = snapshot
        self._began_ms = now_ms()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            with short_path(path) as address:
                self._socket.bind(address)
        except OSError as error:
            if error.errno not in DISK_TROUBLE:
                raise
            log.error("%s cannot be made (%s): this process runs without figures", path, error.strerror)
            return
        self._socket.listen(16)
        self._thread = threading.Thread(target=self._serve, name="stats", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if self._socket.fileno() < 0:
                    return  # closed
                time.sleep(RETRY_S)  # no descriptor, no memory: for this moment only
                continue
            # A dictionary that changed while being read, or a peer that left: the next scrape asks again.
            with connection, contextlib.suppress(Exception):
                connection.settimeout(1.0)
                snapshot = self._snapshot()
                snapshot.details["began_ms"] = self._began_ms
                connection.sendall(orjson.dumps(snapshot))

    def close(self) -> None:
        self._socket.close()
        with contextlib.suppress(OSError):
            self.path.unlink()


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A Unix socket's address holds 107 bytes; a longer path is reached through its directory's descriptor."""
    if len(os.fsencode(path)) < 100:
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def read_snapshot(path: Path, timeout_s: float = 0.5) -> Snapshot | None:
    """Ask one process; None when it does not answer in time."""
    chunks = []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, short_path(path) as address:
            client.settimeout(timeout_s)
            client.connect(address)
            while chunk := client.recv(1 << 16):
                chunks.append(chunk)
        return Snapshot(**orjson.loads(b"".join(chunks)))
    except (OSError, orjson.JSONDecodeError, TypeError):
        return None


def read_all(data_dir: str | os.PathLike[str]) -> dict[str, Snapshot | None]:
    """Every process that registered below `data_dir`, by file name; None for one that is down."""
    return {path.stem: read_snapshot(path) for path in sorted(run_dir(data_dir).glob("*.stats"))}


def total(data_dir: str | os.PathLike[str], metric: str, **labels: str) -> float:
    """A counter or gauge summed over all processes below `data_dir`, as they report it now."""
    return sum(
        value
        for snapshot in read_all(data_dir).values()
        if snapshot is not None
        for name, found, value in snapshot.values
        if name == metric and labels.items() <= found.items()
    )
