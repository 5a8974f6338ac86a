"""`exfilguard digest`: patient identifiers to the digests that events and policies carry; for honeytokens."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..errors import ConfigError
from ..observe.patients import Digester
from ..sidecar.worker import digest_key
from .common import add_config_option, load


def register(commands: Any) -> None:
    text = "the digest of a patient identifier, for the honeytokens of a policy"
    parser = commands.add_parser(
        "digest",
        help=text,
        description=f"{text}. One digest a line, in the order of the identifiers; these are read from standard input when none is "
        "given, so that they need not appear in the shell's history.",
    )
    add_config_option(parser)
    parser.add_argument("identifier", nargs="*", metavar="ID")
    parser.add_argument("--uuid", action="store_true", help="the identifier column is of type uuid")
    parser.add_argument("--toml", action="store_true", help="as the policy's honeytokens setting")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    identifiers = args.identifier or [line.strip() for line in sys.stdin if line.strip()]
    if not identifiers:
        raise ConfigError(["no identifier was given, neither as an argument nor on standard input"])
    digester = Digester(digest_key(load(args)))
    digests = [digester.digest(_canonical(text, args.uuid)) for text in identifiers]
    if args.toml:
        print("honeytokens = [")
        for digest in digests:
            print(f'  "{digest}",')
        print("]")
    else:
        print("\n".join(digests))
    return 0


def _canonical(text: str, uuid: bool) -> bytes:
    """As observe.patients.canonical makes it of a column's text."""
    value = text.strip().encode()
    return value.replace(b"-", b"").lower() if uuid else value
