"""The relay's own transports (_pump.pyx) bring every byte and every end, however the bytes come and whoever pauses when."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable

import pytest

from exfilguard.sidecar._pump import PumpLoop
from exfilguard.sidecar.receiver import Receiver

PIECE = 8192


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
