"""Who is charged: the chain of evidence of one session, statement by statement, for both engines.

Best evidence first (DESIGN 2.3): a signed context, a role that stands for a person, a session setting or user variable, a
connection attribute, a plain comment, application_name, the login. Two kinds of claims:

- of a statement: the comment it ends with. It holds for that statement only.
- of the session: settings, roles, variables, as the server has them: they change when their statement has *completed*, and are
  undone as the server undoes them (ROLLBACK, ROLLBACK TO, a failed statement, the end of a SET LOCAL, RESET, DISCARD ALL).

Rules:
- Whoever has a connection can say what they like. Unsigned claims count only from `trusted_sources`; a role counts when the
  configuration says that it stands for one person; all else is charged to the login.
- Behind a pooler (`pooled`) a setting may be somebody else's: it counts to the end of its transaction, and no longer.
- What cannot be read is no claim: the login is charged, never the one who was known before.
- A context that is forged, expired or replayed is charged to the login and told as a finding.

How an observer uses it (`client`: when a request is read; `reply`: when the server's answers are):

    client  script = tracker.read(sql, now_ms)      None for most statements; keep it beside the request
    reply   tracker.charge(script)                  the request has become the one that is answered: sets principal, evidence
            tracker.completed(script, i, ..)        its i-th statement ended well
            tracker.failed()                        it ended with an error
            tracker.idle() / tracker.charge(None)   the server waits for the next request, outside / inside a transaction
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from ..events.query import Engine, Evidence
from . import effects as _effects
from .contexts import EXPIRED, Contexts, good_name, read_tag
from .effects import AUTHORIZATION, ROLE, Effect, may_matter
from .lex import final_comment

APPLICATION = "application_name"
MAX_APPLICATION = 63
"""PostgreSQL cuts application_name here, and replaces what is not ASCII."""
FINDING_EVERY_MS = 1_000
MAX_SAVEPOINTS = 1_000

Parameters = Callable[[int], str | None]
"""Text of the n-th bind parameter, from 1; None when it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a listener believes. Names of settings, attributes and variables are compared in lower case."""

    engine: Engine = "postgresql"
    trusted_sources: tuple[str, ...] = ()
    """Addresses, networks, `unix`, or `*`."""
    settings: tuple[str, ...] = ("exfilguard.user", "exfilguard.end_user")
    """Session settings (PostgreSQL) that name the user."""
    variables: tuple[str, ...] = ("@exfilguard_user",)
    """User variables (MySQL) that name the user."""
    attributes: tuple[str, ...] = ("exfilguard_user",)
    """Connection attributes (MySQL) that name the user."""
    roles: tuple[str, ...] = ()
    """Patterns of the roles that stand for one person each."""
    name_pattern: re.Pattern[str] | None = None
    """Finds the group `principal` in application_name."""
    pooled: bool = False

    @property
    def settings_count(self) -> bool:
        """True where a setting or a role of some session may say who its user is."""
        return bool(self.trusted_sources or self.roles)

    def trusts(self, source: str) -> bool:
        """True when this client's unsigned word counts."""
        for entry in self.trusted_sources:
            if entry in ("*", source):
                return True
            if entry != "unix" and source != "unix":
                try:
                    if ipaddress.ip_address(source.partition("%")[0]) in ipaddress.ip_network(entry, strict=False):
                        return True
                except ValueError:
                    continue
        return False


@dataclass(slots=True)
class Script:
    """What one text means for the identity."""

    principal: str = ""
    """Of the comment it ends with; empty when it has none that holds."""
    evidence: Evidence = "signed_context"
    expiry_ms: int = 0
    """0: does not expire."""
    finding: str = ""
    unreadable: bool = False
    """The text was not kept to its end: whatever its comment says, the login is charged."""
    effects: _effects.Script = ()
    shape_end: int = 0
    """Where the statement's own text ends and the comment begins; 0: no comment was looked at."""

    @property
    def harmless(self) -> bool:
        """True when it only changes settings or ends a transaction: no rows come of it."""
        return bool(self.effects) and all(
            statement and all(effect.verb not in ("drop", "distrust") and not effect.beside for effect in statement)
            for statement in self.effects
        )


@dataclass(slots=True)
class _Level:
    """What a rollback to here restores."""

    name: str
    settings: dict[str, str]
    local: dict[str, str]


@dataclass(slots=True)
class _Claims:
    """Settings as the server has them. The dictionaries are replaced, never changed, so that a snapshot is a reference."""

    settings: dict[str, str] = field(default_factory=dict)
    local: dict[str, str] = field(default_factory=dict)
    levels: list[_Level] = field(default_factory=list)
    """The transaction's start, then its savepoints."""
    distrusted: bool = False


class Identity:
    """One session's. `principal` and `evidence` are whom the statement that is being answered is charged to."""

    __slots__ = (
        "_ahead",
        "_base",
        "_claims",
        "_contexts",
        "_defaults",
        "_findings",
        "_login",
        "_rules",
        "_session",
        "_tracked",
        "_trusted",
        "_wants_settings",
        "evidence",
        "principal",
        "wants_comments",
    )

    def __init__(self, rules: Rules, contexts: Contexts, session: str, source: str) -> None:
        self._rules = rules
        self._contexts = contexts
        self._session = session
        self._trusted = rules.trusts(source)
        self._claims = _Claims()
        self._ahead: _Claims | None = None
        self._defaults: dict[str, str] = {}
        self._findings: dict[str, int] = {}
        self._login = ""
        tracked: Collection[str] = ()
        if rules.engine == "mysql":
            tracked = {v.lower() for v in rules.variables} if self._trusted else ()
        else:
            if self._trusted:
                tracked = {name.lower() for name in rules.settings}
                if rules.name_pattern is not None:
                    tracked.add(APPLICATION)
            if rules.roles:
                tracked = {*tracked, ROLE, AUTHORIZATION}
        self._tracked = frozenset(tracked)
        self._wants_settings = bool(tracked)
        self.wants_comments = contexts.usable or self._trusted
        self.principal = ""
        self.evidence: Evidence = "login"
        self._base: tuple[str, Evidence] = ("", "login")

    # -- the session ------------------------------------------------------------------------------------------------

    def login(self, user: str, parameters: Mapping[str, str] | None = None) -> None:
        """The session begins, or begins anew (COM_CHANGE_USER).

        `parameters`: of the StartupMessage, or the connection attributes.
        """
        self._login = user
        given = {name.lower(): value for name, value in (parameters or {}).items()}
        if self._rules.engine == "postgresql":
            given = {**_options(given.get("options", "")), **given}
        kept = self._tracked | {a.lower() for a in self._rules.attributes} | {APPLICATION}
        # Behind a pooler, what its connection was opened with belongs to whoever came first.
        self._defaults = {} if self._rules.pooled else {n: v for n, v in given.items() if n in kept}
        self._claims = _Claims(dict(self._defaults))
        self._rebase()
        self.charge(None)

    def reset(self) -> None:
        """COM_RESET_CONNECTION: variables are gone, the attributes of the connection stay."""
        self._claims = _Claims(dict(self._defaults))
        self._rebase()
        self.charge(None)

    def reported(self, name: str, value: str) -> bool:
        """ParameterStatus: the server's own word on a setting, which a function may have changed. True when it is news."""
        name = name.lower()
        if name not in self._tracked or self._rules.pooled:
            return False
        claims = self._claims
        current = claims.local.get(name, claims.settings.get(name, ""))
        if name == AUTHORIZATION and not current:
            current = self._login
        if value == current or (name == APPLICATION and (not current.isascii() or len(current) > MAX_APPLICATION)):
            return False  # the same, or what the server had to mangle
        claims.settings = {**claims.settings, name: value}
        claims.local = {n: v for n, v in claims.local.items() if n != name}
        self._rebase()
        return True

    # -- statements -------------------------------------------------------------------------------------------------

    def read(self, sql: bytes, now_ms: int, *, whole: bool = True, backslashes: bool = False) -> Script | None:
        """What a text means, when the client sends it; None when it means nothing. Accepts its context, so call it once a text.

        `whole`: False when `sql` is only the beginning.
        """
        script = None
        if self.wants_comments:
            if not whole:
                script = Script(unreadable=True)
            elif sql.endswith(b"*/") or b"*/" in sql[-16:]:
                script = self._comment(sql, now_ms, backslashes)
        if self._wants_settings and may_matter(sql):
            found = _effects.effects(
                sql.decode("utf-8", "replace"), self._tracked, self._rules.engine, backslashes=backslashes
            )
            if any(found):
                script = script or Script()
                script.effects = found
        return script

    def _comment(self, sql: bytes, now_ms: int, backslashes: bool) -> Script | None:
        found = final_comment(sql, self._rules.engine, backslashes=backslashes)
        return self.claimed(sql, *found, now_ms) if found is not None else None

    def claimed(self, sql: bytes, start: int, comment: bytes, now_ms: int) -> Script:
        """What the comment says that begins at `start` and ends the text: `read` of one that means nothing else."""
        script = Script(shape_end=start)
        tag = read_tag(comment)
        if tag is None:
            return script
        if tag.ctx or tag.signature:
            if self._contexts.usable:
                script.finding, script.expiry_ms = self._contexts.verify(tag, self._session, sql, now_ms)
                script.principal = "" if script.finding else tag.user
                script.unreadable = bool(script.finding)
        elif self._trusted:
            script.principal, script.evidence = tag.user, "comment"
        return script

    def again(self, script: Script, now_ms: int) -> Script:
        """A prepared statement is to be executed once more: the same script, or another when its context has expired."""
        if script.expiry_ms and script.principal and self._contexts.expired(script.expiry_ms, now_ms):
            return replace(script, principal="", finding=EXPIRED, unreadable=True)
        return script

    def finding(self, script: Script | None, now_ms: int) -> str:
        """The finding to tell now, if any: the same one at most every FINDING_EVERY_MS."""
        if script is None or not script.finding:
            return ""
        told = self._findings.get(script.finding)
        if told is not None and 0 <= now_ms - told < FINDING_EVERY_MS:
            return ""
        self._findings[script.finding] = now_ms
        return script.finding

    def charge(self, script: Script | None) -> None:
        """From now on answers belong to this script's statement."""
        self.principal, self.evidence = self._whom(script, self._base)

    def _whom(self, script: Script | None, base: tuple[str, Evidence]) -> tuple[str, Evidence]:
        if script is None:
            return base
        if script.principal:
            return script.principal, script.evidence
        return (self._login, "login") if script.unreadable else base

    @property
    def sticky(self) -> bool:
        """True while something would change at the end of a transaction: then `idle` must be called."""
        claims = self._claims
        return bool(claims.levels or claims.local) or (self._rules.pooled and bool(claims.settings))

    def completed(
        self, script: Script | None, index: int, parameters: Parameters | None = None, *, rolled_back: bool = False
    ) -> None:
        """The `index`-th statement of the script ended well. `rolled_back`: a COMMIT that the server answered with ROLLBACK."""
        if script is None or index >= len(script.effects):
            return
        for effect in script.effects[index]:
            self._apply(self._claims, effect, parameters, rolled_back=rolled_back)
        self._rebase()

    def failed(self) -> None:
        """A statement failed: the server has undone what its transaction, or the innermost savepoint, had set."""
        claims = self._claims
        if claims.levels:
            level = claims.levels[-1]
            claims.settings, claims.local = level.settings, level.local
            self._rebase()

    def idle(self) -> None:
        """The server is outside of a transaction: what was set for one has gone."""
        self._end(self._claims)
        self._rebase()

    # -- ahead of the server ----------------------------------------------------------------------------------------

    def settled(self) -> None:
        """No request is waiting for its answer: what the server has is known."""
        self._ahead = None

    def expected(self, script: Script | None, parameters: Parameters | None = None) -> Collection[str]:
        """Whom a request would be charged to if all goes well, before it is sent, and while the server has not said so, if not: one name,
        or several for several statements too."""
        ahead = self._ahead or self._claims
        name = self._whom(script, self._resolve(ahead))[0]
        still = self._whom(script, self._base)[0]  # what is on its way may fail: a role that is not theirs
        if script is None or not script.effects:
            return (name,) if name == still else (name, still)
        ahead = _Claims(ahead.settings, ahead.local, list(ahead.levels), ahead.distrusted)
        names = [] if name == still else [still]
        for statement in script.effects:
            names.append(self._whom(script, self._resolve(ahead))[0])
            for effect in statement:
                self._apply(ahead, effect, parameters)
        names.append(self._whom(script, self._resolve(ahead))[0])
        self._ahead = ahead
        return names

    # -- the settings -----------------------------------------------------------------------------------------------

    def _apply(
        self, claims: _Claims, effect: Effect, parameters: Parameters | None, *, rolled_back: bool = False
    ) -> None:
        verb = effect.verb
        if verb in ("commit", "rollback"):
            if (rolled_back or verb == "rollback") and claims.levels:
                claims.settings = claims.levels[0].settings
            self._end(claims)
            return
        if self._rules.engine == "postgresql" and not claims.levels:
            claims.levels.append(_Level("", claims.settings, claims.local))
        if verb == "savepoint":
            if len(claims.levels) > MAX_SAVEPOINTS:
                claims.distrusted = True  # no longer followed: nothing of this session's settings is believed
                return
            claims.levels.append(_Level(effect.name, claims.settings, claims.local))
        elif verb in ("rollback_to", "release"):
            at = max((i for i, level in enumerate(claims.levels) if i and level.name == effect.name), default=0)
            if not at:
                return
            if verb == "release":
                del claims.levels[at:]
            else:
                del claims.levels[at + 1 :]
                claims.settings, claims.local = claims.levels[at].settings, claims.levels[at].local
        elif verb == "discard":
            claims.settings, claims.local, claims.distrusted = dict(self._defaults), {}, False
        elif verb == "distrust":
            claims.distrusted = True
        elif verb == "reset_all":
            self._keep(claims, {ROLE, AUTHORIZATION})
        elif verb == "drop":
            if effect.name:
                self._put(claims, effect.name, "", local=False)
            else:
                claims.settings, claims.local = {}, {}
        elif verb == "reset":
            self._put(claims, effect.name, self._defaults.get(effect.name, ""), local=effect.local)
        else:
            self._set(claims, effect, parameters)

    def _set(self, claims: _Claims, effect: Effect, parameters: Parameters | None) -> None:
        name, value, local = effect.name, effect.value, effect.local
        known = parameters or (lambda number: None)
        if effect.name_parameter:
            given = known(effect.name_parameter)
            if given is None:
                claims.settings, claims.local = {}, {}
                return
            name = given.lower()
            if name not in self._tracked:
                return
        if effect.local_parameter:
            local = (known(effect.local_parameter) or "").lower() in ("t", "true", "1", "on", "yes")
        if isinstance(value, int):
            value = known(value) or ""
        self._put(claims, name, value, local=local)

    def _put(self, claims: _Claims, name: str, value: str, *, local: bool) -> None:
        names = {name}
        if name == AUTHORIZATION:
            names.add(ROLE)  # SET SESSION AUTHORIZATION sets the role to none
        new = dict.fromkeys(names, "") | {name: value}
        if local:
            claims.local = {**claims.local, **new}
        else:
            claims.settings = {**claims.settings, **new}
            claims.local = {n: v for n, v in claims.local.items() if n not in names}

    def _keep(self, claims: _Claims, names: set[str]) -> None:
        kept = {n: v for n, v in claims.settings.items() if n in names}
        claims.settings = {**{n: v for n, v in self._defaults.items() if n not in names}, **kept}
        claims.local = {n: v for n, v in claims.local.items() if n in names}

    def _end(self, claims: _Claims) -> None:
        claims.local = {}
        claims.levels = []
        if self._rules.pooled:
            claims.settings = {}

    def _rebase(self) -> None:
        self._base = self._resolve(self._claims)

    def _resolve(self, claims: _Claims) -> tuple[str, Evidence]:
        rules = self._rules
        if claims.distrusted:
            return self._login, "login"

        def value(name: str) -> str:
            return claims.local.get(name, claims.settings.get(name, ""))

        for name in (ROLE, AUTHORIZATION) if rules.roles and rules.engine == "postgresql" else ():
            role = value(name)
            if role and role != self._login and good_name(role) and _matches(role, rules.roles):
                return role, "role"
        if self._trusted:
            for names, evidence in self._unsigned():
                for name in names:
                    if good_name(user := value(name.lower())):
                        return user, evidence
            if rules.name_pattern is not None and (found := rules.name_pattern.search(value(APPLICATION))):
                named = found.groupdict().get("principal")
                if named and good_name(named):
                    return named, "application_name"
        return self._login, "login"

    def _unsigned(self) -> Sequence[tuple[Sequence[str], Evidence]]:
        if self._rules.engine == "mysql":
            return ((self._rules.variables, "user_variable"), (self._rules.attributes, "connection_attribute"))
        return ((self._rules.settings, "session_setting"),)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


_OPTION = re.compile(r"(?:^|\s)(?:-c\s*|--)([A-Za-z_][\w.-]*)=((?:\\.|[^\s\\])*)")


def _options(text: str) -> dict[str, str]:
    """Settings in a StartupMessage's `options`: `-c name=value --name=value`, spaces escaped by a backslash."""
    return {match[1].lower().replace("-", "_"): re.sub(r"\\(.)", r"\1", match[2]) for match in _OPTION.finditer(text)}
