"""What a client has asked for, as long as it matters: statements, PostgreSQL's portals and requests without an answer."""

from __future__ import annotations

from typing import Any, Protocol

from ..wire.postgres.messages import Field
from .asked import Plan
from .identity import Script
from .templates import Template

COLUMN_BYTES = 250
"""About what a described column takes,"""
TYPE_BYTES = 40
"""the type of a parameter,"""
VALUE_BYTES = 100
"""and a value that is kept: a patient asked for, a parameter."""


class Kept(Protocol):
    def weight(self) -> int: ...


def forget(table: dict[Any, Kept], most: int) -> int:
    """Leave the newest of a table of what a client has prepared, of `most` bytes together, and what has no name. Returns their bytes."""
    kept = 0
    for name in [*reversed(table)]:
        size = table[name].weight()
        if name and kept + size > most:
            del table[name]
        else:
            kept += size
    return kept


class Text:
    """A text that a client of either engine sent, and what is known of it."""

    __slots__ = ("answers", "literals", "plan", "script", "sql", "template")

    def _begin(self, sql: bytes) -> None:
        """What a constructor would do, in one call of C's: there is one of these for each request."""
        self.sql = sql
        self.template: Template | None = None
        """What is known of it with all texts that differ in their literals only; then no plan is set, and a script only of the comment it ends with."""
        self.literals: list[bytes] = []
        """Its own; only with a template."""
        self.script: Script | None = None
        """What the text says of who is charged; None for most."""
        self.plan: Plan | None = None
        """What it asks for (asked.py); None for most."""
        self.answers: object = None
        """What the shortcut (_quick.pyx) knows of its results."""

    @property
    def bare(self) -> bytes:
        """The text; where it has a template, without its literals and the comment it ends with."""
        return self.sql if self.template is None else self.template.key

    def weight(self) -> int:
        """About how many bytes are kept of it."""
        return len(self.sql) + (VALUE_BYTES * len(self.plan.values) if self.plan is not None else 0)


class Statement(Text):
    """A prepared statement, or the text of a simple Query."""

    __slots__ = ("fields", "types")

    def __init__(self, sql: bytes) -> None:
        self._begin(sql)
        self.fields: list[Field] | None = None
        """From Describe; None when nobody asked."""
        self.types: tuple[int, ...] = ()
        """Type OIDs of its parameters, where they are known; kept only with a plan."""

    def again(self) -> Statement:
        """Prepared once more, and not described yet."""
        made = Statement(self.sql)
        made.template, made.literals, made.plan, made.answers = self.template, self.literals, self.plan, self.answers
        made.types = self.types
        return made

    def weight(self) -> int:
        columns = len(self.fields) if self.fields is not None else 0
        return Text.weight(self) + COLUMN_BYTES * columns + TYPE_BYTES * len(self.types)


class Portal:
    __slots__ = ("asked", "fields", "formats", "parameters", "script", "statement")

    def __init__(self, statement: Statement, formats: tuple[int, ...] | None) -> None:
        self.statement = statement
        self.formats = formats
        self.fields: list[Field] | None = None
        self.script: Script | None = None
        self.parameters: list[str | None] | None = None
        """Kept only where the identity depends on them."""
        self.asked: list[str] | None = None
        """Digests of the patients that were asked for, until an event has told them."""

    def weight(self) -> int:
        """About how many bytes are kept of it, its statement included."""
        columns = len(self.fields) if self.fields is not None else 0
        asked = len(self.asked) if self.asked is not None else 0
        values = sum([len(value) for value in self.parameters or () if value is not None])
        return self.statement.weight() + COLUMN_BYTES * columns + VALUE_BYTES * asked + values


class Pending:
    """One request that awaits its answer. `kind` is the frontend type byte; `*` is the start-up."""

    __slots__ = ("asked_ms", "done", "function", "kind", "portal", "refusal", "script", "statement", "undo")

    def __init__(self, kind: str, asked_ms: int = 0) -> None:
        self.kind = kind
        self.asked_ms = asked_ms
        self.statement: Statement | None = None
        self.portal: Portal | None = None
        self.script: Script | None = None
        self.done = 0
        """Statements of a Query that have completed."""
        self.function = 0
        """OID of what a FunctionCall calls."""
        self.refusal = ""
        """The words of the guard's error: this request never reached the server (see screening.py)."""
        self.undo: tuple[dict[bytes, Any], bytes, Any] | None = None
        """(table, name, what stood there before): a Parse, Bind or Close that the server refuses did not happen."""
