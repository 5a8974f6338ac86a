"""A statement's shape: its text without literals and comments, and the fingerprint of that.

Strategy: tokens by one regular expression, everything that could hold a value replaced by `?`. What cannot be recognised
(an unterminated string, a stray byte) is taken for a literal up to the end: rather too little text than a value.
Lexical rules: https://www.postgresql.org/docs/current/sql-syntax-lexical.html
"""

from __future__ import annotations

import hashlib
import re

from .lex import BETWEEN_LINES

try:
    from ._hot import shape as _compiled_shape
except ImportError:  # no C compiler at installation
    _compiled_shape = None  # type: ignore[assignment]

MAX_TEXT_CHARS = 1_000
MAX_CACHED = 4_096
MAX_CACHED_CHARS = 2_000

_LEXEME = rf"""
    (?P<space> \s+ | --[^\n\r]* )
  | (?P<comment> /\* )
  | (?P<string> (?:[bBxXnN]|[uU]&)?'(?:[^']|'')*+(?:'{BETWEEN_LINES}'(?:[^']|'')*+)*+(?:'|\Z) )
  | (?P<dollar> \$(?P<tag>[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$ )
  | (?P<parameter> \$\d+ )
  | (?P<number> (?:\d[\w.]*|\.\d[\w.]*)(?:(?<=[eE])[+-]?\d+)? )
  | (?P<quoted> (?:[uU]&)?"(?:[^"]|"")*(?:"|\Z) )
  | (?P<word> [A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]* )
  | (?P<other> . )
"""
_ESCAPE_STRING = r"""
    (?P<escape> {prefix}'(?:[^'\\]|''|\\.)*+(?:'{further}'(?:[^'\\]|''|\\.)*+)*+(?:'|\Z) )
  |
"""
_FLAGS = re.VERBOSE | re.DOTALL
_STANDARD = re.compile(_ESCAPE_STRING.format(prefix="[eE]", further=BETWEEN_LINES) + _LEXEME, _FLAGS)
_BACKSLASHES = re.compile(
    _ESCAPE_STRING.format(prefix="(?:[eEbBxXnN]|[uU]&)?", further=BETWEEN_LINES) + _LEXEME, _FLAGS
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_PLAIN_IDENTIFIER = re.compile(r'"[A-Za-z_][A-Za-z0-9_$]{0,62}"')
_LIST = re.compile(r"\( \?(?: , \?)+ \)")
_ROWS = re.compile(r"\( \? \)(?: , \( \? \))+")

_cache: dict[tuple[str, bool], tuple[str, str]] = {}
_named: dict[str, tuple[str, str]] = {}


def normalise_bytes(sql: bytes, backslashes: bool = False) -> tuple[str, str]:
    """`normalise` of a text as it came: the same answer, without its cost where only literals, comments and quoted names are no ASCII."""
    if not backslashes and _compiled_shape is not None:
        found = _compiled_shape(sql)
        if found is not None:
            text, lists = found
            return named(_fold(text) if lists else text)
    return normalise(sql.decode("utf-8", "replace"), backslashes)


def named(text: str) -> tuple[str, str]:
    """A normalised text's (fingerprint, text as it may be told)."""
    found = _named.get(text)
    if found is None:
        fingerprint = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
        found = (fingerprint, text[:MAX_TEXT_CHARS])
        if len(text) <= MAX_CACHED_CHARS:
            if len(_named) >= MAX_CACHED:
                _named.clear()
            _named[text] = found
    return found


def normalise(sql: str, backslashes: bool = False) -> tuple[str, str]:
    """(fingerprint of 16 hex digits, normalised text of at most MAX_TEXT_CHARS).

    `backslashes`: the session has standard_conforming_strings off, so that a backslash escapes in every string.
    """
    key = (sql, backslashes)
    found = _cache.get(key)
    if found is not None:
        return found
    result = named(_shape(sql, _BACKSLASHES if backslashes else _STANDARD))
    if len(sql) <= MAX_CACHED_CHARS:
        if len(_cache) >= MAX_CACHED:
            _cache.clear()
        _cache[key] = result
    return result


def _shape(sql: str, token: re.Pattern[str]) -> str:
    out: list[str] = []
    pos = 0
    while pos < len(sql):
        match = token.match(sql, pos)
        if match is None:  # cannot happen: `other` takes any character
            break
        kind, text, pos = match.lastgroup, match.group(), match.end()
        if kind == "space":
            continue
        if kind == "comment":
            pos = _comment_end(sql, pos)
        elif kind in ("tag", "dollar"):
            close = sql.find(text, pos)
            pos = len(sql) if close < 0 else close + len(text)
            out.append("?")
        elif kind in ("string", "escape", "number", "parameter"):
            out.append("?")
        elif kind == "quoted":
            # A plain quoted identifier is structure; anything else between double quotes may be somebody's name.
            out.append(text if _PLAIN_IDENTIFIER.fullmatch(text) else '"?"')
        else:
            out.append(text.lower() if text.isascii() else "?")
    return _fold(" ".join(out))


def _fold(text: str) -> str:
    """Lists of literals, and lists of such lists, whatever their length."""
    return _ROWS.sub("( ? )", _LIST.sub("( ? )", text))


def _comment_end(sql: str, pos: int) -> int:
    """Behind the comment whose `/*` ends at `pos`; comments nest."""
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(sql, pos)
        if edge is None:
            return len(sql)
        depth += 1 if edge.group() == "/*" else -1
        pos = edge.end()
    return pos
