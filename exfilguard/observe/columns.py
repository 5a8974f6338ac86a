# cython: annotation_typing=False
"""The columns of the result that is flowing in a PostgreSQL session, and whose rows these are.

Rules:
- Rows are counted whatever the pairing says; their columns decide only whether they are looked into.
- A row that hides its identifier (too long to be kept) counts as a patient of its own: too many, never too few.
"""

from __future__ import annotations

from typing import Any

from ..wire.postgres._scan import column_values, computed_bytes, row_values
from ..wire.postgres.asides import LEAST_BYTES, discloses, said
from ..wire.postgres.messages import Field
from .completed import copied, kept, made, names, no_tuple, plain_names
from .copy_rows import CopyRows
from .estimate import PATIENT_BYTES, beside, packs, patients_in
from .patients import Reading, canonical, looks_binary
from .pending import Pending, Portal, Statement
from .requests import Requests

try:
    from ._rows import column, estimated
except ImportError:  # no C compiler at installation
    column = estimated = None  # type: ignore[assignment]

try:
    from ._copy_rows import Passing
except ImportError:
    Passing = None  # type: ignore[assignment,misc]

MAX_MADE = 1_000
"""Names of a session; with so many, each text may hold one."""
_DATA_ROW, _COPY_DATA = b"Dd"
_KEEPALIVE = b"k"
_NOT_KNOWN = 2
"""A format that nobody has told."""
_LARGE_OBJECTS = frozenset(
    (715, 764, 767, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172, 3457, 3458, 3459, 3460)
)
"""OIDs of the functions that make, open, read and write large objects, the same in every server: letters and images, and drivers call
them so. A piece of one is a row, as by SELECT, and nobody's."""


class Columns(Requests):
    """Whose rows they are."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reading: Reading | None = None
        self._positions: tuple[int, ...] = ()
        self._last_position = 0
        self._fields: list[Field] = []
        self._formats: tuple[int, ...] = ()
        self._called = False  # what flows is a function's value, not a row of columns
        self._encoding = ""
        """The client's."""
        self._copied_in = False
        self._made: dict[bytes, bool] = {}
        """Names by which this session may read patients: cursors, prepared statements and functions; True for a view's, or
        that of a table into which they were packed."""
        self._packed: tuple[int, ...] = ()
        """Columns that may hold many patients, beside others that come from tables."""
        self._beside = 0
        """Bytes said beside the rows that have made no patient yet."""
        self._copying: CopyRows | None = None
        """A COPY whose identifiers are read,"""
        self._passing: Passing | None = None
        """and the quick way over its rows."""

    # -- columns ----------------------------------------------------------------------------------------------------

    def _begin_columns(self, fields: list[Field], formats: tuple[int, ...] | None, statement: Statement | None) -> None:
        """`formats`: None for those of the description."""
        columns = self._columns
        reading = columns.reading(fields)
        self._reading = reading
        self._fields = fields
        if formats is None:
            self._formats = reading.formats
        else:
            if len(formats) == 1:
                formats = formats * len(fields)
            self._formats = formats if len(formats) == len(fields) else (0,) * len(fields)
        self._positions, self.patients_by, self._last_position = reading.positions, reading.by, reading.last
        self._expressions = False
        self._packed = ()
        computed = bool(reading.computed) and statement is not None and self._of_patients(statement)
        if not reading.positions and statement is not None:
            of_view = self._of_view(statement.sql)
            if reading.identity or of_view or computed:
                self.patients_by = "estimate"
                self._expressions = reading.expressions or of_view
        if computed and not self._expressions and (not reading.known or statement is None or packs(statement.bare)):
            self._packed = reading.computed
        self.wants_rows = bool(self.patients_by)
        self.wants_column = self._positions[0] if len(self._positions) == 1 else -1

    def _mentioned(self, sql: bytes) -> bool:
        """True when a statement names a table of patients, or what was made of one in this session."""
        if self._columns.mentioned_in(sql):
            return True
        return bool(self._made) and (len(self._made) >= MAX_MADE or any(name in self._made for name in names(sql)))

    def _of_view(self, sql: bytes) -> bool:
        """True when it names a view of this session's, or a table into which it packed patients."""
        return bool(self._made) and any(self._made.get(name, False) for name in names(sql))

    def _of_patients(self, statement: Statement) -> bool:
        """`_mentioned` of all that it says, strings too where this session has made names of its own."""
        return self._mentioned(statement.sql if self._made else statement.bare)

    def _note_made(self, sql: bytes) -> None:
        """A statement that makes something was carried out."""
        if self._mentioned(sql) and len(self._made) < MAX_MADE:
            self._made.update(made(sql))

    def _note_kept(self, sql: bytes) -> None:
        """Values of patients may have been put by, of which the result tells nothing: what reads them tells their number by its length."""
        found = kept(sql)
        if found and self._mentioned(sql) and len(self._made) < MAX_MADE:
            self._made.update(dict.fromkeys(found, True))

    def _note_shadow(self, sql: bytes) -> None:
        """A table may have the name of a table of patients now: whose a statement's description was is not known when it is gone."""
        if self._columns.mentioned_in(sql) and len(self._made) < MAX_MADE:
            self._made.update({name: False for name in names(sql) if self._columns.mentioned_in(name)})

    def _note_copy(self, statement: Statement) -> None:
        """A statement moved rows of patients without showing them. Where it packed them, the copy's rows are not one patient each."""
        flags = self._classifier.flags(self._shape(statement)[0], statement.sql, self._columns.mentioned_in)
        if "aggregate" in flags and len(self._made) < MAX_MADE:
            self._made.update(dict.fromkeys(copied(statement.sql), True))

    def _note_ended(self, sql: bytes) -> None:
        for name in names(sql) if self._made else ():
            if not self._made.get(name, False):
                self._made.pop(name, None)

    def _show_portal(self, head: Pending) -> None:
        """Its columns decide whether its rows are looked into."""
        portal = head.portal
        fields = None
        if portal is not None:
            fields = portal.fields or portal.statement.fields
            if (
                fields
                and portal.fields is None
                and self._made
                and not self._made.keys().isdisjoint(names(portal.statement.sql))
            ):
                fields = None  # what has this name may be another than was described
        if fields:
            formats = portal.formats if portal is not None else ()
            self._begin_columns(fields, formats or (), head.statement)
            if formats is None:  # of a Bind that was too long to be kept: each value tells
                self._formats = (_NOT_KNOWN,) * len(fields)
                self.wants_column = -1
        else:
            self._forget_columns()
            self.wants_rows = True  # if there are any: nobody had them described

    def _show_function(self, head: Pending) -> None:
        """Nothing tells what it returns but its size, as with a result of expressions."""
        self._forget_columns()
        if head.function not in _LARGE_OBJECTS or b"loread" in self._made:
            self.patients_by = "estimate"
            self._called = self._expressions = self.wants_rows = True

    def _forget_columns(self) -> None:
        self.wants_rows = self._called = False
        self.wants_column = -1
        self._positions = ()
        self.patients_by = ""
        self._expressions = False
        self._packed = ()
        self._reading = None
        self._copying = None
        self._fields = []
        self._formats = ()

    def statement_columns(self) -> tuple[str, ...]:
        reading = self._reading
        if reading is None:
            return ()
        if reading.plain is None:
            reading.plain = plain_names(reading.names)
        return reading.plain

    # -- rows -------------------------------------------------------------------------------------------------------

    def row(self, data: bytes, start: int, end: int, whole: bool) -> bool:
        if self._copying is not None:
            return self._copied(self._copying, data, start, end, whole)
        if (self._copy == "out" and whole and no_tuple(data, start, end)) or (
            self._copy == "both" and data[start : start + 1] == _KEEPALIVE
        ):
            # Not a tuple, or a keepalive of replication: taken back here, counted by `rows` next.
            self._recount(0)
            return True
        if not self.patients_by:
            if self._copy:
                return True
            self.patients_by = "estimate"  # what was never described may be anybody
        found, further = self._row_patients(data, start, end, whole)
        if self._packed and not self._copy:
            further += self._beside_columns(data, start, end)
        return self.admit(found, further)

    def _beside_columns(self, data: bytes, start: int, end: int) -> int:
        """How many patients more the computed columns of a row stand for, by their length, which its header tells."""
        total = int.from_bytes(data[start - 4 : start], "big") - 4 if start >= 5 else end - start
        reading = self._reading
        size = computed_bytes(data, start, end, total, self._packed)
        return beside(size, known=reading is not None and (bool(reading.positions) or reading.identity))

    def fits(self, size: int) -> bool:
        allowed = self._allowed_patients
        if allowed is None or not self._expressions:
            return True
        return self._portion_new + self.portion_estimated + size // PATIENT_BYTES <= allowed

    def _recount(self, rows: int) -> None:
        """What `row` is shown counts for so many rows, not for one as `rows` counts it (before or behind)."""
        self.delivered += rows - 1
        self._rows += rows - 1
        self.portion_rows += rows - 1
        self.free = not rows

    def scan(self, data: bytes, pos: int, most: int) -> tuple[int, int, int]:
        kind = data[pos]
        if self._copying is not None and kind == _COPY_DATA:
            return self._scan_copied(self._copying, data, pos, most)
        if kind != _DATA_ROW or self._copy or self._packed:
            return pos, 0, 0
        key, further = self.digester.compiled, 0
        found = self.gathering()
        if self.wants_column >= 0:
            type_oid, binary = self._fields[self.wants_column].type_oid, self._formats[self.wants_column] == 1
            if key is not None and column is not None:
                pos, count, size = column(data, pos, kind, most, self.wants_column, type_oid, binary, key, found)
            else:
                values: list[bytes | None] = []
                pos, count, size = column_values(data, pos, kind, most, self.wants_column, values)
                found.update([self.digester.digest(canonical(v, type_oid, binary)) for v in values if v is not None])
        elif self.patients_by == "estimate" and self._fields and key is not None and estimated is not None:
            pos, count, size, further = estimated(
                data, pos, kind, most, len(self._fields), self._expressions, key, found
            )
        else:
            return pos, 0, 0
        self.gathered(found, further)
        return pos, count, size

    def _row_patients(self, data: bytes, start: int, end: int, whole: bool) -> tuple[list[str], int]:
        """Digests of the row's patients, and how many more it stands for."""
        if self._called and whole:
            return self._judged(data[start:end], [data[start:end]])
        if self.patients_by == "estimate":
            values = row_values(data, start, end, len(self._fields) - 1) if whole and self._fields else None
            if values is not None:
                return self._judged(data[start:end], values)
            # a line of COPY, or a row too long to be kept
            packed = whole and self._expressions and self._copy == "out"
            further = max(0, (end - start) // PATIENT_BYTES - 1) if packed else 0
            return [self.digester.digest_row(data[start:end])], further
        values = row_values(data, start, end, self._last_position)
        if values is None:
            return self._hidden_patient(), 0
        found = []
        for position in self._positions:
            value = values[position]
            if value is not None:
                format_, type_oid = self._formats[position], self._fields[position].type_oid
                binary = format_ == 1 or (format_ == _NOT_KNOWN and looks_binary(value, type_oid))
                found.append(self.digester.digest(canonical(value, type_oid, binary)))
        return found, 0

    def _canonical(self, value: bytes) -> bytes:
        return canonical(value, 0, False)

    # -- beside the rows --------------------------------------------------------------------------------------------

    def aside(self, kind: int, data: bytes, start: int, end: int, size: int, may: bool) -> int:
        if self._pending and self._pending[0].refusal:
            return 0
        body = data[start:end]
        sql = self._text_answered()
        if not discloses(kind, body, sql):
            return 0
        if not may or not self._admit_aside(kind, body, size, sql):
            return -1
        self._bytes += size
        self.portion_rows += 1  # it takes its place in the allowance, though it is no row
        return 1

    def _admit_aside(self, kind: int, body: bytes, size: int, sql: bytes) -> bool:
        """Its patients: of a statement that names a table of theirs as of a row of expressions, else by what was said so far."""
        texts = said(kind, body)
        found, patients = patients_in(list[bytes | None](texts), expressions=True, keyed=self._columns.keyed)
        digests = [self.digester.digest(self._canonical(value)) for value in found]
        size = sum(map(len, texts)) + size - len(body)
        before = self._beside
        if found:
            further = 0
        elif self._mentioned(sql):
            digests = [self.digester.digest_row(body)]
            further = max(patients, size // PATIENT_BYTES) - 1
        elif size >= LEAST_BYTES:
            self._beside += size
            further = self._beside // PATIENT_BYTES
            self._beside %= PATIENT_BYTES
        else:
            return True
        if not self.admit(digests, further):
            self._beside = before
            return False
        self.packed = self.packed or len(found) > 1
        if not self.patients_by and not self._fields and not self._copy:
            self.patients_by = "estimate"
        return True

    def _text_answered(self) -> bytes:
        """The client's text that the server is answering; empty where it is not known."""
        head: Pending | None = self._pending[0] if self._pending else None
        if head is None:
            return b""
        statement = head.statement
        if statement is None and head.portal is not None:
            statement = head.portal.statement
        if statement is None and head.undo is not None:
            made = head.undo[0].get(head.undo[1])
            statement = made.statement if isinstance(made, Portal) else made
        return statement.sql if statement is not None else b""

    # -- rows of a COPY whose identifiers are read -------------------------------------------------------------------

    def _copied(self, copying: CopyRows, data: bytes, start: int, end: int, whole: bool) -> bool:
        """`row` of it."""
        rows = copying.message(data, start, end, whole)
        if rows > 1 and self._allowed_rows is not None and self.portion_rows + rows > self._allowed_rows:
            return False
        found = [self.digester.digest(value) for value in copying.values]
        # Whose rows these were nobody can say: somebody new each time.
        who = f"copy {self.session_id} {self.ordinal} {copying.total}"
        found += [self.digester.digest(f"{who} {n}".encode()) for n in range(copying.unread)]
        if not self.admit(found, 0):
            return False
        if rows != 1:
            self._recount(rows)
        return True

    def _scan_copied(self, copying: CopyRows, data: bytes, pos: int, most: int) -> tuple[int, int, int]:
        """`scan` of it."""
        key = self.digester.compiled
        if key is None or self._passing is None or not copying.between():
            return pos, 0, 0
        found = self.gathering()
        pos, count, size = self._passing.rows(data, pos, most, key, found)
        if count:
            copying.passed(count)
            self.gathered(found, 0)
        return pos, count, size

    def _begin_copy(self, statement: Statement | None, done: int, answer: bytes) -> None:
        """COPY TO STDOUT begins; `answer`: CopyOutResponse's body, `done`: statements of the same text before it."""
        self._copy = "out"
        self._forget_columns()
        self.wants_rows = answer[:1] == b"\1"  # binary: only to know the trailer from a tuple
        if statement is None:
            return
        columns, sql = self._columns, statement.sql
        if columns.copies is not None:
            form = columns.copies.form(sql, done, self._encoding, backslashes=self._backslashes, answer=answer)
            if form is not None:
                self._copying = CopyRows(form)
                self._passing = Passing(form) if Passing is not None and form.position >= 0 else None
                self.patients_by = "origin"
                self.wants_rows = True
                return
        if self._mentioned(sql):
            self.patients_by = "estimate"
            flags = self._classifier.flags(self._shape(statement)[0], sql, columns.mentioned_in)
            # A line may hold many patients then: its length says how many.
            self._expressions = "aggregate" in flags or "watched_call" in flags or self._of_view(sql)
            # With a budget of patients each line is looked at, so that the same patient again costs nothing.
            self.wants_rows = self.wants_rows or self._allowed_patients is not None
