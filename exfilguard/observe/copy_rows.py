"""Rows of a COPY TO STDOUT, from the bodies of its CopyData messages, in whatever pieces they come: identifiers, and what had none.

Strategy: one state machine a format, byte by byte, that keeps nothing of a row but the identifier it is in. PostgreSQL sends one row
a message, which the protocol does not promise; _copy_rows.pyx passes quickly over such messages and leaves every other to this page,
which is the definition. One source: compiled by Cython when it can be, else run as it stands.

    text     fields between delimiters, a row ends with \\n; \\t, \\n, the delimiter and \\ come as escapes, NULL as \\N
    csv      a field may be quoted, then it may hold delimiters and newlines; the escape stands before a quote in it
    binary   signature (11 bytes), flags (4), extension (4 + n); tuples: columns (2), for each its length (4, -1: NULL) and bytes; -1 (2)

Rules:
- A row without the columns it should have, an identifier that is none of its type or too long, is `unread`: counted by whoever asks,
  never decoded, and never an error.
- A message counts as a row at least, but for the header and the trailer.
- After a message of which only the beginning is known the next begins a row; where rows did not end with messages before, the rest
  of this COPY is unread.
Source: https://www.postgresql.org/docs/current/sql-copy.html
"""

from __future__ import annotations

from .patients import canonical

TEXT, CSV, BINARY = 0, 1, 2
MAX_IDENTIFIER_BYTES = 8 << 10
"""A longer one is unread."""

_NEWLINE, _BACKSLASH = 10, 92
_INTEGERS = (20, 21, 23)
_UUID = 2950
_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_NULL_LENGTH, _TRAILER = 0xFFFFFFFF, 0xFFFF
_LARGEST = 0x7FFFFFFF

_BEGIN, _EXTENSION, _COUNT, _LENGTH, _FIELD, _ENDED = 0, 1, 2, 3, 4, 5
"""What is read next of the binary form."""

_ESCAPES = {ord("b"): 8, ord("f"): 12, ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("v"): 11}


class CopyForm:
    """How the rows of one COPY are read."""

    __slots__ = (
        "columns",
        "delimiter",
        "escape",
        "header",
        "kind",
        "null",
        "position",
        "positions",
        "quote",
        "type_oid",
        "types",
    )

    def __init__(
        self,
        kind: int,
        columns: int,
        positions: tuple[int, ...],
        types: tuple[int, ...],
        *,
        delimiter: int = 9,
        null: bytes = b"\\N",
        header: bool = False,
        quote: int = 34,
        escape: int = 34,
    ) -> None:
        self.kind = kind
        self.columns = columns
        self.positions = positions
        """Of the identifier columns, from 0, in order; at least one."""
        self.types = types
        """Type OID of each."""
        self.position = positions[0] if len(positions) == 1 else -1
        self.type_oid = types[0]
        """Of the only one."""
        self.delimiter = delimiter
        self.null = null
        self.header = header
        self.quote = quote
        self.escape = escape


def identifier(raw: bytes, type_oid: int, binary: bool) -> bytes | None:
    """Canonical text of a value; None for one that cannot be of this type."""
    value = canonical(raw, type_oid, binary)
    if type_oid in _INTEGERS and not (value[1:] if value[:1] == b"-" else value).isdigit():
        return None
    if type_oid == _UUID and len(value) != 32:
        return None
    return value


class CopyRows:
    """One COPY's rows. After each `message`: `values` and `unread` of what it held."""

    __slots__ = (
        "_aligned", "_carry", "_column", "_escaped", "_found", "_header", "_left", "_lost", "_open", "_quoted", "_spoiled", "_state",
        "form", "total", "unread", "values",
    )  # fmt: skip

    def __init__(self, form: CopyForm) -> None:
        self.form = form
        self.values: list[bytes] = []
        """Identifiers, in their canonical text; a NULL gives none."""
        self.unread = 0
        """Rows that ended, or were lost sight of, without their identifier."""
        self.total = 0
        """Rows that have begun so far."""
        self._header = form.header
        self._aligned = True
        """Each message so far ended with a row."""
        self._lost = False
        self._open = False
        """In a row."""
        self._column = 0
        self._found = 0
        """Identifiers of this row so far."""
        self._spoiled = False
        self._carry = bytearray()
        """Of the identifier that is being read, what came in earlier messages; of the binary form also its other pieces."""
        self._escaped = False
        """The last byte was an escape: what it means shows with the next."""
        self._quoted = False
        self._state = _BEGIN
        self._left = 0

    @property
    def at_row(self) -> bool:
        """True when the next message begins with a row."""
        return self.between()

    def between(self) -> bool:
        """`at_row` for those who call it in C."""
        if self._lost or self._header or self._open:
            return False
        return self.form.kind != BINARY or (self._state == _COUNT and not self._carry)

    def passed(self, count: int) -> None:
        """So many rows went by elsewhere, each in a message of its own."""
        self.total += count

    def message(self, data: bytes, start: int, end: int, whole: bool) -> int:
        """The body data[start:end] of one CopyData, or the beginning of it. Returns the rows it counts for."""
        self.values = []
        self.unread = 0
        before = self.total
        if self._lost:
            self.total += 1
            self.unread = 1
            return 1
        counts = self._open  # a row that goes on
        # A header or a trailer is no row; what is left of one that was cut is taken for one, so that none goes on for ever.
        header = (
            end > start
            and not counts
            and (self._header or (self.form.kind == BINARY and self._state == _BEGIN and not self._carry))
        )
        ended = self._state == _ENDED
        if self.form.kind == BINARY:
            self._tuples(data, start, end)
        else:
            self._lines(data, start, end)
        rows = self.total - before
        if not whole:
            return self._cut_short(rows, counts)
        if rows > 1 or counts or self._open:
            self._aligned = False
        if rows:
            return rows
        return 0 if header or (self._state == _ENDED and not ended) else 1

    def _cut_short(self, rows: int, counts: bool) -> int:
        """Of the message that was read only the beginning is known; `counts`: it went on with an earlier row."""
        if self._header:
            self._header = False
            self._lost = not self._aligned
            self._begin_row()
            return 0
        begun = self._open or not (rows or counts)
        if not rows and not counts:
            self.total += 1
        if begun and (self._spoiled or self._found < len(self.form.positions)):
            self.unread += 1
        self._lost = self._lost or not self._aligned or counts or not begun or rows > 1
        if self.form.kind == BINARY:
            self._lost = self._lost or self._state < _COUNT
            self._state = _COUNT
        self._begin_row()
        return max(1, rows)

    def _begin_row(self) -> None:
        self._open = False
        self._column = self._found = 0
        self._spoiled = False
        self._escaped = self._quoted = False
        self._carry.clear()

    def _end_row(self) -> None:
        if self._header:
            self._header = False
        elif self._spoiled or self._found < len(self.form.positions):
            self.unread += 1
        self._begin_row()

    def _wanted(self) -> bool:
        """The column at hand is the next identifier's."""
        positions = self.form.positions
        return self._found < len(positions) and positions[self._found] == self._column and not self._header

    # -- text and csv -----------------------------------------------------------------------------------------------

    def _lines(self, data: bytes, pos: int, end: int) -> None:
        form = self.form
        csv = form.kind == CSV
        delimiter, quote, escape = form.delimiter, form.quote, form.escape
        newline, backslash = _NEWLINE, _BACKSLASH
        mark = pos
        while pos < end:
            if not self._open:
                self._open = True
                mark = pos
                if not self._header:
                    self.total += 1
            byte = data[pos]
            if csv:
                if self._escaped:  # an escape in quotes
                    self._escaped = False
                    if byte in (quote, escape):
                        pos += 1
                        continue
                    if escape == quote:
                        self._quoted = False
                if self._quoted:
                    if byte == escape:
                        self._escaped = True
                    elif byte == quote:
                        self._quoted = False
                    pos += 1
                    continue
                if byte == quote:
                    self._quoted = True
                    pos += 1
                    continue
            elif self._escaped:
                self._escaped = False
                if byte != newline:  # a bare one always ends a row
                    pos += 1
                    continue
            elif byte == backslash:
                self._escaped = True
                pos += 1
                continue
            if byte == newline:
                self._end_field(data, mark, pos, last=True)
                self._end_row()
                mark = pos + 1
            elif byte == delimiter:
                self._end_field(data, mark, pos, last=False)
                mark = pos + 1
            pos += 1
        if self._open and self._wanted() and mark < end:
            self._keep(data, mark, end)

    def _keep(self, data: bytes, start: int, end: int) -> None:
        if len(self._carry) + end - start > MAX_IDENTIFIER_BYTES:
            self._spoiled = True
            self._carry.clear()
        elif not self._spoiled:
            self._carry += data[start:end]

    def _end_field(self, data: bytes, start: int, end: int, last: bool) -> None:
        if self._wanted():
            self._keep(data, start, end)
            if last != (self._column == self.form.columns - 1):
                self._spoiled = True
            if not self._spoiled:
                raw = bytes(self._carry)
                if raw != self.form.null:
                    self._take(
                        unquoted(raw, self.form.quote, self.form.escape) if self.form.kind == CSV else unescaped(raw)
                    )
            self._carry.clear()
            self._found += 1
        self._column += 1

    def _take(self, raw: bytes) -> None:
        value = identifier(raw, self.form.types[self._found], self.form.kind == BINARY)
        if value is None:
            self._spoiled = True
        else:
            self.values.append(value)

    # -- binary -----------------------------------------------------------------------------------------------------

    def _tuples(self, data: bytes, pos: int, end: int) -> None:
        while pos < end:
            if self._state in (_EXTENSION, _FIELD):
                taken = min(self._left, end - pos)
                if self._state == _FIELD and self._wanted():
                    self._keep(data, pos, pos + taken)
                self._left -= taken
                pos += taken
                if not self._left:
                    self._end_bytes()
                continue
            if self._state == _ENDED:
                self._give_up()
                return
            need = 19 if self._state == _BEGIN else 2 if self._state == _COUNT else 4
            taken = min(need - len(self._carry), end - pos)
            self._carry += data[pos : pos + taken]
            pos += taken
            if len(self._carry) < need:
                return
            piece = bytes(self._carry)
            self._carry.clear()
            if not self._word_read(piece):
                self._give_up()
                return

    def _word_read(self, piece: bytes) -> bool:
        """A piece of fixed length is complete. False: it is not what it should be."""
        state = self._state
        number = int.from_bytes(piece[-4:], "big")
        if state == _BEGIN:
            self._state, self._left = _EXTENSION, number
            if not piece.startswith(_SIGNATURE) or number > _LARGEST:
                return False
            if not number:
                self._state = _COUNT
            return True
        if state == _COUNT:
            if number == _TRAILER:
                self._state = _ENDED
                return True
            self.total += 1
            self._open = True
            self._state = _LENGTH
            return number == self.form.columns and number > 0
        if number == _NULL_LENGTH:
            self._found += 1 if self._wanted() else 0
            self._next_column()
            return True
        if number > _LARGEST:
            return False
        self._state, self._left = _FIELD, number
        if not number:
            self._end_bytes()
        return True

    def _end_bytes(self) -> None:
        """The extension, or a field, is complete."""
        if self._state == _EXTENSION:
            self._state = _COUNT
            return
        if self._wanted():
            if not self._spoiled:
                self._take(bytes(self._carry))
            self._carry.clear()
            self._found += 1
        self._next_column()

    def _next_column(self) -> None:
        self._column += 1
        self._state = _LENGTH
        if self._column == self.form.columns:
            self._state = _COUNT
            self._end_row()

    def _give_up(self) -> None:
        """Nobody knows where the next tuple begins: at the next message, if they all did so far."""
        if not self._open:
            self.total += 1
        self.unread += 1
        if not self._aligned or self._state in (_EXTENSION, _ENDED):
            self._lost = True
        self._begin_row()
        self._state = _COUNT


def unescaped(raw: bytes) -> bytes:
    """A field of the text form, without its escapes: those that COPY TO writes."""
    if b"\\" not in raw:
        return raw
    out = bytearray()
    escaped = False
    for byte in raw:
        if escaped:
            out.append(_ESCAPES.get(byte, byte))
            escaped = False
        elif byte == _BACKSLASH:
            escaped = True
        else:
            out.append(byte)
    return bytes(out)


def unquoted(raw: bytes, quote: int, escape: int) -> bytes:
    """A field of the csv form, without quotes and escapes."""
    if quote not in raw:
        return raw
    out = bytearray()
    quoted = False
    pos = 0
    while pos < len(raw):
        byte = raw[pos]
        pos += 1
        if quoted and byte == escape and pos < len(raw) and raw[pos] in (quote, escape):
            out.append(raw[pos])
            pos += 1
        elif byte == quote:
            quoted = not quoted
        else:
            out.append(byte)
    return bytes(out)
