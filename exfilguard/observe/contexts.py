# cython: annotation_typing=False
"""Signed contexts (exfilguard/context.py writes them): read from the comment, checked, and accepted once.

Rules:
- A nonce is good for one statement: one Query, or one Parse and whatever is executed of it until the context expires.
- The same text with the same nonce once more on the same connection is a driver's retry, and passes. The nonce anywhere else, or
  on another text, is a replay.
- The memory of nonces is bounded. When it is full the oldest are forgotten, and with them every context that was issued as early
  is refused as expired: an old one is never accepted twice.
"""

from __future__ import annotations

import hmac
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from .digests import Hmac

MAX_COMMENT_BYTES = 2_048
MAX_PRINCIPAL_CHARS = 200

FORGED = "identity_forged"
EXPIRED = "identity_expired"
REPLAYED = "identity_replayed"


_USUAL = re.compile(
    rb"enduser_id='([\w.~%-]+)',exfilguard_ctx='([\w.-]+)',exfilguard_session='([\w.~%-]*)',exfilguard_sig='([0-9a-f]{64})'"
)
"""As exfilguard/context.py writes it; anything else is read pair by pair."""


class Tag(NamedTuple):
    """What a comment says. `ctx` and `signature` are empty in a plain tag."""

    user: str
    session: str = ""
    ctx: str = ""
    signature: str = ""


def read_tag(comment: bytes) -> Tag | None:
    """The tag in a comment's content; None when it names no user."""
    if b"enduser_id=" not in comment or len(comment) > MAX_COMMENT_BYTES:
        return None
    usual = _USUAL.fullmatch(comment)
    if usual is not None:
        user, ctx, session, signature = usual.groups()
        name = user.decode() if b"%" not in user else _decoded(user)
        if not good_name(name):
            return None
        return Tag(
            name, session.decode() if b"%" not in session else _decoded(session), ctx.decode(), signature.decode()
        )
    pairs: dict[bytes, str] = {}
    for pair in comment.split(b","):
        key, _, value = pair.partition(b"=")
        value = value.strip()
        if len(value) < 2 or value[:1] != b"'" or value[-1:] != b"'":
            continue
        key = key.strip()
        if key in pairs:
            return None  # said twice: nobody knows which one the signature is for
        try:
            pairs[key] = unquote_to_bytes(value[1:-1].replace(b"\\'", b"'")).decode()
        except UnicodeDecodeError:
            return None
    user = pairs.get(b"enduser_id", "")
    if not good_name(user):
        return None
    return Tag(
        user,
        pairs.get(b"exfilguard_session", ""),
        pairs.get(b"exfilguard_ctx", ""),
        pairs.get(b"exfilguard_sig", ""),
    )


def _decoded(value: bytes) -> str:
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        return ""


def good_name(name: str) -> bool:
    """True for what may be a principal."""
    return 0 < len(name) <= MAX_PRINCIPAL_CHARS and name.isprintable() and not name.isspace()


def _signer(key: bytes) -> Callable[[bytes], str]:
    """Text -> its HMAC-SHA-256 in hex."""
    if Hmac is not None and (compiled := Hmac(key)).usable:
        return compiled.whole
    return lambda message: hmac.digest(key, message, "sha256").hex()


class Contexts:
    """Checks signatures and remembers nonces; one for all sessions of a process.

    `keys`: key id -> secret, several while a key is being changed. `max_ttl_ms`: a context is never good for longer, whatever it
    says. `skew_ms`: by how much the application's clock may differ.
    """

    def __init__(
        self, keys: Mapping[str, bytes], *, max_ttl_ms: int = 300_000, skew_ms: int = 30_000, capacity: int = 100_000
    ) -> None:
        self._keys = {key_id: _signer(key) for key_id, key in keys.items()}
        self._max_ttl_ms = max_ttl_ms
        self._skew_ms = skew_ms
        self._capacity = capacity
        self._seen: OrderedDict[int, tuple[int, int, int]] = OrderedDict()
        """Hash of the nonce -> (forget at, issued, hash of session and text), oldest first. A plain dict looks for its first entry from
        where the first one ever was: with each one that is forgotten the next costs more."""
        self._floor_ms = 0

    @property
    def usable(self) -> bool:
        """True when there is a key, so that a signature means something."""
        return bool(self._keys)

    @property
    def remembered(self) -> int:
        """Nonces in memory."""
        return len(self._seen)

    def verify(self, tag: Tag, session: str, text: bytes, now_ms: int) -> tuple[str, int]:
        """(finding, expiry in ms). The finding is empty for a context that holds.

        `session` and `text`: the connection it came on, and the whole statement with its comment.
        """
        parts = tag.ctx.split(".")
        sign = self._keys.get(parts[0])
        if sign is None or len(parts) != 4 or not tag.signature.isascii():
            return FORGED, 0
        message = f"exfilguard1\n{tag.ctx}\n{tag.user}\n{tag.session}".encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(sign(message), tag.signature):
            return FORGED, 0
        _, issued, expires, nonce = parts
        if not (issued.isdecimal() and expires.isdecimal() and len(issued) < 13 and len(expires) < 13):
            return FORGED, 0
        issued_ms = int(issued) * 1000
        expiry_ms = min(int(expires) * 1000, issued_ms + self._max_ttl_ms)
        if issued_ms > now_ms + self._skew_ms or now_ms > expiry_ms + self._skew_ms:
            return EXPIRED, 0
        use = hash((session, text))
        key_of = hash((parts[0], nonce))
        seen = self._seen.get(key_of)
        if seen is not None:
            return ("", expiry_ms) if seen[2] == use else (REPLAYED, 0)
        if issued_ms <= self._floor_ms:
            return EXPIRED, 0
        self._remember(key_of, (expiry_ms + self._skew_ms, issued_ms, use), now_ms)
        return "", expiry_ms

    def expired(self, expiry_ms: int, now_ms: int) -> bool:
        return now_ms > expiry_ms + self._skew_ms

    def _remember(self, key: int, what: tuple[int, int, int], now_ms: int) -> None:
        seen = self._seen
        while seen:
            oldest = next(iter(seen))
            forget_ms, issued_ms, _ = seen[oldest]
            if forget_ms >= now_ms:
                if len(seen) < self._capacity:
                    break
                self._floor_ms = max(self._floor_ms, issued_ms)
            del seen[oldest]
        seen[key] = what
