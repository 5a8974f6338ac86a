"""One window's sums, and the shape of the installation's windows. Plain Python: it needs no compiled part."""

from __future__ import annotations

from typing import NamedTuple

ROWS, PATIENTS, BYTES, QUERIES = 0, 1, 2, 3
SLICES = 32
"""Slices of a window: one covers at least W and at most W + W/32."""
MAX_WINDOW_MS = 35 * 86_400_000


class Totals(NamedTuple):
    """One window's sums: records, distinct patients, bytes of result data, statements."""

    rows: int
    patients: int
    bytes: int
    queries: int
