"""What kind of statement it is: the flags that detectors, and the `deny` setting, look at.

Strategy: tokens, once per shape. Equal fingerprints are equal token sequences but for their literals, so the answer is kept by
fingerprint; where literals matter (a DO block, the body of a function, an identifier that the shape does not show) it is not.

Rules:
- MySQL's texts can mean another thing than what is read here: what is in `/*! */` may be skipped by a version, a backslash may not
  escape (sql_mode) or be half a character (GBK), `"` may quote a name, a byte beyond ASCII may be a space (latin1). A text with any
  of these is flagged by its words, too.
- A function counts where its name is called, `name (`, whatever schema stands before it, also inside the text of a DO block or of
  a function that is being made.
- Rather a flag too many: a table that happens to have a watched function's name and stands before a parenthesis is flagged.
- A long text (a letter, a thousand rows to insert) is searched for the words first, in one pass: without them no rule here applies, and
  no token is read. The relay's other sessions wait meanwhile.
- Where a text can be read in more ways than one (a backslash may escape, or not; half a character may look like ASCII), what any of
  them tells is flagged: which one is the server's hangs on settings that the statement before it, or a function, may have changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import pairwise

from ..events.query import FLAGS, Engine, Flag
from .lex import Token, tokens
from .words import word_set

MAX_CACHED = 10_000
MAX_TOKENS = 10_000
LONG_BYTES = 4_096
"""From here on a text is searched for words first."""
MAX_DEPTH = 3

FILES = frozenset(
    ("lo_export", "lo_import", "pg_read_file", "pg_read_binary_file", "pg_file_write", "pg_file_read", "pg_file_sync",
     "pg_file_rename", "pg_ls_dir", "load_file", "sys_exec", "sys_eval", "xp_cmdshell")
)  # fmt: skip
"""Functions that read or write the server's files, or run its programs."""
REMOTE = ("dblink", "postgres_fdw", "spider_direct_sql", "spider_bg_direct_sql", "spider_copy_tables")
"""Beginnings of the names of functions that reach another server."""
SLOTS = ("pg_create_logical_replication_slot", "pg_create_physical_replication_slot", "pg_logical_slot_", "pg_replication_slot_advance",
    "pg_copy_logical_replication_slot", "pg_copy_physical_replication_slot", "pg_logical_emit_message", "pg_start_backup",
    "pg_backup_start")  # fmt: skip
PACKING = frozenset(
    ("json_agg", "jsonb_agg", "json_agg_strict", "jsonb_agg_strict", "json_object_agg", "jsonb_object_agg", "json_arrayagg",
     "json_objectagg", "string_agg", "array_agg", "xmlagg", "group_concat", "json_group_array")
)  # fmt: skip
"""Aggregates that put many rows into one."""
BY_NUMBER = {
    oid: f"SELECT {name}()".encode()
    for name, oids in {
        "lo_export": (765,),
        "lo_import": (764, 767),
        "pg_read_file": (2624, 3293, 3826, 6208),
        "pg_read_binary_file": (3295, 3827, 3828, 6209),
        "pg_ls_dir": (2625, 3297),
        "pg_backup_start": (2172,),
        "pg_logical_emit_message": (3577, 3578),
        "pg_create_physical_replication_slot": (3779,),
        "pg_logical_slot_get_changes": (3782, 3783, 3784, 3785),
        "pg_create_logical_replication_slot": (3786,),
        "pg_replication_slot_advance": (3878,),
        "pg_copy_physical_replication_slot": (4220, 4221),
        "pg_copy_logical_replication_slot": (4222, 4223, 4224),
    }.items()
    for oid in oids
}
"""A call by PostgreSQL's FunctionCall, as a text: those of the above that the server itself has, whose OIDs are the same everywhere."""
WATCHED = ("query_to_xml", "query_to_xml_and_xmlschema", "table_to_xml", "table_to_xml_and_xmlschema", "schema_to_xml",
    "database_to_xml", "cursor_to_xml", "ts_stat", "pg_stat_file", "pg_current_logfile")  # fmt: skip
"""Always watched: they run a text as a query, or show what the server's files are."""

_REPLICATION_WORDS = frozenset(
    ("start_replication", "create_replication_slot", "base_backup", "identify_system", "timeline_history")
)
_FOREIGN_OBJECTS = frozenset(("server", "foreign"))
_FOREIGN_ENGINES = frozenset(("federated", "connect", "spider", "s3", "federatedx"))
_FOREIGN_EXTENSIONS = frozenset(
    ("dblink", "postgres_fdw", "file_fdw", "mysql_fdw", "oracle_fdw", "tds_fdw", "ogr_fdw", "multicorn")
)

_ENGINE_BEYOND = re.compile(rf"\bengine\b.{{0,200}}?\b(?:{'|'.join(sorted(_FOREIGN_ENGINES))})\b", re.DOTALL)

_HALF_CHARACTER = re.compile(rb"[\x80-\xff][:-@\[-\^`{-~]")
"""SJIS, BIG5, GBK and other encodings of a client have such a byte as the second half of a character."""
_RUNNING = frozenset(
    ("query_to_xml", "query_to_xml_and_xmlschema", "ts_stat", "ts_rewrite", "crosstab", "crosstab2", "crosstab3", "crosstab4", "connectby",
     "xpath_table", "pg_background_launch", "schedule", "schedule_in_database")
)  # fmt: skip
"""Functions that run a text they are given."""
_NAMED_ONLY = frozenset(("operator", "aggregate", "cast"))
"""What is made of functions by their names, without a call."""
_BLOCK_WORDS = frozenset(("begin", "then", "else", "loop"))
_BODY_WORDS = ("do", "create", "alter", "prepare", "execute")
"""First words of statements whose strings are read, too."""
_GOES_ON = re.compile(rb"'[ \t\f\v]*+(?:--|[\n\r]\s*+(?:'|--))")
"""What may be a string that goes on (lex.BETWEEN_LINES), without looking for a comment's end behind each quote."""
_BODY_FIRST = re.compile(rb"[\s(]*(?:/\*|--|#|" + "|".join(_BODY_WORDS).encode() + rb")", re.IGNORECASE)
_RUNS = frozenset(("execute", "prepare"))
_SHOWN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")
"""A quoted name that stands in a shape; of any other `"?"` does."""

_WORDS_BEYOND: tuple[tuple[Collection[str], Flag], ...] = (
    (
        (*FILES, "outfile", "dumpfile", 'u&"'),
        "server_export",
    ),  # nobody spells a name in code points behind ten thousand tokens
    ((*REMOTE, *_FOREIGN_EXTENSIONS, "foreign data wrapper"), "foreign"),
    ((*SLOTS, *_REPLICATION_WORDS), "replication"),
    (PACKING, "aggregate"),
)
_TOGETHER: tuple[tuple[frozenset[str], frozenset[str]], ...] = (
    (
        frozenset(("create", "alter", "import")),
        _FOREIGN_OBJECTS | {"mapping", "publication", "subscription", "language"} | _FOREIGN_ENGINES,
    ),
    (frozenset(("change", "start")), frozenset(("master", "replication", "slave", "replica"))),
    (frozenset(("show",)), frozenset(("binlog", "relaylog"))),
    (frozenset(("clone",)), frozenset(("local", "instance"))),
    (frozenset(("engine",)), _FOREIGN_ENGINES),
)
"""Words that need another one to mean something."""
_COPY_BEYOND = re.compile(r"(?:(?:^|;|\*/|\b(?:begin|then|else|loop))\s*+|[\n\r][^\S\n\r]*+)copy\b")
_TARGET_BEYOND = re.compile(r"\b(?:program|stdin|stdout)\b|'/|'[a-z]:|\b(?:e|u&)'|\$")
"""What a COPY needs: a line of a letter to a patient may begin with the word."""


class Classifier:
    """Of one listener. `watch`: further functions, by name without schema; a trailing `*` stands for any rest."""

    def __init__(self, engine: Engine, watch: Iterable[str] = ()) -> None:
        names = [name.lower() for name in (*WATCHED, *watch)]
        self._engine: Engine = engine
        self._watch = frozenset(name for name in names if not name.endswith("*"))
        self._watch_starts = tuple(name[:-1] for name in names if name.endswith("*"))
        starts = "|".join(re.escape(name) for name in sorted(self._watch)) or "(?!)"
        starts += "".join(f"|{re.escape(name)}\\w*" for name in self._watch_starts)
        self._called = re.compile(
            rf"(?<![\w$])(?:{starts})(?:[^\w$(/]|/(?!\*)|/\*.{{0,200}}?\*/)*+(?:\(|/\*)", re.DOTALL
        )
        self._known: dict[str, tuple[Flag, ...]] = {}
        own = {"copy", *({"uescape", *_RUNNING} if engine == "postgresql" else {"infile", *_RUNS})}
        alone = {name for names, _ in _WORDS_BEYOND for name in names}.union(self._watch, self._watch_starts, own)
        self._alone = frozenset(alone)
        self.doubted = word_set({*alone, "engine"})
        """A text that has none of them has the same flags however the server reads its strings."""
        self._words = word_set(alone.union(*(words for pair in _TOGETHER for words in pair)))

    def flags(self, fingerprint: str, sql: bytes, patients: Callable[[bytes], bool]) -> tuple[Flag, ...]:
        """Flags of a statement. `fingerprint`: of its shape; `patients`: says whether a text names a table of patients."""
        postgresql = self._engine == "postgresql"
        halves = postgresql and not sql.isascii() and _HALF_CHARACTER.search(sql) is not None
        doubtful = halves or (postgresql and b"\\'" in sql)
        flags = self._known.get(fingerprint)
        if flags is None or doubtful:
            if len(sql) >= LONG_BYTES and self._harmless(sql):
                return ()
            flags, lasting = self._classify(sql.decode("utf-8", "replace"), patients(sql), halves=halves)
            # With a backslash MySQL's shape may be another reading's (NO_BACKSLASH_ESCAPES): it does not vouch for others.
            if lasting and fingerprint and not doubtful and (postgresql or b"\\" not in sql):
                if len(self._known) >= MAX_CACHED:
                    self._known.clear()
                self._known[fingerprint] = flags
        if not postgresql and (not sql.isascii() or b"\\" in sql or (b"!" in sql and b"/*" in sql)):
            return self._doubted(sql, flags, patients)
        return flags

    def _doubted(self, sql: bytes, flags: tuple[Flag, ...], patients: Callable[[bytes], bool]) -> tuple[Flag, ...]:
        """The flags of a text that the server may read otherwise, and what its words say."""
        found: set[Flag] = set(flags)
        words = self._words.found(sql)
        if words.isdisjoint(self._alone) and "engine" not in words:
            return flags  # and so for most
        low = sql.decode("utf-8", "replace").lower()
        self._beyond(words, low, found)
        if "infile" in low and "local" not in low:
            found.add("server_export")
        if _ENGINE_BEYOND.search(low):
            found.add("foreign")
        if self._called.search(low):
            found.add("watched_call")
        if "aggregate" in found and not patients(sql):
            found.discard("aggregate")
        return tuple(flag for flag in FLAGS if flag in found)

    def words(self, piece: bytes) -> tuple[Flag, ...]:
        """Flags that the words of a piece of a statement tell: one that is too long to be read as a whole."""
        found: set[Flag] = set()
        words = self._words.found(piece)
        if words.isdisjoint(self._alone):
            return ()
        low = piece.decode("utf-8", "replace").lower()
        self._beyond(words, low, found, piece=True)
        if _begins(self._watch & words, low) or _begins(words.intersection(self._watch_starts), low, ""):
            found.add("watched_call")
        return tuple(flag for flag in FLAGS if flag in found)

    def lasting(self, fingerprint: str) -> bool:
        """True when every statement of this shape is known to have the same flags."""
        return fingerprint in self._known

    def _harmless(self, sql: bytes) -> bool:
        """True only for a text of which `_classify` has nothing to say: it has none of the words, and nothing that may hide one."""
        words = self._words.found(sql)
        if not words.isdisjoint(self._alone):
            return False
        if any(not (words.isdisjoint(verbs) or words.isdisjoint(objects)) for verbs, objects in _TOGETHER):
            return False
        # Written in escapes or in pieces: a quoted name, or the body of a block or function.
        escape = sql.find(b"\\")
        quote = b"`" if self._engine == "mysql" else b'"'
        if escape >= 0 and (sql.find(quote, escape) >= 0 or sql.count(quote, 0, escape) % 2):
            return False
        semicolon = sql.find(b";")
        if (semicolon < 0 or not sql[semicolon:].strip(b"; \t\r\n\0")) and _BODY_FIRST.match(sql) is None:
            return True
        return escape < 0 and (self._engine == "mysql" or _GOES_ON.search(sql) is None)

    def _classify(self, sql: str, patients: bool, *, halves: bool) -> tuple[tuple[Flag, ...], bool]:
        """(flags in the order of FLAGS, True when every statement of the same shape has them). `halves`: see _HALF_CHARACTER."""
        found: set[Flag] = set()
        lasting = self._read(sql, found, 0)
        if halves:
            self._by_words(sql, found)
        if not patients:
            found.discard("aggregate")
        return tuple(flag for flag in FLAGS if flag in found), lasting

    def _read(self, sql: str, found: set[Flag], depth: int) -> bool:
        lasting = self._read_as(sql, found, depth, backslashes=False)
        if self._engine == "postgresql" and "\\" in sql:
            lasting &= self._read_as(sql, found, depth, backslashes=True)
        return lasting

    def _read_as(self, sql: str, found: set[Flag], depth: int, *, backslashes: bool) -> bool:
        lasting = True
        runs = depth > 0 and "exec" in sql.lower()  # a text that one statement of a body keeps, another may run
        statement: list[Token] = []
        for count, token in enumerate(tokens(sql, self._engine, backslashes=backslashes)):
            if count >= MAX_TOKENS:
                found.add("watched_call")  # too long to be read to its end: somebody should
                self._by_words(sql, found)
                return False
            if token.kind == "comment":
                continue
            if token.kind == "op" and token.text == ";":
                lasting &= self._statement(statement, found, depth, runs=runs)
                statement = []
            else:
                statement.append(token)
        return self._statement(statement, found, depth, runs=runs) and lasting

    def _by_words(self, sql: str, found: set[Flag]) -> None:
        self._beyond(self._words.found(sql.encode("utf-8", "replace")), sql.lower(), found)

    def _beyond(self, words: set[str], low: str, found: set[Flag], piece: bool = False) -> None:
        """By their words alone, wherever they stand: what else would pass behind enough tokens. `words`: those that the text has, be it
        within others. A COPY's target may be in another `piece`."""
        for names, flag in _WORDS_BEYOND:
            if _begins(words.intersection(names), low):
                found.add(flag)
        copies = self._engine == "postgresql" and "copy" in words and _COPY_BEYOND.search(low)
        if copies and (piece or _TARGET_BEYOND.search(low)):
            found |= {"copy", "server_export"}

    def _statement(self, statement: Sequence[Token], found: set[Flag], depth: int, *, runs: bool) -> bool:
        """`runs`: the strings in it may be run."""
        if not statement:
            return True
        words = [token.text.lower() if token.kind in ("word", "quoted") else "" for token in statement]
        lasting = True
        for at, word in enumerate(words):
            if not word:
                continue
            if statement[at].kind == "quoted" and _hidden(statement[at]):
                lasting = False
            if at + 1 < len(statement) and statement[at + 1].text == "(" and statement[at + 1].kind == "op":
                self._call(word, found)
                runs = runs or word in _RUNNING
        lasting &= self._verb(statement, words, found)
        for at in range(1, len(words)) if depth else ():
            # In a body's block a statement begins behind a word, too.
            if words[at] == "copy" and words[at - 1] in _BLOCK_WORDS:
                self._copy(statement[at:], words[at:], found)
        if (
            runs
            or words[0] in ("do", "create", "alter", "prepare", "execute")
            or (self._engine == "mysql" and not _RUNS.isdisjoint(words))
        ):
            # A name between double quotes that calls something is a string of a language that is not SQL.
            bodies = [t.text for t in statement if t.kind == "string" or (t.kind == "quoted" and "(" in t.text)]
            lasting = lasting and not any(_hidden(t) for t in statement)
            for body in bodies:
                if depth < MAX_DEPTH:
                    self._read(body, found, depth + 1)
                else:
                    self._by_words(body, found)
        return lasting

    def _call(self, name: str, found: set[Flag]) -> None:
        if name in FILES:
            found.add("server_export")
        elif name.startswith(REMOTE):
            found.add("foreign")
        elif name.startswith(SLOTS):
            found.add("replication")
        elif name in PACKING:
            found.add("aggregate")
        if name in self._watch or (self._watch_starts and name.startswith(self._watch_starts)):
            found.add("watched_call")

    def _verb(self, statement: Sequence[Token], words: Sequence[str], found: set[Flag]) -> bool:
        """True when every statement of the same shape means the same."""
        first, rest = words[0], set(words[1:])
        if first == "create" and not _NAMED_ONLY.isdisjoint(words[1:4]):
            for word in words:
                self._call(word, found)
        if first == "create" and {"internal", "c"} & {
            after.text.lower() for word, after in zip(words, statement[1:], strict=False) if word == "language"
        }:
            found.add("server_export")  # any function of the server's own, or of a library, under another name
        if first == "copy":
            return self._copy(statement, words, found)
        if first in _REPLICATION_WORDS:
            found.add("replication")
        elif first in ("create", "alter", "import"):
            second = next(iter(words[3:4] if words[1:3] == ["or", "replace"] else words[1:2]), "")
            if (
                second in _FOREIGN_OBJECTS
                or (second == "user" and "mapping" in rest)
                or (second == "extension" and rest & _FOREIGN_EXTENSIONS)
            ):
                found.add("foreign")
            elif second in ("publication", "subscription"):
                found.add("replication")
        return self._mysql_verb(statement, words, found) if self._engine == "mysql" else True

    def _copy(self, statement: Sequence[Token], words: Sequence[str], found: set[Flag]) -> bool:
        """COPY .. TO STDOUT is `copy`; to or from a file of the server, or a program, is `server_export`."""
        depth = 0
        for at, token in enumerate(statement):
            if token.kind == "op":
                depth += (token.text == "(") - (token.text == ")")
            elif not depth and at and words[at] in ("to", "from") and at + 1 < len(statement):
                if words[at] == "to":
                    found.add("copy")
                after = statement[at + 1]
                if after.kind == "string" or words[at + 1] == "program":
                    found.add("server_export")
                return not _hidden(after)
        return True

    def _mysql_verb(self, statement: Sequence[Token], words: Sequence[str], found: set[Flag]) -> bool:
        lasting = True
        for at, (word, following) in enumerate(zip(words, [*words[1:], ""], strict=True)):
            if word == "into" and following in ("outfile", "dumpfile"):
                found.add("server_export")
            elif (word == "execute" and following == "immediate") or (
                word == "prepare" and words[at + 2 : at + 3] == ["from"]
            ):
                # A text that is run: where it is put together first, nobody has read it.
                text = statement[at + 2 if word == "execute" else at + 3 :]
                if not text or text[0].kind != "string" or (len(text) > 1 and text[1].text != "using"):
                    found.add("watched_call")
        if words[0] == "load" and "infile" in words and "local" not in words:
            found.add("server_export")
        if words[0] == "set":
            for token, value in pairwise(token for token in statement if token.text not in ("=", ":=")):
                if token.text.lower().endswith("storage_engine"):
                    lasting = lasting and not _hidden(value)
                    if value.text.lower() in _FOREIGN_ENGINES:
                        found.add("foreign")
        if words[0] in ("create", "alter"):
            for at, word in enumerate(words):
                if word == "engine" and _FOREIGN_ENGINES & {
                    *words[at + 1 : at + 3],
                    *_texts(statement[at + 1 : at + 3]),
                }:
                    found.add("foreign")
        if (words[0] in ("change", "start") and {"master", "replication", "slave", "replica"} & set(words[1:3])) or (
            words[0:2] in (["show", "binlog"], ["show", "relaylog"], ["clone", "local"], ["clone", "instance"])
        ):
            found.add("replication")
        return lasting


def _hidden(token: Token) -> bool:
    """True when a shape does not show it (statement.py): what stands there in another text of the same shape is not known."""
    if token.kind == "quoted":
        return token.end - token.start != len(token.text) + 2 or _SHOWN.fullmatch(token.text) is None
    return token.kind in ("string", "number", "parameter") or not token.text.isascii()


def _begins(names: Iterable[str], low: str, more: str = "(?![0-9a-z])") -> bool:
    """True when a word of the text is one of these, or goes on behind `_`, or with `more`. In the middle of a word they mean nothing: of
    a thousand documents of a megabyte in base64, one has `dblink`."""
    return any(
        re.search(rf"(?<![\w$]){re.escape(name)}" + ("" if name.endswith(("_", '"')) else more), low) for name in names
    )


def _texts(statement: Sequence[Token]) -> Collection[str]:
    return [token.text.lower() for token in statement if token.kind == "string"]
