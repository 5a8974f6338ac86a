"""Single events that matter by themselves: honeytokens, flags, findings, newcomers.

A honeytoken is a patient file that nobody has a reason to open (Spitzner, "Honeypots: catching the insider threat", ACSAC 2003):
one read needs no statistics. A flag says what kind of statement it was (events.query.FLAGS). A newcomer is a source or an
application that a privileged account never used before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..events.verdict import Level
from .policy import Class, Policy

WHY = ("honeytoken", "flag", "finding", "new_source", "new_application")
FLAG_WORDS = {
    "packed": "a statement that packs many patients into one value",
    "aggregate": "an aggregate that packs a table of patients into one value",
    "copy": "a COPY or dump",
    "large_value": "a single value larger than the configured size",
    "server_export": "an export by the server itself to a file or program",
    "foreign": "a connection from the database to another server",
    "replication": "a replication stream",
    "watched_call": "a call of a function on the watch list",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that an event showed."""

    detector: str
    level: Level
    reason: str
    unit: str
    total: int
    limit: int = 0


def look(
    policy: Policy, rules: Class, principal: str, event: Mapping[str, Any], why: str, allowed: frozenset[str]
) -> Iterator[Seen]:
    """What of this event is worth a verdict. `allowed`: flags that an allowance covers."""
    honey = policy.honeytokens
    if honey:
        hits = honey.intersection(event.get("patients") or ()) | honey.intersection(event.get("asked") or ())
        if hits and policy.honeytoken_level != "none":
            yield Seen(
                "honeytoken",
                policy.honeytoken_level,
                f"{principal} read {_count(len(hits), 'honeytoken patient')}, which nobody has a reason to open; "
                f"{_count(1, 'read')} is enough",
                "honeytokens",
                len(hits),
            )
    for flag in event.get("flags") or ():
        level = policy.flags.get(flag, "none")
        if level != "none" and flag not in allowed:
            rows = event.get("rows", 0) + event.get("hidden_rows", 0)
            words = FLAG_WORDS.get(flag, f"a statement flagged {flag}")
            yield Seen("flag", level, f"{principal} ran {words} ({rows:,} rows; policy: {flag})", flag, rows)
    if event.get("kind") == "finding" and policy.findings != "none":
        yield Seen(
            "finding", policy.findings, f"{principal}: {event.get('detail') or 'a finding'} (1 finding)", "findings", 1
        )
    if why in ("new_source", "new_application") and rules.privileged and policy.newcomers != "none":
        what = "source" if why == "new_source" else "application"
        value = str(event.get("source" if why == "new_source" else "application", ""))[:64] or "unknown"
        yield Seen(
            "newcomer",
            policy.newcomers,
            f"{principal}, a privileged account, used {what} {value} for the first time",
            what,
            1,
        )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
