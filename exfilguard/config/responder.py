"""The settings of the responder and of every lock-out hook. Part of the schema; see schema.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .setting import setting

TIMEOUT_DOC = "Bound on one attempt, connection and verification included."
DRY_RUN_DOC = "Say what would be done, do nothing."
ACCOUNTS_DOC = "Accounts (patterns) this hook acts on; it leaves all others alone."


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresHookConfig:
    """`[responder.postgres]`: NOLOGIN and termination of the account's backends."""

    dsn: str = setting(
        "Connection string of the hook's account, straight to the database (not through the sidecar). Empty: the hook is "
        "off. Better `dsn_file`. Grants: deploy/postgres/hook.sql.",
        "",
        secret=True,
    )
    accounts: list[str] = setting(ACCOUNTS_DOC, ["*"])
    timeout_ms: int = setting(TIMEOUT_DOC, 5_000, unit="duration_ms")
    dry_run: bool = setting(DRY_RUN_DOC, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MySQLHookConfig:
    """`[responder.mysql]`: ACCOUNT LOCK on every `user`@`host` of the account, and KILL of its connections."""

    address: str = setting(
        "The server, `host:port` or `unix:/path/mysqld.sock`, not through the sidecar. Empty: the hook is off. "
        "Grants: deploy/mysql/hook.sql.",
        "",
    )
    user: str = setting("The hook's account.", "exfilguard_hook")
    password: str = setting("Its password; better `password_file`.", "", secret=True)
    tls_ca: str = setting("CA bundle that signed the server's certificate; empty: no TLS.", "")
    accounts: list[str] = setting(ACCOUNTS_DOC, ["*"])
    timeout_ms: int = setting(TIMEOUT_DOC, 5_000, unit="duration_ms")
    dry_run: bool = setting(DRY_RUN_DOC, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LDAPHookConfig:
    """`[responder.ldap]`: the account's entry in OpenLDAP (ppolicy) or Active Directory."""

    url: str = setting("`ldaps://host` or `ldap://host:389`. Empty: the hook is off. ACLs: deploy/ldap/.", "")
    method: Literal["ppolicy", "active-directory"] = setting(
        "`ppolicy` sets pwdAccountLockedTime, `active-directory` the bit ACCOUNTDISABLE of userAccountControl.",
        "ppolicy",
    )
    bind_dn: str = setting("DN of the hook's account (with Active Directory also user@domain).", "")
    password: str = setting("Its password; better `password_file`.", "", secret=True)
    base_dn: str = setting("Where people are, for example ou=people,dc=clinic,dc=example.", "")
    filter: str = setting(
        "Finds the account's one entry; `{account}` stands for its escaped name. Active Directory: "
        "(&(objectClass=user)(sAMAccountName={account})).",
        "(uid={account})",
    )
    starttls: bool = setting("Ask for TLS on an ldap:// connection before anything else.", False)
    tls_ca: str = setting("CA bundle that signed the server's certificate; empty: the system's.", "")
    accounts: list[str] = setting(ACCOUNTS_DOC, ["*"])
    timeout_ms: int = setting(TIMEOUT_DOC, 5_000, unit="duration_ms")
    dry_run: bool = setting(DRY_RUN_DOC, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeycloakHookConfig:
    """`[responder.keycloak]`: disables the user, ends all sessions, revokes offline tokens."""

    url: str = setting("Base address, for example https://sso.clinic.example. Empty: the hook is off.", "")
    realm: str = setting("The realm the users are in.", "")
    client_id: str = setting(
        "A confidential client with a service account; its roles: deploy/keycloak/README.md.", "exfilguard"
    )
    client_secret: str = setting("Its secret; better `client_secret_file`.", "", secret=True)
    tls_ca: str = setting("CA bundle that signed the server's certificate; empty: the system's.", "")
    accounts: list[str] = setting(ACCOUNTS_DOC, ["*"])
    timeout_ms: int = setting(TIMEOUT_DOC, 10_000, unit="duration_ms")
    dry_run: bool = setting(DRY_RUN_DOC, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SCIMHookConfig:
    """`[responder.scim]`: SCIM 2.0, PATCH active=false."""

    url: str = setting("Base address, for example https://idp.clinic.example/scim/v2. Empty: the hook is off.", "")
    token: str = setting("Bearer token; better `token_file`.", "", secret=True)
    patch: Literal["path", "pathless"] = setting(
        'Form of the operation (RFC 7644 3.5.2): `path` is {"path": "active", "value": false}, `pathless` is '
        '{"value": {"active": false}}, which some servers want.',
        "path",
    )
    filter_attribute: str = setting("Attribute that holds the account's name.", "userName")
    tls_ca: str = setting("CA bundle that signed the server's certificate; empty: the system's.", "")
    accounts: list[str] = setting(ACCOUNTS_DOC, ["*"])
    timeout_ms: int = setting(TIMEOUT_DOC, 10_000, unit="duration_ms")
    dry_run: bool = setting(DRY_RUN_DOC, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationHookConfig:
    """`[[responder.application]]`: an application's own user and session tables, by SQL. Examples: deploy/applications/."""

    name: str = setting("Name of this hook in actions and metrics.")
    engine: Literal["postgres", "mysql"] = setting("The database the tables are in.", "postgres")
    dsn: str = setting("PostgreSQL: connection string; better `dsn_file`.", "", secret=True)
    address: str = setting("MySQL/MariaDB: `host:port` or `unix:/path`.", "")
    user: str = setting("MySQL/MariaDB: the hook's account.", "")
    password: str = setting("MySQL/MariaDB: its password; better `password_file`.", "", secret=True)
    database: str = setting("MySQL/MariaDB: the database.", "")
    tls_ca: str = setting("MySQL/MariaDB: CA bundle that signed the server's certificate; empty: no TLS.", "")
    state: str = setting(
        "SELECT of one row: what a lock changes, and the user's key. `%(account)s` is the account; every column is on "
        "record as what to restore, and a parameter of the statements below. No secrets."
    )
    locked: str = setting("SELECT of one value: true when the account is disabled and no session is left.")
    lock: list[str] = setting("Statements that disable the account and end its sessions; one transaction.")
    unlock: list[str] = setting("Statements that restore what `state` saw before the lock; one transaction.")
    accounts: list[str] = setting(ACCOUNTS_DOC, ["*"])
    timeout_ms: int = setting(TIMEOUT_DOC, 5_000, unit="duration_ms")
    dry_run: bool = setting(DRY_RUN_DOC, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandHookConfig:
    """`[[responder.command]]`: a program of yours. Contract: docs/RESPONSE.md."""

    name: str = setting("Name of this hook in actions and metrics.")
    argv: list[str] = setting("Program and fixed arguments; never a shell, and the account is never an argument.")
    accounts: list[str] = setting(ACCOUNTS_DOC, ["*"])
    timeout_ms: int = setting(
        "Bound on one run; then the program and its children are killed.", 10_000, unit="duration_ms"
    )
    dry_run: bool = setting(DRY_RUN_DOC, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginHookConfig:
    """`[[responder.plugin]]`: a hook from another package, by the entry-point group `exfilguard.hooks`. See docs/RESPONSE.md."""

    name: str = setting("Name of this hook in actions and metrics.")
    hook: str = setting("Name of the entry point.")
    settings: list[str] = setting('Its settings, each "name=value".', [])
    secret: str = setting("Handed to it; better `secret_file`.", "", secret=True)
    accounts: list[str] = setting(ACCOUNTS_DOC, ["*"])
    timeout_ms: int = setting(TIMEOUT_DOC, 10_000, unit="duration_ms")
    dry_run: bool = setting(DRY_RUN_DOC, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookConfig:
    """`[[responder.webhook]]`: tells people or systems, signed, with an idempotency key."""

    name: str = setting("Name of this hook in actions and metrics.")
    url: str = setting("Where to POST; GLPI: the address of apirest.php; ServiceNow: the instance's address.")
    template: Literal["generic", "teams", "slack", "pagerduty", "glpi", "servicenow"] = setting(
        "What the receiver is.", "generic"
    )
    secret: str = setting(
        "Key of the HMAC-SHA256 signature, at least 16 characters; better `secret_file`.", "", secret=True
    )
    token: str = setting(
        "PagerDuty: the routing key; GLPI: the user token; else a bearer token. Better `token_file`.", "", secret=True
    )
    app_token: str = setting("GLPI: the application's token; better `app_token_file`.", "", secret=True)
    user: str = setting("ServiceNow: the user of basic authentication.", "")
    password: str = setting("ServiceNow: its password; better `password_file`.", "", secret=True)
    min_level: Literal["alert", "throttle", "cut", "lock"] = setting("Tell of verdicts from this step on.", "cut")
    tls_ca: str = setting("CA bundle that signed the server's certificate; empty: the system's.", "")
    accounts: list[str] = setting(ACCOUNTS_DOC, ["*"])
    timeout_ms: int = setting(TIMEOUT_DOC, 10_000, unit="duration_ms")
    dry_run: bool = setting(DRY_RUN_DOC, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MailConfig:
    """`[responder.mail]`: tells people by mail."""

    address: str = setting("The mail server, `host:port`. Empty: off.", "")
    tls: Literal["none", "starttls", "tls"] = setting("How to speak to it.", "starttls")
    tls_ca: str = setting("CA bundle that signed the server's certificate; empty: the system's.", "")
    user: str = setting("SMTP user; empty: no login.", "")
    password: str = setting("Its password; better `password_file`.", "", secret=True)
    sender: str = setting("From.", "")
    recipients: list[str] = setting("To.", [])
    min_level: Literal["alert", "throttle", "cut", "lock"] = setting("Tell of verdicts from this step on.", "cut")
    accounts: list[str] = setting(ACCOUNTS_DOC, ["*"])
    timeout_ms: int = setting(TIMEOUT_DOC, 10_000, unit="duration_ms")
    dry_run: bool = setting(DRY_RUN_DOC, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponderConfig:
    """`[responder]`: the lock-out hooks."""

    retries: int = setting("Further attempts of a hook that failed, with back-off; then once a minute.", 5)
    concurrency: int = setting("Attempts of one hook at the same time, for different accounts.", 4)
    mass_lock_accounts: int = setting(
        "The detector may have this many accounts suspended in `mass_lock_window`; for more, a human is asked. 0: no bound.",
        10,
    )
    mass_lock_window_ms: int = setting("See `mass_lock_accounts`.", 600_000, unit="duration_ms")
    two_person_unlock: bool = setting("A `lock` is lifted only when a second operator confirms.", False)
    request_ttl_ms: int = setting("How long a request waits for the second operator.", 900_000, unit="duration_ms")
    break_glass_for_ms: int = setting(
        "How long `exfilguard break-glass` keeps an account free of verdicts.", 3_600_000, unit="duration_ms"
    )
    postgres: PostgresHookConfig = setting("", PostgresHookConfig())
    mysql: MySQLHookConfig = setting("", MySQLHookConfig())
    ldap: LDAPHookConfig = setting("", LDAPHookConfig())
    keycloak: KeycloakHookConfig = setting("", KeycloakHookConfig())
    scim: SCIMHookConfig = setting("", SCIMHookConfig())
    mail: MailConfig = setting("", MailConfig())
    application: list[ApplicationHookConfig] = setting("", [])
    command: list[CommandHookConfig] = setting("", [])
    plugin: list[PluginHookConfig] = setting("", [])
    webhook: list[WebhookConfig] = setting("", [])

    def named(self) -> Iterator[tuple[str, Any]]:
        """(path, settings) of each hook that has a name of its own. A section that could not be read is left out."""
        for kind in ("application", "command", "plugin", "webhook"):
            for i, found in enumerate(getattr(self, kind)):
                if found is not None:
                    yield f"responder.{kind}[{i}]", found

    def configured(self) -> bool:
        """True when something suspends accounts where they live."""
        return bool(
            self.postgres.dsn or self.mysql.address or self.ldap.url or self.keycloak.url or self.scim.url
            or self.application or self.command or self.plugin
        )  # fmt: skip
