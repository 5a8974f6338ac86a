"""Versioned bytes for everything that crosses Kafka. Documented in docs/EVENTS.md; readable from any language.

A frame is one Kafka record: many events of one sidecar for one partition,
`{"v":1,"tenant":..,"sidecar":..,"epoch":..,"seq":..,"events":[..]}`. `(sidecar, epoch, seq)` counts frames and is gapless
per partition. Event fields that hold their default are left out. Decoding checks types and ranges; the error names the
field and never its value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, get_args

import orjson

from ..errors import CodecError
from .action import Action, Operation, Outcome
from .query import KINDS, QueryEvent
from .verdict import LEVELS, Scope, Verdict

FRAME_VERSION = 1
VERDICT_VERSION = 1
ACTION_VERSION = 1

_FIELDS: tuple[tuple[str, Any], ...] = tuple((f.name, f.default) for f in fields(QueryEvent))
_DEFAULTS: dict[str, Any] = {name: default for name, default in _FIELDS if default is not MISSING}
MAX_COUNT = (1 << 53) - 1
"""What JSON's readers in every language take for the whole number it is."""
MAX_NAME_CHARS = 1_000
"""Of what something is counted under: it comes again in verdicts, sums and checkpoints, which must be records that a broker takes."""


def encode_event(event: QueryEvent) -> bytes:
    """One event as a JSON object, defaults left out."""
    out: dict[str, Any] = {}
    for name, default in _FIELDS:
        value = getattr(event, name)
        if default is MISSING or value != default:
            out[name] = value
    return orjson.dumps(out)


def encode_fields(values: dict[str, Any]) -> bytes:
    """Some fields of an event, in the order they have there, as they stand in it: each with a comma in front, defaults left out."""
    out = {name: value for name, value in values.items() if name not in _DEFAULTS or value != _DEFAULTS[name]}
    return b"," + orjson.dumps(out)[1:-1]


def frame_head(tenant: str, sidecar: str, epoch: str) -> bytes:
    """The constant part of a sidecar's frames, up to the sequence number."""
    head = orjson.dumps({"v": FRAME_VERSION, "tenant": tenant, "sidecar": sidecar, "epoch": epoch})
    return head[:-1] + b',"seq":'


def encode_frame(head: bytes, seq: int, events: Iterable[bytes]) -> bytes:
    """A frame from `frame_head` and already encoded events: no event is decoded again."""
    return b'%b%d,"events":[%b]}' % (head, seq, b",".join(events))


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame. `events` are plain dicts, checked, defaults not filled in: the detector's fast path."""

    tenant: str
    sidecar: str
    epoch: str
    seq: int
    events: list[dict[str, Any]]


def _load(data: bytes, what: str, version: int) -> dict[str, Any]:
    try:
        obj = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise CodecError(f"{what}: not JSON") from None
    if not isinstance(obj, dict):
        raise CodecError(f"{what}: not an object")
    found = obj.get("v")
    if type(found) is not int or found != version:
        shown = found if type(found) is int else "missing"
        raise CodecError(f"{what}: version {shown}, this release reads {version}: upgrade the consumer first")
    return obj


def _text(obj: dict[str, Any], name: str, what: str, *, empty: bool = False) -> str:
    value = obj.get(name, "")
    if not isinstance(value, str) or not (value or empty):
        raise CodecError(f"{what}: {name} is not a{'' if empty else ' non-empty'} string")
    return value


def _name(obj: dict[str, Any], name: str, what: str, *, empty: bool = False) -> str:
    value = _text(obj, name, what, empty=empty)
    if len(value) > MAX_NAME_CHARS:
        raise CodecError(f"{what}: {name} has more than {MAX_NAME_CHARS} characters")
    return value


def _count(obj: dict[str, Any], name: str, what: str) -> int:
    value = obj.get(name, 0)
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise CodecError(f"{what}: {name} is not a whole number between 0 and 2^53")
    return value


_KINDS = frozenset(KINDS)
_COUNTS = ("rows", "hidden_rows", "bytes", "patients_estimated", "statement", "duration_us")
_REQUIRED_TEXT = ("listener", "session", "principal")
_NAMES = ("principal", "source", "fingerprint")
_FURTHER_TEXT = tuple(
    f.name for f in fields(QueryEvent) if f.name not in (*_REQUIRED_TEXT, *_COUNTS, "time_ms", "kind")
    and not isinstance(_DEFAULTS.get(f.name), tuple)
)  # fmt: skip
_DIGEST = re.compile(r"[0-9a-fA-F]{16}", re.ASCII).fullmatch


def check_event(event: object) -> dict[str, Any]:
    """Return the event if its types and ranges are right, else raise CodecError."""
    if not isinstance(event, dict):
        raise CodecError("event: not an object")
    kind = event.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise CodecError("event: kind is unknown")
    if "time_ms" not in event:
        raise CodecError("event: time_ms is missing")
    _count(event, "time_ms", "event")
    for name in _COUNTS:
        if name in event:
            _count(event, name, "event")
    for name in _REQUIRED_TEXT:
        _text(event, name, "event")
    for name in _FURTHER_TEXT:
        if name in event:
            _text(event, name, "event", empty=True)
    for name in _NAMES:
        _name(event, name, "event", empty=True)
    for name in ("patients", "asked"):
        digests = event.get(name, ())
        if not isinstance(digests, list | tuple) or not all(isinstance(p, str) and _DIGEST(p) for p in digests):
            raise CodecError(f"event: {name} is not a list of digests of 16 hex digits")
    for name in ("flags", "columns"):
        texts = event.get(name, ())
        if not isinstance(texts, list | tuple) or not all(isinstance(t, str) for t in texts):
            raise CodecError(f"event: {name} is not a list of strings")
    return event


def decode_frame(data: bytes) -> Frame:
    """Decode and check one record of the queries topic. Raises CodecError."""
    obj = _load(data, "frame", FRAME_VERSION)
    events = obj.get("events")
    if not isinstance(events, list):
        raise CodecError("frame: events is not a list")
    for event in events:
        check_event(event)
    return Frame(
        tenant=_name(obj, "tenant", "frame"),
        sidecar=_name(obj, "sidecar", "frame"),
        epoch=_name(obj, "epoch", "frame"),
        seq=_count(obj, "seq", "frame"),
        events=events,
    )


def event_from_dict(event: dict[str, Any]) -> QueryEvent:
    """A checked event as QueryEvent, defaults filled in, unknown fields dropped (a newer sidecar may add some)."""
    known = {f.name for f in fields(QueryEvent)}
    kept = {k: v for k, v in event.items() if k in known}
    for name in ("patients", "asked", "flags", "columns"):
        if name in kept:
            kept[name] = tuple(kept[name])
    return QueryEvent(**kept)


def encode_verdict(verdict: Verdict) -> bytes:
    return orjson.dumps({"v": VERDICT_VERSION, **asdict(verdict)})


def decode_verdict(data: bytes) -> Verdict:
    """Raises CodecError."""
    obj = _load(data, "verdict", VERDICT_VERSION)
    if obj.get("level") not in LEVELS:
        raise CodecError("verdict: level is unknown")
    scope = obj.get("scope", "principal")
    if scope not in get_args(Scope):
        raise CodecError("verdict: scope is unknown")
    counts = (
        "window_ms",
        "total",
        "limit",
        "crossed_ms",
        "expires_ms",
        "session_rows",
        "throttle_rows_per_s",
    )
    return Verdict(
        tenant=_text(obj, "tenant", "verdict"),
        principal=_text(obj, "principal", "verdict"),
        level=obj["level"],
        revision=_count(obj, "revision", "verdict"),
        issued_ms=_count(obj, "issued_ms", "verdict"),
        reason=_text(obj, "reason", "verdict", empty=True),
        issuer=_text(obj, "issuer", "verdict"),
        scope=scope,
        unit=_text(obj, "unit", "verdict", empty=True),
        policy=_text(obj, "policy", "verdict", empty=True),
        detector=_text(obj, "detector", "verdict", empty=True),
        **{name: _count(obj, name, "verdict") for name in counts},
    )


def encode_action(action: Action) -> bytes:
    return orjson.dumps({"v": ACTION_VERSION, **asdict(action)})


def decode_action(data: bytes) -> Action:
    """Raises CodecError."""
    obj = _load(data, "action", ACTION_VERSION)
    if obj.get("operation") not in get_args(Operation):
        raise CodecError("action: operation is unknown")
    if obj.get("outcome") not in get_args(Outcome):
        raise CodecError("action: outcome is unknown")
    undo = obj.get("undo", {})
    if not isinstance(undo, dict):
        raise CodecError("action: undo is not an object")
    return Action(
        tenant=_text(obj, "tenant", "action"),
        principal=_text(obj, "principal", "action"),
        hook=_text(obj, "hook", "action"),
        operation=obj["operation"],
        outcome=obj["outcome"],
        verified=bool(obj.get("verified")),
        verdict_revision=_count(obj, "verdict_revision", "action"),
        started_ms=_count(obj, "started_ms", "action"),
        ended_ms=_count(obj, "ended_ms", "action"),
        detail=_text(obj, "detail", "action", empty=True),
        undo=undo,
        actor=_text(obj, "actor", "action", empty=True),
        host=_text(obj, "host", "action", empty=True),
        reason=_text(obj, "reason", "action", empty=True),
        expires_ms=_count(obj, "expires_ms", "action"),
    )
