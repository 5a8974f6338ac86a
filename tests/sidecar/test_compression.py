"""What the shipper's producer makes of frames: as kafka-python packs and unpacks them."""

from __future__ import annotations

import secrets

import pytest
from kafka.record import default_records
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from exfilguard.runtime.kafka import compress_quickly


def packed(value: bytes) -> DefaultRecordBatch:
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=DefaultRecordBatch.CODEC_LZ4, is_transactional=0, producer_id=-1, producer_epoch=-1,
        base_sequence=-1, batch_size=1 << 20,
    )  # fmt: skip
    builder.append(0, timestamp=1, key=None, value=value, headers=[])
    return DefaultRecordBatch(bytes(builder.build()))


def small_events() -> bytes:
    return b",".join(
        b'{"time_ms":%d,"kind":"query","listener":"main","session":"0123456789abcdef","principal":"anna","login":"dpi",'
        b'"database":"dpi","source":"10.1.2.3","statement":%d,"fingerprint":"83ce8252b1912c64","asked":["%s"],"rows":1}'
        % (1_795_500_000_000 + n, n, secrets.token_hex(8).encode())
        for n in range(3_000)
    )


def digests() -> bytes:
    return b",".join(b'"%s"' % secrets.token_hex(8).encode() for _ in range(40_000))


def test_small_events_are_packed_tight_and_digests_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_records, "lz4_encode", default_records.lz4_encode)  # put back behind this test
    compress_quickly()
    events = small_events()
    batch = packed(events)
    assert batch.compression_type == DefaultRecordBatch.CODEC_LZ4
    assert batch.size_in_bytes < len(events) / 6
    assert [record.value for record in batch] == [events]
    # Thoroughness would save a fourteenth of these, and cost six times as much.
    patients = digests()
    batch = packed(patients)
    assert batch.size_in_bytes > 0.99 * len(patients)
    assert [record.value for record in batch] == [patients]
