"""Where recorded events come from: a file, the queries topic, the Parquet archive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..config.schema import Config
from ..errors import ExfilGuardError
from ..events.codec import encode_frame, frame_head
from ..evidence.reader import ArchiveReader
from ..runtime.kafka import frames_of
from ..stream.recorded import EVENTS_PER_FRAME, FRAME_MS, Block, FileRecording, Framer, Recording

KAFKA = "kafka"
QUIET_S = 2.0
DAY_MS = 86_400_000
PORTION = 500_000
ROWS_AT_ONCE = 4_096
SEPARATOR = b"\n"
"""Between events: JSON has none within."""


class KafkaRecording:
    """What the queries topic still holds."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def frames(self) -> Iterator[tuple[int, bytes]]:
        yield from frames_of(self.config, QUIET_S)


class ArchiveRecording:
    """A tenant's archive, or a span of it. Each event is in it once; the frames are new ones, in order of time, with what a detector
    looks at."""

    def __init__(self, root: Path, tenant: str, from_ms: int, to_ms: int) -> None:
        self.reader = ArchiveReader(root)
        self.tenants = [tenant] if tenant else self.reader.tenants
        self.from_ms = from_ms
        self.to_ms = to_ms

    def frames(self) -> Iterator[tuple[int, bytes]]:
        for partition, tenant in enumerate(self.tenants):
            framer = Framer(frame_head(tenant, "archive", "1"))
            for times, texts in self._batches(tenant):
                for time_ms, event in zip(times, texts.split(SEPARATOR), strict=True):
                    if frame := framer.add(time_ms, event):
                        yield partition, frame
            if rest := framer.rest():
                yield partition, rest

    def blocks(self) -> Iterator[Block]:
        for tenant in self.tenants:
            yield from self._blocks(tenant)

    def _blocks(self, tenant: str) -> Iterator[Block]:
        """A block ends where a frame does: the events of the last one, which may go on, wait for the next batch."""
        head = frame_head(tenant, "archive", "1")
        held_times: list[int] = []
        held = b""
        for batch_times, texts in self._batches(tenant):
            times = held_times + batch_times
            text = held + SEPARATOR + texts if held else texts
            last = began_ms = 0
            for n, time_ms in enumerate(times):
                if not 0 <= time_ms - began_ms < FRAME_MS or n - last == EVENTS_PER_FRAME:
                    last, began_ms = n, time_ms
            if not last:
                held_times, held = times, text
                continue
            rest = text.rsplit(SEPARATOR, len(times) - last)
            yield Block(tenant, encode_frame(head, 0, [rest[0].replace(SEPARATOR, b",")]))
            held_times, held = times[last:], SEPARATOR.join(rest[1:])
        if held:
            yield Block(tenant, encode_frame(head, 0, [held.replace(SEPARATOR, b",")]))

    def _batches(self, tenant: str) -> Iterator[tuple[list[int], bytes]]:
        """(times, events as JSON between SEPARATORs) by time, a portion of the archive at a time."""
        for start, end in self._portions(tenant):
            connection = self.reader.scan(tenant, start, end)
            for batch in connection.sql(_EVENTS).to_arrow_reader(ROWS_AT_ONCE):
                # DuckDB puts the texts one behind the other: with their separators they are what a frame is made of.
                texts = batch.column(1)
                _, offsets, data = texts.buffers()
                places = memoryview(offsets).cast("i")[texts.offset : texts.offset + len(texts) + 1]
                yield batch.column(0).to_pylist(), data[places[0] : places[-1] - 1].to_pybytes()
            connection.close()
            for name, wrong in self.reader.skipped.items():
                raise ExfilGuardError(
                    f"{name}: {wrong}: the replay would miss events; `exfilguard audit verify` says more"
                )

    def _portions(self, tenant: str) -> Iterator[tuple[int, int]]:
        """Spans of whole days with about PORTION events: what is sorted in memory at once."""
        rows: Counter[int] = Counter()
        for _, entry in self.reader.files(tenant, self.from_ms, self.to_ms):
            days = range(max(entry.min_ms, self.from_ms) // DAY_MS, min(entry.max_ms, self.to_ms) // DAY_MS + 1)
            for day in days:
                rows[day] += entry.rows // len(days)
        start, held = self.from_ms, 0
        for day in sorted(rows):
            held += rows[day]
            if held >= PORTION:
                end = min((day + 1) * DAY_MS, self.to_ms)
                yield start, end
                start, held = end, 0
        if start < self.to_ms:
            yield start, self.to_ms


def _member(name: str, value: str, empty: str) -> str:
    """A member of the event's JSON, left out where it says nothing."""
    return f"CASE WHEN {empty} THEN '' ELSE ',\"{name}\":' || {value} END"


def _text(name: str) -> str:
    return _member(name, f"to_json({name})", f"{name} = ''")


def _count(name: str) -> str:
    return _member(name, name, f"{name} = 0")


def _digests(name: str) -> str:
    hexed = f"array_to_string(list_transform({name}, lambda d: lower(hex(d))), '\",\"')"
    return _member(name, f"'[\"' || {hexed} || '\"]'", f"len({name}) = 0")


_EVENTS = " || ".join(
    [
        'SELECT time_ms, \'{"time_ms":\' || time_ms || \',"kind":"\' || kind || \'","listener":\' || to_json(listener)',
        "',\"session\":' || to_json(session) || ',\"principal\":' || to_json(principal)",
        *map(_text, ("source", "application", "fingerprint", "detail", "patients_by")),
        *map(_count, ("rows", "hidden_rows", "bytes", "patients_estimated")),
        *map(_digests, ("patients", "asked")),
        _member("flags", "to_json(flags)", "len(flags) = 0"),
        "'}\n' FROM events ORDER BY time_ms, sidecar, epoch, seq, item",
    ]
)
"""Each row as the JSON of a QueryEvent, made by DuckDB: a million take seconds."""


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
