"""Statements that differ only in their numbers: their shape, and where in them the patients asked for stand, worked out once.

Strategy: every number that stands by itself becomes a mark, and the rest of the text is the key. What the expressions of asked.py
and statement.py say of one such text holds for all with the same key, since they look at no number's digits: the first text is
read by them with numbers of its own in place of the marks, and where these come out again is remembered.

A text with a string, a quoted name, a comment, or anything but ASCII is read the plain way each time, and so is one that may change
whom its session is charged to (effects.may_matter).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .asked import AskedColumns
from .effects import may_matter
from .statement import normalise_bytes

try:
    from ._hot import skeleton
except ImportError:  # no C compiler at installation
    skeleton = None  # type: ignore[assignment]

MAX_TEMPLATES = 4_096
MAX_SKELETON = 2_000
MAX_NUMBERS = 50
_FIRST_MARK = 7_000_000_001
"""A number that no text is likely to have; one that has it is read the plain way."""

_NUMBER = re.compile(rb"(?<![0-9A-Za-z_.$])[0-9]+(?![0-9A-Za-z_.$])")
_PLAIN_WAY = re.compile(rb"[\0'\"\\\x80-\xff]|--|/\*")


def plain_skeleton(sql: bytes) -> tuple[bytes, list[bytes]] | None:
    """(the text with `\\0` for each of its numbers, those numbers); None for a text that is to be read the plain way."""
    if len(sql) > MAX_SKELETON or _PLAIN_WAY.search(sql) is not None:
        return None
    numbers = _NUMBER.findall(sql)
    return (_NUMBER.sub(b"\0", sql), numbers) if len(numbers) <= MAX_NUMBERS else None


class Template:
    """What all texts of one key have in common."""

    __slots__ = ("answers", "asked", "shape", "usable")

    def __init__(self, shape: tuple[str, str], asked: tuple[tuple[bytes, int], ...], usable: bool) -> None:
        self.shape = shape
        """Fingerprint and normalised text."""
        self.asked = asked
        """(sign, which of its numbers) of each patient asked for."""
        self.usable = usable
        """False: these texts are read the plain way."""
        self.answers: object = None
        """What _quick.pyx knows of their results."""

    def values(self, numbers: list[bytes]) -> list[bytes]:
        """The identifiers that a text with these numbers asks for, each once."""
        return list(dict.fromkeys([sign + numbers[which] for sign, which in self.asked]))


_UNUSABLE = Template(("", ""), (), usable=False)


class Templates:
    """Of one listener; bounded."""

    def __init__(
        self,
        asked: AskedColumns | None,
        shape: Callable[[bytes], tuple[str, str]] = normalise_bytes,
        foreign: bytes = b"",
    ) -> None:
        """`shape`: the engine's (statement.py); `foreign`: characters that only its lexical rules give a meaning: texts with one are
        read the plain way."""
        self._asked = asked
        self._shape = shape
        self._foreign = tuple(foreign[i : i + 1] for i in range(len(foreign)))
        self._known: dict[bytes, Template] = {}

    def find(self, sql: bytes) -> tuple[Template, list[bytes]] | None:
        """A text's template and its numbers; None: read it the plain way."""
        for mark in self._foreign:
            if mark in sql:
                return None
        found = skeleton(sql) if skeleton is not None else plain_skeleton(sql)
        if found is None:
            return None
        key, numbers = found
        template = self._known.get(key)
        if template is None:
            if len(self._known) >= MAX_TEMPLATES:
                self._known.clear()
            template = self._known[key] = self._read(key, sql, len(numbers))
        return (template, numbers) if template.usable else None

    def _read(self, key: bytes, sql: bytes, count: int) -> Template:
        if may_matter(sql):
            return _UNUSABLE
        asked: list[tuple[bytes, int]] = []
        if self._asked is not None:
            marks = [b"%d" % (_FIRST_MARK + i) for i in range(count)]
            if any(mark in sql for mark in marks):
                return _UNUSABLE
            pieces = key.split(b"\0")
            marked = b"".join(piece + mark for piece, mark in zip(pieces, [*marks, b""], strict=True))
            plan = self._asked.plan(marked)
            if plan is not None:
                if plan.guarded:
                    return _UNUSABLE
                for value in plan.values:
                    if not isinstance(value, bytes) or value.lstrip(b"-") not in marks or value.count(b"-") > 1:
                        return _UNUSABLE
                    asked.append((b"-" if value.startswith(b"-") else b"", marks.index(value.lstrip(b"-"))))
        return Template(self._shape(sql), tuple(asked), usable=True)
