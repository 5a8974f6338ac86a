"""`exfilguard up`: everything on one machine, in front of your own database, the embedded broker by default."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from ..config.load import load_config
from ..config.schema import Config, ListenerConfig
from ..errors import ConfigError
from ..runtime.process import setup_logging, stop_on_signals
from .check_config import warnings
from .common import DEFAULT_CONFIG, need_listener, with_absolute_paths
from .console import FIRST_PASSWORD
from .installation import Installation


def register(commands: Any) -> None:
    text = "run everything on one machine in front of your PostgreSQL, MySQL or MariaDB"
    parser = commands.add_parser(
        "up",
        help=text,
        description=f"{text}. Settings come from exfilguard.toml; the options here change its first listener, or make one.",
    )
    parser.add_argument(
        "--config", "-c", default=None, metavar="FILE", help=f"default: {DEFAULT_CONFIG}, when it is there"
    )
    parser.add_argument("--upstream", metavar="ADDRESS", help="the database: host:port, or unix:/path of its socket")
    parser.add_argument(
        "--engine", choices=("postgres", "mysql", "mariadb"), help="the database's protocol; default: postgres"
    )
    parser.add_argument("--listen", metavar="ADDRESS", help="where applications connect instead: host:port")
    parser.add_argument(
        "--patient-column", action="append", metavar="TABLE.COLUMN", help="identifies a patient; repeat it"
    )
    parser.add_argument(
        "--mode", choices=("observe", "enforce"), help="enforce needs --budget-rows or --budget-patients"
    )
    parser.add_argument("--budget-rows", type=int, metavar="N", help="local limit of one account per minute")
    parser.add_argument("--budget-patients", type=int, metavar="N", help="local limit of one account per minute")
    parser.add_argument("--catalog-dsn-file", metavar="FILE", help="connection string that may read the catalog")
    parser.add_argument("--hook-dsn-file", metavar="FILE", help="connection string of the lock-out hook's account")
    parser.add_argument("--policy", metavar="FILE", help="limits; default: the built-in ones")
    parser.add_argument("--data-dir", metavar="DIR", help="default: ./exfilguard-data")
    parser.add_argument("--json", action="store_true", help="print the addresses for programs")
    parser.set_defaults(run=run)


def configured(args: argparse.Namespace) -> Config:
    """File and options together. Raises ConfigError."""
    path = args.config or (DEFAULT_CONFIG if Path(DEFAULT_CONFIG).is_file() else None)
    config = with_absolute_paths(load_config(path), Path(path).parent) if path else Config()
    problems: list[str] = []

    def secret(option: str, name: str | None) -> str | None:
        if name is None:
            return None
        try:
            return Path(name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{option}: {name} cannot be read: {getattr(error, 'strerror', 'not UTF-8 text')}")
            return None

    changes = {
        "engine": args.engine,
        "upstream": args.upstream,
        "listen": args.listen,
        "patient_columns": args.patient_column,
        "mode": args.mode,
        "budget_rows": args.budget_rows,
        "budget_patients": args.budget_patients,
        "catalog_dsn": secret("--catalog-dsn-file", args.catalog_dsn_file),
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    listeners = list(config.listener)
    if changes:
        if not listeners and not (args.upstream and args.listen):
            problems.append("there is no [[listener]] to change: give --upstream and --listen")
        else:
            first = listeners[0] if listeners else ListenerConfig(name="main", listen="", upstream="")
            listeners[:1] = [replace(first, **changes)]
    hook_dsn = secret("--hook-dsn-file", args.hook_dsn_file)
    if problems:
        raise ConfigError(problems)
    responder = config.responder
    if hook_dsn is not None:
        responder = replace(responder, postgres=replace(responder.postgres, dsn=hook_dsn))
    return replace(
        config,
        listener=listeners,
        responder=responder,
        data_dir=args.data_dir or config.data_dir,
        detector=replace(config.detector, policy=str(Path(args.policy).resolve())) if args.policy else config.detector,
    )


def run(args: argparse.Namespace) -> int:
    setup_logging("up")
    config = configured(args)
    need_listener(config)
    installation = Installation(config, console=True)
    stop = stop_on_signals()
    began = time.monotonic()
    installation.start()
    try:
        tell(installation, time.monotonic() - began, as_json=args.json)
        while not stop.wait(0.1):
            installation.check()
    finally:
        installation.stop()
    return 0


def tell(installation: Installation, seconds: float, *, as_json: bool) -> None:
    """What runs where, and what is missing."""
    config = installation.config
    addresses = {
        "listeners": {listener.name: listener.listen for listener in config.listener},
        "metrics": f"http://{config.exporter.listen}/metrics",
        "console": f"{'https' if config.console.tls_cert else 'http'}://{config.console.listen}"
        if installation.console
        else "",
        "kafka": config.kafka.bootstrap,
        "data_dir": str(installation.data_dir),
        "config": str(installation.path),
    }
    if as_json:
        print(orjson.dumps(addresses).decode(), flush=True)
        return
    print(f"ExfilGuard is up after {seconds:.1f} s")
    for listener in config.listener:
        columns = ", ".join(listener.patient_columns) or "none"
        print(
            f"  {listener.name}: {listener.listen} -> {listener.upstream}  ({listener.mode}; patient columns: {columns})"
        )
    print(f"  metrics: {addresses['metrics']}")
    if installation.console:
        print(f"  console: {addresses['console']}")
        first = installation.data_dir / FIRST_PASSWORD
        if first.is_file():
            print(f"           log in as admin; the password is in {first}")
    else:
        print(f"  console: not started, {config.console.listen} is in use: set console.listen")
    print(f"  kafka:   {addresses['kafka']}{'  (embedded, in memory)' if installation.embedded_broker else ''}")
    print(f"  data:    {addresses['data_dir']}, logs below it")
    print(f"  operate: exfilguard status|verdicts|lock|unlock --config {addresses['config']}")
    for note in warnings(config):
        print(f"note: {note}")
    print("Ctrl-C stops it.", flush=True)
