"""Every metric's name, type, labels and help, once. docs and dashboards are checked against this table by a test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "exfilguard_"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of the contract. `combine`: how the values of several processes become one."""

    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    combine: Literal["sum", "max", "min"] = "sum"


_LISTENER = ("tenant", "listener")

METRICS: dict[str, Metric] = {
    "queries_total": Metric("counter", _LISTENER, "Statements that ended."),
    "rows_total": Metric("counter", _LISTENER, "Rows delivered to clients."),
    "patients_total": Metric("counter", _LISTENER, "Patients seen, distinct within each event."),
    "result_bytes_total": Metric("counter", _LISTENER, "Bytes of result data delivered."),
    "relay_added_seconds": Metric(
        "histogram", _LISTENER, "Time from when the relay finds a piece of data ready until it is done with it."
    ),
    "sessions": Metric("gauge", _LISTENER, "Client sessions now open."),
    "connections_total": Metric("counter", _LISTENER, "Client connections accepted."),
    "refused_total": Metric(
        "counter", _LISTENER, "Sessions refused or ended by the guard, with an error to the client."
    ),
    "cuts_total": Metric("counter", (*_LISTENER, "by"), "Results cut: by the local budget or by a verdict."),
    "garbage_connections_total": Metric("counter", _LISTENER, "Connections closed for not speaking the protocol."),
    "upstream_failures_total": Metric("counter", _LISTENER, "Sessions that could not reach the database."),
    "spool_lost_events_total": Metric(
        "counter", _LISTENER, "Events not recorded: the spool was full, or an event larger than one of its segments."
    ),
    "idle_sessions_closed_total": Metric("counter", _LISTENER, "Sessions closed by idle_timeout."),
    "login_timeouts_total": Metric("counter", _LISTENER, "Connections closed because no login came in login_timeout."),
    "tls_failures_total": Metric("counter", _LISTENER, "TLS handshakes with clients that failed."),
    "cancels_failed_total": Metric(
        "counter", _LISTENER, "Cancel requests that could not be passed on to the database."
    ),
    "certificate_expiration_timestamp_seconds": Metric(
        "gauge",
        (*_LISTENER, "use"),
        "When a certificate in use expires, Unix time. `use`: `listener` (shown to clients), `upstream` (shown to the database), "
        "`kafka` (shown to the brokers), `console`.",
        "min",
    ),
    "records_past_limit_total": Metric("counter", _LISTENER, "Records delivered past a local limit in enforce mode."),
    "desynced_total": Metric("counter", ("protocol",), "Sessions whose protocol could no longer be followed."),
    "events_spooled_total": Metric("counter", (), "Events written to the spool."),
    "spool_bytes": Metric("gauge", (), "Bytes in the spool on disk that Kafka has not acknowledged."),
    "spool_oldest_seconds": Metric("gauge", (), "Age of the oldest event that Kafka has not acknowledged.", "max"),
    "spool_max_bytes": Metric("gauge", (), "Bound of the spool on disk, all relays of this host."),
    "frames_published_total": Metric("counter", (), "Frames acknowledged by Kafka."),
    "events_published_total": Metric("counter", (), "Events acknowledged by Kafka."),
    "frames_resent_total": Metric("counter", (), "Frames published again after a broker that forgot."),
    "spool_damaged_records_total": Metric("counter", (), "Spooled events left out because their checksum was wrong."),
    "frames_gap_total": Metric("counter", (), "Frames missing in a sidecar's sequence."),
    "frames_duplicate_total": Metric("counter", (), "Frames that came again and were dropped."),
    "deadletters_total": Metric(
        "counter", (), "Records that could not be read; the deadletter topic has them, 100 a second of each detector."
    ),
    "frames_refused_total": Metric(
        "counter",
        ("reason",),
        "Frames refused because their sidecar did not sign them: `unsigned`, `unknown` (no key of it here), `forged`. Detector "
        "and archive count each for itself.",
    ),
    "frames_unusual_total": Metric("counter", (), "Frames that only the slow decoder could read."),
    "events_late_total": Metric("counter", (), "Events older than the longest window: counted in none."),
    "events_future_total": Metric(
        "counter", (), "Events dated more than 5 minutes ahead, counted as of their arrival."
    ),
    "clock_jumps_total": Metric("counter", (), "Times that a sidecar's clock was set back by more than a minute."),
    "clock_skew_seconds": Metric(
        "gauge",
        ("sidecar",),
        "A sidecar's clock minus the detector's, for those that differ most; least in the last minute or two, so that the way "
        "through Kafka hardly counts. Above 0: it is ahead.",
        "max",
    ),
    "window_accounts": Metric("gauge", (), "Accounts in the windows."),
    "accounts_refused_total": Metric(
        "counter", (), "Events of accounts beyond detector.max_accounts, counted together as (others)."
    ),
    "policy_refused_total": Metric("counter", (), "Policy files that changed and were refused; the old one stays."),
    "allowances_ending": Metric("gauge", (), "Allowances of the policy that end within a week.", "max"),
    "events_processed_total": Metric("counter", (), "Events added to the windows."),
    "consumer_lag_records": Metric("gauge", (), "Kafka records the detector has not read yet."),
    "event_to_verdict_seconds": Metric(
        "histogram", (), "From the event that crossed a limit to the published verdict."
    ),
    "verdicts_total": Metric("counter", ("level",), "Verdicts issued."),
    "standing_verdicts": Metric("gauge", ("level",), "Accounts whose verdict of this level is in force here.", "max"),
    "lockouts_total": Metric("counter", ("hook", "outcome"), "Attempts of the lock-out hooks."),
    "unlocks_total": Metric("counter", ("hook", "outcome"), "Attempts to restore a suspended account."),
    "lockout_seconds": Metric("histogram", (), "From the limit crossed to the lock verified."),
    "locked_accounts": Metric("gauge", (), "Accounts now locked.", "max"),
    "held_accounts": Metric("gauge", (), "Accounts whose suspension the mass-lock stop holds until a human speaks."),
    "mass_lock_stops_total": Metric("counter", (), "Suspensions that the mass-lock stop has held."),
    "account_window_records": Metric(
        "gauge", ("tenant", "account", "window"), "Records in the rolling window, for the largest accounts only.", "max"
    ),
    "archive_events_total": Metric("counter", (), "Events written to the archive."),
    "archive_bytes": Metric("gauge", (), "Size of the archive's files."),
    "archive_lag_records": Metric("gauge", (), "Kafka records that the archive has not read yet."),
    "archive_missing_records": Metric("gauge", (), "Frames that a sidecar has numbered and the archive has not got."),
    "archive_damaged_files": Metric("gauge", (), "Files of the archive that were found damaged and are left out."),
    "ledger_entries_total": Metric("counter", (), "Entries in the ledger of verdicts and actions."),
    "ledger_checkpoint_age_seconds": Metric("gauge", (), "Age of the ledger's newest signed checkpoint.", "max"),
    "siem_messages_total": Metric("counter", ("outcome",), "Messages to the SIEM: sent, or dropped while it was away."),
    "kafka_under_replicated_partitions": Metric(
        "gauge",
        (),
        "Partitions of the topics used here that have fewer copies in step than they should: a broker is away.",
        "max",
    ),
    "data_disk_free_bytes": Metric("gauge", (), "Room left on the disk of data_dir, for this user.", "min"),
    "data_disk_size_bytes": Metric("gauge", (), "Size of the disk of data_dir."),
    "process_start_time_seconds": Metric("gauge", ("process",), "When the process began to answer, Unix time.", "max"),
    "process_up": Metric("gauge", ("process",), "1 when the process answered this scrape, 0 when it did not."),
}


def render() -> str:
    """docs/METRICS.md: `python -m exfilguard.exporter.catalogue > docs/METRICS.md`."""
    lines = [
        "# Metrics\n\nGenerated from `exfilguard/exporter/catalogue.py`; do not edit. Base units, no patient, no unbounded label:",
        "`account` shows the largest accounts only (`exporter.top_accounts`). Counters of processes that were replaced or ended go on in the",
        "sums for as long as the exporter runs, which do not go back, then.\n",
        "| metric | type | labels | meaning |\n| --- | --- | --- | --- |",
    ]
    for name, metric in METRICS.items():
        lines.append(f"| `{PREFIX}{name}` | {metric.kind} | {', '.join(metric.labels)} | {metric.help} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(render())
