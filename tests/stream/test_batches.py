"""Batches as a modified client writes them, and a broker keeps them: each is one unreadable record for both clients, and the next is read."""

from __future__ import annotations

import gzip
import struct
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import cramjam
import pytest
from crc32c import crc32c
from kafka.consumer import fetcher

from exfilguard.runtime import kafka as of_kafka_python
from exfilguard.runtime.batches import BATCH_BYTES, FETCH_BYTES, UNREADABLE, Records
from exfilguard.stream.app import CheckedRecords

CLIENTS = pytest.mark.parametrize("client", [CheckedRecords, Records], ids=["aiokafka", "kafka-python"])
NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
PACK: dict[int, Callable[[bytes], bytes]] = {
    NONE: bytes,
    GZIP: gzip.compress,
    SNAPPY: lambda data: bytes(cramjam.snappy.compress_raw(data)),
    LZ4: lambda data: bytes(cramjam.lz4.compress(data)),
    ZSTD: lambda data: bytes(cramjam.zstd.compress(data)),
}


def varint(value: int) -> bytes:
    value, out = (value << 1) ^ (value >> 63), bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def record(value: bytes, delta: int = 0, header: bytes = b"h") -> bytes:
    headers = varint(1) + varint(len(header)) + header + varint(1) + b"v"
    body = b"\0" + varint(0) + varint(delta) + varint(-1) + varint(len(value)) + value + headers
    return varint(len(body)) + body


def batch(first: int, payload: bytes, codec: int = NONE, count: int = 1) -> bytes:
    now = int(time.time() * 1000)
    rest = struct.pack(">hiqqqhii", codec, count - 1, now, now, -1, -1, -1, count) + payload
    return struct.pack(">qiibI", first, 9 + len(rest), -1, 2, crc32c(rest)) + rest


def read(client: Any, data: bytes) -> list[tuple[int, bytes]]:
    records, found = client(data), []
    while records.has_next():
        found += [(record.offset, record.value) for record in records.next_batch()]
    return found


@CLIENTS
@pytest.mark.parametrize("codec", PACK)
def test_every_codec_is_read(client: Any, codec: int) -> None:
    two = PACK[codec](record(b"a" * 5000) + record(b"b", 1))
    assert read(client, batch(7, two, codec, 2) + batch(9, record(b"c"))) == [(7, b"a" * 5000), (8, b"b"), (9, b"c")]


@CLIENTS
def test_snappy_in_blocks_as_java_writes_it(client: Any) -> None:
    whole = record(b"a" * 5000)
    blocks = [PACK[SNAPPY](part) for part in (whole[:3000], whole[3000:])]
    data = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1) + b"".join(len(b).to_bytes(4, "big") + b for b in blocks)
    assert read(client, batch(7, data, SNAPPY)) == [(7, b"a" * 5000)]


@CLIENTS
@pytest.mark.parametrize(
    "poison",
    [
        batch(7, record(b"x", header=b"\xff\xfe")),
        batch(7, b"\x01\x02\x03", LZ4),
        batch(7, record(b"x"), 6),
        batch(7, b"\x08\0\0\0\x01\0\x02\x01\0"),
        batch(7, PACK[GZIP](record(b"x"))[:-9], GZIP),
    ],
    ids=["header-not-utf8", "no-lz4", "unknown-codec", "header-of-minus-one", "gzip-cut-short"],
)
def test_what_cannot_be_read_is_one_record_and_the_next_is_read(client: Any, poison: bytes) -> None:
    assert read(client, poison + batch(8, record(b"good"))) == [(7, UNREADABLE), (8, b"good")]


@CLIENTS
def test_what_was_read_before_it_stays(client: Any) -> None:
    three = record(b"a") + record(b"b", 1, header=b"\xff") + record(b"c", 2)
    assert read(client, batch(7, three, count=3) + batch(10, record(b"d"))) == [(7, b"a"), (9, UNREADABLE), (10, b"d")]


@CLIENTS
@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_a_bomb_takes_no_memory(client: Any, codec: int) -> None:
    bomb = batch(7, PACK[codec](record(b"\0" * (100 << 20))), codec)
    tracemalloc.start()
    try:
        assert read(client, bomb + batch(8, record(b"good"))) == [(7, UNREADABLE), (8, b"good")]
        assert tracemalloc.get_traced_memory()[1] < 6 * BATCH_BYTES
    finally:
        tracemalloc.stop()


@CLIENTS
def test_a_response_full_of_what_is_large_when_unpacked_is_read_in_parts(client: Any) -> None:
    large = PACK[ZSTD](record(b"\0" * (BATCH_BYTES - 100)))
    found = read(client, b"".join(batch(n, large, ZSTD) for n in range(100)))
    assert [offset for offset, _ in found] == list(range(FETCH_BYTES // BATCH_BYTES)), "the rest is fetched again"


def test_kafka_python_uses_it() -> None:
    assert of_kafka_python.fetcher is fetcher
    assert fetcher.MemoryRecords is Records
