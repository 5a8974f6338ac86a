"""Checksums of fetched batches: compared by our own reader, for every consumer of the stream processes."""

from __future__ import annotations

import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder

from exfilguard.stream.app import CheckedRecords


def batch(first: int, *values: bytes, codec: int = 0) -> bytes:
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 20,
    )  # fmt: skip
    for n, value in enumerate(values):
        builder.append(n, timestamp=1_800_000_000_000, key=None, value=value, headers=[])
    built = bytearray(builder.build())
    built[:8] = first.to_bytes(8, "big")
    return bytes(built)


def values(data: bytes) -> list[bytes]:
    records, found = CheckedRecords(data), []
    while records.has_next():
        found += [record.value for record in records.next_batch()]
    assert records.next_batch() is None
    return found


@pytest.mark.parametrize("codec", [0, 1, 3])
def test_whole_batches_are_read_one_after_the_other(codec: int) -> None:
    data = batch(7, b"a" * 1000, b"b", codec=codec) + batch(9, b"c", codec=codec)
    assert values(data) == [b"a" * 1000, b"b", b"c"]
    assert values(data + batch(10, b"d")[:-3]) == [b"a" * 1000, b"b", b"c"], (
        "a batch that is cut off waits for the next fetch"
    )


def test_a_batch_with_any_byte_changed_is_refused() -> None:
    whole = batch(7, b"value")
    for at in range(17, len(whole)):  # what comes before says how long and of which layout it is
        damaged = bytearray(batch(6, b"before") + whole)
        damaged[-len(whole) + at] ^= 1
        records = CheckedRecords(bytes(damaged))
        records.next_batch()
        with pytest.raises(CorruptRecordException):
            records.next_batch()


def test_batches_of_the_old_layout_are_checked_too() -> None:
    builder = LegacyRecordBatchBuilder(magic=1, compression_type=0, batch_size=1000)
    builder.append(0, timestamp=1_800_000_000_000, key=b"k", value=b"value")
    whole = bytes(builder.build())
    assert values(whole) == [b"value"]
    with pytest.raises(CorruptRecordException):
        values(whole[:-1] + b"!")


def test_aiokafka_uses_it() -> None:
    assert fetcher.MemoryRecords is CheckedRecords, "consumers do not check checksums themselves any more"
