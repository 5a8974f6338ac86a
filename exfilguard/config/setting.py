"""How a setting is declared: its documentation, default, unit and whether it is a secret."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(doc: str, default: Any = ..., *, secret: bool = False, unit: str = "") -> Any:
    """A documented field. `unit`: `duration_ms` accepts "10s", "5m"; `size_bytes` accepts "64MB"; stored as integers."""
    metadata = {"doc": doc, "secret": secret, "unit": unit}
    if default is ...:
        return field(metadata=metadata)
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)
