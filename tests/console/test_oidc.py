"""OpenID Connect against a provider of our own making, which can lie in every way the check must notice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from exfilguard.config.schema import Config, ConsoleConfig
from exfilguard.console.app import Console
from exfilguard.embedded.child import free_port

from .conftest import Site

KEY, OTHER_KEY = RSAKey.generate_key(2048, {"kid": "1"}), RSAKey.generate_key(2048, {"kid": "1"})


@dataclass
class Provider:
    """What the next ID token says, and what was asked."""

    address: str
    claims: dict[str, Any] = field(default_factory=dict)
    key: RSAKey = field(default_factory=lambda: KEY)
    nonce: str = ""
    token_status: int = 200
    asked: dict[str, str] = field(default_factory=dict)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/realms/clinic/.well-known/openid-configuration", self.discovery),
                Route("/jwks", lambda _: JSONResponse({"keys": [KEY.as_dict(private=False)]})),
                Route("/token", self.token, methods=["POST"]),
            ]
        )

    async def discovery(self, _: Request) -> Response:
        return JSONResponse(
            {
                "issuer": f"{self.address}/realms/clinic",
                "authorization_endpoint": f"{self.address}/auth",
                "token_endpoint": f"{self.address}/token",
                "jwks_uri": f"{self.address}/jwks",
            }
        )

    async def token(self, request: Request) -> Response:
        self.asked = dict(await request.form())  # type: ignore[arg-type]
        claims = {
            "iss": f"{self.address}/realms/clinic", "aud": "console", "sub": "42", "preferred_username": "anna",
            "exp": int(time.time()) + 60, "nonce": self.nonce, "realm_access": {"roles": ["it-oncall"]},
        } | self.claims  # fmt: skip
        return JSONResponse({"id_token": jwt.encode({"alg": "RS256", "kid": "1"}, claims, self.key)}, self.token_status)


@pytest.fixture
def provider() -> Iterator[Provider]:
    port = free_port()
    made = Provider(f"http://127.0.0.1:{port}")
    server = uvicorn.Server(uvicorn.Config(made.app(), host="127.0.0.1", port=port, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield made
    server.should_exit = True
    thread.join(5)


def client_of(site: Site, provider: Provider) -> TestClient:
    console = ConsoleConfig(
        public_url="http://guard.test",
        oidc_issuer=f"{provider.address}/realms/clinic",
        oidc_client_id="console",
        oidc_client_secret="s3cret",
        oidc_role_claim="realm_access.roles",
        oidc_roles=["it-oncall=operator", "dpo=dpo"],
    )
    parts = replace(site.console.parts, config=Config(tenant="clinic", console=console))
    return TestClient(Console(parts).app(), base_url="http://guard.test", follow_redirects=False)


def log_in(client: TestClient, provider: Provider) -> Any:
    """As the browser does: to the provider, and back with the code."""
    away = client.get("/oidc/login")
    assert away.status_code == 303
    asked = {name: values[0] for name, values in parse_qs(urlsplit(away.headers["location"]).query).items()}
    assert asked["redirect_uri"] == "http://guard.test/oidc/callback"
    assert asked["code_challenge_method"] == "S256"
    provider.nonce = provider.nonce or asked["nonce"]
    return client.get("/oidc/callback", params={"code": "c", "state": asked["state"]})


def test_a_role_at_the_provider_is_a_role_here(site: Site, provider: Provider) -> None:
    with client_of(site, provider) as client:
        assert log_in(client, provider).headers["location"] == "/"
        assert "anna (operator)" in client.get("/").text
        assert client.get("/audit").status_code == 403
    assert provider.asked["client_secret"] == "s3cret"
    assert len(provider.asked["code_verifier"]) > 40


def test_several_roles_add_up(site: Site, provider: Provider) -> None:
    provider.claims = {"realm_access": {"roles": ["dpo", "it-oncall", "uma_authorization"]}}
    with client_of(site, provider) as client:
        log_in(client, provider)
        assert "anna (operator, data protection officer)" in client.get("/").text


@pytest.mark.parametrize(
    "claims", [{"realm_access": {"roles": ["nurse"]}}, {"realm_access": "it-oncall!"}, {"realm_access": None}]
)
def test_without_a_role_there_is_no_way_in(site: Site, provider: Provider, claims: dict[str, Any]) -> None:
    provider.claims = claims
    with client_of(site, provider) as client:
        answer = log_in(client, provider)
        assert answer.status_code == 403
        assert "has no role in this console" in answer.text
        assert client.get("/").status_code == 303


@pytest.mark.parametrize(
    "lie",
    [
        {"claims": {"iss": "http://evil.example"}}, {"claims": {"aud": "another"}}, {"claims": {"exp": 1}},
        {"claims": {"exp": "soon"}}, {"claims": {"aud": ["console", "another"], "azp": "another"}}, {"nonce": "stolen"},
        {"key": OTHER_KEY}, {"token_status": 400},
    ],
)  # fmt: skip
def test_a_token_that_is_not_right_is_refused(site: Site, provider: Provider, lie: dict[str, Any]) -> None:
    for name, value in lie.items():
        setattr(provider, name, value)
    with client_of(site, provider) as client:
        answer = log_in(client, provider)
        assert answer.status_code == 401
        assert "did not work" in answer.text
        assert client.get("/").status_code == 303


def test_a_state_counts_once_and_for_its_own_browser(site: Site, provider: Provider) -> None:
    with client_of(site, provider) as client:
        assert client.get("/oidc/callback", params={"code": "c", "state": "made-up"}).status_code == 401
        away = client.get("/oidc/login")
        state = parse_qs(urlsplit(away.headers["location"]).query)["state"][0]
        client.cookies.delete("oidc_state")
        assert client.get("/oidc/callback", params={"code": "c", "state": state}).status_code == 401


def test_a_provider_that_is_away_is_said(site: Site, provider: Provider) -> None:
    away = Provider(f"http://127.0.0.1:{free_port()}")
    with client_of(site, away) as client:
        assert client.get("/oidc/login").status_code == 502
