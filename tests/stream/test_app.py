"""What of Faust was changed: the consumer whose only partition has a full buffer."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from exfilguard.stream import app

AT = TP("queries", 0)


def consumer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """One that was assigned a partition and found its buffer full; Faust's own part of the wait answers at once."""

    async def fetched(self: Any, timeout: float) -> Any:  # noqa: ASYNC109 -- Faust's signature
        return {AT: ["record"]}, self._get_active_partitions()

    monkeypatch.setattr(driver.Consumer, "_wait_next_records", fetched)
    made: Any = app._Consumer.__new__(app._Consumer)
    made.flow_active = True
    made._drained = asyncio.Event()
    made._active_partitions, made._buffered_partitions = set(), {AT}
    return made


def test_a_buffer_that_drains_is_filled_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> tuple[float, Any]:
        full = consumer(monkeypatch)
        asyncio.get_running_loop().call_later(0.05, full.on_buffer_drop, AT)
        began = time.monotonic()
        records, active = await full._wait_next_records(1.0)
        assert active == {AT}
        return time.monotonic() - began, records

    took, records = asyncio.run(run())
    assert records == {AT: ["record"]}
    assert 0.04 < took < 0.6  # Faust's second is over later


def test_a_buffer_that_stays_full_is_not_waited_for_longer_than_faust_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BUFFER_WAIT_S", 0.05)

    async def run() -> Any:
        return await consumer(monkeypatch)._wait_next_records(1.0)

    assert asyncio.run(run()) == ({}, set())
