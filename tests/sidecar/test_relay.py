"""The relay's manners, without a network: a large result gives every other session its turn."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from exfilguard.sidecar.sides import TURN_BYTES, ServerSide


class Transport:
    """What a side needs of one."""

    def __init__(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int) -> None: ...
    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Session:
    """Records what reaches it; `others` counts the turns of everybody else."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, bytes]] = []
        self.others = 0
        self.server: ServerSide | None = None
        self.closed = False

    def from_server(self, data: bytes) -> None:
        self.seen.append((self.others, data))

    def close(self) -> None:
        self.closed = True


def made() -> tuple[ServerSide, Session, Transport]:
    session, transport = Session(), Transport()
    side = ServerSide(cast("Any", session))
    session.server = side
    side.connection_made(cast("Any", transport))
    return side, session, transport


def test_a_large_portion_is_worked_on_in_turns_and_reading_waits() -> None:
    async def play() -> None:
        side, session, transport = made()

        async def somebody_else() -> None:
            while True:
                session.others += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(somebody_else())
        data = bytes(range(256)) * 1024
        side.data_received(data)
        assert not transport.reading
        while not transport.reading:
            await asyncio.sleep(0)
        other.cancel()
        assert b"".join(piece for _, piece in session.seen) == data
        assert max(len(piece) for _, piece in session.seen) == TURN_BYTES
        turns = [at for at, _ in session.seen]
        assert turns == sorted(set(turns)), "somebody else's turn lies between any two portions"

    asyncio.run(play())


def test_a_slow_client_and_the_throttle_stop_the_turns_too() -> None:
    async def play() -> None:
        side, session, transport = made()
        side.data_received(b"x" * (10 * TURN_BYTES))
        side.pause("client is slow")
        side.pace(0.05)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(session.seen) == 1
        side.resume("client is slow")
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(session.seen) == 1, "the throttle has not run out"
        await asyncio.sleep(0.1)
        assert len(session.seen) == 10
        assert transport.reading

    asyncio.run(play())


def test_a_small_portion_is_worked_on_at_once() -> None:
    side, session, transport = made()
    side.data_received(b"x" * TURN_BYTES)
    assert [len(piece) for _, piece in session.seen] == [TURN_BYTES]
    assert transport.reading


def test_a_turn_of_a_compressed_session_is_as_long_as_what_it_holds_allows() -> None:
    async def play() -> None:
        side, session, transport = made()
        side.turn = lambda data, at, most: min(len(data) - at, 10, most)
        side.data_received(b"x" * 10)
        assert transport.reading
        side.data_received(b"y" * 25)
        for _ in range(9):
            await asyncio.sleep(0)
        assert [piece for _, piece in session.seen] == [b"x" * 10, b"y" * 10, b"y" * 10, b"y" * 5]
        assert transport.reading

    asyncio.run(play())


def test_a_database_that_goes_away_loses_nothing_it_had_sent() -> None:
    async def play() -> None:
        for gone in (lambda side: side.eof_received(), lambda side: side.connection_lost(None)):
            side, session, _ = made()
            data = bytes(range(256)) * 2048
            side.data_received(data)
            gone(side)
            assert b"".join(piece for _, piece in session.seen) == data
            assert session.closed
            await asyncio.sleep(0.01)  # the turn that was still planned finds nothing to do
            assert b"".join(piece for _, piece in session.seen) == data

    asyncio.run(play())


def test_a_throttled_connection_that_is_gone_is_not_held_until_its_pace_is_over() -> None:
    async def play() -> None:
        side, _, _ = made()
        side.pace(3600)
        timer = side.throttle_timer
        assert timer is not None
        side.connection_lost(None)
        assert timer.cancelled()

    asyncio.run(play())
