"""OCSF 1.5 (https://schema.ocsf.io/1.5.0): what was read, what was found, what was done to an account.

    statement  Datastore Activity 6005, activity 4 (query)
    verdict    Detection Finding 2004, activity 1 (create), 3 (close) when it lifts one
    action     Account Change 3001, activity 9 (lock), 12 (unlock), 99 (an operator's other decisions)

OCSF has no field for a number of records or patients: they are under `unmapped`, with the names of docs/EVENTS.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..events.action import Action
from ..events.verdict import Verdict, severity

VERSION = "1.5.0"
_SEVERITY = (1, 3, 3, 4, 5)
"""Informational, medium, medium, high, critical: by the verdict's level."""
_SEVERITY_NAMES = {0: "Unknown", 1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical"}


def _base(class_uid: int, activity: int, time_ms: int, severity_id: int, tenant: str, version: str) -> dict[str, Any]:
    return {
        "class_uid": class_uid,
        "category_uid": class_uid // 1000,
        "activity_id": activity,
        "type_uid": class_uid * 100 + activity,
        "time": time_ms,
        "severity_id": severity_id,
        "severity": _SEVERITY_NAMES[severity_id],
        "metadata": {
            "version": VERSION,
            "tenant_uid": tenant,
            "product": {"name": "ExfilGuard", "vendor_name": "ExfilGuard", "version": version},
        },
    }


def datastore_activity(event: Mapping[str, Any], tenant: str, version: str) -> dict[str, Any]:
    """A `query` or `progress` event, as a frame holds it."""
    out = _base(6005, 4, event["time_ms"], 1, tenant, version)
    out["class_name"] = "Datastore Activity"
    out["activity_name"] = "Query"
    out["actor"] = {
        "user": {"name": event["principal"], "uid": event.get("login") or event["principal"]},
        "session": {"uid": event["session"]},
    }
    if event.get("application"):
        out["actor"]["app_name"] = event["application"]
    source = event.get("source", "")
    out["src_endpoint"] = {"ip": source} if source and source != "unix" else {"name": "local socket"}
    out["database"] = {"name": event.get("database") or event["listener"], "type_id": 1, "type": "Relational"}
    if event.get("fingerprint"):
        out["query_info"] = {
            "query_string": event.get("query") or f"fingerprint {event['fingerprint']}",
            "uid": event["fingerprint"],
            "bytes": event.get("bytes", 0),
        }
    out["status_id"] = 2 if event.get("error") else 1
    if event.get("error"):
        out["status_code"] = event["error"]
    out["unmapped"] = {
        "rows": event.get("rows", 0),
        "hidden_rows": event.get("hidden_rows", 0),
        "bytes": event.get("bytes", 0),
        "patients": len(event.get("patients", ())),
        "patients_estimated": event.get("patients_estimated", 0),
        "patients_by": event.get("patients_by", ""),
        "evidence": event.get("evidence", "login"),
        "kind": event["kind"],
    }
    if event.get("flags"):
        out["unmapped"]["flags"] = list(event["flags"])
    return out


def detection_finding(verdict: Verdict, version: str) -> dict[str, Any]:
    """A verdict. One that lifts closes the finding."""
    lifted = verdict.level == "none"
    out = _base(
        2004, 3 if lifted else 1, verdict.issued_ms, _SEVERITY[severity(verdict.level)], verdict.tenant, version
    )
    out["class_name"] = "Detection Finding"
    out["activity_name"] = "Close" if lifted else "Create"
    out["message"] = verdict.reason
    out["status_id"] = 4 if lifted else 1
    out["finding_info"] = {
        "uid": f"{verdict.key}/{verdict.revision}",
        "title": f"{verdict.level}: {verdict.principal}" if not lifted else f"lifted: {verdict.principal}",
        "desc": verdict.reason,
        "created_time": verdict.issued_ms,
        "types": [verdict.unit] if verdict.unit else ["decision"],
        "analytic": {"name": verdict.policy or verdict.issuer, "type_id": 1, "type": "Rule"},
    }
    if verdict.crossed_ms:
        out["finding_info"]["first_seen_time"] = verdict.crossed_ms
    out["unmapped"] = {
        "principal": verdict.principal,
        "level": verdict.level,
        "issuer": verdict.issuer,
        "scope": verdict.scope,
        "window_ms": verdict.window_ms,
        "total": verdict.total,
        "limit": verdict.limit,
        "expires_ms": verdict.expires_ms,
    }
    return out


def account_change(action: Action, version: str) -> dict[str, Any]:
    """An attempt of a hook. `status_id` 1: it took effect."""
    lock = action.operation == "lock"
    activity, name = {"lock": (9, "Lock"), "unlock": (12, "Unlock")}.get(action.operation, (99, action.operation))
    good = action.outcome in ("done", "already")
    out = _base(3001, activity, action.ended_ms, 4 if lock else 1, action.tenant, version)
    out["class_name"] = "Account Change"
    out["activity_name"] = name
    out["user"] = {"name": action.principal, "uid": action.principal}
    out["message"] = action.reason or action.detail
    if action.actor:
        out["actor"] = {"user": {"name": action.actor}}
    out["status_id"] = 1 if good else 2 if action.outcome in ("failed", "refused") else 99
    out["status"] = action.outcome
    out["unmapped"] = {
        "hook": action.hook,
        "operation": action.operation,
        "outcome": action.outcome,
        "verified": action.verified,
        "verdict_revision": action.verdict_revision,
    }
    return out
