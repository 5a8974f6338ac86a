"""One HTTP session for one attempt, and what its failures mean. Answers are bounded; redirects are not followed, since they
would carry a credential wherever they point."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from ..errors import HookError

MAX_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, parsed JSON (None where there is none), headers."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class Http:
    """`base` + path, JSON in and out."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base.rstrip("/")
        self.headers: dict[str, str] = {}
        """Sent with every request."""

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        data: bytes | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Raises HookError for an answer that is too long; library errors go to `explain`."""
        merged = {**self.headers, **(headers or {})}
        body: Any = form
        if json is not None:
            body = orjson.dumps(json)
            merged.setdefault("Content-Type", "application/json")
        elif data is not None:
            body = data
        async with self._session.request(
            method, self._base + path, data=body, params=query, headers=merged, allow_redirects=False
        ) as response:
            raw = bytearray()
            async for chunk in response.content.iter_any():
                raw += chunk
                if len(raw) > MAX_ANSWER_BYTES:
                    raise HookError("the answer is longer than 1 MiB: is this the right address?")
            try:
                parsed = orjson.loads(bytes(raw)) if raw else None
            except orjson.JSONDecodeError:
                parsed = None
            return Answer(response.status, parsed, response.headers)


@contextlib.asynccontextmanager
async def connect(base: str, tls_ca: str = "") -> AsyncIterator[Http]:
    """The caller bounds the time."""
    context = ssl.create_default_context(cafile=tls_ca) if tls_ca else True
    connector = aiohttp.TCPConnector(ssl=context, limit=4)
    # Cookies and proxies of the environment are nothing a hook should use.
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:
        yield Http(session, base)


def explain(error: Exception, remedy: str) -> str | None:
    """Addresses may hold tokens (Slack's and Teams' do): only the error's class is passed on."""
    if isinstance(error, aiohttp.ClientSSLError):
        return f"the server's certificate is not trusted ({type(error).__name__}): check tls_ca"
    if isinstance(error, aiohttp.ClientError | OSError):
        return f"the server cannot be reached or broke off ({type(error).__name__}): {remedy}"
    if isinstance(error, KeyError | TypeError | IndexError | AttributeError | ValueError):
        return f"the answer is not what this server should give: {remedy}"
    return None


def expect(answer: Answer, what: str, remedy: str, *statuses: int) -> None:
    """Raises HookError unless the status is one of these (or any success, when none is named)."""
    if answer.status in statuses or (not statuses and answer.ok):
        return
    raise HookError(f"{what}: HTTP {answer.status}: {remedy}")
