"""The web application: routes, the rules that hold for every page, and what each page shows.

Rules for every answer: a strict Content-Security-Policy (no inline script or style), no framing, no caching, no referrer. For every
request that acts: a session that may, its CSRF token, a reason. An error page never shows what went wrong inside.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..config.schema import Config
from ..detect.policy import Policy
from ..detect.reach import nearest, reaches
from ..errors import ExfilGuardError
from ..evidence.words import Words
from ..runtime.clock import now_ms
from ..runtime.stats import Snapshot
from .auth import Brake, LocalUsers, Login, Sessions, may
from .feed import Feed
from .headers import STATIC, VERSION, Headers
from .health import judge
from .oidc import Oidc, OidcError
from .operations import DEEDS, Dossiers, Operations, Order
from .state import ConsoleState, Incident
from .text import LANGUAGES, TEXTS, choose

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
COOKIE = "exfilguard_session"
PAGE = 50
FIRST = 25
"""Of what stands, on the first page."""
NEAREST = 15
LIVE_S = 1.0
MIN_REASON, MAX_REASON = 5, 500
MAX_FORM = 16 << 10
HOURS = (1, 4, 12, 24, 168)


@dataclass(slots=True)
class Parts:
    """What the pages stand on."""

    config: Config
    state: ConsoleState
    feed: Feed
    users: LocalUsers
    operations: Operations
    dossiers: Dossiers
    policy: Callable[[], Policy]
    snapshots: Callable[[], dict[str, Snapshot | None]]


class Console:
    """The handlers. One per process."""

    def __init__(self, parts: Parts) -> None:
        console = parts.config.console
        self.parts = parts
        self.sessions = Sessions(console.idle_ms / 1000, console.session_ms / 1000)
        self.brake = Brake()
        self.oidc = Oidc(console) if console.oidc_issuer else None
        self.secure = bool(console.tls_cert) or console.public_url.startswith("https://")
        self.templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self.templates.filters["clock"] = _clock
        self.templates.filters["thousands"] = _thousands
        self.templates.globals["version"] = VERSION
        self._words = {language: Words(language) for language in LANGUAGES}
        for name in self.templates.list_templates():  # compiled now: the first page is wanted as soon as any other
            self.templates.get_template(name)
        self._snapshots: dict[str, Snapshot | None] = {}
        self._snapshots_at = 0.0

    def app(self) -> Starlette:
        routes = [
            Route("/", self.now),
            Route("/live", self.live),
            Route("/events", self.events),
            Route("/incidents", self.incidents),
            Route("/incidents/{id}", self.incident),
            Route("/incidents/{id}/dossier", self.dossier),
            Route("/accounts/{principal:path}", self.account),
            Route("/act", self.act, methods=["POST"]),
            Route("/audit", self.audit),
            Route("/login", self.login_page, methods=["GET"]),
            Route("/login", self.login, methods=["POST"]),
            Route("/logout", self.logout, methods=["POST"]),
            Route("/oidc/login", self.oidc_begin),
            Route("/oidc/callback", self.oidc_finish),
            Route("/preferences", self.preferences, methods=["POST"]),
            Route("/healthz", self.healthz),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            await run_in_threadpool(int)  # loads what the first reader would wait for
            yield
            if self.oidc is not None:
                await self.oidc.close()

        return Starlette(
            routes=routes,
            middleware=[Middleware(Headers, secure=self.secure)],
            exception_handlers={HTTPException: self._http_error, Exception: self._error},
            lifespan=lifespan,
        )

    # -- every request ----------------------------------------------------------------------------------------------

    async def _http_error(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        if isinstance(error, HTTPException) and error.headers and "Location" in error.headers:
            return RedirectResponse(error.headers["Location"], status)
        key = {403: "forbidden", 404: "not_found", 419: "csrf"}.get(status, "broken")
        return self._page(request, "message.html", status, message=key)

    async def _error(self, request: Request, error: Exception) -> Response:
        log.error("%s could not be shown: %s", request.url.path, type(error).__name__, exc_info=error)
        return self._page(request, "message.html", 500, message="broken")

    def _login_of(self, request: Request) -> Login | None:
        return self.sessions.find(request.cookies.get(COOKIE, ""), time.time())

    def _need(self, request: Request, what: str) -> Login:
        """The session, if it may; sends the browser to the login page without one."""
        login = self._login_of(request)
        if login is None:
            raise HTTPException(303, headers={"Location": f"/login?next={quote(request.url.path)}"})
        if not may(login.roles, what):
            raise HTTPException(403)
        return login

    def _page(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        language = choose(request.cookies.get("language", ""), request.headers.get("accept-language", ""))
        login = self._login_of(request)
        texts = TEXTS[language]
        html = self.templates.get_template(template).render(
            t=texts,
            language=language,
            other_language=next(name for name in LANGUAGES if name != language),
            theme=request.cookies.get("theme", "auto"),
            login=login,
            may=lambda what: login is not None and may(login.roles, what),
            tenant=self.parts.config.tenant,
            roles=", ".join(texts[role] for role in login.roles) if login is not None else "",
            path=request.url.path,
            back=request.url.path if request.method == "GET" else "/",
            now=now_ms(),
            because=self._words[language].brief,
            **values,
        )
        return HTMLResponse(html, status)

    # -- pages ------------------------------------------------------------------------------------------------------

    async def now(self, request: Request) -> Response:
        self._need(request, "read")
        return self._page(request, "now.html", **await self._live_values())

    async def live(self, request: Request) -> Response:
        """The changing part of the first page."""
        self._need(request, "read")
        return self._page(request, "live.html", **await self._live_values())

    async def _live_values(self) -> dict[str, Any]:
        snapshots, shown = await self._fresh_snapshots(), self.parts.state.version
        health = judge(snapshots, reading=self.parts.feed.reading, detectors=self.parts.feed.detectors)
        found = self.parts.state.open(now_ms())
        stopped = [i for i in found if i.last.level in ("cut", "lock")]
        near = nearest(self.parts.feed.near(), self.parts.policy(), NEAREST)
        return {
            "health": health, "open": found[:FIRST], "stopped": len(stopped), "watched": len(found), "near": near,
            "shown": shown,
        }  # fmt: skip

    async def _fresh_snapshots(self) -> dict[str, Snapshot | None]:
        """Asked for at most once a second, however many browsers watch."""
        if time.monotonic() - self._snapshots_at > LIVE_S:
            self._snapshots_at = time.monotonic()
            self._snapshots = await run_in_threadpool(self.parts.snapshots)
        return self._snapshots

    async def incidents(self, request: Request) -> Response:
        self._need(request, "read")
        matching, standing = request.query_params.get("q", "")[:200], "standing" in request.query_params
        number = _page_number(request)
        found, total = self.parts.state.page((number - 1) * PAGE, PAGE, matching, now_ms() if standing else None)
        return self._page(
            request, "incidents.html", found=found, total=total, page=number, pages=_pages(total), matching=matching,
            standing=standing,
        )  # fmt: skip

    async def incident(self, request: Request) -> Response:
        self._need(request, "read")
        found = self._incident(request)
        return self._page(
            request, "incident.html", incident=found, hours=HOURS, told=request.query_params.get("told", "")
        )

    def _incident(self, request: Request) -> Incident:
        found = self.parts.state.incident(request.path_params["id"])
        if found is None:
            raise HTTPException(404)
        return found

    async def account(self, request: Request) -> Response:
        self._need(request, "read")
        principal = request.path_params["principal"]
        key = f"{self.parts.config.tenant}/{principal}"
        totals = self.parts.feed.near().get(key)
        return self._page(
            request,
            "account.html",
            principal=principal,
            reach=reaches(key, totals, self.parts.policy()) if totals is not None else None,
            found=self.parts.state.of_account(key),
            hours=HOURS,
            told=request.query_params.get("told", ""),
        )

    async def audit(self, request: Request) -> Response:
        self._need(request, "audit")
        number = _page_number(request)
        found, total = self.parts.state.decisions((number - 1) * PAGE, PAGE)
        return self._page(request, "audit.html", found=found, total=total, page=number, pages=_pages(total))

    async def dossier(self, request: Request) -> Response:
        login = self._need(request, "dossier")
        found = self._incident(request)
        language = choose(request.cookies.get("language", ""), request.headers.get("accept-language", ""))
        now = now_ms()
        log.info("%s takes the dossier of incident %s", login.user, found.id)
        try:
            content, media_type, name = await run_in_threadpool(
                self.parts.dossiers.make,
                found.tenant,
                found.principal,
                found.opened_ms,
                found.closed_ms(now) or now,
                language,
            )
        except ExfilGuardError as error:
            return self._page(request, "message.html", 502, message="failed", why=str(error))
        disposition = f"attachment; filename*=UTF-8''{quote(name)}"
        return Response(content, media_type=media_type, headers={"Content-Disposition": disposition})

    async def events(self, request: Request) -> Response:
        """Server-sent events: `changed` when something was decided, `tick` for the live windows. `shown`: what the page has already."""
        self._need(request, "read")
        shown = request.query_params.get("shown", "")

        async def stream() -> AsyncIterator[str]:
            version = int(shown) if shown.isdecimal() and len(shown) < 19 else -1
            if version == self.parts.state.version:
                yield ": nothing new\n\n"
                await asyncio.sleep(LIVE_S)
            while not await request.is_disconnected() and self._login_of(request) is not None:
                found = self.parts.state.version
                yield f"event: {'changed' if found != version else 'tick'}\ndata: {found}\n\n"
                version = found
                await asyncio.sleep(LIVE_S)

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def healthz(self, request: Request) -> Response:
        reading = self.parts.feed.reading
        return JSONResponse({"reading": reading}, 200 if reading else 503)

    # -- acting -----------------------------------------------------------------------------------------------------

    async def _form(self, request: Request, login: Login | None) -> dict[str, str]:
        """The form's fields. With a session its token must be right; without one the browser says where it came from."""
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_FORM:
            raise HTTPException(413)
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise HTTPException(403)
        async with request.form(max_fields=20, max_files=0) as form:
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
        if login is not None and fields.get("csrf") != login.csrf:
            raise HTTPException(419)
        return fields

    async def act(self, request: Request) -> Response:
        login = self._need(request, "act")
        fields = await self._form(request, login)
        deed, principal = fields.get("deed", ""), fields.get("principal", "")
        reason, hours = fields.get("reason", "").strip()[:MAX_REASON], fields.get("hours", "1")
        if deed not in DEEDS or not principal or (hours.isdecimal() and int(hours)) not in HOURS:
            raise HTTPException(404)
        if len(reason) < MIN_REASON:
            return self._page(request, "message.html", 400, message="reason_missing")
        order = Order(
            deed=deed,
            principal=principal,
            by=login.user,
            source=login.source,
            reason=reason,
            lasts_ms=int(hours) * 3_600_000,
        )
        log.info("%s (%s) decides: %s for one account", login.user, login.source, deed)
        try:
            told = await run_in_threadpool(self.parts.operations.carry_out, order)
        except ExfilGuardError as error:
            return self._page(request, "message.html", 502, message="failed", why=str(error))
        back = fields.get("back", "/")
        return RedirectResponse(f"{_own(back)}?told={quote(told[:300])}", 303)

    async def login_page(self, request: Request) -> Response:
        return self._login_form(request)

    def _login_form(self, request: Request, status: int = 200, message: str = "") -> Response:
        wanted = _own(request.query_params.get("next", "/"))
        local = bool(self.parts.users.names())
        return self._page(
            request, "login.html", status, wanted=wanted, message=message, local=local, oidc=self.oidc is not None
        )

    async def login(self, request: Request) -> Response:
        fields = await self._form(request, None)
        name, source, now_s = fields.get("name", "")[:200], _source(request), time.time()
        brakes = (f"name {name}", f"source {source}")
        if self.brake.holds(brakes, now_s):
            log.warning("a login from %s was refused: too many failures", source)
            return self._login_form(request, 429, "too_many")
        role = await run_in_threadpool(self.parts.users.check, name, fields.get("password", "")[:1_000])
        if role is None:
            self.brake.failed(brakes, now_s)
            log.warning("a login from %s failed", source)
            return self._login_form(request, 401, "wrong_login")
        self.brake.worked(brakes[0])
        log.info("%s logged in from %s", name, source)
        return self._begin(name, (role,), source, _own(fields.get("next", "/")))

    def _begin(self, user: str, roles: Any, source: str, wanted: str) -> Response:
        response = RedirectResponse(wanted, 303)
        token = self.sessions.begin(user, roles, source, time.time())
        response.set_cookie(COOKIE, token, httponly=True, secure=self.secure, samesite="lax", path="/")
        return response

    async def logout(self, request: Request) -> Response:
        login = self._login_of(request)
        await self._form(request, login)
        self.sessions.end(request.cookies.get(COOKIE, ""))
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE)
        return response

    async def oidc_begin(self, request: Request) -> Response:
        if self.oidc is None:
            raise HTTPException(404)
        try:
            address, state = await self.oidc.begin(time.time())
        except OidcError as error:
            log.error("OIDC: %s", error)
            return self._login_form(request, 502, "oidc_failed")
        response = RedirectResponse(address, 303)
        response.set_cookie(
            "oidc_state", state, httponly=True, secure=self.secure, samesite="lax", path="/oidc", max_age=600
        )
        return response

    async def oidc_finish(self, request: Request) -> Response:
        if self.oidc is None:
            raise HTTPException(404)
        given, kept = request.query_params, request.cookies.get("oidc_state", "")
        try:
            user, roles = await self.oidc.finish(given.get("code", ""), given.get("state", ""), kept, time.time())
        except OidcError as error:
            log.error("OIDC: %s", error)
            return self._login_form(request, 401, "oidc_failed")
        if not roles:
            log.warning("OIDC: a user without a role here was turned away")
            return self._login_form(request, 403, "no_role")
        log.info("%s logged in from %s by OIDC", user, _source(request))
        return self._begin(user, roles, _source(request), "/")

    async def preferences(self, request: Request) -> Response:
        fields = await self._form(request, self._login_of(request))
        response = RedirectResponse(_own(fields.get("back", "/")), 303)
        for name, allowed in (("language", LANGUAGES), ("theme", ("auto", "dark", "light"))):
            if fields.get(name) in allowed:
                response.set_cookie(
                    name, fields[name], max_age=31_536_000, samesite="lax", secure=self.secure, httponly=True
                )
        return response


def _own(path: str) -> str:
    """A path of this console, never another site's address."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"


def _page_number(request: Request) -> int:
    """From 1; what is no number is the first page."""
    page = request.query_params.get("page", "1")
    return max(1, int(page)) if page.isdecimal() and len(page) < 7 else 1


def _pages(total: int) -> int:
    return max(1, -(-total // PAGE))


def _source(request: Request) -> str:
    return request.client.host if request.client is not None else "unix"


def _clock(ms: int, now: int = 0) -> str:
    """Local time; with the date when it is another day."""
    at = time.localtime(ms / 1000)
    same_day = now and time.localtime(now / 1000)[:3] == at[:3]
    return time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S", at)


def _thousands(number: int, texts: dict[str, str]) -> str:
    return f"{number:,}".replace(",", texts["thousands_separator"])
