"""What PostgreSQL's own words tell of a result: rows that it moved without showing them, the names of its columns, the end of a COPY."""

from __future__ import annotations

import re
from functools import lru_cache

from ..wire.postgres import messages

_BINARY_COPY_TRAILER = b"\xff\xff"
_BINARY_COPY_HEADER = b"PGCOPY\n\xff\r\n\0"
"""Signature; 4 bytes of flags and the length of an extension follow. It comes in front of the first tuple or of the trailer."""


MAX_COLUMNS = 100
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")


def plain_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The first MAX_COLUMNS names of a result's columns; what is no plain identifier may hold somebody's data: `?`."""
    return _plain_names(names[:MAX_COLUMNS])


@lru_cache(maxsize=4_096)
def _plain_names(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name if _PLAIN_NAME.fullmatch(name) else "?" for name in names)


def no_tuple(data: bytes, start: int, end: int) -> bool:
    """True for the CopyData that ends a binary COPY: the trailer, with the header in front of it when there was no tuple."""
    if data[end - 2 : end] != _BINARY_COPY_TRAILER:
        return False
    if data.startswith(_BINARY_COPY_HEADER, start):
        start += 19 + int.from_bytes(data[start + 15 : start + 19], "big")
    return start == end - 2


MAKES = frozenset(("PREPARE", "DECLARE CURSOR", "CREATE VIEW", "CREATE FUNCTION", "CREATE PROCEDURE"))
ENDS = frozenset(("CLOSE CURSOR", "DEALLOCATE"))
"""Tags of what makes something by whose name patients are read, and of what ends it."""
SHADOWS = frozenset(("CREATE TABLE", "ALTER TABLE"))
"""Tags of what may give another table the name of a table of patients, for as long as it is there."""
_NAME = rb'(?:"(?:[^"]|"")+"|[\w$\x80-\xff]+)'
_MADE = re.compile(
    rb"\b(?:prepare|declare|(?P<view>view)|function|procedure)\s+(?:" + _NAME + rb"\s*\.\s*)?(?P<name>" + _NAME + rb")",
    re.IGNORECASE,
)
_COPIED = re.compile(
    rb"\b(?:(?:table|view)(?:\s+if\s+not\s+exists)?|into(?:\s+(?:local\s+)?(?:temp|temporary|unlogged))?(?:\s+table)?)\s+(?:"
    + _NAME + rb"\s*\.\s*)?(?P<name>" + _NAME + rb")",
    re.IGNORECASE,
)  # fmt: skip
_NAMES = re.compile(_NAME)
_KEPT = {
    re.compile(rb"\bset_config\b", re.IGNORECASE): (b"current_setting", b"show", b"pg_settings"),
    re.compile(rb"\b(?:lo_from_bytea|lo_put|lowrite)\b", re.IGNORECASE): (b"lo_get", b"loread", b"pg_largeobject"),
}
"""Functions that keep what they are given, and what it is read with."""


def kept(sql: bytes) -> list[bytes]:
    """By which names that is read which a text has put by: in a setting, in a large object."""
    return [name for keeps, by in _KEPT.items() if keeps.search(sql) for name in by]


def names(sql: bytes) -> list[bytes]:
    """All words and quoted names of a text, as the server compares them."""
    return [_plain(found) for found in _NAMES.findall(sql)]


def made(sql: bytes) -> list[tuple[bytes, bool]]:
    """(name, True for a view's) of what the statements of a text make."""
    return [(_plain(match["name"]), match["view"] is not None) for match in _MADE.finditer(sql)]


def copied(sql: bytes) -> list[bytes]:
    """Names of the tables into which a text puts rows."""
    return [_plain(match["name"]) for match in _COPIED.finditer(sql)]


def _plain(name: bytes) -> bytes:
    return name[1:-1] if name[:1] == b'"' else name.lower()


SELECTS = re.compile(rb"\bselect\b|\btable\b", re.IGNORECASE)
_COPY = re.compile(rb"\s*copy\b([^']*)", re.IGNORECASE)
_DIRECTION = re.compile(rb"\b(?:from|to)\b", re.IGNORECASE)


def hidden_rows(tag: str, sql: bytes) -> int:
    """Rows a statement moved without showing one: CREATE TABLE AS, SELECT INTO, INSERT .. SELECT, COPY TO a file."""
    verb = tag.partition(" ")[0]
    moved = (
        verb == "SELECT"
        or (verb == "INSERT" and SELECTS.search(sql) is not None)
        or (verb == "COPY" and not _copies_in(sql))
    )
    return messages.tag_rows(tag) if moved else 0


def _copies_in(sql: bytes) -> bool:
    """True for COPY .. FROM: of `from` and `to`, before any string, the last one is `from`."""
    copy = _COPY.match(sql)
    said: list[bytes] = _DIRECTION.findall(copy[1]) if copy is not None else []
    return bool(said) and said[-1].lower() == b"from"
