"""Command line: one module per command; this one only chooses. Exit codes: 0 done, 1 it ran and failed, 2 usage."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import ConfigError, ExfilGuardError
from ..runtime.process import forbid_core_dumps
from . import (
    archive,
    audit,
    check_config,
    console,
    demo,
    digest,
    drill,
    kafka_setup,
    operate,
    parts,
    repartition,
    replay,
    report,
    sidecar,
    status,
    up,
)

COMMANDS = (
    up,
    demo,
    sidecar,
    parts,
    console,
    archive,
    status,
    operate,
    replay,
    repartition,
    report,
    audit,
    drill,
    digest,
    kafka_setup,
    check_config,
)
"""In the order of the help."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="exfilguard", description="Stops the bulk extraction of health records.")
    parser.add_argument("--version", action="version", version=f"exfilguard {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = build_parser().parse_args(argv)
    forbid_core_dumps()
    try:
        result: int = args.run(args)
    except ConfigError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except ExfilGuardError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return result
