"""OpenID Connect: authorization code flow with PKCE, against any provider that publishes its discovery document.

https://openid.net/specs/openid-connect-core-1_0.html section 3.1, RFC 7636. The ID token's signature, issuer, audience, expiry and
nonce are checked; roles come from a configured claim.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from ..config.schema import CONSOLE_ROLES, ConsoleConfig, ConsoleRole

ALGORITHMS = ["RS256", "ES256", "PS256", "EdDSA"]
TIMEOUT_S = 10.0
PENDING_S = 600.0
MAX_PENDING = 1_000
LEEWAY_S = 60


class OidcError(Exception):
    """The provider's answer cannot be used; the text is for the log and names no secret."""


@dataclass(frozen=True, slots=True)
class _Pending:
    verifier: str
    nonce: str
    until_s: float


class Oidc:
    """One provider. Bounded memory for logins under way."""

    def __init__(self, config: ConsoleConfig) -> None:
        self._config = config
        self._roles = dict(entry.split("=", 1) for entry in config.oidc_roles)
        self._pending: dict[str, _Pending] = {}
        self._tls = ssl.create_default_context(cafile=config.oidc_ca_file or None)
        self._http: aiohttp.ClientSession | None = None
        self._found: dict[str, Any] | None = None

    @property
    def redirect_uri(self) -> str:
        return self._config.public_url.rstrip("/") + "/oidc/callback"

    async def _discover(self) -> dict[str, Any]:
        if self._found is None:
            issuer = self._config.oidc_issuer.rstrip("/")
            found = await self._json("GET", issuer + "/.well-known/openid-configuration")
            if str(found.get("issuer", "")).rstrip("/") != issuer:
                raise OidcError("the discovery document names another issuer than oidc_issuer")
            self._found = found
        return self._found

    async def _json(self, method: str, url: str, data: Mapping[str, str] | None = None) -> dict[str, Any]:
        if self._http is None:  # not before the event loop runs
            self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT_S))
        try:
            async with self._http.request(method, url, data=data, ssl=self._tls, allow_redirects=False) as answer:
                answer.raise_for_status()
                found = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise OidcError(f"{url}: {type(error).__name__}") from None
        if not isinstance(found, dict):
            raise OidcError(f"{url}: not a JSON object")
        return found

    async def begin(self, now_s: float) -> tuple[str, str]:
        """(the provider's address to send the browser to, the state to keep in its cookie). Raises OidcError."""
        found = await self._discover()
        for state in [s for s, p in self._pending.items() if p.until_s < now_s]:
            del self._pending[state]
        while len(self._pending) >= MAX_PENDING:
            del self._pending[next(iter(self._pending))]
        state, verifier, nonce = (secrets.token_urlsafe(32) for _ in range(3))
        self._pending[state] = _Pending(verifier, nonce, now_s + PENDING_S)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._config.oidc_client_id,
                "redirect_uri": self.redirect_uri,
                "scope": "openid profile",
                "state": state,
                "nonce": nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        return f"{found['authorization_endpoint']}?{query}", state

    async def finish(self, code: str, state: str, kept_state: str, now_s: float) -> tuple[str, tuple[ConsoleRole, ...]]:
        """(user name, roles here; none when none of the user's roles has one). Raises OidcError."""
        pending = self._pending.pop(state, None)
        if pending is None or pending.until_s < now_s or not secrets.compare_digest(state, kept_state):
            raise OidcError("the state is unknown or too old")
        found = await self._discover()
        tokens = await self._json(
            "POST",
            found["token_endpoint"],
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self.redirect_uri,
                "client_id": self._config.oidc_client_id,
                "client_secret": self._config.oidc_client_secret,
                "code_verifier": pending.verifier,
            },
        )
        claims = self._claims(
            str(tokens.get("id_token", "")), await self._json("GET", found["jwks_uri"]), pending, now_s
        )
        name = claims.get("preferred_username") or claims.get("email") or claims.get("sub")
        return str(name), self._roles_of(claims)

    def _claims(self, token: str, keys: dict[str, Any], pending: _Pending, now_s: float) -> dict[str, Any]:
        try:
            claims = dict(jwt.decode(token, KeySet.import_key_set(keys), algorithms=ALGORITHMS).claims)  # type: ignore[arg-type]
        except (JoseError, ValueError, KeyError) as error:
            raise OidcError(f"the ID token cannot be verified: {type(error).__name__}") from None
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        expires = claims.get("exp")
        if str(claims.get("iss", "")).rstrip("/") != self._config.oidc_issuer.rstrip("/"):
            raise OidcError("the ID token is another issuer's")
        if self._config.oidc_client_id not in audiences:
            raise OidcError("the ID token is for another client")
        if len(audiences) > 1 and claims.get("azp") != self._config.oidc_client_id:
            raise OidcError("the ID token was made for another party")
        if not isinstance(expires, int | float) or expires + LEEWAY_S < now_s:
            raise OidcError("the ID token has expired: check this machine's clock")
        if not secrets.compare_digest(str(claims.get("nonce", "")), pending.nonce):
            raise OidcError("the ID token's nonce is another login's")
        return claims

    def _roles_of(self, claims: dict[str, Any]) -> tuple[ConsoleRole, ...]:
        """What the values of the configured claim (a dotted path, such as realm_access.roles) stand for here."""
        value: Any = claims
        for part in self._config.oidc_role_claim.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        values = value if isinstance(value, list) else [value]
        mine = {self._roles.get(str(v)) for v in values}
        return tuple(role for role in CONSOLE_ROLES if role in mine)

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
