"""`exfilguard archive`: run its process; check its files; export what a SIEM or a patient's question needs; ask it in SQL."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from .. import __version__
from ..config.schema import Config
from ..errors import CodecError, ConfigError
from ..events.codec import decode_action, decode_verdict
from ..runtime.clock import now_ms
from ..runtime.process import setup_logging
from .common import add_config_option, load
from .period import add_period_options, period_ms

FORMATS = ("ocsf", "cef", "fhir", "jsonl")


def register(commands: Any) -> None:
    text = "keep events as Parquet files, verdicts and actions in a ledger"
    parser = commands.add_parser("archive", help=text, description=f"{text}. Without a sub-command: run until stopped.")
    add_config_option(parser)
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", metavar="check | export | sql")
    check = actions.add_parser("check", help="look at every byte of every file", description="look at every file")
    export = actions.add_parser("export", help="events, verdicts and actions for a SIEM", description=(
        "write events, verdicts and actions of a period, one a line. --format fhir writes one AuditEvent per patient and "
        "statement (IHE BALP PrivacyDisclosure.Source)."
    ))  # fmt: skip
    export.add_argument("--format", choices=FORMATS, default="ocsf", help="default: %(default)s")
    export.add_argument("--principal", default="", metavar="ACCOUNT", help="only this account")
    export.add_argument("--patient", default="", metavar="DIGEST", help="with fhir: only this patient, by digest")
    export.add_argument("--output", default="-", metavar="FILE", help="default: standard output")
    add_period_options(export, "24h")
    ask = actions.add_parser("sql", help="ask DuckDB", description="views: events (docs/EVIDENCE.md), shapes")
    ask.add_argument("query", metavar="SQL")
    add_period_options(ask, "30d")
    for one, function in ((check, run_check), (export, run_export), (ask, run_sql)):
        one.add_argument("--config", "-c", default=argparse.SUPPRESS, metavar="FILE")
        one.add_argument("--json", action="store_true", help="for programs")
        one.set_defaults(run=function)


def run(args: argparse.Namespace) -> int:
    from ..archiver.process import run_archiver

    setup_logging("archive")
    return run_archiver(load(args))


def tell_skipped(skipped: dict[str, str]) -> None:
    """Every damaged file, on standard error: no report is silent about one."""
    for name, reason in sorted(skipped.items()):
        print(f"warning: {name}: {reason}: left out", file=sys.stderr)


def run_check(args: argparse.Namespace) -> int:
    """0: every file is as it was written; 1: some are not."""
    from ..evidence.reader import ArchiveReader

    config = load(args)
    reader = ArchiveReader(Path(config.archive_dir))
    loud = sys.stderr.isatty() and not args.json

    def progress(done: int, of: int) -> None:
        if loud:
            print(f"\r{done} of {of} files", end="" if done < of else "\n", file=sys.stderr, flush=True)

    good = reader.check(progress)
    manifest = reader.manifest
    if args.json:
        out = {
            "ok": not reader.skipped,
            "files": len(manifest.files),
            "good": good,
            "bytes": sum(entry.nbytes for entry in manifest.files.values()),
            "events": sum(entry.rows for entry in manifest.files.values() if entry.kind == "events"),
            "damaged": reader.skipped,
        }
        print(orjson.dumps(out).decode())
    else:
        tell_skipped(reader.skipped)
        print(f"{good} of {len(manifest.files)} files are as they were written")
        if reader.skipped:
            print("restore the damaged ones from a backup; reports leave them out and say so")
    return 1 if reader.skipped else 0


def run_sql(args: argparse.Namespace) -> int:
    import duckdb

    from ..evidence.reader import ArchiveReader

    config = load(args)
    start, end = period_ms(args, now_ms(), ZoneInfo(config.report.timezone))
    reader = ArchiveReader(Path(config.archive_dir))
    connection = reader.scan(config.tenant, start, end)
    tell_skipped(reader.skipped)
    # The query may read the archive and nothing else on this machine.
    root = str(Path(config.archive_dir).resolve()).replace("'", "''")
    connection.execute(
        f"SET allowed_directories = ['{root}']; SET enable_external_access = false; SET lock_configuration = true"
    )
    try:
        found = connection.execute(args.query)
        names = [column[0] for column in found.description or []]
        rows = found.fetchall()
    except duckdb.Error as error:
        raise ConfigError([f"SQL: {str(error).splitlines()[0]}"]) from None
    shown = [[value.hex() if isinstance(value, bytes) else value for value in row] for row in rows]
    if args.json:
        print(orjson.dumps([dict(zip(names, row, strict=True)) for row in shown], default=str).decode())
    else:
        print("\t".join(names))
        for row in shown:
            print("\t".join(str(value) for value in row))
    return 0


def run_export(args: argparse.Namespace) -> int:
    """0: written; 1: written, and a damaged file was left out."""
    config = load(args)
    count = 0
    skipped: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        out = sys.stdout.buffer
        if args.output != "-":
            out = stack.enter_context(open(args.output, "wb"))
        for line in lines(config, args, skipped):
            out.write(line + b"\n")
            count += 1
        out.flush()
    tell_skipped(skipped)
    print(f"{count:,} messages written", file=sys.stderr)
    return 1 if skipped else 0


def lines(config: Config, args: argparse.Namespace, skipped: dict[str, str]) -> Iterator[bytes]:
    """Statements that returned something, then verdicts and actions."""
    from ..evidence import cef, fhir, ocsf
    from ..evidence.export import decisions, statements
    from ..evidence.reader import ArchiveReader

    start, end = period_ms(args, now_ms(), ZoneInfo(config.report.timezone))
    reader = ArchiveReader(Path(config.archive_dir))
    tenant = config.tenant
    for event in statements(reader, tenant, args.principal, start, end):
        if args.format == "ocsf":
            yield orjson.dumps(ocsf.datastore_activity(event, tenant, __version__))
        elif args.format == "cef":
            yield cef.query(event, tenant, __version__).encode()
        elif args.format == "jsonl":
            yield orjson.dumps(event)
        else:
            for digest in event["patients"]:
                if args.patient in ("", digest):
                    yield orjson.dumps(fhir.disclosure(event, digest, tenant, __version__))
    if args.patient:
        skipped |= reader.skipped
        return
    for kind, record in decisions(Path(config.archive_dir) / "ledger", tenant, args.principal, start, end):
        try:
            if kind == "verdict":
                verdict = decode_verdict(record)
                if args.format == "cef":
                    yield cef.verdict(verdict, __version__).encode()
                elif args.format == "jsonl":
                    yield record
                else:
                    make = ocsf.detection_finding if args.format == "ocsf" else fhir.verdict
                    yield orjson.dumps(make(verdict, __version__))
            else:
                action = decode_action(record)
                if args.format == "cef":
                    yield cef.action(action, __version__).encode()
                elif args.format == "jsonl":
                    yield record
                else:
                    make_action = ocsf.account_change if args.format == "ocsf" else fhir.action
                    yield orjson.dumps(make_action(action, __version__))
        except CodecError as error:
            skipped["ledger"] = f"an entry cannot be read ({error})"
    skipped |= reader.skipped
