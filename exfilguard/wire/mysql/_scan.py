# cython: annotation_typing=False
"""The loops over rows. One source: compiled by Cython when it can be, else run as it stands (types: _scan.pxd).

A row is a packet: `int3 length, int1 sequence, payload`. Its text form is length-encoded strings (0xFB: NULL); its binary form is
`0x00, NULL bitmap from bit 2 on, values`. A packet that begins with 0xFF (error), or with 0xFE and is shorter than a whole one
(end of the rows), is none; so is, for these loops, one of the full 0xFFFFFF bytes, which goes on in the next.

`sizes`: of a binary result, one byte for *every* column: the bytes of a fixed-size type, 254 for one with a length byte (dates,
times), 255 for one with a length-encoded length. Empty for a text result, where all are length-encoded.
"""

from __future__ import annotations

try:
    import cython
except ImportError:  # interpreted, without Cython installed: annotations are never evaluated
    COMPILED = False
else:
    COMPILED = bool(cython.compiled)

NULL, MALFORMED = -1, -2


def skip_rows(data: bytes, pos: int, most: int) -> tuple[int, int, int]:
    """Pass over complete rows. Args: `pos` at a packet's header; `most` the number of rows to pass at most.

    Returns (position behind the last one, rows, bytes of their payloads).
    """
    end = len(data)
    count = size = 0
    while count < most and pos + 5 <= end:
        length = row_length(data, pos, end)
        if length < 0:
            break
        pos += 4 + length
        size += length
        count += 1
    return pos, count, size


def row_length(data: bytes, pos: int, end: int) -> int:
    """Of the payload of the complete row whose header is at `pos`, of which at least 5 bytes are there; -1 where there is none."""
    length = data[pos] | (data[pos + 1] << 8) | (data[pos + 2] << 16)
    if data[pos + 4] >= 0xFE or length == 0 or length == 0xFFFFFF or pos + 4 + length > end:
        return -1
    return length


def prefix_bytes(data: bytes, pos: int, end: int, size: int) -> int:
    """How many bytes before the value at `pos` tell its length; 0 for a type of fixed size."""
    if size < 254:
        return 0
    if pos >= end or size == 254 or data[pos] < 0xFC:
        return 1
    return 3 if data[pos] == 0xFC else (4 if data[pos] == 0xFD else 9)


def value_bytes(data: bytes, pos: int, end: int, size: int, text: bool) -> int:
    """The length of the value at `pos`, which must end before `end`; NULL (only in text rows) or MALFORMED.

    Args: `size` its column's of `sizes`, 255 in a text row.
    """
    if size < 254:
        return size if size <= end - pos else MALFORMED
    if pos >= end:
        return MALFORMED
    first = data[pos]
    found = 0
    if size == 254 or first < 0xFB:
        found = first
        pos += 1
    elif first == 0xFB:
        return NULL if text else MALFORMED
    else:
        more = prefix_bytes(data, pos, end, size) - 1
        if first == 0xFF or pos + 1 + more > end:
            return MALFORMED
        for i in range(more, 0, -1):
            if found > 0xFFFFFFFFFF:
                return MALFORMED
            found = (found << 8) | data[pos + i]
        pos += 1 + more
    return found if found <= end - pos else MALFORMED


def values_at(data: bytes, pos: int, end: int, columns: int) -> int:
    """Where the values of the row data[pos:end] begin: behind the bitmap of a binary row; -1 when it is none.

    Args: `columns` of a binary result, 0 for a text result.
    """
    if not columns:
        return pos
    start = pos + 1 + (columns + 9) // 8
    if start > end or data[pos] != 0:
        return -1
    return start


def row_values(data: bytes, pos: int, end: int, last: int, sizes: bytes) -> list[bytes | None] | None:
    """Columns 0..`last` of the row data[pos:end]: a list of bytes, None for NULL; None when it does not hold them."""
    out: list[bytes | None] = []
    columns = len(sizes)
    at = values_at(data, pos, end, columns)
    if at < 0 or (columns and last >= columns):
        return None
    for i in range(last + 1):
        if columns and data[pos + 1 + (i + 2) // 8] & (1 << ((i + 2) % 8)):
            out.append(None)
            continue
        size = sizes[i] if columns else 255
        found = value_bytes(data, at, end, size, not columns)
        if found == MALFORMED:
            return None
        at += prefix_bytes(data, at, end, size)
        if found == NULL:
            out.append(None)
            continue
        out.append(data[at : at + found])
        at += found
    return out


def column_values(
    data: bytes, pos: int, most: int, column: int, sizes: bytes, out: list[bytes | None]
) -> tuple[int, int, int]:
    """`skip_rows` that also appends the value of one column of each row to `out` (bytes, None for NULL).

    Stops before a row that does not hold the column.
    """
    end = len(data)
    count = total = 0
    columns = len(sizes)
    if columns and column >= columns:
        return pos, count, total
    while count < most and pos + 5 <= end:
        length = row_length(data, pos, end)
        if length < 0:
            break
        start = pos + 4
        row_end = start + length
        at = values_at(data, start, row_end, columns)
        if at < 0:
            break
        found = NULL
        for i in range(column + 1):
            if found > 0:
                at += found
            if columns and data[start + 1 + (i + 2) // 8] & (1 << ((i + 2) % 8)):
                found = NULL
                continue
            size = sizes[i] if columns else 255
            found = value_bytes(data, at, row_end, size, not columns)
            if found == MALFORMED:
                return pos, count, total
            at += prefix_bytes(data, at, row_end, size)
        out.append(None if found < 0 else data[at : at + found])
        pos = row_end
        total += length
        count += 1
    return pos, count, total


def computed_bytes(data: bytes, start: int, end: int, total: int, columns: tuple[int, ...], sizes: bytes) -> int:
    """Length of these columns' values in the row of `total` bytes whose beginning is data[start:end]; whatever lies behind that
    beginning, and in no other column's value, is theirs. `columns`: in order."""
    at, found = values_at(data, start, end, len(sizes)), 0
    if at < 0:
        return total
    for i in range(columns[len(columns) - 1] + 1):
        if sizes and data[start + 1 + (i + 2) // 8] & (1 << ((i + 2) % 8)):
            continue
        size = sizes[i] if sizes else 255
        prefix = prefix_bytes(data, at, end, size)
        if at >= end or at + prefix > end:
            return found + max(0, start + total - at)
        length = size if size < 254 else data[at]
        if prefix > 1:
            length = int.from_bytes(data[at + 1 : at + min(prefix, 6)], "little")
        elif size == 255 and length == 0xFB:
            length = 0
        at += prefix + length
        found += length if i in columns else 0
    return found
