"""Statements that differ only in their literals: their shape, and where in them the patients asked for stand, worked out once.

Strategy: every number that stands by itself becomes a mark, every string another one, and the rest of the text is the key. What the
expressions of asked.py, statement.py and effects.py say of one such text holds for all with the same key, since they look at no
number's digits, and into a string only for words that no string here has. What the server may read otherwise than the guard (a
backslash, half a character) has none of the words that matter then. The first text is read by them with numbers of its own in
place of the literals, and where these come out again is remembered. A comment that the text ends with is no part of it.

Read the plain way each time: a text with other comments or strings (dollar quotes), with anything but ASCII
outside of its strings, with a string that names a table or column of patients or may be a query, and one that may change whom its session is charged to
(effects.may_matter).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .asked import AskedColumns, literal
from .effects import may_matter
from .statement import normalise_bytes
from .words import PlainWords, word_set

try:
    from ._hot import skeleton
except ImportError:  # no C compiler at installation
    skeleton = None  # type: ignore[assignment]

MAX_TEMPLATES = 4_096
MAX_PREPARED = 1_024
MAX_SKELETON = 2_000
MAX_LITERALS = 50
_FIRST_MARK = 7_000_000_001
"""A number that no text is likely to have; one that has it is read the plain way."""

_OF_TRANSACTIONS = re.compile(
    rb"(?:begin|start\s+transaction|commit|end|rollback|abort|savepoint|release)\b[^;]*+;?\s*+", re.IGNORECASE
)
"""What changes no identity where no setting names a user."""
_OF_QUERIES = frozenset(("select", "table"))
"""What completed.py and mysql/answers.py look for."""

_PIECES = rb"""
    (?P<number> (?<![0-9A-Za-z_.$])[0-9]+(?![0-9A-Za-z_.$]) )
  | (?P<string> '(?:[^'\\]|''%b)*+' %b )
  | (?P<name> %s )
  | (?P<comment> /\*%s(?:(?!/\*|\*/).)*+\*/[;\x09-\x0d\x20]*+\Z )
  | (?P<other> [\0\1'"\\\x80-\xff%s] | -- | /\* | (?<![0-9A-Za-z_$])\$(?=[$A-Za-z_]) )
  | (?P<rest> . )
"""


def _pieces(mysql: bool, escapes: bool) -> re.Pattern[bytes]:
    quote = b"`" if mysql else b'"'
    name = rb"%s(?:[^\0-\x1f%s\\\x80-\xff]|%s)*+%s" % (quote, quote, 2 * quote, quote)
    escape = rb"|\\." if escapes else b""
    string = rb"| " + rb'"(?:[^"\\]|""%b)*+"' % escape if mysql else b""
    parts = (escape, string, name, rb"(?!M?!)" if mysql else b"", rb"`\#" if mysql else b"")
    return re.compile(_PIECES % parts, re.VERBOSE | re.DOTALL)


_PATTERNS = {(mysql, escapes): _pieces(mysql, escapes) for mysql in (False, True) for escapes in (False, True)}


def plain_skeleton(
    sql: bytes,
    mysql: bool = False,
    escapes: bool = False,
    words: PlainWords | None = None,
    doubted: PlainWords | None = None,
) -> tuple[bytes, list[bytes], int] | None:
    r"""(the text with `\0` for each of its numbers and `\1` for each of its strings, those literals as they stand there, where a comment
    begins that it ends with, or its length); None for a text that is to be read the plain way.

    `escapes`: a backslash escapes in strings; else one with a backslash is for the plain way. `words`: that no string may have; None: no
    text with strings; `doubted`: that, be it within others, no text may have which the server may read otherwise (Classifier.doubted).
    """
    key, literals = bytearray(), []
    end, room, doubtful = len(sql), MAX_SKELETON, False
    for match in _PATTERNS[mysql, escapes].finditer(sql):
        kind, text = match.lastgroup, match.group()
        if kind == "other":
            return None
        if kind == "comment":
            end, room, doubtful = match.start(), MAX_SKELETON - 2, True
        elif kind == "number":
            key += b"\0"
            literals.append(text)
        elif kind == "string":
            if words is None or words.has_any(text[1:-1]):
                return None
            doubtful = doubtful or not text.isascii() or b"\\" in text
            key += b"\1"
            literals.append(text)
        else:
            key += text
    if doubtful and doubted is not None and doubted.found(sql):
        return None
    return (bytes(key), literals, end) if len(key) <= room and len(literals) <= MAX_LITERALS else None


class Template:
    """What all texts of one key have in common."""

    __slots__ = ("answers", "asked", "example", "key", "shape", "usable")

    def __init__(
        self, key: bytes, shape: tuple[str, str], asked: tuple[tuple[bytes, int], ...], usable: bool = True
    ) -> None:
        self.key = key
        self.example = key.replace(b"\0", b"0").replace(b"\1", b"''")
        """One of the texts, with nothing in it that could be read in two ways."""
        self.shape = shape
        """Fingerprint and normalised text."""
        self.asked = asked
        """(sign, which of its literals) of each patient asked for."""
        self.usable = usable
        """False: these texts are read the plain way."""
        self.answers: object = None
        """What _quick.pyx knows of their results."""

    def values(self, literals: list[bytes]) -> list[bytes]:
        """The identifiers that a text with these literals asks for, each once."""
        out: dict[bytes, None] = {}
        for sign, which in self.asked:
            text = literals[which]
            out.update(dict.fromkeys([sign + text] if text[:1].isdigit() else literal(text)))
        return list(out)


class Templates:
    """Of one listener; bounded."""

    def __init__(
        self,
        asked: AskedColumns | None,
        shape: Callable[[bytes], tuple[str, str]] = normalise_bytes,
        *,
        mysql: bool = False,
        settings: bool = True,
        doubted: PlainWords | None = None,
    ) -> None:
        """`shape`: the engine's (statement.py); `settings`: a session's settings may name its user; `doubted`: see plain_skeleton."""
        self._asked = asked
        self._shape = shape
        self._settings = settings
        self.mysql = mysql
        self.words = word_set(asked.words | _OF_QUERIES) if asked is not None else None
        self.doubted = doubted
        self._known: dict[bytes, Template] = {}
        self.prepared: dict[bytes, object] = {}
        """What the shortcuts know of statements that are prepared: PostgreSQL's by the body of their Parse, MySQL's by their text. Bounded."""

    def find(self, sql: bytes, escapes: bool = False) -> tuple[Template, list[bytes], int] | None:
        """A text's template, its literals, and where the comment begins that it ends with (its length: there is none); None: read it the
        plain way. `escapes`: a backslash escapes in its strings."""
        take = skeleton if skeleton is not None else plain_skeleton
        found = take(sql, self.mysql, escapes, self.words, self.doubted)
        if found is None:
            return None
        key, literals, end = found
        template = self._known.get(key)
        if template is None:
            if len(self._known) >= MAX_TEMPLATES:
                self._known.clear()
            template = self._known[key] = self._read(key, sql[:end], literals)
        return (template, literals, end) if template.usable else None

    def _read(self, key: bytes, sql: bytes, literals: list[bytes]) -> Template:
        unusable = Template(key, ("", ""), (), usable=False)
        if may_matter(key) and (self._settings or _OF_TRANSACTIONS.fullmatch(key) is None):
            return unusable
        asked: list[tuple[bytes, int]] = []
        if self._asked is not None:
            marks = [b"%d" % (_FIRST_MARK + i) for i in range(len(literals))]
            if any(mark in sql for mark in marks):
                return unusable
            quotes = [b"" if text[:1].isdigit() else text[:1] for text in literals]
            taken = iter([quote + mark + quote for quote, mark in zip(quotes, marks, strict=True)])
            plan = self._asked.plan(re.sub(rb"[\0\1]", lambda _: next(taken), key))
            if plan is not None:
                if plan.guarded:
                    return unusable
                for value in plan.values:
                    if not isinstance(value, bytes) or value.lstrip(b"-") not in marks or value.count(b"-") > 1:
                        return unusable
                    asked.append((b"-" if value.startswith(b"-") else b"", marks.index(value.lstrip(b"-"))))
        return Template(key, self._shape(sql), tuple(asked))
