"""The loops over rows. One source: compiled by Cython when it can be, else run as it stands.

A row is a packet: `int3 length, int1 sequence, payload`. Its text form is length-encoded strings (0xFB: NULL); its binary form is
`0x00, NULL bitmap from bit 2 on, values`. A packet that begins with 0xFF (error), or with 0xFE and is shorter than a whole one
(end of the rows), is none; so is, for these loops, one of the full 0xFFFFFF bytes, which goes on in the next.
"""

from __future__ import annotations

try:
    import cython
except ImportError:  # interpreted, without Cython installed: annotations are never evaluated
    COMPILED = False
else:
    COMPILED = bool(cython.compiled)


def skip_rows(data: bytes, pos: cython.Py_ssize_t, most: cython.Py_ssize_t):  # type: ignore[no-untyped-def]
    """Pass over complete rows. Args: `pos` at a packet's header; `most` the number of rows to pass at most.

    Returns (position behind the last one, rows, bytes of their payloads).
    """
    end: cython.Py_ssize_t = len(data)
    count: cython.Py_ssize_t = 0
    size: cython.Py_ssize_t = 0
    length: cython.Py_ssize_t
    first: cython.int
    while count < most and pos + 5 <= end:
        length = data[pos] | (data[pos + 1] << 8) | (data[pos + 2] << 16)
        first = data[pos + 4]
        if first >= 0xFE or length == 0 or length == 0xFFFFFF or pos + 4 + length > end:
            break
        pos += 4 + length
        size += length
        count += 1
    return pos, count, size


def text_values(data: bytes, pos: cython.Py_ssize_t, end: cython.Py_ssize_t, last: cython.Py_ssize_t):  # type: ignore[no-untyped-def]
    """Columns 0..`last` of the text row data[pos:end]: a list of bytes, None for NULL; None when it does not hold them."""
    out: list[bytes | None] = []
    size: cython.Py_ssize_t
    more: cython.Py_ssize_t
    first: cython.int
    i: cython.Py_ssize_t
    for _ in range(last + 1):
        if pos >= end:
            return None
        first = data[pos]
        pos += 1
        if first == 0xFB:
            out.append(None)
            continue
        if first < 0xFB:
            size = first
        else:
            more = 2 if first == 0xFC else (3 if first == 0xFD else 8)
            if first == 0xFF or pos + more > end:
                return None
            size = 0
            for i in range(more - 1, -1, -1):
                if size > 0xFFFFFFFFFF:
                    return None
                size = (size << 8) | data[pos + i]
            pos += more
        if size > end - pos:
            return None
        out.append(data[pos : pos + size])
        pos += size
    return out


def binary_values(  # type: ignore[no-untyped-def]
    data: bytes, pos: cython.Py_ssize_t, end: cython.Py_ssize_t, last: cython.Py_ssize_t, sizes: bytes
):
    """Columns 0..`last` of the binary row data[pos:end], like `text_values`.

    Args: `sizes` for *every* column of the result: the bytes of a fixed-size type, 254 for one with a length byte (dates,
    times), 255 for one with a length-encoded length.
    """
    out: list[bytes | None] = []
    columns: cython.Py_ssize_t = len(sizes)
    bitmap: cython.Py_ssize_t = pos + 1
    size: cython.Py_ssize_t
    more: cython.Py_ssize_t
    first: cython.int
    column: cython.Py_ssize_t
    i: cython.Py_ssize_t
    pos = bitmap + (columns + 9) // 8
    if pos > end or last >= columns or data[bitmap - 1] != 0:
        return None
    for column in range(last + 1):
        if data[bitmap + (column + 2) // 8] & (1 << ((column + 2) % 8)):
            out.append(None)
            continue
        size = sizes[column]
        if size >= 254:
            if pos >= end:
                return None
            first = data[pos]
            pos += 1
            if size == 254 or first < 0xFB:
                size = first
            else:
                more = 2 if first == 0xFC else (3 if first == 0xFD else 8)
                if first == 0xFB or first == 0xFF or pos + more > end:
                    return None
                size = 0
                for i in range(more - 1, -1, -1):
                    if size > 0xFFFFFFFFFF:
                        return None
                    size = (size << 8) | data[pos + i]
                pos += more
        if size > end - pos:
            return None
        out.append(data[pos : pos + size])
        pos += size
    return out


def column_values(  # type: ignore[no-untyped-def]
    data: bytes,
    pos: cython.Py_ssize_t,
    most: cython.Py_ssize_t,
    column: cython.Py_ssize_t,
    sizes: bytes,
    out: list,  # type: ignore[type-arg]
):
    """`skip_rows` that also appends the value of one column of each row to `out` (bytes, None for NULL).

    Args: `sizes` as for `binary_values`; empty for text rows. Returns (position behind the last one, rows, bytes of their
    payloads). Stops before a row that does not hold the column.
    """
    end: cython.Py_ssize_t = len(data)
    count: cython.Py_ssize_t = 0
    total: cython.Py_ssize_t = 0
    binary: cython.bint = len(sizes) > 0
    columns: cython.Py_ssize_t = len(sizes)
    length: cython.Py_ssize_t
    row_end: cython.Py_ssize_t
    at: cython.Py_ssize_t
    bitmap: cython.Py_ssize_t = 0
    size: cython.Py_ssize_t
    more: cython.Py_ssize_t
    first: cython.int
    null: cython.bint = False
    i: cython.Py_ssize_t
    j: cython.Py_ssize_t
    if binary and column >= columns:
        return pos, count, total
    while count < most and pos + 5 <= end:
        length = data[pos] | (data[pos + 1] << 8) | (data[pos + 2] << 16)
        first = data[pos + 4]
        row_end = pos + 4 + length
        if first >= 0xFE or length == 0 or length == 0xFFFFFF or row_end > end:
            break
        at = pos + 4
        if binary:
            bitmap = at + 1
            at = bitmap + (columns + 9) // 8
            if at > row_end or first != 0:
                break
        size = 0
        for i in range(column + 1):
            at += size
            size = 0
            if binary:
                null = (data[bitmap + (i + 2) // 8] & (1 << ((i + 2) % 8))) != 0
                if null:
                    continue
                size = sizes[i]
                if size < 254:
                    continue
            if at >= row_end:
                return pos, count, total
            first = data[at]
            at += 1
            null = first == 0xFB and not binary
            if null:
                size = 0
            elif (binary and size == 254) or first < 0xFB:
                size = first
            else:
                more = 2 if first == 0xFC else (3 if first == 0xFD else 8)
                if first == 0xFB or first == 0xFF or at + more > row_end:
                    return pos, count, total
                size = 0
                for j in range(more - 1, -1, -1):
                    if size > 0xFFFFFFFFFF:
                        return pos, count, total
                    size = (size << 8) | data[at + j]
                at += more
            if size > row_end - at:
                return pos, count, total
        if size > row_end - at:
            return pos, count, total
        out.append(None if null else data[at : at + size])
        pos = row_end
        total += length
        count += 1
    return pos, count, total
