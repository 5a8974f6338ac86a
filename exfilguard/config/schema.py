"""Every setting, once: its name, type, default, unit and meaning. docs/CONFIGURATION.md is generated from this file.

All sections are frozen and validated once, in `load.py`. A field's `doc` is what the operator reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .evidence import ArchiveConfig as ArchiveConfig
from .evidence import ReportConfig as ReportConfig
from .evidence import SiemConfig as SiemConfig
from .responder import PostgresHookConfig as PostgresHookConfig
from .responder import ResponderConfig as ResponderConfig
from .setting import setting

DENIABLE = ("default", "server_export", "foreign", "replication", "watched_call", "aggregate", "copy")
"""What `deny` may name; `default` is not a flag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConfig:
    """`[kafka]`: the broker and the topics."""

    bootstrap: str = setting(
        "Bootstrap servers, `host:port[,host:port]`; `embedded` starts the one-machine broker, which keeps its data in "
        "memory only (the spool replays what it forgets).",
        "embedded",
    )
    prefix: str = setting("Prefix of every topic name.", "exfilguard")
    partitions: int = setting("Partitions of the queries topic, when it is created.", 4)
    replication: int = setting("Replication factor of the topics, when they are created.", 1)
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = setting(
        "How clients speak to the broker.", "PLAINTEXT"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = setting(
        "SASL mechanism, with a SASL security protocol.", "SCRAM-SHA-512"
    )
    username: str = setting("SASL user.", "")
    password: str = setting("SASL password; better `password_file`.", "", secret=True)
    ca_file: str = setting("CA bundle that signed the brokers' certificates.", "")
    cert_file: str = setting("Certificate (PEM) shown to the brokers, where they ask for one (mutual TLS).", "")
    key_file: str = setting("Its private key (PEM).", "")
    frame_key: str = setting(
        "Key with which this sidecar signs its frames (HMAC-SHA-256), at least 32 characters, of this sidecar alone; better "
        "`frame_key_file`. Empty: they are not signed.",
        "",
        secret=True,
    )
    frame_keys_dir: str = setting(
        "Directory of the sidecars' keys, `SIDECAR.key` (of another tenant `TENANT/SIDECAR.key`), one key a line: detector and "
        "archive refuse a frame that its sidecar has not signed. Empty: signatures are not looked at.",
        "",
    )
    unsigned_frames: Literal["refuse", "accept"] = setting(
        "What happens to a frame without a signature where `frame_keys_dir` is set; `accept` only while sidecars are given "
        "their keys. A wrong signature is refused in any case.",
        "refuse",
    )
    compression: Literal["lz4", "none"] = setting(
        "How the shipper compresses what it publishes. `lz4` makes events of small queries seven times smaller and costs less CPU "
        "than sending them as they are; `none` while a consumer cannot read it.",
        "lz4",
    )
    linger_ms: int = setting(
        "How long the shipper waits at most to fill a frame, milliseconds; twice as long while more than 500 events come in "
        "this time. An event with many patients does not wait.",
        50,
    )
    frame_events: int = setting("Most events in one frame.", 4_000)
    fetch_wait_ms: int = setting(
        "How long a broker may hold a fetch that finds nothing, milliseconds. Kafka answers as soon as a record comes; the "
        "embedded broker does not, and `up` sets 20 for it.",
        500,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolConfig:
    """`[spool]`: the on-disk queue between the relay and Kafka."""

    max_bytes: int = setting("Bound of one worker's spool on disk.", 1 << 30, unit="size_bytes")
    segment_bytes: int = setting("Size of one segment file, reserved on disk in advance.", 8 << 20, unit="size_bytes")
    retain_ms: int = setting(
        "How long acknowledged segments are kept, to publish again after a broker that forgot.",
        3_600_000,
        unit="duration_ms",
    )
    on_full: Literal["forward", "refuse"] = setting(
        "When the spool is full or its disk is: `forward` lets queries pass uncounted by Kafka (the gap is counted and "
        "is itself an event), `refuse` refuses new statements.",
        "forward",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerConfig:
    """`[[listener]]`: one guarded database."""

    name: str = setting("Label of this listener in events and metrics.")
    engine: Literal["postgres", "mysql", "mariadb"] = setting(
        "Protocol of the database; `mysql` and `mariadb` are the same.", "postgres"
    )
    listen: str = setting("Address the applications connect to, `host:port`.")
    upstream: str = setting("The database, `host:port` or `unix:/path/of/its/socket`.")
    mode: Literal["observe", "enforce"] = setting(
        "`observe` forwards first and counts second; `enforce` counts first and stops at the local budget. Standing "
        "verdicts (cut, lock) are applied in both.",
        "observe",
    )
    budget_rows: int = setting("Local budget per principal in `enforce`: rows in `budget_window`; 0 is none.", 0)
    budget_patients: int = setting(
        "Local budget per principal in `enforce`: distinct patients in `budget_window`; 0 is none.", 0
    )
    budget_window_ms: int = setting("Rolling window of the local budgets.", 60_000, unit="duration_ms")
    budget_exempt: list[str] = setting(
        "Accounts (patterns) that the local budgets leave alone, such as a nightly batch; the policy judges them still.",
        [],
    )
    on_cut: Literal["close", "error"] = setting(
        "After a cut by the local budget: `close` the session, or give the statement an `error` and go on with the session, "
        "in step. A verdict always closes.",
        "close",
    )
    on_desync: Literal["forward", "close"] = setting(
        "When the protocol can no longer be followed: `forward` uncounted (counted and alerted), or `close`.",
        "forward",
    )
    patient_columns: list[str] = setting(
        "Columns that identify a patient, `table.column` or `schema.table.column`.", []
    )
    catalog_dsn: str = setting(
        "Connection string of an account that may read the catalog, to find the patient columns behind aliases and in COPY; "
        "without it columns are matched by name, and COPY is estimated. Better `catalog_dsn_file`.",
        "",
        secret=True,
    )
    application_name_pattern: str = setting(
        "Regular expression with a group `principal`, applied to application_name, for applications that put their "
        "user there.",
        "",
    )
    trusted_sources: list[str] = setting(
        "Clients whose unsigned word about their user counts (application_name, session settings, user variables, connection "
        "attributes, plain comments): addresses, networks such as `10.0.0.0/24`, `unix`, or `*`. From any other client it is "
        "charged to the login; a signed context needs no trust.",
        [],
    )
    identity_settings: list[str] = setting(
        "Session settings that name the user, the first that is set; from `trusted_sources` only. PostgreSQL wants quotes where "
        'the second part is its own word: `SET exfilguard."user" = ..`, or `SET exfilguard.end_user`, or set_config().',
        ["exfilguard.user", "exfilguard.end_user"],
    )
    identity_variables: list[str] = setting(
        "MySQL user variables that name the user; from `trusted_sources` only.", ["@exfilguard_user"]
    )
    identity_attributes: list[str] = setting(
        "MySQL connection attributes that name the user; from `trusted_sources` only.", ["exfilguard_user"]
    )
    identity_roles: list[str] = setting(
        "Roles (patterns) that stand for one person each: after SET ROLE or SET SESSION AUTHORIZATION to one of them that role is "
        "charged. Never list a group's role here: its members would be locked together.",
        [],
    )
    pooled: bool = setting(
        "Clients come through a pooler that lends connections for a transaction (PgBouncer in transaction mode): what one of "
        "them set is not believed beyond its transaction. Use the signed context there.",
        False,
    )
    asked_columns: list[str] = setting(
        "Further columns that identify a patient where a statement asks for one (`column = value`, `IN`, `ANY`, literal or "
        "parameter); the `patient_columns` are among them. An EAV table names its conditions: "
        "`DicomIdentifiers.value[tagGroup=16,tagElement=32]`.",
        [],
    )
    watch: list[str] = setting(
        "Further functions whose calls are flagged `watched_call`, by name; a trailing `*` stands for any rest.", []
    )
    deny: list[str] = setting(
        "Statements refused before they reach the database, by flag: `server_export` (COPY to a file or program, INTO OUTFILE, "
        "lo_export ..), `foreign` (dblink, foreign servers ..), `replication`, `watched_call`, `aggregate`, `copy`. `default` "
        "stands for the first three in `enforce`, and for nothing in `observe`.",
        ["default"],
    )
    deny_except: list[str] = setting(
        "Allowances: `account:flag`, the account a pattern, such as `batch_dump:copy`; written down with their reason.",
        [],
    )
    large_value_bytes: int = setting(
        "A row with more bytes is flagged `large_value`; at least 256KiB.", 1 << 20, unit="size_bytes"
    )
    progress_rows: int = setting("A long result reports after this many rows.", 1_000)
    progress_ms: int = setting("A long result reports at least this often, milliseconds.", 50)
    tls: Literal["refuse", "terminate"] = setting("Answer to a client's TLS request.", "refuse")
    tls_cert: str = setting("Certificate chain (PEM) for `terminate`.", "")
    tls_key: str = setting("Private key (PEM) for `terminate`.", "")
    tls_client_ca: str = setting(
        "CA bundle (PEM): a client on TLS must show a certificate that it signed, and its common name must be the account it "
        "logs in with. The database does not see the certificate. Clients without TLS are refused.",
        "",
    )
    upstream_tls: Literal["disable", "require", "verify-full"] = setting("TLS towards the database.", "disable")
    upstream_ca: str = setting("CA bundle for `verify-full`.", "")
    kill_dsn: str = setting(
        "MySQL and MariaDB: account that may KILL the backend of a session that is cut, "
        "`mysql://user:password@host:port`; without it the end of its connection stops the backend at its next write. "
        "Better `kill_dsn_file`.",
        "",
        secret=True,
    )
    upstream_cert: str = setting("Certificate (PEM) that the sidecar shows to the database, for mutual TLS.", "")
    upstream_key: str = setting("Its private key (PEM).", "")
    allow_replication: list[str] = setting(
        "Accounts (patterns) that may start replication through this listener: its stream is counted (an event of the log "
        "is a row) and flagged. Others are refused.",
        [],
    )
    proxy_protocol_in: list[str] = setting(
        "Addresses or networks (CIDR) of load balancers in front: their connections begin with a PROXY header (version 1 or 2) "
        "that names the real client. Nobody else's header is believed.",
        [],
    )
    proxy_protocol_out: Literal["off", "v1", "v2"] = setting(
        "Tell the database's side the client's address by a PROXY header, when something there reads it (a load balancer, a "
        "pooler); PostgreSQL itself does not.",
        "off",
    )
    max_sessions: int = setting("Sessions at once; one more is refused with a clear error.", 5_000)
    idle_timeout_ms: int = setting(
        "A session in which nothing was said for so long is closed; 0 is never.", 0, unit="duration_ms"
    )
    login_timeout_ms: int = setting("A client that has not logged in by then is closed.", 60_000, unit="duration_ms")

    @property
    def protocol(self) -> str:
        """Label of the engine in metrics and events."""
        return "postgres" if self.engine == "postgres" else "mysql"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """`[identity]`: contexts that applications sign (docs/integrations)."""

    keys: str = setting(
        "Keys of the signed contexts, `id:secret` separated by spaces or lines; several while one is being replaced. A secret has "
        "at least 16 characters. Better `keys_file`. Empty: no signature is believed.",
        "",
        secret=True,
    )
    max_ttl_ms: int = setting("A context is never good for longer, whatever it says.", 300_000, unit="duration_ms")
    skew_ms: int = setting("By how much an application's clock may differ.", 30_000, unit="duration_ms")
    nonces: int = setting(
        "Nonces remembered by each relay process. Beyond, the oldest are forgotten and contexts as old are refused.",
        100_000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarConfig:
    """`[sidecar]`: the relay and the shipper on this host."""

    id: str = setting("Name of this sidecar in events; default the host's name.", "")
    drain_ms: int = setting(
        "On SIGTERM the relay takes no new session, ends idle ones at once, and gives those in a transaction so long.",
        10_000,
        unit="duration_ms",
    )
    handover_ms: int = setting(
        "After `exfilguard restart` the sessions of the workers that were replaced go on by themselves for so long at most; then "
        "they end as by SIGTERM. Longer than the application's pool keeps a connection.",
        3_600_000,
        unit="duration_ms",
    )
    workers: int = setting("Relay processes on each port; `enforce` needs 1, so that its budget is exact.", 1)
    digest_key: str = setting(
        "Key of the patients' digests, at least 16 characters; the same on every sidecar. Better `digest_key_file`. Empty: "
        "made once and kept in the data directory.",
        "",
        secret=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorConfig:
    """`[detector]`: windows and verdicts."""

    policy: str = setting("Policy file (TOML); empty for the built-in one.", "")
    snapshot_ms: int = setting("How often changed accounts are checkpointed.", 1_000, unit="duration_ms")
    max_patients: int = setting(
        "Distinct patients counted exactly per account (about 20 bytes each); beyond, by a sliding HyperLogLog (1.3 MB, "
        "standard error 0.6 %).",
        65_536,
    )
    max_accounts: int = setting(
        "Accounts of one partition that are told apart; what further names do is counted together, as the account "
        "`(others)`, and raises `accounts_refused_total`.",
        2_000_000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterConfig:
    """`[exporter]`: Prometheus."""

    listen: str = setting("Address of /metrics, `host:port`.", "127.0.0.1:9187")
    top_accounts: int = setting("Accounts shown by name in account_window_records.", 20)


ConsoleRole = Literal["viewer", "operator", "dpo", "admin"]
CONSOLE_ROLES: tuple[ConsoleRole, ...] = get_args(ConsoleRole)
"""viewer: reads. operator: also locks, unlocks, extends, acknowledges. dpo: reads, and takes the dossiers. admin: all of it, and the
record of what everybody did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleConfig:
    """`[console]`: the on-call operator's pages."""

    listen: str = setting("Address of the pages, `host:port`.", "127.0.0.1:9188")
    public_url: str = setting("Address under which browsers reach it, such as `https://guard.clinic.example`.", "")
    tls_cert: str = setting(
        "Certificate chain (PEM); needed to listen beyond this machine, unless a proxy does TLS.", ""
    )
    tls_key: str = setting("Private key (PEM).", "")
    idle_ms: int = setting("A login ends after this time without a click.", 1_800_000, unit="duration_ms")
    session_ms: int = setting("A login ends after this time in any case.", 43_200_000, unit="duration_ms")
    oidc_issuer: str = setting(
        "OpenID Connect issuer, such as `https://sso.clinic.example/realms/clinic`; empty: local users only.", ""
    )
    oidc_client_id: str = setting(
        "Client id at the issuer; its redirect address is `public_url` + `/oidc/callback`.", ""
    )
    oidc_client_secret: str = setting("Client secret; better `oidc_client_secret_file`.", "", secret=True)
    oidc_ca_file: str = setting("CA bundle that signed the issuer's certificate.", "")
    oidc_role_claim: str = setting(
        "Claim of the ID token that holds the user's roles or groups, a dotted path.", "groups"
    )
    oidc_roles: list[str] = setting(
        "What a value of that claim may do here, `value=role` with the roles viewer, operator, dpo and admin.", []
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole of `exfilguard.toml`."""

    tenant: str = setting("The establishment; first part of every key.", "default")
    data_dir: str = setting(
        "Where the spool, the standing verdicts and the sockets of the processes are.", "./exfilguard-data"
    )
    kafka: KafkaConfig = setting("", KafkaConfig())
    spool: SpoolConfig = setting("", SpoolConfig())
    sidecar: SidecarConfig = setting("", SidecarConfig())
    identity: IdentityConfig = setting("", IdentityConfig())
    listener: list[ListenerConfig] = setting("", [])
    detector: DetectorConfig = setting("", DetectorConfig())
    responder: ResponderConfig = setting("", ResponderConfig())
    exporter: ExporterConfig = setting("", ExporterConfig())
    console: ConsoleConfig = setting("", ConsoleConfig())
    archive: ArchiveConfig = setting("", ArchiveConfig())
    siem: SiemConfig = setting("", SiemConfig())
    report: ReportConfig = setting("", ReportConfig())

    @property
    def archive_dir(self) -> str:
        return self.archive.dir or f"{self.data_dir}/archive"

    @property
    def sidecar_id(self) -> str:
        if self.sidecar.id:
            return self.sidecar.id
        import socket

        return socket.gethostname()
