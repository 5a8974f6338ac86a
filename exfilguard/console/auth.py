"""Who may do what: roles, passwords of local users, sessions, the brake on guessing. Time is an argument, in seconds.

Passwords are kept as scrypt hashes (RFC 7914; parameters as OWASP recommends, N=2^17, r=8, p=1) in a file of its owner only. A session is
a random token in a cookie and everything else on the server, so that ending it ends it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from ..config.schema import CONSOLE_ROLES, ConsoleRole
from ..errors import ConfigError

_MAY: dict[ConsoleRole, frozenset[str]] = {
    "viewer": frozenset({"read"}),
    "operator": frozenset({"read", "act"}),
    "dpo": frozenset({"read", "dossier"}),
    "admin": frozenset({"read", "act", "dossier", "audit"}),
}

MIN_PASSWORD = 12
MAX_SESSIONS = 10_000
_N, _R, _P = 1 << 17, 8, 1
_MEMORY = 192 << 20


def may(roles: Iterable[ConsoleRole], what: str) -> bool:
    """`what`: read, act, dossier, audit."""
    return any(what in _MAY[role] for role in roles)


def hash_password(password: str) -> str:
    """`scrypt$N$r$p$salt$hash`. Raises ConfigError for a short one."""
    if len(password) < MIN_PASSWORD:
        raise ConfigError([f"the password is shorter than {MIN_PASSWORD} characters"])
    salt = os.urandom(16)
    made = hashlib.scrypt(password.encode(), salt=salt, n=_N, r=_R, p=_P, maxmem=_MEMORY)
    return "$".join(["scrypt", str(_N), str(_R), str(_P), *(base64.b64encode(b).decode() for b in (salt, made))])


def password_is(password: str, kept: str) -> bool:
    """Compare in constant time."""
    try:
        _, n, r, p, salt, expected = kept.split("$")
        made = hashlib.scrypt(
            password.encode(), salt=base64.b64decode(salt), n=int(n), r=int(r), p=int(p), maxmem=_MEMORY
        )
        return hmac.compare_digest(made, base64.b64decode(expected))
    except ValueError:
        return False


class LocalUsers:
    """`console-users.json` in the data directory. Read again when it has changed: `--set-password` works while the console runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._nobody = ""

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            found = orjson.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, orjson.JSONDecodeError):
            raise ConfigError([f"{self.path}: cannot be read: remove it to begin anew, or restore it"]) from None
        return found if isinstance(found, dict) else {}

    def names(self) -> list[str]:
        return sorted(self._read())

    def set(self, name: str, role: ConsoleRole, password: str) -> None:
        """Raises ConfigError, OSError."""
        users = self._read()
        users[name] = {"role": role, "password": hash_password(password)}
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        written = self.path.with_suffix(".new")
        descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(users, option=orjson.OPT_INDENT_2))
        written.rename(self.path)

    def check(self, name: str, password: str) -> ConsoleRole | None:
        """The user's role, or None. Takes as long for a user that does not exist. Slow by design: call it in a thread."""
        user = self._read().get(name)
        self._nobody = self._nobody or hash_password(secrets.token_hex(16))
        right = password_is(password, user["password"] if user is not None else self._nobody)
        if user is None or not right or user.get("role") not in CONSOLE_ROLES:
            return None
        return user["role"]  # type: ignore[return-value]


def first_admin(users: LocalUsers, path: Path) -> bool:
    """On the first start: a local `admin` whose password lies in `path`, for its owner only. True when one was made."""
    if users.names():
        return False
    password = secrets.token_urlsafe(16)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    written = path.with_name(f"{path.name}.new")
    descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(password + "\n")
    written.rename(path)  # whoever waits for it finds all of it
    users.set("admin", "admin", password)
    return True


@dataclass(slots=True)
class Login:
    """One session of one person."""

    user: str
    roles: tuple[ConsoleRole, ...]
    source: str
    csrf: str
    began_s: float
    seen_s: float


class Sessions:
    """Server-side sessions: an idle one ends, an old one ends, the oldest gives way to one too many."""

    def __init__(self, idle_s: float, longest_s: float) -> None:
        self._idle_s = idle_s
        self._longest_s = longest_s
        self._held: dict[str, Login] = {}

    def begin(self, user: str, roles: tuple[ConsoleRole, ...], source: str, now_s: float) -> str:
        """The token for the cookie."""
        while len(self._held) >= MAX_SESSIONS:
            del self._held[next(iter(self._held))]
        token = secrets.token_urlsafe(32)
        self._held[_kept_as(token)] = Login(user, roles, source, secrets.token_urlsafe(24), now_s, now_s)
        return token

    def find(self, token: str, now_s: float) -> Login | None:
        kept_as = _kept_as(token)
        login = self._held.get(kept_as)
        if login is None:
            return None
        if now_s - login.seen_s > self._idle_s or now_s - login.began_s > self._longest_s:
            del self._held[kept_as]
            return None
        login.seen_s = now_s
        return login

    def end(self, token: str) -> None:
        self._held.pop(_kept_as(token), None)


def _kept_as(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(slots=True)
class Brake:
    """At most `tries` failures of one name, and of one source, in `window_s`; then all tries are refused until some have aged."""

    tries: int = 5
    window_s: float = 300.0
    _failures: dict[str, list[float]] = field(default_factory=dict)

    def holds(self, names: tuple[str, ...], now_s: float) -> bool:
        return any(len(self._recent(name, now_s)) >= self.tries for name in names)

    def failed(self, names: tuple[str, ...], now_s: float) -> None:
        for name in names:
            recent = [*self._recent(name, now_s), now_s]
            self._failures[name] = recent[-self.tries :]
        if len(self._failures) > MAX_SESSIONS:
            for name in [n for n in self._failures if not self._recent(n, now_s)]:
                del self._failures[name]
            while len(self._failures) > MAX_SESSIONS:
                del self._failures[next(iter(self._failures))]

    def worked(self, name: str) -> None:
        with contextlib.suppress(KeyError):
            del self._failures[name]

    def _recent(self, name: str, now_s: float) -> list[float]:
        return [at for at in self._failures.get(name, ()) if now_s - at < self.window_s]
