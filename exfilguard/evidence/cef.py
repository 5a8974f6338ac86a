"""CEF: `CEF:0|vendor|product|version|event class|name|severity|extension`, with its escapes, for collectors that speak it.

In the header `|` and `\\` are escaped, in the extension `=` and `\\`, and line ends are `\\n`. Custom fields carry their label.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..events.action import Action
from ..events.verdict import Verdict, severity

MAX_VALUE = 1_000
_SEVERITY = (1, 5, 6, 8, 10)


def _header(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\r", " ").replace("\n", " ")


def _value(value: object) -> str:
    text = str(value)[:MAX_VALUE].replace("\\", "\\\\").replace("=", "\\=")
    return text.replace("\r\n", "\\n").replace("\n", "\\n").replace("\r", "\\n")


def _line(version: str, event_class: str, name: str, level: int, extension: Mapping[str, object]) -> str:
    head = "|".join(_header(part) for part in ("ExfilGuard", "ExfilGuard", version, event_class, name))
    body = " ".join(f"{key}={_value(value)}" for key, value in extension.items() if value not in ("", None))
    return f"CEF:0|{head}|{level}|{body}"


def query(event: Mapping[str, Any], tenant: str, version: str) -> str:
    """A `query` or `progress` event, as a frame holds it."""
    source = event.get("source", "")
    return _line(
        version,
        f"query-{event['kind']}",
        "Records read",
        1,
        {
            "rt": event["time_ms"],
            "suser": event["principal"],
            "src": source if source != "unix" else "",
            "app": event.get("engine", "postgresql"),
            "dvchost": event["listener"],
            "outcome": "failure" if event.get("error") else "success",
            "reason": event.get("error", ""),
            "out": event.get("bytes", 0),
            "cnt": event.get("rows", 0),
            "cn1Label": "patients",
            "cn1": len(event.get("patients", ())) + event.get("patients_estimated", 0),
            "cs1Label": "tenant",
            "cs1": tenant,
            "cs2Label": "fingerprint",
            "cs2": event.get("fingerprint", ""),
            "cs3Label": "session",
            "cs3": event["session"],
        },
    )


def verdict(found: Verdict, version: str) -> str:
    """A verdict."""
    return _line(
        version,
        f"verdict-{found.level}",
        "Verdict lifted" if found.level == "none" else f"Verdict: {found.level}",
        _SEVERITY[severity(found.level)],
        {
            "rt": found.issued_ms,
            "duser": found.principal,
            "act": found.level,
            "msg": found.reason,
            "suser": found.issuer,
            "externalId": found.revision,
            "cs1Label": "tenant",
            "cs1": found.tenant,
            "cn1Label": "total",
            "cn1": found.total,
            "cn2Label": "limit",
            "cn2": found.limit,
            "end": found.expires_ms or "",
        },
    )


def action(done: Action, version: str) -> str:
    """An attempt of a hook."""
    return _line(
        version,
        f"account-{done.operation}",
        f"Account {done.operation}: {done.outcome}",
        8 if done.operation == "lock" else 3,
        {
            "rt": done.ended_ms,
            "duser": done.principal,
            "act": done.operation,
            "outcome": done.outcome,
            "msg": done.detail,
            "externalId": done.verdict_revision,
            "cs1Label": "tenant",
            "cs1": done.tenant,
            "cs2Label": "hook",
            "cs2": done.hook,
        },
    )
