"""The order of writes: verdicts in the background, and no part of a checkpoint before the verdicts it contains the cause of."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import orjson
import pytest

from exfilguard.config.schema import Config, DetectorConfig
from exfilguard.events.codec import decode_verdict, encode_frame, frame_head
from exfilguard.runtime.clock import now_ms
from exfilguard.runtime.kafka import TopicWatch
from exfilguard.stream import detector as module
from exfilguard.stream.detector import Detector, Held

POLICY = """
version = "one"
default_class = "anybody"
[class.anybody]
limits = [{ unit = "rows", window = "1h", lock = 100 }]
"""


class Broker:
    """Takes records in their order; acknowledges verdicts only while `open`."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.written: list[tuple[str, Any]] = []

    async def ready(self) -> Broker:
        return self

    async def send_and_wait(self, topic: str, key: Any = None, value: Any = None, **_: Any) -> None:
        if topic.endswith(".verdicts"):
            await self.open.wait()
        self.written.append((topic.rpartition(".")[2], value))

    async def send(self, topic: str, key: Any = None, value: Any = None, **_: Any) -> asyncio.Future[None]:
        self.written.append((topic.rpartition(".")[2], value))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    @property
    def accounts(self) -> list[str]:
        return [decode_verdict(value).principal for topic, value in self.written if topic == "verdicts"]

    @property
    def topics(self) -> list[str]:
        return [topic for topic, _ in self.written]


def frame(seq: int, *principals: str, rows: int = 200) -> bytes:
    events = [
        orjson.dumps(
            {"time_ms": now_ms(), "kind": "query", "listener": "dpi", "session": "s", "principal": name, "rows": rows}
        )
        for name in principals
    ]
    return encode_frame(frame_head("clinic", "one", "1"), seq, events)


def run(tmp_path: Path, play: Any) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY, encoding="utf-8")

    async def whole() -> None:
        detector = Detector(
            Config(tenant="clinic", detector=DetectorConfig(policy=str(path))), "w", TopicWatch(Config())
        )
        broker = Broker()
        detector._producer = detector._snapshots = broker  # type: ignore[assignment]
        detector.held[0] = Held(detector.new_engine(0))
        detector.held[0].ready.set()
        publishing = asyncio.create_task(detector.publish_verdicts())
        try:
            await asyncio.wait_for(play(detector, broker), 20)
        finally:
            publishing.cancel()

    asyncio.run(whole())


async def stays(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Starts it, and lets everybody have many turns: it must still be waiting."""
    task = asyncio.create_task(work)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not task.done()
    return task


def test_frames_go_on_while_a_verdict_waits_for_the_broker(tmp_path: Path) -> None:
    async def play(detector: Detector, broker: Broker) -> None:
        for n in range(5):
            await detector.handle(0, n, frame(n, f"thief{n}"))
        assert detector.held[0].engine.events == 5
        assert broker.accounts == []
        assert detector.standing["clinic/thief4"].level == "lock", "it stands here at once"
        broker.open.set()
        await detector.acknowledged()
        assert broker.accounts == [f"thief{n}" for n in range(5)], "in their order"
        assert detector.verdicts["lock"] == 5

    run(tmp_path, play)


def test_nothing_of_a_checkpoint_is_written_before_the_verdicts_it_holds_the_cause_of(tmp_path: Path) -> None:
    async def play(detector: Detector, broker: Broker) -> None:
        held = detector.held[0]
        await detector.handle(0, 0, frame(0, "quiet", rows=1))
        await detector._checkpoint(0, held)
        written = broker.topics
        assert "snapshots" in written
        await detector.handle(0, 1, frame(1, "thief"))
        checkpoint = await stays(detector._checkpoint(0, held))
        assert broker.topics == written, "a crash now must count the thief's frame again, and speak"
        await detector.handle(0, 2, frame(2, "another"))  # frames go on meanwhile
        broker.open.set()
        await checkpoint
        after = broker.topics[len(written) :]
        assert after[0] == "verdicts"
        assert after.count("snapshots") >= 2, "accounts and marker"

    run(tmp_path, play)


def test_a_verdict_that_comes_while_a_checkpoint_is_made_is_waited_for_too(tmp_path: Path, monkeypatch: Any) -> None:
    async def play(detector: Detector, broker: Broker) -> None:
        held = detector.held[0]
        await detector.handle(0, 0, frame(0, "thief", rows=1))
        plain = held.engine.next_records
        crossed = []

        def crossing(checkpoint: Any) -> Any:
            """The thief crosses the limit after the checkpoint began, and before its account is written."""
            if not crossed:
                crossed.append(held.engine.feed(1, frame(1, "thief"), now_ms()).verdicts)
                detector._said += 1
                detector._unsaid.extend(crossed[0])
                detector._more.set()
            return plain(checkpoint)

        monkeypatch.setattr(type(held.engine), "next_records", lambda _, checkpoint: crossing(checkpoint))
        checkpoint = await stays(detector._checkpoint(0, held))
        assert broker.topics == []
        broker.open.set()
        await checkpoint
        assert broker.topics[0] == "verdicts"

    run(tmp_path, play)


def test_no_more_than_so_many_verdicts_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNACKNOWLEDGED", 3)

    async def play(detector: Detector, broker: Broker) -> None:
        for n in range(3):
            await detector.handle(0, n, frame(n, f"thief{n}"))
        waiting = await stays(detector.handle(0, 3, frame(3, "one-too-many")))
        broker.open.set()
        await waiting
        await detector.acknowledged()
        assert len(broker.accounts) == 4

    run(tmp_path, play)


def test_a_flood_of_unreadable_records_keeps_no_frame_waiting(tmp_path: Path) -> None:
    """100,000 of them are a megabyte, and a dead letter is milliseconds."""

    async def play(detector: Detector, broker: Broker) -> None:
        for second in range(2):
            for n in range(1_000):
                await detector.handle(0, 1_000 * second + n, b"?")
            detector._refill_letters()
        assert broker.topics == ["deadletter"] * 2 * module.DEAD_LETTERS_PER_S
        assert detector.deadletters == 2_000
        await detector.handle(0, 2_000, frame(0, "anna"))
        assert detector.held[0].engine.events == 1

    run(tmp_path, play)
