"""Where a session's statements go as finished bytes, when nobody needs them as objects.

An observer with an outlet does not return the events of statements (`query`, `progress`): it writes them. All other events
are rare, and returned as ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

try:
    from ..events._encode import query_event
except ImportError:  # no C compiler at installation: observers return objects
    query_event = None  # type: ignore[assignment]

COMPILED: bool = query_event is not None
encode_query: Callable[..., bytes] = query_event


class Outlet:
    """Implemented by the relay."""

    def told(self, fingerprint: str, columns: tuple[str, ...]) -> bool:
        """True when the text of this shape need not be sent any more; asking for it promises to send it now."""
        raise NotImplementedError

    def put(
        self, principal: str, time_ms: int, payload: bytes, rows: int, size: int, patients: int, final: bool
    ) -> None:
        """One encoded event, and what the counters want to know of it. Never raises, never waits."""
        raise NotImplementedError


def text_part(text: str, columns: tuple[str, ...]) -> bytes:
    """A shape's text and columns."""
    part = b',"query":' + orjson.dumps(text)
    return part + b',"columns":' + orjson.dumps(columns) if columns else part


def flags_part(flags: tuple[str, ...]) -> bytes:
    """A statement's flags."""
    return b',"flags":' + orjson.dumps(flags)


def asked_part(digests: Sequence[str]) -> bytes:
    """Digests of the patients a statement asked for."""
    return b',"asked":' + orjson.dumps(list(digests))
