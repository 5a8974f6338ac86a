"""`exfilguard check-config FILE`: every mistake at once, with line, key and remedy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import orjson

from ..config.load import load_config
from ..config.schema import Config
from ..detect.policy import policy_at
from ..errors import ConfigError
from ..runtime.clock import now_ms
from ..sidecar.descriptors import descriptor_limit, descriptor_problem


def register(commands: Any) -> None:
    text = "say every mistake in a configuration at once"
    parser = commands.add_parser("check-config", help=text, description=text)
    parser.add_argument("file", nargs="?", default="exfilguard.toml", metavar="FILE")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def warnings(config: Config) -> list[str]:
    """Nothing wrong, but worth knowing."""
    out = []
    if not config.listener:
        out.append("no [[listener]]: nothing is guarded yet")
    if config.kafka.bootstrap == "embedded":
        out.append(
            "kafka.bootstrap is the embedded broker: it keeps its data in memory; use a real Kafka in production"
        )
    if not config.responder.configured():
        out.append(
            "responder: no hook is configured: accounts are cut at the sidecar but not suspended where they live"
        )
    for listener in config.listener:
        if not listener.patient_columns:
            out.append(f"listener {listener.name}: no patient_columns: rows are counted, patients are not")
        elif not listener.catalog_dsn and listener.protocol == "postgres":
            out.append(
                f"listener {listener.name}: no catalog_dsn: patient columns are matched by name, an alias hides them"
            )
        if listener.protocol == "mysql" and not listener.kill_dsn:
            out.append(
                f"listener {listener.name}: no kill_dsn: a statement that only computes is not stopped by a cut before it writes"
            )
        if listener.protocol == "postgres" and listener.tls == "terminate" and listener.upstream_tls != "disable":
            out.append(
                f"listener {listener.name}: TLS on both sides: clients must use channel_binding=disable with SCRAM; "
                "or reach the database by its Unix socket"
            )
    if problem := descriptor_problem(config, descriptor_limit()):
        out.append(problem)
    return out


def run(args: argparse.Namespace) -> int:
    problems: list[str] = []
    notes: list[str] = []
    try:
        config = load_config(args.file)
        notes = warnings(config)
        if config.detector.policy:
            policy = policy_at(str(Path(args.file).parent / config.detector.policy))
            notes += [
                f"the allowance of {a.account} ends within a week: ask {a.owner} whether it is still needed"
                for a in policy.ending(now_ms())
            ]
    except ConfigError as error:
        problems = error.problems
    if args.json:
        print(orjson.dumps({"ok": not problems, "errors": problems, "warnings": notes}).decode())
    else:
        for problem in problems:
            print(f"error: {problem}")
        for note in notes:
            print(f"note: {note}")
        print(f"{args.file}: {'ok' if not problems else f'{len(problems)} mistake(s)'}")
    return 2 if problems else 0
