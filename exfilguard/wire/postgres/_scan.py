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


def column_values(  # type: ignore[no-untyped-def]
    data: bytes,
    pos: cython.Py_ssize_t,
    kind: cython.int,
    most: cython.Py_ssize_t,
    column: cython.Py_ssize_t,
    out: list,  # type: ignore[type-arg]
):
    """`skip_rows` over DataRows that also appends the value of one column of each to `out` (bytes, None for NULL).

    Returns (position behind the last one, messages, bytes of their bodies). Stops before a row that does not hold what its
    counts promise.
    """
    end: cython.Py_ssize_t = len(data)
    count: cython.Py_ssize_t = 0
    total: cython.Py_ssize_t = 0
    length: cython.Py_ssize_t
    row_end: cython.Py_ssize_t
    at: cython.Py_ssize_t
    size: cython.Py_ssize_t
    i: cython.Py_ssize_t
    while count < most and pos + 7 <= end and data[pos] == kind:
        length = data[pos + 1]
        length = (length << 8) | data[pos + 2]
        length = (length << 8) | data[pos + 3]
        length = (length << 8) | data[pos + 4]
        row_end = pos + 1 + length
        if length < 6 or row_end > end or ((data[pos + 5] << 8) | data[pos + 6]) <= column:
            break
        at = pos + 7
        size = 0
        for i in range(column + 1):
            if i and size != 0xFFFFFFFF:
                at += size
            if at + 4 > row_end:
                return pos, count, total
            size = data[at]
            size = (size << 8) | data[at + 1]
            size = (size << 8) | data[at + 2]
            size = (size << 8) | data[at + 3]
            at += 4
            if size != 0xFFFFFFFF and at + size > row_end:
                return pos, count, total
        out.append(None if size == 0xFFFFFFFF else data[at : at + size])
        pos = row_end
        total += length - 4
        count += 1
    return pos, count, total


def computed_bytes(data: bytes, start: int, end: int, total: int, columns: tuple[int, ...]) -> int:
    """Length of these columns' values in the DataRow body of `total` bytes whose beginning is data[start:end]; whatever lies behind
    that beginning, and in no other column's value, is theirs. `columns`: in order."""
    at, found = start + 2, 0
    for i in range(columns[len(columns) - 1] + 1):
        if at + 4 > end:
            return found + max(0, start + total - at)
        length = int.from_bytes(data[at : at + 4], "big")
        if length == 0xFFFFFFFF:
            length = 0
        at += 4 + length
        found += length if i in columns else 0
    return found
