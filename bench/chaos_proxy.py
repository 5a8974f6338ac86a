"""A bad network in user space: a TCP proxy that delays, throttles, stalls and cuts. It stands in for `tc netem`, which the kernel of
the machine may not have: TCP hides lost packets, so what a program sees of them is delay, stalls and connections that end.

`Detour` puts it on the way from one of the topology's machines (a network namespace) to the brokers, unseen by both: the machine gets
each broker's address on its own loopback, where the proxy listens; the proxy itself connects from this machine's network.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import socket
import subprocess
import threading
from dataclasses import dataclass
from typing import Any

from exfilguard.errors import EmbeddedError

CLONE_NEWNET = 0x40000000
PORTION = 8 << 10


@dataclass(frozen=True, slots=True)
class Weather:
    """Of each direction of each connection."""

    delay_s: float = 0.0
    """Added to each portion of at most 8 KiB."""
    jitter_s: float = 0.0
    """Added at random, up to so much."""
    bytes_per_s: float = 0.0
    """0: no bound."""
    cut_after_s: float = 0.0
    """A connection lives so long on average (exponential), then it is reset; 0: for ever."""


class Detour:
    """Between `space` (a network namespace) and these addresses, from `begin` to `end`."""

    def __init__(self, space: str, targets: list[tuple[str, int]], weather: Weather, seed: int) -> None:
        self._space, self._targets, self._weather = space, targets, weather
        self._rng = random.Random(seed)
        self.connections = self.cuts = self.bytes = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="weather", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: list[socket.socket] = []

    def begin(self) -> None:
        """Raises EmbeddedError, OSError."""
        for host in dict.fromkeys(host for host, _ in self._targets):
            self._ip("add", host)
        self._listening = _listen_in(self._space, self._targets)
        self._thread.start()
        for listening, target in zip(self._listening, self._targets, strict=True):
            asyncio.run_coroutine_threadsafe(self._serve(listening, target), self._loop).result(5)

    def end(self) -> None:
        for host in dict.fromkeys(host for host, _ in self._targets):
            with contextlib.suppress(EmbeddedError):
                self._ip("del", host)
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
        for listening in self._listening:
            listening.close()

    def _ip(self, verb: str, host: str) -> None:
        command = ["ip", "-n", self._space, "addr", verb, f"{host}/32", "dev", "lo"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        if done.returncode:
            raise EmbeddedError(f"{' '.join(command)}: {done.stderr.strip()}")

    async def _serve(self, listening: socket.socket, target: tuple[str, int]) -> None:
        async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._carry(reader, writer, target)
            except asyncio.CancelledError:
                pass  # the end of the detour; the server would log it
            finally:
                self._tasks.discard(task)

        await asyncio.start_server(meet, sock=listening)

    async def _close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, near: asyncio.StreamReader, back: asyncio.StreamWriter, target: tuple[str, int]) -> None:
        self.connections += 1
        away: asyncio.StreamWriter | None = None
        mean = self._weather.cut_after_s
        try:
            async with asyncio.timeout(self._rng.expovariate(1 / mean) if mean else None):
                far, away = await asyncio.open_connection(*target)
                one = asyncio.gather(self._flow(near, away), self._flow(far, back))
                await one
        except TimeoutError:
            self.cuts += 1
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for writer in (back, away):
                if writer is not None:
                    writer.transport.abort()

    async def _flow(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        weather = self._weather
        while portion := await source.read(PORTION):
            pause_s = weather.delay_s + weather.jitter_s * self._rng.random()
            if weather.bytes_per_s:
                pause_s += len(portion) / weather.bytes_per_s
            await asyncio.sleep(pause_s)
            sink.write(portion)
            await sink.drain()
            self.bytes += len(portion)
        sink.close()


def _listen_in(space: str, addresses: list[tuple[str, int]]) -> list[socket.socket]:
    """Sockets that listen inside a network namespace, for a process outside. A thread's namespace is its own: one enters and ends."""
    out: list[socket.socket] = []
    trouble: list[OSError] = []

    def enter() -> None:
        libc: Any = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(f"/run/netns/{space}", os.O_RDONLY)
        try:
            if libc.setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            out.extend(socket.create_server(address, backlog=64) for address in addresses)
        except OSError as error:
            trouble.append(error)
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=enter, name="enter")
    thread.start()
    thread.join()
    if trouble:
        for one in out:
            one.close()
        raise trouble[0]
    return out
