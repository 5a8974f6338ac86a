"""`exfilguard detector | responder | exporter`: one part, for real deployments. `relay` and `shipper` are the sidecar's own
processes (sidecar.py)."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..runtime.process import die_with_parent, setup_logging
from .common import add_config_option, load


def register(commands: Any) -> None:
    for name, run, text in (
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
            parser.add_argument("--sockets", type=json.loads, default={}, metavar="JSON")  # listener -> descriptors


def run_relay(args: argparse.Namespace) -> int:
    from ..sidecar.worker import run_worker

    die_with_parent()
    setup_logging(f"relay-{args.worker}")
    return run_worker(load(args), args.worker, args.sockets)


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
