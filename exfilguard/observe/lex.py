"""SQL cut into tokens, for both engines: what identity, flags and asked-for patients are read from.

Strategy: `tokens` is one regular expression per dialect over text; `final_comment` jumps from one special byte to the next,
since it sees every tagged statement. What is not terminated runs to the end of the text. PostgreSQL ends a line's comment at a
carriage return too, and goes on with a string, escapes and all, in the quotes on a further line.
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
BETWEEN_LINES = r"(?:[ \t\f\v]|--[^\n\r]*+)*+[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*+[\n\r])*+"
"""What may stand between the quotes of a string that goes on. https://www.postgresql.org/docs/current/sql-syntax-lexical.html"""
_PLAIN_PART = r"(?:[^']|'')*+"
_SLASHED_PART = r"(?:[^'\\]|''|\\.)*+"
_PLAIN = rf"'{_PLAIN_PART}(?:'{BETWEEN_LINES}'{_PLAIN_PART})*+(?:'|\Z)"
_SLASHED = rf"'{_SLASHED_PART}(?:'{BETWEEN_LINES}'{_SLASHED_PART})*+(?:'|\Z|\\\Z)"
_MYSQL_SLASHED = rf"'{_SLASHED_PART}(?:'|\Z|\\\Z)"
_POSTGRES = r"""
    (?P<space> \s+ )
  | (?P<line> --[^\n\r]* )
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
  | (?P<line> \#[^\n]* | --(?=[\x00-\x20\x7f]|\Z)[^\n]* )
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
_MARIA = re.compile(_MYSQL.format(slashed=_MYSQL_SLASHED, number=_NUMBER, word=_WORD), _FLAGS)
_PLAIN_BODY, _SLASHED_BODY = re.compile(_PLAIN_PART), re.compile(_SLASHED_PART, re.DOTALL)
_FURTHER = re.compile(f"'{BETWEEN_LINES}'")
_SPACES = re.compile(r"\s+|--[^\n\r]*|/\*")
_UESCAPE = re.compile("uescape", re.IGNORECASE)
_UNICODE = ("U&", "u&")
_EDGE = re.compile(r"/\*|\*/")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "0": "\0", "Z": "\x1a"}


def tokens(sql: str, engine: Engine = "postgresql", *, backslashes: bool = False) -> Iterator[Token]:
    """All tokens but spaces; comments included. MySQL's `/*! .. */` is code: its content comes as tokens.

    `backslashes`: PostgreSQL with standard_conforming_strings off. MySQL's sql_mode is taken to be without ANSI_QUOTES and
    NO_BACKSLASH_ESCAPES, its character set to be UTF-8: see Classifier.flags.
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
            name = text[text.index(quote) + 1 :].removesuffix(quote)  # it may not be terminated
            name = name.replace(quote * 2, quote)
            if text[:2] in _UNICODE:
                name, pos = _spelled(name, sql, pos)
            yield Token("quoted", name, start, pos)
        elif kind in ("string", "escaped"):
            value = _value(text, escapes=kind == "escaped", goes_on=engine == "postgresql")
            if text[:2] in _UNICODE:
                value, pos = _spelled(value, sql, pos)
            yield Token("string", value, start, pos)
        else:
            yield Token(kind, text, start, pos)  # type: ignore[arg-type]


def _value(text: str, *, escapes: bool, goes_on: bool = False) -> str:
    """What a string literal stands for. `goes_on`: in quotes on further lines, perhaps."""
    mark = "'" if "'" in text and ('"' not in text or text.index("'") < text.index('"')) else '"'
    start = text.index(mark) + 1
    if not goes_on or ("\n" not in text and "\r" not in text):
        return _part_value(text[start:].removesuffix(mark), mark, escapes)
    part = _SLASHED_BODY if escapes else _PLAIN_BODY
    out = []
    while True:
        end = part.match(text, start).end()  # type: ignore[union-attr]  # it matches nothing, too
        out.append(_part_value(text[start:end], mark, escapes))
        following = _FURTHER.match(text, end)
        if following is None:
            return "".join(out)
        start = following.end()


def _part_value(body: str, mark: str, escapes: bool) -> str:
    body = body.replace(mark * 2, mark)
    return _ESCAPE.sub(_unescape, body) if escapes and "\\" in body else body


def _spelled(text: str, sql: str, pos: int) -> tuple[str, int]:
    """What U&'..' or U&"..", which ends at `pos`, stands for, and where it ends with its UESCAPE: code points stand behind a backslash,
    or behind the character named there."""
    escape = "\\"
    if (said := _UESCAPE.match(sql, _behind_spaces(sql, pos))) is not None:
        given = _STANDARD.match(sql, _behind_spaces(sql, said.end()))
        if given is not None and given.lastgroup in ("string", "escaped"):
            escape = _value(given.group(), escapes=given.lastgroup == "escaped", goes_on=True)[:1] or escape
            pos = given.end()
    if escape not in text:
        return text, pos
    code = re.escape(escape)
    spelled = re.compile(rf"{code}(?:([0-9a-fA-F]{{4}})|\+([0-9a-fA-F]{{6}})|{code})")
    return spelled.sub(lambda match: _code_point(match, escape), text), pos


def _behind_spaces(sql: str, pos: int) -> int:
    """Behind spaces and comments."""
    while (space := _SPACES.match(sql, pos)) is not None:
        pos = _block_end(sql, space.end(), nested=True) if space.group() == "/*" else space.end()
    return pos


def _code_point(match: re.Match[str], escape: str) -> str:
    number = int(match[1] or match[2] or "110000", 16)
    return chr(number) if number < 0x110000 else escape


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
_PLAIN_END = re.compile(f"{_PLAIN_PART}'(?:{BETWEEN_LINES}'{_PLAIN_PART}')*+".encode())
_SLASHED_END = re.compile(f"{_SLASHED_PART}'(?:{BETWEEN_LINES}'{_SLASHED_PART}')*+".encode(), re.DOTALL)
_MYSQL_SLASHED_END = re.compile(f"{_SLASHED_PART}'".encode(), re.DOTALL)
_LINE_END = {"postgresql": re.compile(rb"[^\n\r]*+[\n\r]"), "mysql": re.compile(rb"[^\n]*+\n")}
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
            if sql[at + 1 : at + 2] == b"-" and (not mysql or (sql[at + 2 : at + 3] <= b" " or sql[at + 2] == 0x7F)):
                end = _close(_LINE_END[engine], sql, at)
        elif mark == b"#":
            end = _close(_LINE_END[engine], sql, at)
        elif mark == b"'":
            slashed = backslashes
            if not slashed and at and sql[at - 1 : at] in (b"e", b"E"):
                slashed = at < 2 or _IDENTIFIER.match(sql, at - 2) is None
            string = _MYSQL_SLASHED_END if mysql else _SLASHED_END if slashed else _PLAIN_END
            end = _close(string, sql, at + 1)
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
