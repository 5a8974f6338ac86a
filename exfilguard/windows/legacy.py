"""Account snapshots of version 1, read for ever: fixed-size little-endian fields, five windows of 60 slices.

head       version (1), windows, slices, newest_ms, sightings beyond the exact bound, patients
window     window_ms, head slice, slices that follow; slice: number, rows, patients, bytes, queries
patient    digest, last seen ms
"""

from __future__ import annotations

import struct

from ..errors import SnapshotError

_HEAD = struct.Struct("<BBHQQQ")
_WINDOW = struct.Struct("<QqI")
_SLICE = struct.Struct("<qQQQQ")
_PATIENT = struct.Struct("<QQ")
_ZERO = 0x9E3779B97F4A7C15


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def body_of_version_1(data: bytes) -> tuple[tuple[int, ...], int, bytes]:
    """(windows_ms, slices, the same account as a body of version 2). Raises SnapshotError.

    What was over-counted beyond the exact bound stays in its slices, as estimated patients.
    """
    try:
        version, windows, slices, newest_ms, _, patients = _HEAD.unpack_from(data)
        if version != 1:
            raise SnapshotError(f"a snapshot of version {version}, not 1")
        pos = _HEAD.size
        widths, cells = [], []
        for _ in range(windows):
            width, head, count = _WINDOW.unpack_from(data, pos)
            pos += _WINDOW.size
            found = sorted((_SLICE.unpack_from(data, pos + n * _SLICE.size) for n in range(count)), reverse=True)
            pos += count * _SLICE.size
            if width < 1 or slices < 1 or head != newest_ms * slices // width:
                raise SnapshotError("a snapshot whose windows do not end with its newest event")
            widths.append(width)
            cells.append([(head - number, values) for number, *values in found])
        if len(data) - pos != patients * _PATIENT.size:
            raise SnapshotError("a snapshot whose patients are cut short")
        seen = list(_PATIENT.iter_unpack(data[pos:]))
    except struct.error:
        raise SnapshotError("the snapshot of an account is cut short") from None
    out = [b"\0", _varint(newest_ms), _varint(0), b"\0\0", _varint(0), b"\0"]
    for window in cells:
        out.append(_varint(len(window)))
        for age, values in window:
            if age < 0:
                raise SnapshotError("a snapshot with a slice in its future")
            out += [_varint(age), *(_varint(value) for value in values)]
    out.append(_varint(len(seen)))
    for digest, seen_ms in seen:
        if seen_ms > newest_ms:
            raise SnapshotError("a snapshot with a patient in its future")
        out += [(digest or _ZERO).to_bytes(8, "little"), _varint(newest_ms - seen_ms)]
    return tuple(widths), slices, b"".join(out)
