"""A clinic with synthetic patients, its guard, and accounts for thieves to use: what the benches attack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from exfilguard.cli.installation import Installation
from exfilguard.config.schema import (
    Config,
    DetectorConfig,
    ExporterConfig,
    ListenerConfig,
    PostgresHookConfig,
    ResponderConfig,
)
from exfilguard.embedded.child import free_port
from exfilguard.embedded.postgres import EmbeddedPostgres
from exfilguard.lab import patients

PASSWORD = "bench"
TENANT = "bench"


def guarded(
    directory: Path, database: EmbeddedPostgres, thieves: list[str], policy: str, patients_total: int, **config: Any
) -> Installation:
    """Fills `database`, makes an account for each of `thieves`; an installation below `directory`, not started yet.

    `policy` is the text of a policy file; `config` goes to `Config` as it is (a broker, an archive).
    """
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        admin.execute("CREATE DATABASE dpi")
    admin_dsn = database_dsn(database)
    patients.load(admin_dsn, patients_total, 1, PASSWORD)
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        for thief in thieves:
            role = sql.Identifier(thief)
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(PASSWORD)))
            admin.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(role))
            admin.execute(sql.SQL("GRANT {} TO exfilguard_hook WITH ADMIN TRUE, INHERIT FALSE, SET FALSE").format(role))
    (directory / "policy.toml").write_text(policy, encoding="utf-8")
    return Installation(
        Config(
            tenant=TENANT,
            data_dir=str(directory / "data"),
            listener=[
                ListenerConfig(
                    name="dpi",
                    listen=f"127.0.0.1:{free_port()}",
                    upstream=f"127.0.0.1:{database.port}",
                    patient_columns=patients.PATIENT_COLUMNS,
                    catalog_dsn=database.dsn(patients.CATALOG_ACCOUNT, PASSWORD, "dpi"),
                )
            ],
            detector=DetectorConfig(policy=str(directory / "policy.toml")),
            responder=ResponderConfig(
                mass_lock_accounts=0,  # every attack is another thief; a human need not be asked
                postgres=PostgresHookConfig(dsn=database.dsn(patients.HOOK_ACCOUNT, PASSWORD, "dpi")),
            ),
            exporter=ExporterConfig(listen=f"127.0.0.1:{free_port()}"),
            **config,
        )
    )


def database_dsn(database: EmbeddedPostgres) -> str:
    """The clinic's database, as its administrator, past the guard."""
    return psycopg.conninfo.make_conninfo(database.admin_dsn, dbname="dpi")


def port_of(installation: Installation) -> int:
    """Where the guard listens."""
    return int(installation.config.listener[0].listen.rpartition(":")[2])
