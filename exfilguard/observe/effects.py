"""What a statement does to its session's identity: SET, RESET, set_config(), SET ROLE, transactions, MySQL's user variables.

Strategy: the text alone, by tokens. `may_matter` is the gate before it: most statements are sent on their way by a few
comparisons. What cannot be read (a value that is computed, a DO block that names a tracked setting) yields `drop`: nobody
is charged on the strength of a value that may have been replaced.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from ..events.query import Engine
from .lex import Token, tokens

ROLE = "role"
AUTHORIZATION = "session_authorization"

_MAX_TOKENS = 2_000
"""A statement with more is only read this far; what it names behind that is dropped, not believed."""

Verb = Literal[
    "set", "reset", "reset_all", "discard", "drop", "distrust", "commit", "rollback", "rollback_to", "savepoint", "release"
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Effect:
    """One change. It takes place when its statement has completed."""

    verb: Verb
    name: str = ""
    """Of the setting (lower case), variable (`@name`) or savepoint."""
    value: str | int = ""
    """Text, or the number (from 1) of the bind parameter that holds it."""
    local: bool = False
    """Until the end of the transaction."""
    name_parameter: int = 0
    local_parameter: int = 0
    beside: bool = False
    """Its statement does something else, too."""


Script = tuple[tuple[Effect, ...], ...]
"""The effects of each statement of a text, in order; empty statements do not appear."""

_HARMLESS = frozenset(
    (b"select", b"insert", b"update", b"delete", b"create", b"declar", b"fetch ", b"alter ", b"analyz", b"begin", b"begin;",
     b"start ", b"show t", b"values", b"trunca")
)  # fmt: skip
"""First six bytes, in lower case, of statements that change an identity only by a call or a further statement behind them."""


def may_matter(sql: bytes) -> bool:
    """False: this text changes no identity. True: `effects` must look."""
    if sql[:6].lower() not in _HARMLESS and sql[:5].lower() != b"with ":
        return True
    semicolon = sql.find(b";")
    return 0 <= semicolon < len(sql) - 1 or b"set_config" in sql.lower() or b"@" in sql


_ONE_WITHOUT_ROWS = re.compile(
    rb"\s*(?:begin|start\s+transaction|commit|end|rollback|abort|savepoint|release|set(?![^;]*\bstatement\b)|reset|discard|deallocate"
    rb"|close|use)\b"
    rb"[^;(]*+;?\s*+",
    re.IGNORECASE,
)
"""A parenthesis may hold what a variable of MySQL's is to keep until somebody else asks for it: a query, a file."""


def returns_nothing(sql: bytes) -> bool:
    """True for one statement that returns no rows and belongs to whoever has the connection next: a refused user's transaction
    must come to its end, and another's settings must be made. MariaDB's SET STATEMENT .. FOR is any statement."""
    return _ONE_WITHOUT_ROWS.fullmatch(sql) is not None


def effects(sql: str, tracked: Collection[str], engine: Engine = "postgresql", *, backslashes: bool = False) -> Script:
    """`tracked`: lower-case names of settings, `role` and `session_authorization` included; for MySQL `@variables`."""
    out: list[tuple[Effect, ...]] = []
    read = _mysql if engine == "mysql" else _postgres
    statement: list[Token] = []
    parameters = 0
    for count, token in enumerate(tokens(sql, engine, backslashes=backslashes)):
        if count >= _MAX_TOKENS:
            return (*out, (Effect("drop"),))
        if token.kind == "comment":
            continue
        if token.text == "?" and token.kind == "parameter":
            parameters += 1
            token = token._replace(text=f"?{parameters}")
        if token.kind == "op" and token.text == ";":
            if statement:
                out.append(read(statement, tracked))
            statement = []
        else:
            statement.append(token)
    if statement:
        out.append(read(statement, tracked))
    return tuple(out)


# -- PostgreSQL ---------------------------------------------------------------------------------------------------------


def _postgres(statement: list[Token], tracked: Collection[str]) -> tuple[Effect, ...]:
    verb = _word(statement, 0)
    handler = _VERBS.get(verb)
    if handler is not None:
        return handler(statement, tracked)
    return _calls(statement, tracked)


def _word(statement: list[Token], at: int) -> str:
    return statement[at].text if at < len(statement) and statement[at].kind == "word" else ""


def _set(statement: list[Token], tracked: Collection[str]) -> tuple[Effect, ...]:
    at, local = 1, False
    if _word(statement, at) in ("session", "local") and _word(statement, at + 1) != "":
        local = _word(statement, at) == "local"
        if not (_word(statement, at) == "session" and _word(statement, at + 1) == "authorization"):
            at += 1
    if _word(statement, at) == "session" and _word(statement, at + 1) == "authorization":
        return _assigned(AUTHORIZATION, statement[at + 2 :], local)
    if _word(statement, at) == "role" and _op(statement, at + 1) != "=" and _word(statement, at + 1) != "to":
        return _assigned(ROLE, statement[at + 1 :], local)
    name, at = _name(statement, at)
    if name not in tracked:
        return ()
    if _op(statement, at) != "=" and _word(statement, at) != "to":
        return (Effect("drop", name),)  # FROM CURRENT and what else may come
    return _assigned(name, statement[at + 1 :], local)


def _assigned(name: str, value: list[Token], local: bool) -> tuple[Effect, ...]:
    if len(value) != 1:
        return (Effect("drop", name),)
    token = value[0]
    if token.kind == "word" and (token.text == "default" or (token.text == "none" and name == ROLE)):
        return (Effect("reset", name, local=local),)
    if token.kind in ("word", "string", "quoted", "number"):
        return (Effect("set", name, token.text, local=local),)
    return (Effect("drop", name),)


def _name(statement: list[Token], at: int) -> tuple[str, int]:
    """A dotted setting name, and the position behind it."""
    parts = []
    while at < len(statement) and statement[at].kind in ("word", "quoted"):
        parts.append(statement[at].text.lower())
        at += 1
        if _op(statement, at) != ".":
            break
        at += 1
    return ".".join(parts), at


def _op(statement: list[Token], at: int) -> str:
    return statement[at].text if at < len(statement) and statement[at].kind == "op" else ""


def _reset(statement: list[Token], tracked: Collection[str]) -> tuple[Effect, ...]:
    word = _word(statement, 1)
    if word == "all":
        return (Effect("reset_all"),)
    if word == "session" and _word(statement, 2) == "authorization":
        return (Effect("reset", AUTHORIZATION),)
    name, _ = _name(statement, 1)
    return (Effect("reset", name),) if name in tracked or name == ROLE else ()


def _discard(statement: list[Token], tracked: Collection[str]) -> tuple[Effect, ...]:
    return (Effect("discard"),) if _word(statement, 1) == "all" else ()


def _commit(statement: list[Token], tracked: Collection[str]) -> tuple[Effect, ...]:
    return () if _word(statement, 1) == "prepared" else (Effect("commit"),)


def _rollback(statement: list[Token], tracked: Collection[str]) -> tuple[Effect, ...]:
    at = 1
    if _word(statement, at) == "prepared":
        return ()
    if _word(statement, at) in ("work", "transaction"):
        at += 1
    if _word(statement, at) != "to":
        return (Effect("rollback"),)
    at += 1
    if _word(statement, at) == "savepoint":
        at += 1
    return (Effect("rollback_to", _savepoint_name(statement, at)),)


def _savepoint(statement: list[Token], tracked: Collection[str]) -> tuple[Effect, ...]:
    return (Effect("savepoint", _savepoint_name(statement, 1)),)


def _release(statement: list[Token], tracked: Collection[str]) -> tuple[Effect, ...]:
    at = 2 if _word(statement, 1) == "savepoint" and len(statement) > 2 else 1
    return (Effect("release", _savepoint_name(statement, at)),)


def _savepoint_name(statement: list[Token], at: int) -> str:
    return statement[at].text if at < len(statement) else ""


def _prepare(statement: list[Token], tracked: Collection[str]) -> tuple[Effect, ...]:
    if _word(statement, 1) == "transaction":
        return (Effect("commit"),)
    # SQL's own PREPARE: the EXECUTE that comes later names nothing.
    return (Effect("distrust"),) if _mentions(statement, tracked) else ()


def _do(statement: list[Token], tracked: Collection[str]) -> tuple[Effect, ...]:
    return (Effect("drop"),) if _mentions(statement, tracked) else ()


def _mentions(statement: list[Token], tracked: Collection[str]) -> bool:
    text = " ".join(token.text for token in statement).lower()
    return "set_config" in text or any(name in text for name in tracked)


_NOT_ALONE = frozenset(("from", "where", "case", "union", "values", "having", "limit", "offset"))
"""With any of these a call need not happen, or not once."""


def _calls(statement: list[Token], tracked: Collection[str]) -> tuple[Effect, ...]:
    """set_config(name, value, is_local) in any statement."""
    found: list[Effect] = []
    for at, token in enumerate(statement):
        if token.kind not in ("word", "quoted") or token.text.lower() != "set_config" or _op(statement, at + 1) != "(":
            continue
        found += _call(_arguments(statement, at + 2), tracked)
    if not found:
        return ()
    first = _word(statement, 0)
    if first != "select" or any(token.kind == "word" and token.text in _NOT_ALONE for token in statement):
        return tuple(Effect("drop", effect.name) for effect in found)
    return tuple(found) if _calls_only(statement) else tuple(replace(effect, beside=True) for effect in found)


def _calls_only(statement: list[Token]) -> bool:
    """True for SELECT set_config(..), perhaps several, of constants, and nothing else."""
    at = 0
    while True:
        at += 3 if _word(statement, at + 1) == "pg_catalog" and _op(statement, at + 2) == "." else 1
        if _word(statement, at) != "set_config" or _op(statement, at + 1) != "(":
            return False
        if any(_constant(argument) is None for argument in _arguments(statement, at + 2)):
            return False
        at += 2 + _length(statement, at + 2)
        if _word(statement, at) == "as":
            at += 2
        if at >= len(statement):
            return True
        if _op(statement, at) != ",":
            return False


def _call(arguments: list[list[Token]], tracked: Collection[str]) -> list[Effect]:
    if len(arguments) != 3:
        return [Effect("drop")]
    name, value, local = (_constant(argument) for argument in arguments)
    if isinstance(name, str) and name.lower() not in tracked:
        return []
    shown = name.lower() if isinstance(name, str) else ""
    if name is None or value is None or local is None:
        return [Effect("drop", shown)]
    is_local = isinstance(local, str) and local.lower() in ("true", "t", "yes", "on", "1")
    return [
        Effect(
            "set",
            shown,
            value,
            local=is_local,
            name_parameter=name if isinstance(name, int) else 0,
            local_parameter=local if isinstance(local, int) else 0,
        )
    ]


def _length(statement: list[Token], at: int) -> int:
    """Tokens up to and with the parenthesis that closes the one before `at`."""
    depth = 1
    for count, token in enumerate(statement[at:], 1):
        if token.kind == "op":
            depth += (token.text == "(") - (token.text == ")")
            if not depth:
                return count
    return len(statement)


def _arguments(statement: list[Token], at: int) -> list[list[Token]]:
    """The arguments of a call whose opening parenthesis is before `at`."""
    out: list[list[Token]] = [[]]
    depth = 1
    for token in statement[at:]:
        if token.kind == "op":
            if token.text == "(":
                depth += 1
            elif token.text == ")":
                depth -= 1
                if not depth:
                    return out
            elif token.text == "," and depth == 1:
                out.append([])
                continue
        out[-1].append(token)
    return []


def _constant(argument: list[Token]) -> str | int | None:
    """A literal's text or a parameter's number, with or without a cast; None for anything else."""
    if not argument:
        return None
    first, rest = argument[0], argument[1:]
    if rest and not (rest[0].text == "::" and all(t.kind in ("word", "quoted") or t.text == "." for t in rest[1:])):
        return None
    if first.kind == "string":
        return first.text
    if first.kind == "parameter":
        return int(first.text[1:]) if first.text[1:].isdigit() else None
    if first.kind == "word" and first.text in ("true", "false"):
        return first.text
    if first.kind == "word" and first.text == "null":
        return ""
    return None


_VERBS = {
    "set": _set,
    "reset": _reset,
    "discard": _discard,
    "commit": _commit,
    "end": _commit,
    "rollback": _rollback,
    "abort": _rollback,
    "savepoint": _savepoint,
    "release": _release,
    "prepare": _prepare,
    "do": _do,
}


# -- MySQL --------------------------------------------------------------------------------------------------------------


def _mysql(statement: list[Token], tracked: Collection[str]) -> tuple[Effect, ...]:
    """User variables are not undone by a rollback; SET ROLE changes what is allowed, not who it is."""
    if _word(statement, 0) != "set":
        names = [t.text.lower() for t, u in zip(statement, [*statement[1:], None], strict=True)
                 if t.kind == "variable" and (u is not None and u.text == ":=")]  # fmt: skip
        into = any(t.kind == "word" and t.text == "into" for t in statement)
        if into:
            names += [t.text.lower() for t in statement if t.kind == "variable"]
        return tuple(Effect("drop", name) for name in dict.fromkeys(names) if name in tracked)
    out: list[Effect] = []
    part: list[Token] = []
    depth = 0
    for token in [*statement[1:], None]:
        if token is None or (token.text == "," and token.kind == "op" and not depth):
            if part:
                out += _mysql_assignment(part, tracked)
            part = []
            continue
        if token.kind == "op":
            depth += (token.text == "(") - (token.text == ")")
        part.append(token)
    if any(token.kind == "op" and token.text == "(" for token in statement):
        return tuple([replace(effect, beside=True) for effect in out])
    return tuple(out)


def _mysql_assignment(part: list[Token], tracked: Collection[str]) -> list[Effect]:
    first = part[0]
    if first.kind != "variable" or _variable(first.text) not in tracked:
        return [
            Effect("drop", _variable(t.text))
            for t, following in pairwise(part)
            if t.kind == "variable" and following.text == ":=" and _variable(t.text) in tracked
        ]
    name = _variable(first.text)
    if len(part) == 3 and part[1].text in ("=", ":="):
        value = part[2]
        if value.kind in ("string", "number"):
            return [Effect("set", name, value.text)]
        if value.kind == "parameter":
            return [Effect("set", name, int(value.text[1:]))]
        if value.kind == "word" and value.text == "null":
            return [Effect("set", name, "")]
    return [Effect("drop", name)]


def _variable(text: str) -> str:
    """`@Name`, @`name` and @'name' are one variable."""
    return "@" + text.lstrip("@").strip("`'\"").lower() if text[:2] != "@@" else text.lower()
