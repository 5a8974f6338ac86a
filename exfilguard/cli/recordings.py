"""Where recorded events come from: a file, the queries topic, the Parquet archive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson

from ..config.schema import Config
from ..errors import ExfilGuardError
from ..events.codec import encode_frame, frame_head
from ..events.topics import Topics
from ..evidence.reader import ArchiveReader
from ..runtime.kafka import whole_topic
from ..stream.recorded import EVENTS_PER_FRAME, FileRecording, Recording

KAFKA = "kafka"
QUIET_S = 2.0
_EMPTY = {"evidence": "login", "engine": "postgresql"}
_PLACE = ("sidecar", "epoch", "seq", "item")


class KafkaRecording:
    """What the queries topic still holds."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def frames(self) -> Iterator[tuple[int, bytes]]:
        yield from whole_topic(self.config, Topics(self.config.kafka.prefix).queries, QUIET_S)


class ArchiveRecording:
    """A tenant's archive, or a span of it. Each event is in it once; the frames are new ones, in order of time."""

    def __init__(self, root: Path, tenant: str, from_ms: int, to_ms: int) -> None:
        self.reader = ArchiveReader(root)
        self.tenants = [tenant] if tenant else self.reader.tenants
        self.from_ms = from_ms
        self.to_ms = to_ms

    def frames(self) -> Iterator[tuple[int, bytes]]:
        for partition, tenant in enumerate(self.tenants):
            head, seq = frame_head(tenant, "archive", "1"), 0
            connection = self.reader.scan(tenant, self.from_ms, self.to_ms)
            rows = connection.execute("SELECT * FROM events ORDER BY time_ms, sidecar, epoch, seq, item")
            names = [column[0] for column in rows.description or ()]
            while batch := rows.fetchmany(EVENTS_PER_FRAME):
                yield partition, encode_frame(head, seq, [orjson.dumps(_event(names, row)) for row in batch])
                seq += 1
            connection.close()
        for name, wrong in self.reader.skipped.items():
            raise ExfilGuardError(f"{name}: {wrong}: the replay would miss events; `exfilguard audit verify` says more")


def _event(names: list[str], row: tuple[object, ...]) -> dict[str, object]:
    """An event as a frame carries it: defaults left out, digests in hex."""
    out: dict[str, object] = {}
    for name, value in zip(names, row, strict=True):
        if name in _PLACE or value in (None, "", 0, []) or _EMPTY.get(name) == value:
            continue
        if name in ("patients", "asked"):
            value = [digest.hex() for digest in value]  # type: ignore[attr-defined]
        out[name] = value
    return out


def recording_of(config: Config | None, source: str, tenant: str, from_ms: int, to_ms: int) -> Recording:
    """`kafka`, an archive's directory, or a file of frames. Raises ExfilGuardError."""
    if source == KAFKA:
        if config is None:
            raise ExfilGuardError("kafka: no configuration was found: name it with --config")
        return KafkaRecording(config)
    path = Path(source)
    if path.is_dir():
        return ArchiveRecording(path, tenant, from_ms, to_ms)
    if not path.is_file():
        raise ExfilGuardError(f"{source}: no such file or archive; `kafka` reads the queries topic")
    return FileRecording(source, tenant or "replay")
