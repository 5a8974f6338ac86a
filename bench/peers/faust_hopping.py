"""Plain Faust: one hopping table per window, in memory, as in its documentation ("Windowing", tables)."""

from __future__ import annotations

import logging
import os
import tempfile
from datetime import timedelta
from typing import Any

import faust
import orjson

from .progress import BOOTSTRAP, LIMIT, STEPS, TOPIC, WINDOWS_MS, Progress

app = faust.App(
    f"peer-faust-{os.getpid()}",
    broker=f"kafka://{BOOTSTRAP}",
    store="memory://",
    topic_partitions=1,
    datadir=tempfile.mkdtemp(prefix="peer-faust-"),
    web_enabled=False,
    consumer_auto_offset_reset="earliest",
)
frames = app.topic(TOPIC, value_type=bytes, value_serializer="raw", key_serializer="raw")
tables = [
    app.Table(f"rows{width}", default=int).hopping(
        timedelta(milliseconds=width),
        timedelta(milliseconds=width // STEPS),
        expires=timedelta(milliseconds=2 * width),
    )
    for width in WINDOWS_MS
]
progress = Progress()


@app.agent(frames)
async def judge(stream: Any) -> None:
    async for value in stream:
        for event in orjson.loads(value)["events"]:
            principal, rows = event["principal"], event.get("rows", 0)
            for table in tables:
                table[principal] += rows
                if table[principal].now() > LIMIT:
                    print("over", principal)
            progress.add(1)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    faust.Worker(app, quiet=True, override_logging=False, redirect_stdouts=False).execute_from_commandline()
