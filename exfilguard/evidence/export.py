"""What exports and reports read: statements of the archive as events, and the ledger's verdicts and actions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..errors import CodecError
from ..events.action import BOOKKEEPING, Action
from ..events.codec import decode_action, decode_verdict
from ..events.verdict import Verdict
from .ledger import lines_of
from .reader import ArchiveReader

BATCH = 10_000
_EXPORTED = (
    "time_ms", "kind", "listener", "session", "principal", "evidence", "engine", "login", "database", "source",
    "application", "fingerprint", "rows", "hidden_rows", "bytes", "patients", "patients_estimated", "patients_by",
    "asked", "flags", "statement", "duration_us", "error", "detail",
)  # fmt: skip


def statements(
    reader: ArchiveReader, tenant: str, principal: str, from_ms: int, to_ms: int
) -> Iterator[dict[str, Any]]:
    """Events of statements that returned, moved or asked for something, as docs/EVENTS.md has them, `query` filled in."""
    texts = {row["fingerprint"]: row["query"] for row in reader.shapes(tenant).to_pylist()}
    connection = reader.scan(tenant, from_ms, to_ms)
    where = "kind IN ('query', 'progress') AND (rows > 0 OR hidden_rows > 0 OR len(asked) > 0)"
    if principal:
        where += " AND principal = $principal"
    order = "ORDER BY time_ms, sidecar, epoch, seq, item"
    found = connection.execute(
        f"SELECT {', '.join(_EXPORTED)} FROM events WHERE {where} {order}",  # noqa: S608 -- fixed words
        {"principal": principal} if principal else None,
    )
    while rows := found.fetchmany(BATCH):
        for row in rows:
            event = dict(zip(_EXPORTED, row, strict=True))
            event["patients"] = [digest.hex() for digest in event["patients"]]
            event["asked"] = [digest.hex() for digest in event["asked"]]
            event["query"] = texts.get(event["fingerprint"], "")
            yield event


def decisions(directory: Path, tenant: str, principal: str, from_ms: int, to_ms: int) -> Iterator[tuple[str, bytes]]:
    """(`verdict` or `action`, record) of the ledger; the records' own times are in [from, to). Raises OSError."""
    for line in lines_of(directory):
        try:
            entry = orjson.loads(line.data)
            if entry.get("type") not in ("verdict", "action"):
                continue
            record = entry["record"].encode()
            body = orjson.loads(record)
            time_ms = body["issued_ms"] if entry["type"] == "verdict" else body["ended_ms"]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            continue  # `audit verify` names it
        if body.get("tenant") == tenant and principal in ("", body.get("principal")) and from_ms <= time_ms < to_ms:
            yield entry["type"], record


@dataclass(frozen=True, slots=True)
class Decisions:
    """Verdicts and actions, by time."""

    verdicts: list[Verdict]
    actions: list[Action]


def decided(directory: Path, tenant: str, principal: str, from_ms: int, to_ms: int) -> Decisions:
    """The ledger's verdicts and actions; what cannot be decoded is left to `audit verify`."""
    verdicts, actions = [], []
    for kind, record in decisions(directory, tenant, principal, from_ms, to_ms):
        try:
            if kind == "verdict":
                verdicts.append(decode_verdict(record))
            else:
                action = decode_action(record)
                if action.outcome not in BOOKKEEPING:
                    actions.append(action)
        except CodecError:
            continue
    verdicts.sort(key=lambda v: (v.issued_ms, v.revision))
    actions.sort(key=lambda a: (a.ended_ms, a.started_ms))
    return Decisions(verdicts, actions)
