"""The loops over spooled records. One source: compiled by Cython when it can be, else run as it stands."""

from __future__ import annotations

import zlib

try:
    import cython
except ImportError:  # interpreted, without Cython installed: annotations are never evaluated
    COMPILED = False
else:
    COMPILED = bool(cython.compiled)

HEADER_BYTES = 20
"""length, crc32, hash (4 bytes each), time_ms (8 bytes), little endian; see spool.py."""
SEALED = 0xFFFFFFFF

_crc32 = zlib.crc32


def take(  # type: ignore[no-untyped-def]
    data: cython.const_uchar[::1],
    at: cython.Py_ssize_t,
    until: cython.Py_ssize_t,
    most: cython.Py_ssize_t,
    most_bytes: cython.Py_ssize_t,
    out: list,  # type: ignore[type-arg]
):
    """Append the records from `at` on, at most `most` of `most_bytes`, to `out` as (hash, time_ms, payload).

    Args: `data` a segment; `until` an offset where to stop. Returns (offset behind the last one, records that failed their
    checksum and were left out, False when this segment has no further record at that offset).
    """
    size: cython.Py_ssize_t = len(data)
    taken: cython.Py_ssize_t = 0
    damaged: cython.Py_ssize_t = 0
    length: cython.ulonglong
    crc: cython.ulonglong
    hashed: cython.ulonglong
    time_ms: cython.ulonglong
    start: cython.Py_ssize_t
    i: cython.Py_ssize_t
    while len(out) < most and taken < most_bytes and at < until:
        if at + 4 > size:
            return at, damaged, False
        length = data[at] | (data[at + 1] << 8) | (data[at + 2] << 16)
        length = length + data[at + 3] * 0x1000000
        if length == 0 or length > size or at + HEADER_BYTES + length > size:
            return at, damaged, False
        crc = hashed = time_ms = 0
        for i in range(4):
            crc = crc * 256 + data[at + 7 - i]
            hashed = hashed * 256 + data[at + 11 - i]
        for i in range(8):
            time_ms = time_ms * 256 + data[at + 19 - i]
        start = at + HEADER_BYTES
        payload = bytes(data[start : start + length])
        if crc != _crc32(payload, (hashed ^ time_ms) & 0xFFFFFFFF):
            if length != int.from_bytes(bytes(data[at : at + 4]), "little"):
                continue  # it was just being written: of its length some bytes were there and others not yet
            damaged += 1
            at = start + length
            continue
        at = start + length
        out.append((hashed, time_ms, payload))
        taken += length
    return at, damaged, True


def peek(data: cython.const_uchar[::1], at: cython.Py_ssize_t):  # type: ignore[no-untyped-def]
    """(offset behind the records that follow each other from `at` on, length of the longest): nothing is read."""
    size: cython.Py_ssize_t = len(data)
    length: cython.ulonglong
    longest: cython.ulonglong = 0
    while at + 4 <= size:
        length = data[at] | (data[at + 1] << 8) | (data[at + 2] << 16)
        length = length + data[at + 3] * 0x1000000
        if length == 0 or length > size or at + HEADER_BYTES + length > size:
            break
        longest = max(longest, length)
        at += HEADER_BYTES + length
    return at, longest


def group(  # type: ignore[no-untyped-def]
    records: object,
    partitions: cython.ulonglong,
    most: cython.Py_ssize_t,
    most_bytes: cython.Py_ssize_t,
):
    """The frames of these records, in the order in which they are full: a list of (partition, payloads).

    A frame is full with `most` events, or before it would grow beyond `most_bytes`; what is left open is closed in the order
    of its first event.
    """
    out: list = []  # type: ignore[type-arg]
    open_frames: dict = {}  # type: ignore[type-arg]
    sizes: dict = {}  # type: ignore[type-arg]
    hashed: cython.ulonglong
    size: cython.Py_ssize_t
    for record in records:  # type: ignore[attr-defined]
        hashed = record[0]
        payload = record[2]
        partition = hashed % partitions
        events = open_frames.get(partition)
        if events is None:
            events = open_frames[partition] = []
            size = 0
        else:
            size = sizes[partition]
            if events and (len(events) >= most or size + len(payload) > most_bytes):
                out.append((partition, events))
                events = open_frames[partition] = []
                size = 0
        events.append(payload)
        sizes[partition] = size + len(payload)
    for partition, events in open_frames.items():
        out.append((partition, events))
    return out
