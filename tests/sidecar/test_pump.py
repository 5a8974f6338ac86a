"""The relay's own transports (_pump.pyx) bring every byte and every end, however the bytes come and whoever pauses when."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exfilguard.sidecar._pump import PumpLoop
from exfilguard.sidecar.receiver import Receiver

PIECE = 8192
FULL_READS = 8


class Collector(Receiver, asyncio.Protocol):
    """Keeps what comes; pauses now and then; answers a request at the end of a large result."""

    pumped = True

    def __init__(self, whims: random.Random | None = None) -> None:
        self.whims = whims
        self.got = bytearray()
        self.ended = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "itself")
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.got += data
        assert self.transport is not None
        if self.got.endswith(b"?"):
            self.transport.write(b"!")
        if self.whims is not None and self.whims.random() < 0.1:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self.whims.random() / 500, self.transport.resume_reading)

    def eof_received(self) -> bool:
        self.ended.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


def run(play: Callable[[socket.socket], None], whims: random.Random | None = None) -> bytearray:
    """What a connection that `play(socket)` speaks on, in a thread, brought until its end."""

    async def main() -> bytearray:
        loop = asyncio.get_running_loop()
        protocol = Collector(whims)
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as link:
            async with asyncio.timeout(30):
                await asyncio.to_thread(play, link)
                await protocol.ended.wait()
        server.close()
        return protocol.got

    with asyncio.Runner(loop_factory=PumpLoop) as runner:
        return runner.run(main())


@pytest.mark.parametrize("seed", range(12))
def test_every_byte_and_the_end_arrive(seed: int) -> None:
    """Trickles, single pieces and long rows of full ones, with pauses between, then an end that may come with the last bytes."""
    dice = random.Random(seed)
    pieces = []
    for _ in range(dice.randint(1, 8)):
        size, many = dice.choice([(dice.randint(1, 300), 1), (PIECE, dice.randint(1, 60)), (70_000, 3), (65_536, 1)])
        pieces += [(dice.randbytes(size).replace(b"?", b"."), dice.choice([0, 0, 0, 0.0002]))] * many

    def play(link: socket.socket) -> None:
        for data, pause in pieces:
            link.sendall(data)
            time.sleep(pause)
        link.shutdown(socket.SHUT_WR)
        assert link.recv(1) == b""

    whims = dice if seed % 2 else None
    assert run(play, whims) == b"".join(data for data, _ in pieces)


def test_a_question_after_a_large_result_is_answered() -> None:
    """The socket may rest then; the answer to what is asked over it does not wait for anything else to happen."""
    answers = []

    def play(link: socket.socket) -> None:
        for _ in range(5):
            for _ in range(40):
                link.sendall(bytes(PIECE))
                time.sleep(0.00005)
            link.sendall(b"?")
            answers.append(link.recv(1))
        link.shutdown(socket.SHUT_WR)

    run(play)
    assert answers == [b"!"] * 5


def test_a_peer_that_resets_in_the_middle_of_a_large_result_is_noticed() -> None:
    def play(link: socket.socket) -> None:
        for _ in range(30):
            link.sendall(bytes(PIECE))
            time.sleep(0.00005)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        link.close()

    assert len(run(play)) <= 30 * PIECE


class Told(Collector):
    """Writes to another connection when it is asked something."""

    def __init__(self, other: Collector) -> None:
        super().__init__()
        self.other = other

    def data_received(self, data: bytes) -> None:
        self.got += data
        if data.endswith(b"?") and self.other.transport is not None:
            self.other.transport.write(b"!")


def test_what_rests_is_written_to_while_the_rest_ends() -> None:
    """Both rest, and the first one that is looked at again brings something for the other."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        other = Collector()
        links = []
        for protocol in (told := Told(other), other):
            near, far = socket.socketpair()
            near.setblocking(False)
            await loop.create_connection(lambda protocol=protocol: protocol, sock=near)  # type: ignore[misc]
            links.append(far)
        for _ in range(FULL_READS - 1):
            for link in links:
                link.send(bytes(PIECE))
            await asyncio.sleep(0.002)
        for link in links:
            link.send(bytes(PIECE))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        links[0].send(b"?")
        await asyncio.sleep(0.05)
        links[1].send(b".")
        await asyncio.sleep(0.05)
        assert not told.ended.is_set()
        assert (len(told.got), len(other.got)) == (FULL_READS * PIECE + 1, FULL_READS * PIECE + 1)
        assert links[1].recv(1) == b"!"
        for link in links:
            link.close()

    with asyncio.Runner(loop_factory=PumpLoop) as runner:
        runner.run(main())


EPERM_FOR_441 = """
import ctypes, struct
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 441), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))) == 0
from tests.sidecar import test_pump
test_pump.test_a_question_after_a_large_result_is_answered()
"""


def test_a_sandbox_that_forbids_the_short_wait_costs_no_answer() -> None:
    """Older container runtimes refuse a system call they do not know with EPERM, not with ENOSYS."""
    subprocess.run([sys.executable, "-c", EPERM_FOR_441], cwd=Path(__file__).parents[2], check=True, timeout=20)


def test_what_follows_an_urgent_byte_is_read_with_what_came_before() -> None:
    """A read ends there, though more lies in the socket."""

    def play(link: socket.socket) -> None:
        for _ in range(20):
            link.send(b"before")
            link.send(b"u", socket.MSG_OOB)
            link.send(b"?")
            assert link.recv(1) == b"!"
        link.shutdown(socket.SHUT_WR)

    assert run(play) == b"before?" * 20


@pytest.mark.parametrize("size", [1, 8 << 20])
def test_what_was_said_before_a_write_failed_is_read_when_reading_goes_on(size: int) -> None:
    """A database that closes says why; who is not read just then and is written to loses nothing of it."""

    class Writer(Collector):
        waits = 0

        def pause_writing(self) -> None:
            self.waits += 1

        def resume_writing(self) -> None:
            self.waits -= 1

    async def main() -> None:
        loop = asyncio.get_running_loop()
        protocol = Writer()
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
        link = socket.create_connection(server.sockets[0].getsockname())
        async with asyncio.timeout(10):
            while protocol.transport is None:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)
            protocol.transport.pause_reading()
            link.sendall(b"x" * 100_000 + b"FATAL")
            if size == 1:
                link.close()
            protocol.transport.write(bytes(size))
            await asyncio.sleep(0.05)
            link.close()
            for _ in range(3):
                protocol.transport.write(b"more")
                await asyncio.sleep(0.05)
            assert protocol.waits == 0
            assert not protocol.ended.is_set()
            protocol.transport.resume_reading()
            await protocol.ended.wait()
        assert protocol.got == b"x" * 100_000 + b"FATAL"
        server.close()

    with asyncio.Runner(loop_factory=PumpLoop) as runner:
        runner.run(main())
