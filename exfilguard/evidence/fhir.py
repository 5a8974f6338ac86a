"""FHIR R4 AuditEvent, after IHE BALP (https://profiles.ihe.net/ITI/BALP): who was told what of which patient.

`disclosure` follows IHE.BasicAudit.PrivacyDisclosure.Source: one patient in each event, so it is made on demand, for an export
or a patient's own question. The patient's identifier is the digest, unless whoever may has resolved it. No profile of BALP is
for SQL: `query` is a plain R4 AuditEvent without the patient entity.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from typing import Any

from ..events.action import Action
from ..events.verdict import Verdict, severity
from .moment import moment_of

DCM = "http://dicom.nema.org/resources/ontology/DCM"
LIFECYCLE = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
ENTITY_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
EVENT_TYPE = "http://terminology.hl7.org/CodeSystem/audit-event-type"
PROFILE = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.PrivacyDisclosure.Source"
DIGESTS = "urn:exfilguard:patient-digest"


def _coding(system: str, code: str, display: str) -> dict[str, str]:
    return {"system": system, "code": code, "display": display}


def instant(time_ms: int) -> str:
    """FHIR's `instant`, UTC."""
    moment = moment_of(time_ms)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


def _network(address: str) -> dict[str, str]:
    """Type 2 is an IP address, 1 a machine's name."""
    if address in ("", "unix"):
        return {"address": "localhost" if address else "unknown", "type": "1"}
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return {"address": address, "type": "1"}
    return {"address": address, "type": "2"}


def _observer(event: Mapping[str, Any], version: str) -> dict[str, str]:
    """Who recorded it and let it out: BALP wants the source agent to be the source of the audit (val-audit-source)."""
    return {
        "display": f"database {event.get('database') or event['listener']} behind ExfilGuard {version}, {event['listener']}"
    }


def _agents(event: Mapping[str, Any], version: str) -> list[dict[str, Any]]:
    return [
        {
            "type": {"coding": [_coding(DCM, "110153", "Source Role ID")]},
            "who": _observer(event, version),
            "requestor": False,
            "network": _network(event.get("sidecar") or event["listener"]),
        },
        {
            "type": {"coding": [_coding(DCM, "110152", "Destination Role ID")]},
            "who": {"display": event.get("application") or "client"},
            "requestor": False,
            "network": _network(event.get("source", "")),
        },
        {
            "type": {
                "coding": [
                    _coding(
                        "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "IRCP", "information recipient"
                    )
                ]
            },
            "who": {"identifier": {"value": event["principal"]}, "display": event["principal"]},
            "requestor": True,
        },
    ]


def _query_entity(event: Mapping[str, Any]) -> dict[str, Any]:
    text = event.get("query") or f"fingerprint {event.get('fingerprint', '')}"
    return {
        "type": _coding(ENTITY_TYPE, "2", "System Object"),
        "role": _coding(ROLE, "24", "Query"),
        "query": base64.b64encode(text.encode()).decode(),
        "detail": [
            {"type": "rows", "valueString": str(event.get("rows", 0))},
            {"type": "patients", "valueString": str(len(event.get("patients", ())))},
        ],
    }


def query(event: Mapping[str, Any], tenant: str, version: str) -> dict[str, Any]:
    """A statement that returned patients, without saying which."""
    return {
        "resourceType": "AuditEvent",
        "type": _coding(DCM, "110106", "Export"),
        "subtype": [_coding(LIFECYCLE, "disclose", "Disclose Record Lifecycle Event")],
        "action": "R",
        "recorded": instant(event["time_ms"]),
        "outcome": "8" if event.get("error") else "0",
        "agent": _agents(event, version),
        "source": {"site": tenant, "observer": _observer(event, version)},
        "entity": [_query_entity(event)],
    }


def disclosure(
    event: Mapping[str, Any], digest: str, tenant: str, version: str, identifier: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The same, of one patient. `identifier`: FHIR Identifier (system, value) once it was resolved."""
    out = query(event, tenant, version)
    out["meta"] = {"profile": [PROFILE]}
    patient = {
        "what": {"type": "Patient", "identifier": dict(identifier or {"system": DIGESTS, "value": digest})},
        "type": _coding(ENTITY_TYPE, "1", "Person"),
        "role": _coding(ROLE, "1", "Patient"),
    }
    out["entity"] = [patient, *out["entity"]]
    return out


def _alert(
    tenant: str, time_ms: int, principal: str, issuer: str, text: str, outcome: str, version: str
) -> dict[str, Any]:
    return {
        "resourceType": "AuditEvent",
        "type": _coding(DCM, "110113", "Security Alert"),
        "action": "E",
        "recorded": instant(time_ms),
        "outcome": outcome,
        "outcomeDesc": text,
        "agent": [{"who": {"display": issuer}, "requestor": False}],
        "source": {"site": tenant, "observer": {"display": f"ExfilGuard {version}"}},
        "entity": [
            {
                "what": {"identifier": {"value": principal}},
                "type": _coding(ENTITY_TYPE, "1", "Person"),
                "role": _coding(ROLE, "11", "Security User Entity"),
                "description": text,
            }
        ],
    }


def verdict(found: Verdict, version: str) -> dict[str, Any]:
    """A verdict: DICOM's Security Alert."""
    outcome = ("0", "4", "4", "8", "12")[severity(found.level)]
    text = f"{found.level}: {found.reason}"
    return _alert(found.tenant, found.issued_ms, found.principal, found.issuer, text, outcome, version)


def action(done: Action, version: str) -> dict[str, Any]:
    """An attempt of a hook."""
    outcome = {"failed": "8", "refused": "4"}.get(done.outcome, "0")
    text = f"{done.operation} by {done.hook}: {done.outcome}. {done.detail}".strip()
    return _alert(done.tenant, done.ended_ms, done.principal, "responder", text, outcome, version)
