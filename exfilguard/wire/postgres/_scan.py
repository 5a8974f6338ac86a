"""The loops over DataRow and CopyData. One source: compiled by Cython when it can be, else run as it stands."""

from __future__ import annotations

try:
    import cython
except ImportError:  # interpreted, without Cython installed: annotations are never evaluated
    COMPILED = False
else:
    COMPILED = bool(cython.compiled)


def skip_rows(data: bytes, pos: cython.Py_ssize_t, kind: cython.int, most: cython.Py_ssize_t):  # type: ignore[no-untyped-def]
    """Pass over complete messages of one type that follow each other.

    Args: `pos` at a type byte; `kind` the type byte's value; `most` the number of messages to pass at most.
    Returns (position behind the last one, messages, bytes of their bodies). Stops before an invalid length.
    """
    end: cython.Py_ssize_t = len(data)
    count: cython.Py_ssize_t = 0
    size: cython.Py_ssize_t = 0
    length: cython.Py_ssize_t
    while count < most and pos + 5 <= end and data[pos] == kind:
        # One byte after the other: shifting a C char by 24 would overflow its int.
        length = data[pos + 1]
        length = (length << 8) | data[pos + 2]
        length = (length << 8) | data[pos + 3]
        length = (length << 8) | data[pos + 4]
        if length < 4 or pos + 1 + length > end:
            break
        pos += 1 + length
        size += length - 4
        count += 1
    return pos, count, size


def row_values(data: bytes, pos: cython.Py_ssize_t, end: cython.Py_ssize_t, last: cython.Py_ssize_t):  # type: ignore[no-untyped-def]
    """Columns 0..`last` of the DataRow body data[pos:end]: a list of bytes, None for NULL.

    Returns None when the body does not hold what its counts promise.
    """
    out: list[bytes | None] = []
    columns: cython.Py_ssize_t
    size: cython.Py_ssize_t
    if pos + 2 > end:
        return None
    columns = (data[pos] << 8) | data[pos + 1]
    pos += 2
    if last >= columns:
        return None
    for _ in range(last + 1):
        if pos + 4 > end:
            return None
        size = data[pos]
        size = (size << 8) | data[pos + 1]
        size = (size << 8) | data[pos + 2]
        size = (size << 8) | data[pos + 3]
        pos += 4
        if size == 0xFFFFFFFF:
            out.append(None)
            continue
        if pos + size > end:
            return None
        out.append(data[pos : pos + size])
        pos += size
    return out
