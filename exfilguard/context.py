"""The signed context: who is behind a statement, said by the application in a comment that only it can write.

For applications: standard library only, no other part of ExfilGuard is needed; the file may be copied as it is.

    SELECT .. /*enduser_id='dr.martin',exfilguard_ctx='k1.1732430000.1732430060.q7Fz..',exfilguard_session='..',exfilguard_sig='..'*/

- `enduser_id`: the person, as the guard shall name the account;
- `exfilguard_ctx`: key id, issued and expiry (seconds since the Unix epoch), nonce, joined by dots;
- `exfilguard_session`: the application's own session, may be empty;
- `exfilguard_sig`: HMAC-SHA-256 in hex under the key named, over the UTF-8 text
  `"exfilguard1\\n" + ctx + "\\n" + user + "\\n" + session`.

Keys and values are serialised as sqlcommenter does (https://google.github.io/sqlcommenter/spec/): URL-encoded values in
single quotes, sorted keys, commas. Sign each statement anew: a context is good for one statement. `tests/context_vectors.json`
holds vectors for implementations in other languages.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from urllib.parse import quote

TTL_S = 60
"""How long a context stays good: from the application's clock to the statement's arrival at the guard."""

_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")


def sign(
    user: str,
    session: str,
    key: bytes,
    *,
    key_id: str = "k1",
    ttl_s: int = TTL_S,
    issued_s: int | None = None,
    nonce: str | None = None,
) -> str:
    """The comment to append to one statement. `issued_s` and `nonce` are for tests; leave them out.

    Raises ValueError for a user or session with control characters, a user that is empty, or a short key.
    """
    if len(key) < 16:
        raise ValueError("the key is shorter than 16 bytes")
    if not user or not (user + session).isprintable():
        raise ValueError("user and session must be printable text, and the user not empty")
    issued_s = int(time.time()) if issued_s is None else issued_s
    nonce = secrets.token_urlsafe(16) if nonce is None else nonce
    if _KEY_ID.fullmatch(key_id) is None or _NONCE.fullmatch(nonce) is None:
        raise ValueError("a key id is 1 to 32, a nonce 16 to 64 letters, digits, - or _")
    ctx = f"{key_id}.{issued_s}.{issued_s + ttl_s}.{nonce}"
    signature = hmac.digest(key, f"exfilguard1\n{ctx}\n{user}\n{session}".encode(), "sha256").hex()
    return (
        f"/*enduser_id='{quote(user, safe='')}',exfilguard_ctx='{ctx}',"
        f"exfilguard_session='{quote(session, safe='')}',exfilguard_sig='{signature}'*/"
    )


def tag(sql: str, user: str, session: str, key: bytes, *, key_id: str = "k1", percent: str = "%") -> str:
    """`sql` with its context at the end. A statement that ends in a comment of its own is returned unchanged.

    `percent`: `"%%"` where the driver reads `%` in the text itself, as psycopg does when a statement has parameters.
    """
    body = sql.rstrip().removesuffix(";").rstrip()
    if not body or body.endswith("*/"):
        return sql
    return body + " " + sign(user, session, key, key_id=key_id).replace("%", percent)
