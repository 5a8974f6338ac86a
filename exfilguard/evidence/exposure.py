"""Which patients' data an account took, which columns, from when to when: by digest, exactly; what is estimated, apart.

Three kinds, never added up silently:
- `identified`: the patient's identifier was in the result, by digest;
- `estimated`: patients' rows without a visible identifier: digests of rows and counted estimates. Some of these digests may be
  identifiers that were packed in one cell; resolving with the key tells them apart (resolve.py);
- `asked`: patients that a statement asked for; a result that came back without identifiers may have been about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb

from .reader import ArchiveReader

COLUMNS = (
    "time_ms", "kind", "session", "source", "application", "login", "listener", "database", "fingerprint", "rows",
    "hidden_rows", "bytes", "patients", "patients_estimated", "patients_by", "asked", "flags", "error", "evidence", "detail",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Patient:
    """One patient, by digest."""

    digest: str
    first_ms: int
    last_ms: int
    times: int
    """Events that held this patient."""
    fingerprints: tuple[str, ...]
    columns: tuple[str, ...]
    """Of all results that held this patient."""


@dataclass(frozen=True, slots=True)
class ShapeUse:
    """What one shape of statement took."""

    fingerprint: str
    query: str
    columns: tuple[str, ...]
    statements: int
    rows: int
    hidden_rows: int
    nbytes: int
    patients: int
    """Distinct, identified."""
    estimated: int
    flags: tuple[str, ...]
    first_ms: int
    last_ms: int


@dataclass(slots=True)
class Exposure:
    """Of one account in [from, to)."""

    tenant: str
    principal: str
    from_ms: int
    to_ms: int
    first_ms: int = 0
    last_ms: int = 0
    statements: int = 0
    rows: int = 0
    hidden_rows: int = 0
    nbytes: int = 0
    patients: list[Patient] = field(default_factory=list)
    row_digests: list[str] = field(default_factory=list)
    """Of rows without a visible identifier, distinct; identifiers found packed in a cell among them."""
    counted: int = 0
    """Further patients, by estimate, without any digest."""
    asked: list[str] = field(default_factory=list)
    """Digests that were asked for and are not among `patients`."""
    shapes: list[ShapeUse] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Files of the archive that are damaged: what they held is missing here."""

    @property
    def estimated(self) -> int:
        """Patients that were taken without a visible identifier, by estimate: rather too many than too few."""
        return len(self.row_digests) + self.counted

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "estimated": self.estimated, "identified": len(self.patients)}


def exposure(reader: ArchiveReader, tenant: str, principal: str, from_ms: int, to_ms: int) -> Exposure:
    """Raises EvidenceError."""
    found = Exposure(tenant, principal, from_ms, to_ms)
    table = reader.account(tenant, principal, from_ms, to_ms, COLUMNS)
    shapes = _shapes(reader, tenant)
    connection = duckdb.connect(":memory:", config={"threads": 2})
    connection.register("e", table)
    row = connection.execute(
        "SELECT coalesce(min(time_ms), 0), coalesce(max(time_ms), 0), count(*) FILTER (kind = 'query'), "
        "coalesce(sum(rows), 0), coalesce(sum(hidden_rows), 0), coalesce(sum(bytes), 0), coalesce(sum(patients_estimated), 0) "
        "FROM e WHERE kind IN ('query', 'progress')"
    ).fetchone()
    if row is not None:
        found.first_ms, found.last_ms, found.statements, found.rows, found.hidden_rows, found.nbytes, found.counted = (
            int(value) for value in row
        )
    patients = connection.execute(
        "SELECT lower(hex(p)), min(time_ms), max(time_ms), count(*), list(DISTINCT fingerprint ORDER BY fingerprint) "
        "FROM (SELECT unnest(patients) AS p, time_ms, fingerprint FROM e WHERE patients_by <> 'estimate') "
        "GROUP BY p ORDER BY min(time_ms), p"
    ).fetchall()
    columns_of: dict[tuple[str, ...], tuple[str, ...]] = {}
    for digest, first, last, times, prints in patients:
        key = tuple(prints)
        if key not in columns_of:
            columns_of[key] = tuple(dict.fromkeys(c for p in key for c in shapes.get(p, ("", ()))[1]))
        found.patients.append(Patient(digest, first, last, times, key, columns_of[key]))
    known = {patient.digest for patient in found.patients}
    found.row_digests = [
        digest
        for (digest,) in connection.execute(
            "SELECT DISTINCT lower(hex(p)) AS d FROM (SELECT unnest(patients) AS p FROM e WHERE patients_by = 'estimate') ORDER BY d"
        ).fetchall()
        if digest not in known
    ]
    found.asked = [
        digest
        for (digest,) in connection.execute(
            "SELECT DISTINCT lower(hex(p)) AS d FROM (SELECT unnest(asked) AS p FROM e) ORDER BY d"
        ).fetchall()
        if digest not in known
    ]
    found.shapes = _uses(connection, shapes)
    found.skipped = dict(reader.skipped)
    return found


def _shapes(reader: ArchiveReader, tenant: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """fingerprint -> (text, columns): all columns it ever had (a `SELECT *` changes with its table)."""
    out: dict[str, tuple[str, tuple[str, ...]]] = {}
    for row in reader.shapes(tenant).sort_by("first_ms").to_pylist():
        _, columns = out.get(row["fingerprint"], ("", ()))
        out[row["fingerprint"]] = (row["query"], tuple(dict.fromkeys([*columns, *row["columns"]])))
    return out


def _uses(connection: duckdb.DuckDBPyConnection, shapes: Mapping[str, tuple[str, tuple[str, ...]]]) -> list[ShapeUse]:
    rows = connection.execute(
        "WITH s AS (SELECT fingerprint, count(*) FILTER (kind = 'query') AS n, sum(rows) AS rows, sum(hidden_rows) AS hidden, "
        "  sum(bytes) AS size, sum(patients_estimated) + sum(CASE WHEN patients_by = 'estimate' THEN len(patients) ELSE 0 END) "
        "  AS estimated, list_distinct(flatten(list(flags))) AS flags, min(time_ms) AS first, max(time_ms) AS last "
        "  FROM e WHERE kind IN ('query', 'progress') GROUP BY 1), "
        "p AS (SELECT fingerprint, count(DISTINCT p) AS patients FROM "
        "  (SELECT fingerprint, unnest(patients) AS p FROM e WHERE patients_by <> 'estimate') GROUP BY 1) "
        "SELECT s.fingerprint, n, rows, hidden, size, coalesce(p.patients, 0), estimated, flags, first, last "
        "FROM s LEFT JOIN p USING (fingerprint) ORDER BY rows + hidden DESC, first"
    ).fetchall()
    out = []
    for fingerprint, n, count, hidden, size, patients, estimated, flags, first, last in rows:
        text, columns = shapes.get(fingerprint, ("", ()))
        out.append(
            ShapeUse(
                fingerprint,
                text,
                columns,
                statements=int(n),
                rows=int(count),
                hidden_rows=int(hidden),
                nbytes=int(size),
                patients=int(patients),
                estimated=int(estimated),
                flags=tuple(sorted(flags or ())),
                first_ms=first,
                last_ms=last,
            )
        )
    return out


def columns_taken(uses: Iterable[ShapeUse]) -> list[str]:
    """Every column of a result that held rows, in the order of first use."""
    return list(dict.fromkeys(column for use in uses if use.rows for column in use.columns))
