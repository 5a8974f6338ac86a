"""`COPY .. TO STDOUT`: what of which table it sends, in which form, as its text says.

Strategy: tokens (lex.py), statement by statement, since a simple Query may hold several. What is not understood to its end, or would
leave a doubt about which column comes where, is None: such a COPY is estimated, not decoded.

    COPY [schema.]table [(columns)] TO STDOUT [options]
    COPY (SELECT columns | * FROM [ONLY] [schema.]table [[AS] alias] [WHERE .. ORDER BY .. LIMIT ..]) TO STDOUT [options]

Options in all three forms that the server takes: `WITH (FORMAT csv, ..)`, `CSV HEADER ..`, `DELIMITERS '|'`.
Source: https://www.postgresql.org/docs/current/sql-copy.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .lex import Token, tokens

MAX_SQL_BYTES = 16 << 10
MAX_CACHED = 256

Format = Literal["text", "csv", "binary"]
_ENCODINGS_WITH_ASCII_INSIDE = frozenset(
    ("sjis", "shiftjis", "mskanji", "windows932", "win932", "big5", "win950", "windows950", "gbk", "win936", "windows936", "uhc",
     "win949", "windows949", "gb18030", "johab", "shiftjis2004")
)  # fmt: skip
"""Those whose characters may have an ASCII byte (backslash, quote) as their second: such text cannot be cut byte by byte.
https://www.postgresql.org/docs/current/multibyte.html"""
_AFTER_FROM = frozenset(("where", "order", "limit", "offset", "fetch", "for"))
_OTHER_SHAPE = frozenset(("union", "intersect", "except", "group", "having", "into", "join", "window"))
_TRUE, _FALSE = ("true", "on", "1", ""), ("false", "off", "0")


@dataclass(frozen=True, slots=True)
class Copy:
    """One COPY TO STDOUT."""

    schema: str
    """Empty: whatever the session's search path finds."""
    table: str
    columns: tuple[str, ...] | None
    """In the order in which they are sent; None: all."""
    query: bool
    """It sends a SELECT's columns: all are those of `*`, generated ones included."""
    format: Format
    delimiter: int
    null: bytes
    header: bool
    quote: int
    escape: int


def byte_by_byte(encoding: str) -> bool:
    """False for a client encoding in which a byte that looks like ASCII may be half a character."""
    return "".join(c for c in encoding.lower() if c.isalnum()) not in _ENCODINGS_WITH_ASCII_INSIDE


class Copies:
    """The COPY statements of texts; bounded, shared by the sessions of a listener."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bool], tuple[Copy | None, ...]] = {}

    def find(self, sql: bytes, which: int, *, backslashes: bool = False) -> Copy | None:
        """The `which`-th statement of a text, from 0; None: none, or not understood."""
        if len(sql) > MAX_SQL_BYTES:
            return None
        found = self._known.get((sql, backslashes))
        if found is None:
            if len(self._known) >= MAX_CACHED:
                self._known.clear()
            found = self._known[sql, backslashes] = copies(sql, backslashes=backslashes)
        return found[which] if which < len(found) else None


def copies(sql: bytes, *, backslashes: bool = False) -> tuple[Copy | None, ...]:
    """Of each statement of a text that is not empty: its COPY, or None."""
    text = sql.decode("utf-8", "replace")
    statements: list[list[Token]] = [[]]
    for token in tokens(text, backslashes=backslashes):
        if token.kind == "op" and token.text == ";":
            statements.append([])
        elif token.kind != "comment":
            if token.text == "atomic" and token.kind == "word":
                return ()  # the body of a function holds semicolons that end no statement
            statements[-1].append(token)
    return tuple(_Reader(text, statement).read() for statement in statements if statement)


class _NotUnderstood(Exception):
    """A token that this page does not know."""


class _Reader:
    """One statement's tokens, from left to right."""

    def __init__(self, sql: str, statement: Sequence[Token]) -> None:
        self._sql = sql
        self._tokens = statement
        self._at = 0

    def read(self) -> Copy | None:
        try:
            return self._copy()
        except _NotUnderstood:
            return None

    # -- tokens -----------------------------------------------------------------------------------------------------

    def _word(self, *words: str) -> str:
        """The next token, when it is one of these words; else nothing is taken."""
        token = self._peek()
        if token is not None and token.kind == "word" and token.text in words:
            self._at += 1
            return token.text
        return ""

    def _op(self, text: str) -> bool:
        token = self._peek()
        if token is not None and token.kind == "op" and token.text == text:
            self._at += 1
            return True
        return False

    def _peek(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self) -> Token:
        token = self._peek()
        if token is None:
            raise _NotUnderstood
        self._at += 1
        return token

    def _need(self, found: object) -> None:
        if not found:
            raise _NotUnderstood

    def _name(self) -> str:
        token = self._take()
        self._need(token.kind in ("word", "quoted"))
        # U&"..": its code points are not resolved here; anything but ASCII may be another name in the client's encoding.
        self._need(self._sql[token.start] == '"' if token.kind == "quoted" else True)
        self._need(token.text.isascii() and token.text)
        return token.text

    def _string(self) -> bytes:
        token = self._take()
        self._need(token.kind == "string" and self._sql[token.start] in "'eE$" and token.text.isascii())
        return token.text.encode()

    def _byte(self) -> int:
        value = self._string()
        self._need(len(value) == 1 and value not in (b"\n", b"\r"))
        return value[0]

    # -- the statement ----------------------------------------------------------------------------------------------

    def _copy(self) -> Copy:
        self._need(self._word("copy"))
        options = _Options()
        columns: tuple[str, ...] | None = None
        query = self._op("(")
        if query:
            schema, table, columns = self._select()
        else:
            if self._word("binary"):
                token = self._peek()
                if token is not None and token.kind == "word" and token.text == "to":
                    self._at -= 1  # a table of that name
                else:
                    options.format = "binary"
            schema, table = self._table()
            if self._op("("):
                columns = self._names()
        self._need(self._word("to"))
        self._need(self._word("stdout", "stdin"))
        if self._word("using", "delimiters"):
            self._word("delimiters")
            options.delimiter = self._byte()
        with_ = self._word("with")
        if self._op("("):
            self._new_options(options)
        else:
            self._need(not with_ or self._peek() is not None)
            self._old_options(options)
        self._need(self._peek() is None)
        self._need(byte_by_byte(options.encoding))
        quote = options.quote if options.quote >= 0 else ord('"')
        return Copy(
            schema, table, columns, query, options.format,
            delimiter=options.delimiter if options.delimiter >= 0 else ord("," if options.format == "csv" else "\t"),
            null=options.null if options.null is not None else b"" if options.format == "csv" else b"\\N",
            header=options.header and options.format != "binary",
            quote=quote,
            escape=options.escape if options.escape >= 0 else quote,
        )  # fmt: skip

    def _table(self) -> tuple[str, str]:
        """(schema or empty, table). A database in front of them must be the connected one."""
        names = [self._name()]
        while self._op("."):
            names.append(self._name())
        self._need(len(names) <= 3)
        return names[-2] if len(names) > 1 else "", names[-1]

    def _names(self) -> tuple[str, ...]:
        """`a, b)`."""
        names = [self._name()]
        while self._op(","):
            names.append(self._name())
        self._need(self._op(")"))
        return tuple(names)

    def _select(self) -> tuple[str, str, tuple[str, ...] | None]:
        """Behind `(`, up to and with `)`: schema, table, columns of a SELECT of plain columns of one table."""
        self._need(self._word("select"))
        if self._word("all", "distinct"):
            token = self._peek()
            self._need(token is not None and token.text != "on")
        items: list[tuple[str, str]] = [self._item()]
        while self._op(","):
            items.append(self._item())
        self._need(self._word("from"))
        self._word("only")
        schema, table = self._table()
        alias = table
        token = self._peek()
        bare = token is not None and (
            token.kind == "quoted" or (token.kind == "word" and token.text not in _AFTER_FROM)
        )
        if self._word("as") or bare:
            alias = self._name()
        self._rest_of_select()
        self._need(all(qualifier in ("", alias) for qualifier, _ in items))
        columns = tuple(name for _, name in items)
        if columns == ("*",):
            return schema, table, None
        self._need("*" not in columns)
        return schema, table, columns

    def _item(self) -> tuple[str, str]:
        """(qualifier or empty, column) of one column as it stands, under whatever name; the column `*` for all."""
        if self._op("*"):
            return "", "*"
        name, qualifier = self._name(), ""
        if self._op("."):
            if self._op("*"):
                return name, "*"
            qualifier, name = name, self._name()
        self._need(name != "*")
        token = self._peek()
        if self._word("as"):
            self._take()
        elif token is not None and token.kind in ("word", "quoted") and token.text != "from":
            self._at += 1
        token = self._peek()
        self._need(token is not None and token.text in (",", "from"))
        return qualifier, name

    def _rest_of_select(self) -> None:
        """What only chooses and orders rows, up to and with the `)` that ends it all."""
        first = self._peek()
        self._need(first is not None and (first.text == ")" or (first.kind == "word" and first.text in _AFTER_FROM)))
        depth = 1
        while depth:
            token = self._take()
            if token.kind == "op":
                depth += (token.text == "(") - (token.text == ")")
            else:
                self._need(depth > 1 or token.kind != "word" or token.text not in _OTHER_SHAPE)

    # -- options ----------------------------------------------------------------------------------------------------

    def _new_options(self, options: _Options) -> None:
        """`FORMAT csv, HEADER true, ..)`."""
        while True:
            name = self._name()
            if name == "format":
                token = self._take()
                self._need(token.kind in ("word", "quoted", "string"))
                options.set_format(token.text)
            elif name == "delimiter":
                options.delimiter = self._byte()
            elif name == "null":
                options.null = self._string()
            elif name == "quote":
                options.quote = self._byte()
            elif name == "escape":
                options.escape = self._byte()
            elif name == "encoding":
                options.encoding = self._argument()
            elif name == "header":
                value = self._argument().lower()
                self._need(value in _TRUE or value in _FALSE)
                options.header = value in _TRUE
            elif name == "force_quote":
                if not self._op("*"):
                    self._need(self._op("("))
                    self._names()
            else:
                raise _NotUnderstood
            if not self._op(","):
                break
        self._need(self._op(")"))

    def _argument(self) -> str:
        """A word, string or number; empty when none stands there."""
        token = self._peek()
        if token is None or token.kind == "op":
            return ""
        self._at += 1
        self._need(token.kind in ("word", "quoted", "string", "number"))
        return token.text

    def _old_options(self, options: _Options) -> None:
        while word := self._word(
            "binary", "csv", "delimiter", "null", "header", "quote", "escape", "encoding", "force"
        ):
            if word in ("binary", "csv"):
                options.set_format(word)
            elif word == "header":
                options.header = True
            elif word == "encoding":
                options.encoding = self._string().decode()
            elif word == "force":
                self._need(self._word("quote"))
                if not self._op("*"):
                    self._name()
                    while self._op(","):
                        self._name()
            else:
                self._word("as")
                if word == "null":
                    options.null = self._string()
                else:
                    setattr(options, word, self._byte())


class _Options:
    """What was said; -1, None and empty: nothing."""

    def __init__(self) -> None:
        self.format: Format = "text"
        self.delimiter = self.quote = self.escape = -1
        self.null: bytes | None = None
        self.header = False
        self.encoding = ""

    def set_format(self, name: str) -> None:
        if name == "text":
            self.format = "text"
        elif name == "csv":
            self.format = "csv"
        elif name == "binary":
            self.format = "binary"
        else:
            raise _NotUnderstood
