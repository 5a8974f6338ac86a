"""`exfilguard sidecar | detector | responder | exporter`: one part, for real deployments. `relay` and `shipper` are the
sidecar's own processes."""

from __future__ import annotations

import argparse
import signal
import socket
from pathlib import Path
from typing import Any

from ..config.load import parse_address
from ..config.schema import Config
from ..errors import ConfigError
from ..runtime.process import Part, Supervisor, die_with_parent, own_command, setup_logging, stop_on_signals
from .common import add_config_option, load, need_listener


def register(commands: Any) -> None:
    for name, run, text in (
        ("sidecar", run_sidecar, "the proxy in front of the database, with its shipper"),
        ("detector", run_detector, "the Faust stream that judges every account's windows"),
        ("responder", run_responder, "the lock-out hooks"),
        ("exporter", run_exporter, "the Prometheus exporter"),
    ):
        parser = commands.add_parser(name, help=text, description=text)
        add_config_option(parser)
        parser.set_defaults(run=run)
        if name == "detector":
            parser.add_argument("--worker", default="1", help="name of this worker, unique in the installation")
    for name, run in (("relay", run_relay), ("shipper", run_shipper)):
        parser = commands.add_parser(name)  # no help: started by the sidecar, not by people
        add_config_option(parser)
        parser.set_defaults(run=run)
        if name == "relay":
            parser.add_argument("--worker", type=int, default=0)


def sidecar_parts(config_path: str, workers: int, log_dir: Path | None = None) -> list[Part]:
    """The processes of one sidecar."""

    def log_path(name: str) -> Path | None:
        return log_dir / f"{name}.log" if log_dir is not None else None

    parts = [Part("shipper", own_command("shipper", "--config", config_path), log_path("shipper"))]
    for n in range(workers):
        argv = own_command("relay", "--config", config_path, "--worker", str(n))
        parts.append(Part(f"relay-{n}", argv, log_path(f"relay-{n}")))
    return parts


def check_addresses(config: Config) -> None:
    """Raises ConfigError for every listener whose address cannot be taken: a relay that is started again and again for
    that would say so only in its log."""
    problems = []
    for listener in config.listener:
        host, port = parse_address(listener.listen)
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen(1)
        except OSError as error:
            problems.append(
                f"listener {listener.name}: {listener.listen}: {error.strerror}: choose another address or port"
            )
    if problems:
        raise ConfigError(problems)


def run_sidecar(args: argparse.Namespace) -> int:
    config = load(args)
    need_listener(config)
    setup_logging("sidecar")
    check_addresses(config)
    supervisor = Supervisor(sidecar_parts(args.config, config.sidecar.workers))
    stop = stop_on_signals()
    supervisor.start()
    # SIGHUP: the relays read their certificates again.
    signal.signal(signal.SIGHUP, lambda *_: supervisor.signal("relay-", signal.SIGHUP))
    try:
        supervisor.run_until(stop)
    finally:
        supervisor.stop(grace_s=config.sidecar.drain_ms / 1000 + 5.0)
    return 0


def run_relay(args: argparse.Namespace) -> int:
    from ..sidecar.worker import run_worker

    die_with_parent()
    setup_logging(f"relay-{args.worker}")
    return run_worker(load(args), args.worker)


def run_shipper(args: argparse.Namespace) -> int:
    from ..sidecar.shipper import run_shipper as run

    die_with_parent()
    setup_logging("shipper")
    return run(load(args))


def run_detector(args: argparse.Namespace) -> int:
    from ..stream.detector import run_detector as run

    setup_logging(f"detector-{args.worker}")
    return run(load(args), args.worker)


def run_responder(args: argparse.Namespace) -> int:
    from ..stream.responder import run_responder as run

    setup_logging("responder")
    return run(load(args))


def run_exporter(args: argparse.Namespace) -> int:
    from ..exporter.server import run_exporter as run

    setup_logging("exporter")
    return run(load(args))
