"""Events as columns: the one schema of the archive's Parquet files. Docs: docs/EVIDENCE.md.

Digests of patients are 8 bytes each, not 16 letters: they are random, nothing compresses them. Rows are sorted by account and
time, so that the statistics of a row group lead to the few that hold an account's day.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

DIGEST = pa.binary(8)
_TEXTS = (
    "principal", "kind", "evidence", "engine", "listener", "session", "login", "database", "source", "application",
    "fingerprint", "patients_by", "error", "detail",
)  # fmt: skip
_COUNTS = ("rows", "hidden_rows", "bytes", "patients_estimated", "statement", "duration_us")
_DIGESTS = ("patients", "asked")
_TEXT_DEFAULTS = {"evidence": "login", "engine": "postgresql"}

EVENTS = pa.schema(
    [
        pa.field("time_ms", pa.int64(), nullable=False),
        *[pa.field(name, pa.string(), nullable=False) for name in _TEXTS],
        *[pa.field(name, pa.int64(), nullable=False) for name in _COUNTS],
        *[pa.field(name, pa.list_(DIGEST), nullable=False) for name in _DIGESTS],
        pa.field("flags", pa.list_(pa.string()), nullable=False),
        pa.field("sidecar", pa.string(), nullable=False),
        pa.field("epoch", pa.string(), nullable=False),
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("item", pa.int32(), nullable=False),
    ]
)
"""`sidecar, epoch, seq` name the frame, `item` the event in it: together unique in the archive."""

SHAPES = pa.schema(
    [
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("engine", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("columns", pa.list_(pa.string()), nullable=False),
        pa.field("first_ms", pa.int64(), nullable=False),
    ]
)

SORT = [("principal", "ascending"), ("time_ms", "ascending")]


class Frames:
    """One frame's place in its source, once per event."""

    __slots__ = ("epoch", "item", "seq", "sidecar")

    def __init__(self) -> None:
        self.sidecar: list[str] = []
        self.epoch: list[str] = []
        self.seq: list[int] = []
        self.item: list[int] = []

    def add(self, sidecar: str, epoch: str, seq: int, count: int) -> None:
        self.sidecar += itertools.repeat(sidecar, count)
        self.epoch += itertools.repeat(epoch, count)
        self.seq += itertools.repeat(seq, count)
        self.item += range(count)


def _digests(lists: Sequence[Sequence[str]]) -> pa.Array:
    """list<binary(8)> from lists of 16 hex digits."""
    offsets = pa.array([0, *itertools.accumulate(map(len, lists))], pa.int32())
    raw = bytes.fromhex("".join(itertools.chain.from_iterable(lists)))
    values = pa.FixedSizeBinaryArray.from_buffers(DIGEST, len(raw) // 8, [None, pa.py_buffer(raw)])
    return pa.ListArray.from_arrays(offsets, values)


def _text(value: object) -> str:
    """A lone surrogate cannot be stored; whatever else a client sends can."""
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def table_of(events: Sequence[Mapping[str, Any]], frames: Frames) -> pa.Table:
    """Checked events (events/codec.py) as a table of EVENTS, unsorted."""
    columns: list[Any] = [pa.array([e["time_ms"] for e in events], pa.int64())]
    for name in _TEXTS:
        default = _TEXT_DEFAULTS.get(name, "")
        values = [e.get(name, default) for e in events]
        try:
            columns.append(pa.array(values, pa.string()))
        except (UnicodeEncodeError, pa.ArrowException):
            columns.append(pa.array([_text(v) for v in values], pa.string()))
    columns += [pa.array([e.get(name, 0) for e in events], pa.int64()) for name in _COUNTS]
    columns += [_digests([e.get(name, ()) for e in events]) for name in _DIGESTS]
    columns.append(pa.array([e.get("flags", ()) for e in events], pa.list_(pa.string())))
    columns += [
        pa.array(frames.sidecar, pa.string()),
        pa.array(frames.epoch, pa.string()),
        pa.array(frames.seq, pa.int64()),
        pa.array(frames.item, pa.int32()),
    ]
    return pa.Table.from_arrays(columns, schema=EVENTS)


def shapes_table(rows: Iterable[tuple[str, str, str, tuple[str, ...], int]]) -> pa.Table:
    """(fingerprint, engine, query, columns, first_ms) as a table of SHAPES."""
    listed = list(rows)
    return pa.Table.from_arrays(
        [pa.array([row[i] for row in listed], field.type) for i, field in enumerate(SHAPES)], schema=SHAPES
    )
