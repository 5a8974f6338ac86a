"""`exfilguard audit verify`: the ledger of verdicts and actions against its hashes and its signed checkpoints."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from ..errors import ConfigError, EvidenceError
from .common import DEFAULT_CONFIG, load


def register(commands: Any) -> None:
    text = "prove that no verdict and no action was removed or altered"
    parser = commands.add_parser("audit", help=text, description=text)
    actions = parser.add_subparsers(dest="action", required=True, metavar="verify | key")
    check = actions.add_parser("verify", help=text, description=(
        f"{text}. Give the checkpoints and the public key that were kept elsewhere: those in the ledger's own directory can "
        "have been replaced together with it."
    ))  # fmt: skip
    check.add_argument("--ledger", metavar="DIR", help="the ledger's directory; default: of this configuration")
    check.add_argument(
        "--checkpoints", action="append", default=[], metavar="FILE",
        help="checkpoints kept elsewhere (a file, or a directory of them); repeat it",
    )  # fmt: skip
    check.add_argument("--public-key", metavar="FILE", help="kept elsewhere; default: the one beside the ledger")
    check.add_argument("--json", action="store_true", help="for programs")
    check.set_defaults(run=run_verify)
    key = actions.add_parser("key", help="print the public key, to be kept elsewhere")
    key.set_defaults(run=run_key)
    for one in (check, key):
        one.add_argument("--config", "-c", default=DEFAULT_CONFIG, metavar="FILE", help="default: %(default)s")


def run_key(args: argparse.Namespace) -> int:
    from ..evidence.ledger import PUBLIC_KEY

    path = Path(load(args).archive_dir) / "ledger" / PUBLIC_KEY
    if not path.is_file():
        raise EvidenceError(f"{path}: there is no ledger yet: run `exfilguard archive`")
    print(path.read_text(encoding="ascii"), end="")
    return 0


def kept_lines(names: list[str]) -> list[bytes]:
    """Raises ConfigError."""
    out: list[bytes] = []
    for name in names:
        path = Path(name)
        files = sorted(path.glob("*checkpoints.jsonl")) if path.is_dir() else [path]
        if not files:
            raise ConfigError([f"--checkpoints {name}: holds no *checkpoints.jsonl"])
        for file in files:
            try:
                out += file.read_bytes().splitlines()
            except OSError as error:
                raise ConfigError([f"--checkpoints {file}: cannot be read: {error.strerror}"]) from None
    return out


def run_verify(args: argparse.Namespace) -> int:
    """0: as it was written; 1: something was changed; 2: there is nothing to check, or no key."""
    from ..evidence.ledger import PUBLIC_KEY
    from ..evidence.signing import verifier_at
    from ..evidence.verify import verify

    config = None if args.ledger else load(args)
    directory = Path(args.ledger) if config is None else Path(config.archive_dir) / "ledger"
    kept = list(args.checkpoints)
    if config is not None and config.archive.checkpoint_dir and Path(config.archive.checkpoint_dir).is_dir():
        kept.append(config.archive.checkpoint_dir)
    if not directory.is_dir():
        raise ConfigError([f"{directory}: there is no ledger: has `exfilguard archive` run with this configuration?"])
    try:
        verifier = verifier_at(Path(args.public_key) if args.public_key else directory / PUBLIC_KEY)
    except EvidenceError as error:
        raise ConfigError([str(error)]) from None
    try:
        found = verify(directory, verifier, kept_lines(kept))
    except OSError as error:
        raise EvidenceError(f"{directory}: cannot be read: {error.strerror}") from None
    if not args.public_key:
        found.notes.append(
            f"the public key ({verifier.key_id}) is the one beside the ledger: compare it with the copy kept elsewhere"
        )
    if args.json:
        print(orjson.dumps({"ok": found.ok, **asdict(found)}).decode())
        return 0 if found.ok else 1
    for finding in found.findings:
        print(f"{finding.kind.upper():10} {finding.where}: {finding.text}")
    for note in found.notes:
        print(f"note: {note}")
    newest = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.newest_checkpoint_ms / 1000))
    signed = f"{found.checkpoints} signed checkpoints, the newest of {newest}" if found.checkpoints else "no checkpoint"
    print(f"{found.entries} entries of {found.writers} writers, {signed}")
    if found.ok:
        print("nothing was removed, altered, reordered or cut off")
    else:
        print(f"{len(found.findings)} findings: keep this ledger as it is, and compare it with a backup")
    return 0 if found.ok else 1
