"""Quix Streams: expanded events, grouped by account (through a topic of its own: its windows are kept by the message's key), then
one branch of hopping windows per window (its documentation, "GroupBy", "Windowing", "Branching"). Counted behind the windows."""

from __future__ import annotations

import os
import tempfile
from datetime import timedelta
from typing import Any

import orjson
from quixstreams import Application

from .progress import BOOTSTRAP, LIMIT, STEPS, TOPIC, WINDOWS_MS, Progress

progress = Progress()


def decoded(value: bytes) -> list[dict[str, Any]]:
    return orjson.loads(value)["events"]  # type: ignore[no-any-return]


def windowed(event: dict[str, Any]) -> None:
    progress.add(1)


def main() -> None:
    app = Application(
        broker_address=BOOTSTRAP,
        consumer_group=f"peer-quix-{os.getpid()}",
        auto_offset_reset="earliest",
        state_dir=tempfile.mkdtemp(prefix="peer-quix-"),
        use_changelog_topics=False,
        loglevel="ERROR",
    )
    topic = app.topic(TOPIC, value_deserializer="bytes", key_deserializer="bytes")
    events = app.dataframe(topic).apply(decoded, expand=True)
    events = events.group_by(lambda event: event["principal"], name="principal")
    for width in WINDOWS_MS:
        (
            events.apply(lambda event: event.get("rows", 0))
            .hopping_window(timedelta(milliseconds=width), timedelta(milliseconds=width // STEPS), name=f"rows{width}")
            .sum()
            .current()
            .filter(lambda window: window["value"] > LIMIT)
        )
    events.update(windowed)
    app.run()


if __name__ == "__main__":
    main()
