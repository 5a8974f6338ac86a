"""A MySQL statement's shape: its text without literals and comments, and the fingerprint of that.

As for PostgreSQL (../statement.py), by MySQL's lexical rules: backslashes escape in strings unless the session says otherwise,
double quotes may be strings or names (so what is between them is never shown), backticks quote names, `#` and `-- ` begin
comments, and what is inside `/*! */` is carried out, so it stays.
https://dev.mysql.com/doc/refman/8.4/en/language-structure.html
"""

from __future__ import annotations

import re

try:
    from ._hot import shape as _compiled_shape
except ImportError:  # no C compiler at installation
    _compiled_shape = None  # type: ignore[assignment]

from ..asked import AskedColumns
from ..statement import MAX_CACHED, MAX_CACHED_CHARS, named
from ..templates import Templates
from ..words import PlainWords

_LEXEME = r"""
    (?P<space> \s+ | \#[^\n]* | --(?=[\x00-\x20\x7f]|\Z)[^\n]* )
  | (?P<executable> /\*M?!\d{0,6} | \*/ )
  | (?P<comment> /\* .*? (?:\*/|\Z) )
  | (?P<string> (?:[xXbBnN]|_[A-Za-z0-9]+\s*)?(?:'STRING1(?:'|\Z)|"STRING2(?:"|\Z)) )
  | (?P<number> (?:0[xX][0-9a-fA-F]+|0b[01]+|\d[\d.]*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)(?![\w$]) )
  | (?P<quoted> `(?:[^`]|``)*(?:`|\Z) )
  | (?P<word> @{0,2}[A-Za-z_$\x80-\uffff0-9][\w$]* )
  | (?P<other> . )
"""
_PLAIN = re.compile(
    _LEXEME.replace("STRING1", r"(?:[^'\\]|''|\\.|\\\Z)*").replace("STRING2", r'(?:[^"\\]|""|\\.|\\\Z)*'),
    re.VERBOSE | re.DOTALL,
)
_NO_BACKSLASHES = re.compile(
    _LEXEME.replace("STRING1", r"(?:[^']|'')*").replace("STRING2", r'(?:[^"]|"")*'), re.VERBOSE | re.DOTALL
)
_PLAIN_IDENTIFIER = re.compile(r"`[A-Za-z_][A-Za-z0-9_$]{0,63}`")
_LIST = re.compile(r"\( \?(?: , \?)+ \)")
_ROWS = re.compile(r"\( \? \)(?: , \( \? \))+")

_cache: dict[tuple[str, bool], tuple[str, str]] = {}


def normalise_bytes(sql: bytes, backslashes: bool = True) -> tuple[str, str]:
    """`normalise` of a text as it came: the same answer, without its cost where only literals, comments and quoted names are no ASCII."""
    if backslashes and _compiled_shape is not None:
        found = _compiled_shape(sql)
        if found is not None:
            text, lists = found
            return named(_fold(text) if lists else text)
    return normalise(sql.decode("utf-8", "replace"), backslashes)


def templates(asked: AskedColumns | None, *, settings: bool = True, doubted: PlainWords | None = None) -> Templates:
    """A listener's: by MySQL's shapes."""
    return Templates(asked, normalise_bytes, mysql=True, settings=settings, doubted=doubted)


def normalise(sql: str, backslashes: bool = True) -> tuple[str, str]:
    """(fingerprint of 16 hex digits, normalised text of at most MAX_TEXT_CHARS).

    `backslashes`: False when the session has NO_BACKSLASH_ESCAPES.
    """
    key = (sql, backslashes)
    found = _cache.get(key)
    if found is not None:
        return found
    result = named(_shape(sql, _PLAIN if backslashes else _NO_BACKSLASHES))
    if len(sql) <= MAX_CACHED_CHARS:
        if len(_cache) >= MAX_CACHED:
            _cache.clear()
        _cache[key] = result
    return result


def whole_shape(sql: bytes, backslashes: bool) -> str:
    """The normalised text, however long it is."""
    return _shape(sql.decode("utf-8", "replace"), _PLAIN if backslashes else _NO_BACKSLASHES)


def _shape(sql: str, token: re.Pattern[str]) -> str:
    out: list[str] = []
    for match in token.finditer(sql):
        kind, text = match.lastgroup, match.group()
        if kind in ("space", "comment"):
            continue
        if kind in ("string", "number"):
            out.append("?")
        elif kind == "quoted":
            # A plain quoted identifier is structure; anything else between backticks may be somebody's name.
            out.append(text if _PLAIN_IDENTIFIER.fullmatch(text) else "`?`")
        elif kind == "executable":
            out.append("/*!" if text.startswith("/*") else text)
        else:
            out.append(text.lower() if text.isascii() else "?")
    return _fold(" ".join(out))


def _fold(text: str) -> str:
    """Lists of literals, and lists of such lists, whatever their length."""
    return _ROWS.sub("( ? )", _LIST.sub("( ? )", text))
