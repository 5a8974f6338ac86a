"""`exfilguard console`: the on-call operator's pages."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config.schema import Config
from ..errors import ConfigError
from ..runtime.policy_file import PolicyFile
from ..runtime.process import die_with_parent, setup_logging
from .common import add_config_option, load

log = logging.getLogger(__name__)

USERS = "console-users.json"
FIRST_PASSWORD = "console-admin.password"  # noqa: S105 -- a file's name


def register(commands: Any) -> None:
    text = "the on-call operator's pages"
    parser = commands.add_parser("console", help=text, description=f"{text}, at console.listen.")
    add_config_option(parser)
    parser.add_argument(
        "--set-password", metavar="USER", help="set a local user's password (asked for, or one line of input) and end"
    )
    parser.add_argument(
        "--role", default="operator", help="that user's role: viewer, operator, dpo, admin; default: %(default)s"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    config = load(args)
    from ..console.auth import LocalUsers

    users = LocalUsers(Path(config.data_dir) / USERS)
    if args.set_password:
        return _set_password(users, args.set_password, args.role)
    die_with_parent()
    setup_logging("console")
    return _serve(config, users, args.config)


def _set_password(users: Any, name: str, role: str) -> int:
    from ..config.schema import CONSOLE_ROLES

    if role not in CONSOLE_ROLES:
        raise ConfigError([f"--role {role}: one of {', '.join(CONSOLE_ROLES)}"])
    if sys.stdin.isatty():
        password = getpass.getpass("New password: ")
        if getpass.getpass("Again: ") != password:
            raise ConfigError(["the two passwords differ: nothing was changed"])
    else:
        password = sys.stdin.readline().rstrip("\n")
    users.set(name, role, password)
    print(f"{name}: {role}, password set")
    return 0


def _figures(config: Config) -> Any:
    """What the exporter learns of the console: that it is there, and until when its certificates are good, as they were loaded."""
    from ..config.certificates import expires_at
    from ..runtime.kafka import certificate_figures
    from ..runtime.stats import Snapshot

    out = Snapshot("console", "0", values=certificate_figures(config))
    if config.console.tls_cert:
        labels = {"tenant": config.tenant, "use": "console"}
        try:
            until = expires_at(Path(config.console.tls_cert))
        except (OSError, ValueError):
            until = 0  # said better by the server that cannot use it
        out.values.append(("certificate_expiration_timestamp_seconds", labels, until))
    return out


def _serve(config: Config, users: Any, config_path: str) -> int:
    import uvicorn

    from ..config.load import parse_address
    from ..console.app import Console, Parts
    from ..console.auth import first_admin
    from ..console.feed import Feed
    from ..console.state import ConsoleState
    from ..runtime.stats import StatsServer, read_all, run_dir
    from .console_orders import CommandOperations, ReportDossiers

    first = Path(config.data_dir) / FIRST_PASSWORD
    if not config.console.oidc_issuer and first_admin(users, first):
        log.info(
            "a first user, admin, was made; its password is in %s: change it with --set-password, then delete it", first
        )
    state = ConsoleState()
    feed = Feed(config, state)
    figures = _figures(config)
    parts = Parts(
        config=config,
        state=state,
        feed=feed,
        users=users,
        operations=CommandOperations(config_path),
        dossiers=ReportDossiers(config_path, Path(config.archive_dir), state),
        policy=PolicyFile(config.detector.policy).current,
        snapshots=lambda: read_all(config.data_dir),
    )
    host, port = parse_address(config.console.listen)
    console = config.console

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """uvicorn would end the process by the signal that it caught; a part of this installation ends with 0."""
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, lambda *_: setattr(self, "should_exit", True))
            yield

    server = Server(
        uvicorn.Config(
            Console(parts).app(),
            host=host,
            port=port,
            ssl_certfile=console.tls_cert or None,
            ssl_keyfile=console.tls_key or None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            log_config=None,
            timeout_graceful_shutdown=2,
        )
    )
    stats = StatsServer(run_dir(config.data_dir) / "console.stats", lambda: figures)
    feed.start()
    log.info("the console is at %s://%s", "https" if console.tls_cert else "http", console.listen)
    try:
        server.run()
    finally:
        feed.stop()
        stats.close()
    return 0 if server.started else 1
