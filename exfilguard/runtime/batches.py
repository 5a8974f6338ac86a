"""Fetched batches of records, whatever is in them: unpacked within bounds, and what cannot be read is one record instead of an error.

A broker looks at a batch no further than it must, and keeps what its readers choke on: a header whose name is not UTF-8, a codec
without a library here, 48 kB of zstd that are 1.5 GB of zeros. Both Kafka clients raise at each of these, at every fetch, and never get
past it, or take the memory that it asks for. So their readers (`Records` for kafka-python, stream/app.py's for aiokafka) hand out an
`Opened`: the batch's own records, and at the first that cannot be read one with the batch's last offset and `UNREADABLE` as its value,
which every decoder refuses by its usual way.

The layout: https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cramjam
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords

log = logging.getLogger(__name__)

UNREADABLE = b"a batch that cannot be unpacked"
BATCH_BYTES = 4 << 20
"""So much may a batch be without its compression: what our own producers can make (`max_request_size`); brokers take 1 MB of it."""
FETCH_BYTES = 64 << 20
"""With so much unpacked, the rest of a fetch response waits for the next one: one of 16 MB may hold thousands of batches like that."""
RECORD_WEIGHT = 512
"""What a record costs as an object, however short it is."""

_LENGTH, _BEHIND_LENGTH, _MAGIC, _CODEC, _COUNT, _HEAD = 8, 12, 16, 22, 57, 61
_CODEC_BITS = 0x07
_XERIAL = b"\x82SNAPPY\0"
_XERIAL_HEAD = 16
_kept = threading.local()


def _unsnap(data: memoryview, out: memoryview) -> int:
    if data[: len(_XERIAL)] != _XERIAL:
        return int(cramjam.snappy.decompress_raw_into(data, out))
    at, size = _XERIAL_HEAD, 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        size += int(cramjam.snappy.decompress_raw_into(data[at + 4 : end], out[size:]))
        at = end
    return size


_INTO: dict[int, Callable[[memoryview, memoryview], int]] = {
    1: cramjam.gzip.decompress_into,
    2: _unsnap,
    3: cramjam.lz4.decompress_into,
    4: cramjam.zstd.decompress_into,
}


def _unpacked(data: memoryview) -> bytes | memoryview:
    """The same batch without compression. Raises ValueError, cramjam.DecompressionError."""
    codec = data[_CODEC] & _CODEC_BITS
    if not codec:
        return data
    if codec not in _INTO:
        raise ValueError(f"codec {codec} is not known")
    room: bytearray | None = getattr(_kept, "room", None)
    if room is None:
        room = _kept.room = bytearray(_HEAD + BATCH_BYTES)
    out = memoryview(room)
    out[:_HEAD] = data[:_HEAD]
    size = _HEAD + _INTO[codec](data[_HEAD:], out[_HEAD:])
    out[_LENGTH:_BEHIND_LENGTH] = (size - _BEHIND_LENGTH).to_bytes(4, "big")
    room[_CODEC] &= ~_CODEC_BITS
    return bytes(out[:size])


class Opened:
    """A client's batch, and in its place when it is gone through."""

    def __init__(self, batch: Any, data: memoryview, again: Callable[[bytes], Any]) -> None:
        """`data`: its bytes. `again`: the client's batch of such bytes."""
        self._batch = batch
        self._records = batch
        self._error: Exception | None = None
        self.weight = len(data)
        """Bytes, about, that its records take."""
        self._end = -1
        if data[_MAGIC] < 2:
            return  # the layout before, which brokers convert: as its client reads it
        self._end = batch.next_offset - 1
        try:
            whole = _unpacked(data)
        except (ValueError, cramjam.DecompressionError) as error:
            self._error = error
            return
        if whole is not data:
            self._records = again(bytes(whole))
        count = int.from_bytes(data[_COUNT:_HEAD], "big")
        self.weight = len(whole) + RECORD_WEIGHT * min(count, len(whole))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        last = -1
        try:
            if self._error is not None:
                raise self._error
            for record in self._records:
                last = record.offset
                yield record
        except MemoryError:
            raise  # nothing is wrong with the batch
        except Exception as error:
            if self._end < 0:
                raise
            log.error("a batch up to offset %d cannot be read (%s): left out", self._end, type(error).__name__)
            if last < self._end:
                yield DefaultRecord(0, self._end, -1, 0, None, UNREADABLE, [])


class Records(MemoryRecords):  # type: ignore[misc]
    """kafka-python's fetch response of one partition."""

    __slots__ = ("_weight",)

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self._weight = 0

    def has_next(self) -> bool:
        return self._weight <= FETCH_BYTES and self._next_slice is not None

    def next_batch(self) -> Any:
        data = self._next_slice
        if not self.has_next():
            return None
        opened = Opened(super().next_batch(), data, DefaultRecordBatch)
        self._weight += opened.weight
        return opened
