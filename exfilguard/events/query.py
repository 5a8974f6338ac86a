"""QueryEvent: what one statement (or a part of a long one) took out of the database.

The counts are *deltas*: adding up the events of a statement gives its totals, so a consumer only ever sums. A long
result yields several `progress` events and one final `query` event; only the final one counts as a query.
No field holds SQL literals or row values: patients appear as keyed digests only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["query", "progress", "login", "login_failed", "logout", "refused", "desynced", "gap", "finding"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Engine = Literal["postgresql", "mysql"]
"""The protocol that was spoken: `mysql` is MariaDB's too."""

Evidence = Literal[
    "login",
    "application_name",
    "comment",
    "connection_attribute",
    "user_variable",
    "session_setting",
    "role",
    "signed_context",
]
"""How the principal was established, weakest first."""

Flag = Literal[
    "packed",
    "aggregate",
    "copy",
    "large_value",
    "server_export",
    "foreign",
    "replication",
    "watched_call",
]
FLAGS: tuple[Flag, ...] = get_args(Flag)
"""What the detectors want to know of a statement beside its counts.

`packed`: several identifiers were found in one cell; `aggregate`: a packing aggregate (json_agg, GROUP_CONCAT ..) over a
table of patients; `copy`: COPY or a dump; `large_value`: one value beyond the configured size; `server_export`: the server
itself writes to a file or program (COPY TO file, INTO OUTFILE, lo_export ..); `foreign`: dblink, foreign tables, FEDERATED;
`replication`: a replication start-up or a binlog dump; `watched_call`: a function on the watch list.
"""

PatientsBy = Literal["", "origin", "name", "estimate"]
"""Empty: no patients seen. `origin`: identifier found by table and column; `name`: by column name only; `estimate`: no
identifier visible, `patients` holds digests of rows."""


@dataclass(frozen=True, slots=True)
class QueryEvent:
    """One event. Units: milliseconds since the Unix epoch, microseconds for durations, rows, bytes of result data."""

    time_ms: int
    kind: Kind
    listener: str
    session: str
    """Opaque id of the client connection, unique in a tenant."""
    principal: str
    """Who is charged. The database login unless better evidence was found."""
    evidence: Evidence = "login"
    engine: Engine = "postgresql"
    login: str = ""
    database: str = ""
    source: str = ""
    """Client address without port; `unix` for a local socket."""
    application: str = ""
    statement: int = 0
    """Ordinal of the statement within the session, from 1; 0 when the event is about the session."""
    fingerprint: str = ""
    """16 hex digits of the normalised statement; equal shapes have equal fingerprints."""
    query: str = ""
    """Normalised text (literals replaced), only on the first event of a fingerprint that a worker sends."""
    columns: tuple[str, ...] = ()
    """Names of the result's columns, plain identifiers only, at most 100; only where `query` is sent."""
    rows: int = 0
    hidden_rows: int = 0
    """Rows a statement moved without showing them (CTAS, INSERT..SELECT, COPY TO file), from its completion tag."""
    bytes: int = 0
    patients: tuple[str, ...] = ()
    """Keyed digests (16 hex digits, HMAC-SHA-256 truncated to 64 bits), distinct within the event."""
    patients_estimated: int = 0
    """Further patients by estimate: rows over patients in which no identifier is visible."""
    patients_by: PatientsBy = ""
    """How patients were recognised."""
    asked: tuple[str, ...] = ()
    """Digests of the patients a statement asked for, by bind parameter or literal on an identifier column; not returned."""
    flags: tuple[Flag, ...] = ()
    duration_us: int = 0
    error: str = ""
    """SQLSTATE when the statement failed."""
    detail: str = ""
    """For refused, desynced, gap and finding: what happened, in fixed words."""
