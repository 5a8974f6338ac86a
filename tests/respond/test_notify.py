"""Webhooks to real HTTP servers, mail to a real SMTP server: what arrives, signed, once, and what cannot be smuggled in."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from email import message_from_bytes
from email.policy import default
from typing import Any

import pytest
from aiohttp import web
from aiosmtpd.controller import Controller
from hypothesis import given, settings
from hypothesis import strategies as st

from exfilguard.config.responder import MailConfig, WebhookConfig
from exfilguard.embedded.child import free_port
from exfilguard.errors import HookError
from exfilguard.respond.hook import Order, Settings
from exfilguard.respond.mail import MailHook
from exfilguard.respond.webhook import Webhook

from .orders import order

SECRET = "0123456789abcdef0123"
NASTY = "*]\"'><script>&\u202e<!channel> [x](http://evil)\r\nBcc: thief@example"


class Receiver:
    """An HTTP server that keeps what it was sent."""

    def __init__(self, answer: Callable[[web.Request, Any], web.Response] | None = None) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self._answer = answer or (lambda request, body: web.Response(status=202))

    async def __aenter__(self) -> Receiver:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.requests.append((request.method, request.path_qs, dict(request.headers), raw))
        return self._answer(request, json.loads(raw) if raw else None)


def webhook(url: str, template: str = "generic", **changes: Any) -> Webhook:
    fields: dict[str, Any] = {"name": "w", "url": url, "template": template, "secret": SECRET, **changes}
    return Webhook(WebhookConfig(**fields), Settings(timeout_ms=2_000))


def lifted(account: str) -> Order:
    return order(account, level="none", revision=1_700_000_000_001, reason="the yearly export", issuer="operator:anna")


def test_a_message_is_signed_and_has_the_same_key_at_every_attempt() -> None:
    async def play() -> None:
        answers = [503, 200, 204]
        async with Receiver(lambda request, body: web.Response(status=answers.pop(0))) as receiver:
            hook = webhook(f"{receiver.url}/in")
            with pytest.raises(HookError, match="HTTP 503"):
                await hook.lock(order("anna"))
            assert (await hook.lock(order("anna"))).outcome == "done"
            keys = set()
            for _, _, headers, raw in receiver.requests:
                stamp = headers["X-ExfilGuard-Timestamp"]
                expected = hmac.new(SECRET.encode(), stamp.encode() + b"." + raw, hashlib.sha256).hexdigest()
                assert headers["X-ExfilGuard-Signature"] == f"v1={expected}"
                assert abs(int(stamp) - time.time()) < 10
                keys.add(headers["Idempotency-Key"])
                body = json.loads(raw)
                assert (body["account"], body["operation"], body["level"], body["tenant"]) == (
                    "anna",
                    "lock",
                    "lock",
                    "clinic",
                )
            assert len(keys) == 1
            undo = await hook.before(order("anna"))
            await hook.unlock(lifted("anna"), undo)
            last = json.loads(receiver.requests[-1][3])
            assert (last["operation"], last["reason"], last["issuer"]) == (
                "unlock",
                "the yearly export",
                "operator:anna",
            )
            assert receiver.requests[-1][2]["Idempotency-Key"] not in keys
            assert SECRET not in repr(receiver.requests)

    asyncio.run(play())


def test_pagerduty_triggers_and_resolves_one_incident() -> None:
    async def play() -> None:
        async with Receiver() as receiver:
            hook = webhook(receiver.url, "pagerduty", token="R" * 32)
            await hook.lock(order("anna"))
            await hook.unlock(lifted("anna"), {"level": "lock"})
        opened, closed = (json.loads(raw) for *_, raw in receiver.requests)
        # https://developer.pagerduty.com/docs/events-api-v2-overview: the required fields, and no other event_action
        assert (opened["event_action"], closed["event_action"]) == ("trigger", "resolve")
        assert opened["routing_key"] == "R" * 32
        assert opened["dedup_key"] == closed["dedup_key"]
        assert opened["payload"]["severity"] in ("critical", "error", "warning", "info")
        assert opened["payload"]["summary"]
        assert opened["payload"]["source"]
        assert len(opened["payload"]["summary"]) <= 1024
        assert "Authorization" not in receiver.requests[0][2]

    asyncio.run(play())


def test_teams_and_slack_take_their_form_and_a_name_cannot_format_itself() -> None:
    async def play() -> None:
        async with Receiver() as receiver:
            await webhook(receiver.url, "teams").lock(order(NASTY))
            await webhook(receiver.url, "slack").lock(order(NASTY))
        teams, slack = (json.loads(raw) for *_, raw in receiver.requests)
        card = teams["attachments"][0]
        assert teams["type"] == "message"
        assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
        assert (card["content"]["type"], card["content"]["version"]) == ("AdaptiveCard", "1.4")
        title = card["content"]["body"][0]["text"]
        assert not re.search(r"(?<!\\)\[x(?<!\\)\]", title)
        assert "<!channel>" not in slack["text"]
        assert "&lt;!channel&gt;" in slack["text"]
        assert [block["type"] for block in slack["blocks"]] == ["header", "section"]
        assert len(slack["blocks"][0]["text"]["text"]) <= 150

    asyncio.run(play())


class Glpi:
    """As much of apirest.php as tickets need (https://github.com/glpi-project/glpi/blob/main/apirest.md)."""

    def __init__(self) -> None:
        self.tickets: list[dict[str, Any]] = []
        self.followups: list[dict[str, Any]] = []
        self.open_sessions = 0

    def answer(self, request: web.Request, body: Any) -> web.Response:
        path = request.path
        assert request.headers["App-Token"] == "app"
        if path == "/initSession":
            assert request.headers["Authorization"] == "user_token user"
            self.open_sessions += 1
            return web.json_response({"session_token": "s"})
        assert request.headers["Session-Token"] == "s"
        if path == "/killSession":
            self.open_sessions -= 1
            return web.json_response(True)
        if request.method == "GET" and path == "/Ticket":
            wanted = request.query["searchText[externalid]"]
            return web.json_response([t for t in self.tickets if wanted in t["externalid"]])
        if request.method == "GET":
            return web.json_response(self.followups)
        assert isinstance(body["input"], dict)
        made = self.tickets if path == "/Ticket" else self.followups
        made.append({"id": len(made) + 1, "status": 1, **body["input"]})
        return web.json_response({"id": len(made)}, status=201)


def test_glpi_has_one_ticket_an_account_and_a_follow_up_for_each_further_message() -> None:
    async def play() -> None:
        glpi = Glpi()
        async with Receiver(glpi.answer) as receiver:
            hook = webhook(receiver.url, "glpi", token="user", app_token="app")
            for _ in range(2):
                await hook.lock(order(NASTY))
            for _ in range(2):
                await hook.unlock(lifted(NASTY), {"level": "lock"})
        assert len(glpi.tickets) == 1
        assert len(glpi.followups) == 1
        assert "<script>" not in glpi.tickets[0]["content"]
        assert glpi.followups[0]["items_id"] == 1
        assert glpi.open_sessions == 0

    asyncio.run(play())


def test_servicenow_has_one_incident_an_account() -> None:
    async def play() -> None:
        incidents: list[dict[str, Any]] = []
        notes: list[Any] = []

        def answer(request: web.Request, body: Any) -> web.Response:
            assert request.headers["Authorization"].startswith("Basic ")
            if request.method == "GET":
                wanted = re.match(r"correlation_id=([0-9a-f]{32})\^active=true", request.query["sysparm_query"])
                assert wanted is not None
                return web.json_response({"result": [i for i in incidents if i["correlation_id"] == wanted[1]]})
            if request.method == "POST":
                incidents.append({"sys_id": "1", "number": "INC1", **body})
                return web.json_response({"result": incidents[-1]}, status=201)
            incidents[0].update(body)
            notes.append(body)
            return web.json_response({"result": incidents[0]})

        async with Receiver(answer) as receiver:
            hook = webhook(receiver.url, "servicenow", user="u", password="p")
            for _ in range(2):
                await hook.lock(order("anna"))
            for _ in range(2):
                await hook.unlock(lifted("anna"), {"level": "lock"})
        assert (len(incidents), len(notes)) == (1, 1)
        assert incidents[0]["urgency"] == "1"

    asyncio.run(play())


@pytest.mark.parametrize("behaves", ["away", "redirects", "silent", "endless", "not JSON"])
def test_a_receiver_that_misbehaves_is_an_error_in_time_that_names_no_address(behaves: str) -> None:
    async def play() -> None:
        async def endless(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(100):
                await response.write(b"x" * 65_536)
            return response

        def answer(request: web.Request, body: Any) -> Any:
            if behaves == "redirects":
                return web.Response(status=307, headers={"Location": "http://127.0.0.1:9/secret-token"})
            if behaves == "not JSON":
                return web.Response(text="<html>", status=200)
            return endless(request)

        receiver = Receiver(answer)
        if behaves == "endless":

            async def take(request: web.Request) -> Any:
                return await endless(request)

            receiver._take = take  # type: ignore[method-assign]
        async with receiver:
            url, template = f"{receiver.url}/secret-token", "glpi" if behaves == "not JSON" else "generic"
            if behaves == "away":
                url = f"http://127.0.0.1:{free_port()}/secret-token"
            server = None
            if behaves == "silent":
                server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
                url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/secret-token"
            hook = webhook(url, template, token="t", app_token="a")
            hook.settings = Settings(timeout_ms=700)
            began = time.monotonic()
            with pytest.raises(HookError) as caught:
                await hook.lock(order("anna"))
            assert time.monotonic() - began < 2.0
            assert "secret-token" not in str(caught.value)
            if server is not None:
                server.close()

    asyncio.run(play())


# -- mail ---------------------------------------------------------------------------------------------------------------


class Inbox:
    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append((envelope.rcpt_tos, message_from_bytes(envelope.content, policy=default)))
        return "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address.startswith("unknown"):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"


def mail(port: int, *recipients: str) -> MailHook:
    config = MailConfig(
        address=f"127.0.0.1:{port}", tls="none", sender="exfilguard@clinic.example",
        recipients=list(recipients or ("oncall@clinic.example", "dpo@clinic.example")),
    )  # fmt: skip
    return MailHook(config, Settings(timeout_ms=2_000))


def test_mail_arrives_as_one_thread_and_a_name_adds_no_recipient() -> None:
    inbox = Inbox()
    controller = Controller(inbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    try:
        hook = mail(controller.port)
        asyncio.run(hook.lock(order(NASTY)))
        asyncio.run(hook.lock(order(NASTY)))
        asyncio.run(hook.unlock(lifted(NASTY), {"level": "lock"}))
        first, again, end = inbox.mails
        assert first[0] == ["oncall@clinic.example", "dpo@clinic.example"]
        assert first[1]["Bcc"] is None
        assert first[1]["Message-ID"] == again[1]["Message-ID"] != end[1]["Message-ID"]
        assert first[1]["References"] == end[1]["References"]
        assert "LOCKED" in first[1]["Subject"]
        assert "took 1,200 patients" in first[1].get_content()
        assert "the yearly export" in end[1].get_content()
        with pytest.raises(HookError, match="550"):
            asyncio.run(mail(controller.port, "unknown@clinic.example").lock(order("anna")))
    finally:
        controller.stop()
    with pytest.raises(HookError, match="cannot be reached"):
        asyncio.run(hook.lock(order("anna")))


@settings(max_examples=20, deadline=None)
@given(account=st.text(min_size=1, max_size=300))
def test_no_name_breaks_a_message(account: str) -> None:
    hook = mail(1)
    from exfilguard.respond.notify import message_of

    made = hook._mail(message_of("mail", "lock", order(account), {}))
    assert b"\n\n" in made.as_bytes()
    assert made["Bcc"] is None
    assert len(made.as_bytes()) < 10_000
