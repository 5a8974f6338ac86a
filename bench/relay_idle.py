"""Memory per idle session: thousands of clients that have logged in and wait, against a server that only accepts."""

from __future__ import annotations

import asyncio
import resource
import struct
from pathlib import Path

from exfilguard.embedded.child import free_port
from exfilguard.runtime.stats import total

from .relay_paths import Way, config, sidecar

LOGGED_IN = b"R\0\0\0\x08\0\0\0\0" + b"K\0\0\0\x0c\0\0\0\7secr" + b"Z\0\0\0\5I"


def idle_kib(directory: Path, bootstrap: str, sessions: int) -> float:
    """KiB of the relay's resident memory per session."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return asyncio.run(_measure(directory, bootstrap, sessions))


async def _measure(directory: Path, bootstrap: str, sessions: int) -> float:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(LOGGED_IN)

    upstream = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    address = upstream.sockets[0].getsockname()
    port = free_port()
    settings = config(
        directory / "idle", bootstrap, port, f"127.0.0.1:{address[1]}", ["patient.id"], max_sessions=sessions + 100
    )
    body = b"user\0bench\0database\0bench\0\0"
    hello = struct.pack("!II", len(body) + 8, 196608) + body
    with sidecar(settings) as pids:
        relay = Way("relay", port, [pids[0]])
        held = []

        async def connect() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(hello)
            await reader.readexactly(len(LOGGED_IN))
            held.append((reader, writer))

        for _ in range(20):  # the first ones pay for what all share
            await connect()
        before, first = relay.rss_kib(), len(held)
        while len(held) < sessions:
            await asyncio.gather(*(connect() for _ in range(min(50, sessions - len(held)))))
        for _ in range(200):
            if total(settings.data_dir, "sessions") == len(held):
                break
            await asyncio.sleep(0.05)
        else:
            raise SystemExit(f"error: not all of {len(held)} sessions are there")
        grown = relay.rss_kib() - before
        for _, writer in held:
            writer.close()
    upstream.close()
    return grown / (len(held) - first)
