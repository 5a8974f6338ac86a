"""Where a statement puts rows that it does not show: tables it makes or fills, views, procedures and functions that tell of others' rows."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_NAMES = 100
"""Of one text."""
_COPY = re.compile(
    rb"""(?: \bcreate\b [^'"]{0,300}? \b(?:table|view)\b (?:\s+if\s+not\s+exists)?
           | \b(?:procedure|function)\b (?:\s+if\s+not\s+exists)?
           | \b(?:insert|replace)\b (?:\s+(?:low_priority|delayed|high_priority|ignore))* (?:\s+into)?
           | \brename\s+table\b .{0,300}? \bto | \brename(?:\s+(?:to|as))? )
         \s+ (?!(?:column|index|key|table|view|function|procedure|trigger|event)\s) (?:[`"]?\w+[`"]? \s*\.\s*)? [`"]?(?P<name>[\w$\x80-\xff]+)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
AROUND = re.compile(r"/\*! | \*/")
"""Of a shape: the edges of a comment that is code."""
_MOVES = re.compile(
    rb"\b(?:insert|replace)\b(?!\s*\()|\b(?:outfile|dumpfile|create|alter|rename)\b|\binto\b[^\w`]*@", re.IGNORECASE
)
_SELECT = re.compile(rb"\b(?:select|table|trigger|procedure|function|event)\b", re.IGNORECASE)
_OF_VALUES = frozenset(("insert", "replace", "create", "update"))
_VALUES = frozenset(("values", "value", "set"))
_COMMENT = re.compile(rb"/\*|--|\#")
UNREAD = re.compile(rb"\bexecute\b", re.IGNORECASE)
"""Of a text that runs another, which nobody has read."""
_REFERENCES = frozenset(("update", "join", "straight_join", ",", "("))
_MODIFIERS = frozenset(("low_priority", "ignore", "(", "lateral"))
_NO_ALIAS = frozenset(
    ("join", "inner", "cross", "left", "right", "natural", "straight_join", "on", "using", "set", "partition", "use", "force", "ignore",
     "for", ",", "(", ")", "as")
)  # fmt: skip


def moves(sql: bytes) -> bool:
    """True for a statement that may move rows without a result: by its words, since no comment hides them."""
    low = sql.lower()
    return copies(sql) or (b"update" in low and (_COMMENT.search(low) is not None or _several(low)))


def copies(sql: bytes) -> bool:
    """`moves` of a statement whose rows are all moved ones; of another that may, an UPDATE, `updated` tells."""
    low = sql.lower()
    if _SELECT.search(low) is not None and _MOVES.search(low) is not None:
        return True
    return b"execute" in low and UNREAD.search(low) is not None


def _several(low: bytes) -> bool:
    """An UPDATE of several tables, or with a query of its own."""
    return b"select" in low or b"join" in low or b"," in low.partition(b"update")[2].partition(b"set")[0]


def beyond(shape: str, done: int) -> bool:
    """Of a text of which the beginning is kept: True when what its statement number `done` (from 0) moves stands behind that. `shape`: the
    beginning's."""
    statements = AROUND.sub("", shape).split(";")
    if done != len(statements) - 1:
        return done >= len(statements)
    words = statements[done].split(" ")
    return not _OF_VALUES.isdisjoint(words[:3]) and _VALUES.isdisjoint(words)


def made(sql: bytes, shape: str, any_update: bool = False) -> set[str]:
    """Names in lower case. `shape`: the normalised text, where no comment hides what it does; `any_update`: see updated."""
    out = updated(shape, any_update)
    for text in (AROUND.sub("", shape).encode(), sql):
        for count, found in enumerate(_COPY.finditer(text)):
            if count >= MAX_NAMES:
                break
            out.add(found["name"].decode("utf-8", "replace").lower())
    return out


def updated(shape: str, any_update: bool = False) -> set[str]:
    """The tables into which the UPDATEs of a text put what other tables, or queries, hold; `?` for one whose name the shape does not show.
    `any_update`: what the values are is known to be others'."""
    out: set[str] = set()
    for statement in AROUND.sub("", shape).split(";"):
        words = statement.split(" ")
        if len(out) >= MAX_NAMES or "update" not in words or "set" not in words:
            continue
        start, middle = words.index("update"), words.index("set")
        references, assigned = words[start:middle], words[middle + 1 :]
        query = "select" in assigned and "where" not in assigned[: assigned.index("select")]
        if any_update or query or any(word in ("join", "straight_join", ",") for word in references):
            out.update(_targets(assigned, dict(_tables(references))))
    return out


def _tables(references: list[str]) -> Iterator[tuple[str, str]]:
    """(alias, table) of each."""
    for at, word in enumerate(references):
        if word not in _REFERENCES:
            continue
        rest = references[at + 1 : at + 8]
        while rest and rest[0] in _MODIFIERS:
            rest = rest[1:]
        if not rest or rest[0] == "select":
            continue
        if rest[1:2] == ["."]:
            rest = rest[2:]
        table = _name(rest[:1])
        rest = rest[2:] if rest[1:2] == ["as"] else rest[1:]
        yield (_name(rest[:1]) if rest and rest[0] not in _NO_ALIAS else table), table


def _targets(assigned: list[str], tables: dict[str, str]) -> Iterator[str]:
    """Of `[[database .] table .] column = ..`, each; without a table's name it may be any."""
    depth = 0
    for at, word in enumerate(assigned):
        depth += (word == "(") - (word == ")")
        if word == "where" and not depth:
            return
        if depth or (at and assigned[at - 1] != ","):
            continue
        qualified = [_name(assigned[i : i + 1]) for i in (at, at + 2) if assigned[i + 1 : i + 2] == ["."]]
        if qualified:
            yield tables.get(qualified[-1], qualified[-1])
        else:
            yield from tables.values()


def _name(word: list[str]) -> str:
    return word[0].strip("`").lower() if word else "?"
