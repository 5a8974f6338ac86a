"""`exfilguard status`: what runs here, what it counted, who is nearest to or past a limit."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

import orjson

from ..runtime.clock import now_ms
from ..runtime.stats import Snapshot, read_all
from ..sidecar.verdict_table import VerdictTable
from .common import add_config_option, load


def register(commands: Any) -> None:
    text = "say what runs on this host and which verdicts stand"
    parser = commands.add_parser("status", help=text, description=text)
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 when every process answered, 1 when one is down or none was ever started."""
    config = load(args)
    snapshots = read_all(config.data_dir)
    _expect(snapshots)
    now = now_ms()
    saved = VerdictTable(f"{config.data_dir}/verdicts.json").verdicts()
    verdicts = [v for v in saved if v.tenant == config.tenant and v.in_force(now)]
    healthy = bool(snapshots) and all(s is not None for s in snapshots.values())
    if args.json:
        processes = {name: None if s is None else asdict(s) for name, s in snapshots.items()}
        print(
            orjson.dumps(
                {"healthy": healthy, "processes": processes, "verdicts": [asdict(v) for v in verdicts]}
            ).decode()
        )
        return 0 if healthy else 1
    if not snapshots:
        print(f"nothing has been started with data_dir {config.data_dir}: run `exfilguard up` or `exfilguard sidecar`")
    for name, snapshot in snapshots.items():
        print(f"{name:14} {'DOWN' if snapshot is None else _line(snapshot)}")
    for v in verdicts:
        print(f"{v.level.upper():8} {v.principal}: {v.reason}")
    if not any(name.startswith("relay") for name in snapshots):
        print("verdicts: no relay on this machine, ask Kafka: exfilguard verdicts")
    elif not verdicts:
        print("no verdict is in force")
    return 0 if healthy else 1


def _expect(snapshots: dict[str, Snapshot | None]) -> None:
    """A sidecar is relays and a shipper: of the one that does not come so far as to answer, there is nothing to be asked."""
    relay, shipper = any(name.startswith("relay-") for name in snapshots), "shipper" in snapshots
    if relay != shipper:
        snapshots["shipper" if relay else "relay"] = None


_SHOWN = (
    "sessions", "queries_total", "rows_total", "spool_bytes", "events_published_total", "events_processed_total",
    "consumer_lag_records", "locked_accounts",
)  # fmt: skip


def _line(snapshot: Snapshot) -> str:
    sums: dict[str, float] = {}
    for name, _, value in snapshot.values:
        if name in _SHOWN:
            sums[name] = sums.get(name, 0) + value
    return "up  " + "  ".join(f"{name.removesuffix('_total')} {value:,.0f}" for name, value in sums.items())
