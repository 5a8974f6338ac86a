"""A Kafka producer that costs its machine next to nothing: the load must not be what is measured.

kafka-python takes the better part of a core to publish what the detector reads with half of one; where both share two cores with the
broker, records then wait for seconds in the client. This one writes each frame as a produce request of one batch of one record
straight to the socket, compressed as the shipper does, acks = 1, and reads the acknowledgements in passing.

Layouts: https://kafka.apache.org/protocol#The_Messages_Produce (version 3), https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

import itertools
import socket
import struct
import time

from crc32c import crc32c
from kafka.codec import lz4_encode

_BATCH = struct.Struct(">qiibI")
"""base offset, length behind itself, leader epoch, magic, checksum of all that follows"""
_BEHIND_CRC = struct.Struct(">hiqqqhii")
"""attributes, last offset delta, first and last time, producer id, epoch, sequence, records"""

_LZ4 = 3
"""attributes: the records are compressed"""


def _varint(value: int) -> bytes:
    value = value << 1 ^ value >> 63
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class LoadProducer:
    """To partitions of one topic on a broker that leads them all. Raises OSError, and SystemExit when a record is refused."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        host, _, port = bootstrap.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), 10)
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._topic = struct.pack(">h", len(topic)) + topic.encode()
        self._numbers = itertools.count()
        self._waiting = 0
        self._read = bytearray()

    def send(self, value: bytes, partition: int = 0) -> None:
        """Returns when the socket has taken it."""
        now = time.time_ns() // 1_000_000
        inner = b"\0\0\0\x01" + _varint(len(value))  # attributes, time and offset delta 0, no key
        record = b"%b%b%b\0" % (_varint(len(inner) + len(value) + 1), inner, value)  # no headers
        records = lz4_encode(record)
        behind = _BEHIND_CRC.pack(_LZ4, 0, now, now, -1, -1, -1, 1)
        size = len(behind) + len(records)
        checksum = crc32c(records, crc32c(behind))
        batch = _BATCH.pack(0, size + _BATCH.size - 12, -1, 2, checksum)
        request = (
            struct.pack(">hhih", 0, 3, next(self._numbers) & 0x7FFFFFFF, -1)
            + struct.pack(">hhii", -1, 1, 30_000, 1)  # no transaction, acks, time limit, one topic
            + self._topic
            + struct.pack(">iii", 1, partition, _BATCH.size + size)
        )
        whole = len(request) + _BATCH.size + size
        parts = [memoryview(p) for p in (struct.pack(">i", whole) + request + batch + behind, records)]
        while parts:
            sent = self._socket.sendmsg(parts)
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][sent:]
        self._waiting += 1
        self._answers(socket.MSG_DONTWAIT)

    def flush(self) -> None:
        """Returns when all is acknowledged."""
        while self._waiting:
            self._answers(0)

    def close(self) -> None:
        self.flush()
        self._socket.close()

    def _answers(self, flags: int) -> None:
        try:
            found = self._socket.recv(1 << 16, flags)
        except BlockingIOError:
            return
        if not found:
            raise SystemExit("the broker closed the connection of the load")
        self._read += found
        while len(self._read) >= 4:
            size = int.from_bytes(self._read[:4], "big")
            if len(self._read) < 4 + size:
                return
            at = 4 + 4 + 4 + len(self._topic) + 4 + 4  # size, number, topics, name, partitions, partition
            error = int.from_bytes(self._read[at : at + 2], "big", signed=True)
            if error:
                raise SystemExit(f"the broker refused a record of the load: error {error}")
            del self._read[: 4 + size]
            self._waiting -= 1
