"""SQL cut into tokens, for both engines: what identity, flags and asked-for patients are read from.

Strategy: `tokens` is one regular expression per dialect over text; `final_comment` jumps from one special byte to the next,
since it sees every tagged statement. What is not terminated runs to the end of the text.
Rules: https://www.postgresql.org/docs/current/sql-syntax-lexical.html, https://dev.mysql.com/doc/refman/8.4/en/comments.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from ..events.query import Engine

Kind = Literal["word", "quoted", "string", "number", "parameter", "variable", "comment", "op"]


class Token(NamedTuple):
    """`text`: a word in lower case, a quoted identifier or string without its quotes, anything else as it stands."""

    kind: Kind
    text: str
    start: int
    end: int


_WORD = r"(?P<word> [A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]* )"
_NUMBER = r"(?P<number> (?:0[xX][0-9a-fA-F]+|(?:\d[\w.]*|\.\d[\w.]*)(?:(?<=[eE])[+-]?\d+)?) )"
_PLAIN = r"'(?:[^']|'')*+(?:'|\Z)"
_SLASHED = r"'(?:[^'\\]|''|\\.)*+(?:'|\Z|\\\Z)"
_POSTGRES = r"""
    (?P<space> \s+ )
  | (?P<line> --[^\n]* )
  | (?P<block> /\* )
  | (?P<escaped> {escaped} )
  | (?P<string> (?:[bBxXnN]|[uU]&)?{plain} )
  | (?P<dollar> \$(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$ )
  | (?P<parameter> \$\d+ )
  | {number}
  | (?P<quoted> (?:[uU]&)?"(?:[^"]|"")*+(?:"|\Z) )
  | {word}
  | (?P<op> ::|:=|<=|>=|<>|!=|. )
"""
_MYSQL = r"""
    (?P<space> \s+ )
  | (?P<line> \#[^\n]* | --(?=[\s\x00-\x1f]|\Z)[^\n]* )
  | (?P<code> /\*M?!\d* | \*/ )
  | (?P<block> /\* )
  | (?P<escaped> (?:[bBxXnN]|_[a-z0-9]+\s*)?(?:{slashed}|"(?:[^"\\]|""|\\.)*+(?:"|\Z|\\\Z)) )
  | (?P<quoted> `(?:[^`]|``)*+(?:`|\Z) )
  | (?P<variable> @@?(?:[A-Za-z0-9_.$\x80-\U0010ffff]+|`[^`]*`|'[^']*'|"[^"]*") )
  | {number}
  | {word}
  | (?P<parameter> \? )
  | (?P<op> :=|<=>|<=|>=|<>|!=|. )
"""
_FLAGS = re.VERBOSE | re.DOTALL
_STANDARD = re.compile(_POSTGRES.format(escaped="[eE]" + _SLASHED, plain=_PLAIN, number=_NUMBER, word=_WORD), _FLAGS)
_BACKSLASHES = re.compile(
    _POSTGRES.format(escaped="(?:[eEbBxXnN]|[uU]&)?" + _SLASHED, plain=_PLAIN, number=_NUMBER, word=_WORD), _FLAGS
)
_MARIA = re.compile(_MYSQL.format(slashed=_SLASHED, number=_NUMBER, word=_WORD), _FLAGS)
_EDGE = re.compile(r"/\*|\*/")
_BETWEEN = r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*"
_UESCAPE = re.compile(rf"{_BETWEEN}uescape{_BETWEEN}'([^'])'", re.IGNORECASE | re.DOTALL)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "0": "\0", "Z": "\x1a"}


def tokens(sql: str, engine: Engine = "postgresql", *, backslashes: bool = False) -> Iterator[Token]:
    """All tokens but spaces; comments included. MySQL's `/*! .. */` is code: its content comes as tokens.

    `backslashes`: PostgreSQL with standard_conforming_strings off. MySQL's sql_mode is taken to be without ANSI_QUOTES and
    NO_BACKSLASH_ESCAPES.
    """
    pattern = _MARIA if engine == "mysql" else _BACKSLASHES if backslashes else _STANDARD
    pos = 0
    while (match := pattern.match(sql, pos)) is not None:
        kind, text, start, pos = match.lastgroup, match.group(), match.start(), match.end()
        if kind in ("space", "code"):
            continue
        if kind == "line":
            yield Token("comment", text, start, pos)
        elif kind == "block":
            pos = _block_end(sql, pos, nested=engine == "postgresql")
            yield Token("comment", sql[start:pos], start, pos)
        elif kind == "dollar":
            close = sql.find(text, pos)
            body = sql[pos:] if close < 0 else sql[pos:close]
            pos = len(sql) if close < 0 else close + len(text)
            yield Token("string", body, start, pos)
        elif kind == "word":
            yield Token("word", text.lower(), start, pos)
        elif kind == "quoted":
            quote = "`" if text[0] == "`" else '"'
            name = (
                text[text.index(quote) + 1 :].removesuffix(quote).replace(quote * 2, quote)
            )  # it may not be terminated
            if text[0] in "uU":
                mark = _UESCAPE.match(sql, pos)
                pos = pos if mark is None else mark.end()
                name = _code_points(name, "\\" if mark is None else mark[1])
            yield Token("quoted", name, start, pos)
        elif kind in ("string", "escaped"):
            yield Token("string", _value(text, escapes=kind == "escaped"), start, pos)
        else:
            yield Token(kind, text, start, pos)  # type: ignore[arg-type]


def _code_points(name: str, mark: str) -> str:
    """A name of U&"..": `mark` and the number of a character, or `mark` twice."""
    escape = re.escape(mark)
    return re.sub(
        rf"{escape}(?:{escape}|([0-9a-fA-F]{{4}})|\+([0-9a-fA-F]{{6}}))",
        lambda found: chr(min(int(found[1] or found[2], 16), 0x10FFFF)) if found[1] or found[2] else mark,
        name,
    )


def _value(text: str, *, escapes: bool) -> str:
    """What a string literal stands for."""
    mark = "'" if "'" in text and ('"' not in text or text.index("'") < text.index('"')) else '"'
    body = text[text.index(mark) + 1 :]
    body = body.removesuffix(mark).replace(mark * 2, mark)
    return _ESCAPE.sub(_unescape, body) if escapes and "\\" in body else body


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "xuU" and len(code) > 1:
        number = int(code[1:], 16)
        return chr(number) if number < 0x110000 else "\ufffd"
    if code[0] in "01234567" and len(code) > 1:
        return chr(int(code, 8))
    return _ESCAPES.get(code, code)


def _block_end(sql: str, pos: int, *, nested: bool) -> int:
    """Behind the comment whose `/*` ends at `pos`; PostgreSQL's comments nest, MySQL's do not."""
    if not nested:
        close = sql.find("*/", pos)
        return len(sql) if close < 0 else close + 2
    depth = 1
    while depth:
        edge = _EDGE.search(sql, pos)
        if edge is None:
            return len(sql)
        depth += 1 if edge.group() == "/*" else -1
        pos = edge.end()
    return pos


_ENDS_IN_COMMENT = re.compile(rb"\*/[\s;]*\Z")
_SPECIAL = {"postgresql": re.compile(rb"['\"$/-]"), "mysql": re.compile(rb"['\"`#/-]")}
_IDENTIFIER = re.compile(rb"[A-Za-z0-9_$\x80-\xff]")
_DOLLAR = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$")
_PLAIN_END = re.compile(rb"(?:[^']|'')*+'")
_SLASHED_END = re.compile(rb"(?:[^'\\]|''|\\.)*+'", re.DOTALL)
_DOUBLE_END = re.compile(rb'(?:[^"]|"")*+"')
_DOUBLE_SLASHED_END = re.compile(rb'(?:[^"\\]|""|\\.)*+"', re.DOTALL)
_TICK_END = re.compile(rb"(?:[^`]|``)*+`")
_EDGE_BYTES = re.compile(rb"/\*|\*/")


def final_comment(sql: bytes, engine: Engine = "postgresql", *, backslashes: bool = False) -> tuple[int, bytes] | None:
    """(where it starts, its content) of the comment a statement ends with; only spaces and semicolons may follow.

    None when there is none, or when what looks like one lies in a literal, an identifier or another comment.
    """
    if _ENDS_IN_COMMENT.search(sql, max(0, len(sql) - 32)) is None:
        return None
    special = _SPECIAL[engine]
    mysql = engine == "mysql"
    pos = 0
    while (found := special.search(sql, pos)) is not None:
        at = found.start()
        mark = sql[at : at + 1]
        end: int | None = at + 1
        if mark == b"/":
            if sql[at + 1 : at + 2] == b"*":
                if mysql and (sql[at + 2 : at + 3] == b"!" or sql[at + 2 : at + 4] == b"M!"):
                    pos = at + 3  # code, not a comment
                    continue
                close = _comment_close(sql, at + 2, nested=not mysql)
                if close is None:
                    return None
                if not sql[close:].strip(b" \t\r\n\f\v;"):
                    return at, sql[at + 2 : close - 2]
                end = close
        elif mark == b"-":
            if sql[at + 1 : at + 2] == b"-" and (not mysql or sql[at + 2 : at + 3] in b" \t\r\n\f\v"):
                end = _line_close(sql, at)
        elif mark == b"#":
            end = _line_close(sql, at)
        elif mark == b"'":
            slashed = mysql or backslashes
            if not slashed and at and sql[at - 1 : at] in (b"e", b"E"):
                slashed = at < 2 or _IDENTIFIER.match(sql, at - 2) is None
            end = _close(_SLASHED_END if slashed else _PLAIN_END, sql, at + 1)
        elif mark == b'"':
            end = _close(_DOUBLE_SLASHED_END if mysql else _DOUBLE_END, sql, at + 1)
        elif mark == b"`":
            end = _close(_TICK_END, sql, at + 1)
        elif not at or _IDENTIFIER.match(sql, at - 1) is None:
            tag = _DOLLAR.match(sql, at)
            if tag is not None:
                close_at = sql.find(tag.group(), tag.end())
                end = close_at + len(tag.group()) if close_at >= 0 else None
        if end is None:
            return None
        pos = end
    return None


def _close(pattern: re.Pattern[bytes], sql: bytes, pos: int) -> int | None:
    found = pattern.match(sql, pos)
    return found.end() if found is not None else None


def _line_close(sql: bytes, pos: int) -> int | None:
    end = sql.find(b"\n", pos)
    return end + 1 if end >= 0 else None


def _comment_close(sql: bytes, pos: int, *, nested: bool) -> int | None:
    if not nested:
        end = sql.find(b"*/", pos)
        return end + 2 if end >= 0 else None
    depth = 1
    while depth:
        edge = _EDGE_BYTES.search(sql, pos)
        if edge is None:
            return None
        depth += 1 if edge.group() == b"/*" else -1
        pos = edge.end()
    return pos
