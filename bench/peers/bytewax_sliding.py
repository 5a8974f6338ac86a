"""Bytewax: one sliding window operator per window (its documentation, "Windowing")."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as windowing
import orjson
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.run import cli_main

from .progress import BOOTSTRAP, LIMIT, STEPS, TOPIC, WINDOWS_MS, Progress

progress = Progress()


def decoded(message: Any) -> Iterable[tuple[str, dict[str, Any]]]:
    return ((event["principal"], event) for event in orjson.loads(message.value)["events"])


def time_of(event: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(event["time_ms"] / 1000, UTC)


def counted(item: Any) -> Any:
    progress.add(1)
    return item


def flow() -> Dataflow:
    made = Dataflow("peer")
    source = KafkaSource([BOOTSTRAP], [TOPIC], add_config={"group.id": f"peer-bytewax-{os.getpid()}"}, batch_size=1)
    events = op.flat_map("decode", op.input("frames", made, source), decoded)
    clock = windowing.EventClock(time_of, wait_for_system_duration=timedelta(seconds=0))
    for width in WINDOWS_MS:
        windower = windowing.SlidingWindower(
            length=timedelta(milliseconds=width),
            offset=timedelta(milliseconds=width // STEPS),
            align_to=datetime(2024, 1, 1, tzinfo=UTC),
        )
        summed = windowing.fold_window(
            f"rows{width}",
            events,
            clock,
            windower,
            builder=int,
            folder=lambda total, event: total + event.get("rows", 0),
            merger=lambda a, b: a + b,
            ordered=False,
        )
        over = op.filter(f"over{width}", summed.down, lambda item: item[1][1] > LIMIT)
        op.inspect(f"say{width}", over, lambda step, item: print("over", item))
    op.inspect("end", op.map("count", events, counted), lambda step, item: None)
    return made


if __name__ == "__main__":
    cli_main(flow())
