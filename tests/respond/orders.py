"""What the tests of the hooks share: orders, the property every hook must have, servers that behave badly."""

from __future__ import annotations

from typing import Any

from exfilguard.events.verdict import Verdict
from exfilguard.respond.hook import Order


def order(account: str, **changes: Any) -> Order:
    """A lock verdict on this account, as a detector would issue it."""
    fields: dict[str, Any] = {
        "tenant": "clinic",
        "principal": account,
        "level": "lock",
        "revision": 1_700_000_000_000,
        "issued_ms": 1_700_000_000_000,
        "reason": "took 1,200 patients in 1m; the lock limit of class anybody is 1,000",
        "issuer": "detector:1",
        "crossed_ms": 1_700_000_000_000,
        **changes,
    }
    return Order(Verdict(**fields))
