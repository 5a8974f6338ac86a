"""A database that is known by a name with several addresses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from exfilguard.sidecar.dialing import Name, named
from exfilguard.sidecar.worker import make_loop

LOOPS = [make_loop, uvloop.new_event_loop]


@contextlib.contextmanager
def swallowing() -> Iterator[socket.socket]:
    """Its queue is full: the kernel drops what comes further, as a machine without power would."""
    with contextlib.ExitStack() as held:
        listening = held.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening


def dialled(
    loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch, *addresses: Any, times: int = 1
) -> list[tuple[Any, float]]:
    """Whom a name with these addresses reached, and after how many seconds."""

    async def found(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    monkeypatch.setattr("exfilguard.sidecar.dialing._addresses", found)

    async def play() -> list[tuple[Any, float]]:
        out, name = [], Name("db.clinic", 5432)
        for _ in range(times):
            began = time.monotonic()
            async with asyncio.timeout(10):
                with await name.connected() as one:
                    out.append((one.getpeername(), time.monotonic() - began))
        return out

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(play())


@pytest.mark.parametrize("loop", LOOPS)
def test_an_address_that_does_not_answer_delays_the_next_one_a_moment_and_once(
    loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    with swallowing() as silent, socket.create_server(("127.0.0.1", 0)) as good:
        there = good.getsockname()
        (first, after_s), (then, at_once_s) = dialled(loop, monkeypatch, silent.getsockname(), there, times=2)
    assert first == then == there
    assert after_s < 2
    assert at_once_s < 0.2


@pytest.mark.parametrize("loop", LOOPS)
def test_nobody_there_is_the_error_of_the_connection(
    loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    with pytest.raises(ConnectionRefusedError):
        dialled(loop, monkeypatch, address, address)


def test_a_name_that_cannot_be_is_as_one_that_is_not_known() -> None:
    with pytest.raises(OSError, match="no host"):
        asyncio.run(Name("db..clinic", 5432).connected())


def test_an_address_is_no_name() -> None:
    assert named("10.0.0.7", 5432) is named("::1", 5432) is named("fe80::1%eth0", 5432) is None
    assert named("localhost", 5432) is not None
