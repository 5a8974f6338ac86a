"""A signed webhook, and the receivers clinics really have.

    X-ExfilGuard-Timestamp: 1700000000                   seconds; refuse what is older than five minutes
    X-ExfilGuard-Signature: v1=<hex>                     HMAC-SHA256 with the shared secret over "<timestamp>.<body>"
    Idempotency-Key: <32 hex digits>                     the same at every attempt of the same message

The responder tries again with back-off. Where a receiver has a key of its own (PagerDuty's dedup_key, ServiceNow's
correlation_id, GLPI's externalid), it is set, and looked for before a second ticket is opened. Forms:
  PagerDuty    https://developer.pagerduty.com/docs/events-api-v2-overview
  Teams        Workflows, "when a webhook request is received": a message with an Adaptive Card 1.4
  Slack        incoming webhook: text and blocks
  GLPI         apirest.php: initSession, Ticket, ITILFollowup, killSession
  ServiceNow   Table API, incident
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

import orjson

from ..config.responder import WebhookConfig
from .hook import Settings
from .http_client import Http, connect, expect, explain
from .notify import Message, NotifyHook

REMEDY = "check the hook's url and token"
_SEVERITY = {"alert": "warning", "throttle": "warning", "cut": "error", "lock": "critical"}


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """The value of X-ExfilGuard-Signature."""
    signed = str(timestamp).encode() + b"." + body
    return "v1=" + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


class Webhook(NotifyHook):
    """See the module."""

    def __init__(self, config: WebhookConfig, settings: Settings) -> None:
        super().__init__(config.name, settings, config.min_level)
        self._config = config
        deliver: dict[str, Callable[[Http, Message], Awaitable[str]]] = {
            "glpi": self._glpi,
            "servicenow": self._servicenow,
        }
        self._deliver = deliver.get(config.template, self._post)

    async def deliver(self, message: Message) -> str:
        async with connect(self._config.url, self._config.tls_ca) as http:
            return await self._deliver(http, message)

    def explain(self, error: Exception) -> str | None:
        return explain(error, REMEDY)

    # -- one POST -------------------------------------------------------------------------------------------------------

    async def _post(self, http: Http, message: Message) -> str:
        config = self._config
        body = orjson.dumps(_BODIES[config.template](message, config))
        headers = {"Content-Type": "application/json", "Idempotency-Key": message.key}
        if config.secret:
            now = int(time.time())
            headers |= {
                "X-ExfilGuard-Timestamp": str(now),
                "X-ExfilGuard-Signature": signature(config.secret, now, body),
            }
        if config.token and config.template != "pagerduty":
            headers["Authorization"] = f"Bearer {config.token}"
        answer = await http.call("POST", "", data=body, headers=headers)
        expect(answer, "the message was not taken", REMEDY)
        return f"taken, HTTP {answer.status}"

    # -- ticket systems -------------------------------------------------------------------------------------------------

    async def _glpi(self, http: Http, message: Message) -> str:
        http.headers |= {"App-Token": self._config.app_token}
        answer = await http.call("GET", "/initSession", headers={"Authorization": f"user_token {self._config.token}"})
        expect(answer, "GLPI gives no session", REMEDY, 200)
        http.headers["Session-Token"] = answer.body["session_token"]
        said = await self._glpi_ticket(http, message)
        await http.call("GET", "/killSession")  # one that is left behind by an error ends by itself
        return said

    async def _glpi_ticket(self, http: Http, message: Message) -> str:
        # One open ticket an account: what comes later is a follow-up in it.
        found = await http.call("GET", "/Ticket", query={"searchText[externalid]": message.incident})
        expect(found, "GLPI's tickets cannot be read", REMEDY, 200, 206)
        closed = 6
        tickets = [t for t in found.body or () if t.get("externalid") == message.incident and t.get("status") != closed]
        content = f"<p>{_html(message.text)}</p><p>{message.key}</p>"
        if not tickets:
            if message.operation == "unlock":
                return "no ticket is open: nothing to tell"
            urgency = 5 if message.level == "lock" else 4
            made = await http.call(
                "POST",
                "/Ticket",
                json={
                    "input": {
                        "name": message.title, "content": content, "externalid": message.incident,
                        "urgency": urgency, "impact": urgency, "type": 1,
                    }
                },
            )  # fmt: skip
            expect(made, "GLPI opens no ticket", REMEDY, 201)
            return f"ticket {made.body['id']} opened"
        ticket = int(tickets[0]["id"])
        if message.key in str(tickets[0].get("content", "")):
            return f"ticket {ticket} is open already"
        known = await http.call("GET", f"/Ticket/{ticket}/ITILFollowup")
        expect(known, "GLPI's follow-ups cannot be read", REMEDY, 200, 206)
        if not any(message.key in str(item.get("content", "")) for item in known.body or ()):
            made = await http.call(
                "POST",
                "/ITILFollowup",
                json={
                    "input": {
                        "itemtype": "Ticket",
                        "items_id": ticket,
                        "content": f"<p>{_html(message.title)}</p>{content}",
                    }
                },
            )
            expect(made, "GLPI takes no follow-up", REMEDY, 201)
        return f"follow-up in ticket {ticket}"

    async def _servicenow(self, http: Http, message: Message) -> str:
        word = base64.b64encode(f"{self._config.user}:{self._config.password}".encode()).decode()
        http.headers |= {"Authorization": f"Basic {word}", "Accept": "application/json"}
        table = "/api/now/table/incident"
        fields = "sys_id,number,active,work_notes,correlation_display"
        found = await http.call(
            "GET",
            table,
            query={
                "sysparm_query": f"correlation_id={message.incident}^active=true", "sysparm_fields": fields, "sysparm_limit": "1"
            },
        )  # fmt: skip
        expect(found, "ServiceNow's incidents cannot be read", REMEDY, 200)
        known = found.body["result"]
        if not known:
            if message.operation == "unlock":
                return "no incident is open: nothing to tell"
            made = await http.call(
                "POST",
                table,
                json={
                    "short_description": message.title, "description": message.text, "correlation_id": message.incident,
                    "correlation_display": message.key, "urgency": "1", "impact": "1" if message.level == "lock" else "2",
                },
            )  # fmt: skip
            expect(made, "ServiceNow opens no incident", REMEDY, 201)
            return f"incident {made.body['result']['number']} opened"
        incident = known[0]
        if incident.get("correlation_display") != message.key:
            note = {"work_notes": f"{message.title}\n{message.text}", "correlation_display": message.key}
            noted = await http.call("PATCH", f"{table}/{incident['sys_id']}", json=note)
            expect(noted, "ServiceNow takes no note", REMEDY, 200)
        return f"noted in incident {incident['number']}"


# -- bodies -------------------------------------------------------------------------------------------------------------


def _generic(message: Message, config: WebhookConfig) -> dict[str, Any]:
    return {"v": 1, **asdict(message), "title": message.title, "text": message.text}


def _teams(message: Message, config: WebhookConfig) -> dict[str, Any]:
    color = "good" if message.operation == "unlock" else "attention"
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [
            {
                "type": "TextBlock",
                "size": "large",
                "weight": "bolder",
                "color": color,
                "wrap": True,
                "text": _markdown(message.title),
            },
            *({"type": "TextBlock", "wrap": True, "text": _markdown(line)} for line in message.text.split("\n")),
        ],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _slack(message: Message, config: WebhookConfig) -> dict[str, Any]:
    title = _slack_text(message.title)
    return {
        "text": title,
        "blocks": [
            {"type": "header", "text": {"type": "plain_text", "text": message.title[:150]}},
            {"type": "section", "text": {"type": "mrkdwn", "text": _slack_text(message.text)[:3000]}},
        ],
    }


def _pagerduty(message: Message, config: WebhookConfig) -> dict[str, Any]:
    out: dict[str, Any] = {
        "routing_key": config.token,
        "event_action": "resolve" if message.operation == "unlock" else "trigger",
        "dedup_key": message.incident,
    }
    if message.operation == "lock":
        out["payload"] = {
            "summary": f"{message.title}: {message.reason}"[:1024],
            "source": f"exfilguard/{message.tenant}",
            "severity": _SEVERITY.get(message.level, "critical"),
            "component": message.account,
            "class": message.level,
            "custom_details": {"text": message.text, "reference": message.revision},
        }
    return out


_BODIES: dict[str, Callable[[Message, WebhookConfig], dict[str, Any]]] = {
    "generic": _generic,
    "teams": _teams,
    "slack": _slack,
    "pagerduty": _pagerduty,
}


def _html(text: str) -> str:
    """For GLPI, which shows a ticket's content as HTML."""
    import html

    return html.escape(text).replace("\n", "<br>")


def _slack_text(text: str) -> str:
    """Slack's three special characters: a name cannot mention a channel or hide a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _markdown(text: str) -> str:
    """Adaptive Cards know links and emphasis: a name cannot make one."""
    return "".join(f"\\{c}" if c in "\\[]()*_`<>" else c for c in text)
