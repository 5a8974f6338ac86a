"""`[archive]`, `[siem]`, `[report]`: what is kept, who else is told, and what the reports say of the establishment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .setting import setting

DAY_MS = 86_400_000
MIN_RETENTION_MS = 180 * DAY_MS
MAX_RETENTION_MS = 1_100 * DAY_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveConfig:
    """`[archive]`: events as Parquet files, verdicts and actions as a hash-chained ledger."""

    enabled: bool = setting("Whether `up` runs the archive's process.", True)
    dir: str = setting("Where the archive is; default `archive` below `data_dir`.", "")
    retention_ms: int = setting(
        "How long events and the ledger are kept: 180 to 1100 days. Six rolling months are the least for traces of access to "
        "patient records in France; three years are the EHDS regulation's.",
        365 * DAY_MS,
        unit="duration_ms",
    )
    commit_ms: int = setting(
        "How often what was read from Kafka becomes a file. Until then it is in Kafka only.", 5_000, unit="duration_ms"
    )
    checkpoint_ms: int = setting("How often the ledger's state is signed.", 600_000, unit="duration_ms")
    checkpoint_dir: str = setting(
        "A second place for checkpoints and the public key, best on another machine: without one, whoever holds this machine "
        "can put back an older ledger.",
        "",
    )
    signing_key: str = setting(
        "Ed25519 private key of the checkpoints, PEM; better `signing_key_file`. Empty: made once and kept in the data "
        "directory.",
        "",
        secret=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SiemConfig:
    """`[siem]`: verdicts and actions, and on demand each read of patients, as they happen, over syslog (RFC 5424)."""

    address: str = setting("The collector, `host:port`; empty: off.", "")
    transport: Literal["udp", "tcp", "tls"] = setting("RFC 5426, 6587 (octet counting) or 5425.", "tls")
    ca_file: str = setting("CA bundle of the collector's certificate, for `tls`; empty: the system's.", "")
    format: Literal["ocsf", "cef", "fhir"] = setting("OCSF 1.5 (JSON), CEF, or FHIR R4 AuditEvent (JSON).", "ocsf")
    what: Literal["decisions", "all"] = setting(
        "`decisions`: verdicts and actions; `all`: each statement that returned patients too.", "decisions"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """`[report]`: what the reports say of the establishment."""

    establishment: str = setting("Name of the controller (GDPR), as a notification wants it.", "")
    address: str = setting("Its postal address.", "")
    dpo: str = setting("Name and contact of the data protection officer.", "")
    language: Literal["fr", "en"] = setting("Language of the reports.", "fr")
    timezone: str = setting("Time zone of the times in the reports.", "Europe/Paris")
    dormant_ms: int = setting(
        "An account without activity for this long is dormant in the access review.", 90 * DAY_MS, unit="duration_ms"
    )


def check_evidence(
    archive: ArchiveConfig, siem: SiemConfig, report: ReportConfig, problem: Callable[[str, str], None]
) -> None:
    """What a type cannot say. `problem(path, text)` collects."""
    if not MIN_RETENTION_MS <= archive.retention_ms <= MAX_RETENTION_MS:
        problem("archive.retention", 'must be between "180d" and "1100d"')
    if archive.commit_ms < 100:
        problem("archive.commit", 'must be at least "100ms"')
    if archive.checkpoint_ms < 1_000:
        problem("archive.checkpoint", 'must be at least "1s"')
    if archive.signing_key and "PRIVATE KEY" not in archive.signing_key:
        problem("archive.signing_key", "is no private key in PEM: make one with `openssl genpkey -algorithm ed25519`")
    if siem.address:
        from .load import parse_address

        try:
            parse_address(siem.address)
        except ValueError as error:
            problem("siem.address", str(error))
    try:
        from zoneinfo import ZoneInfo

        ZoneInfo(report.timezone)
    except (ValueError, KeyError, OSError):
        problem("report.timezone", 'no such time zone: write it as "Europe/Paris"')
