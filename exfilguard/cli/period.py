"""`--from` and `--to`, as people write times: `2026-11-24`, `2026-11-24T09:30`, `7d` (ago)."""

from __future__ import annotations

import argparse
import datetime as dt
from zoneinfo import ZoneInfo

from ..config.load import parse_duration_ms
from ..errors import ConfigError


def add_period_options(parser: argparse.ArgumentParser, default_from: str) -> None:
    parser.add_argument(
        "--from",
        dest="start",
        default=default_from,
        metavar="WHEN",
        help="2026-11-24, 2026-11-24T09:30, or how long ago: 90m, 24h, 7d; default: %(default)s",
    )
    parser.add_argument("--to", dest="end", default="", metavar="WHEN", help="the same, exclusive; default: now")


def moment_ms(text: str, option: str, now_ms: int, zone: ZoneInfo, *, end: bool = False) -> int:
    """Unix epoch, milliseconds. A day alone is its beginning, or with `end` the beginning of the next. Raises ConfigError."""
    try:
        return now_ms - parse_duration_ms(text)
    except ValueError:
        pass
    try:
        if len(text) == 10:
            day = dt.date.fromisoformat(text) + dt.timedelta(days=1 if end else 0)
            return int(dt.datetime.combine(day, dt.time(), zone).timestamp() * 1000)
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError([f"{option}: write a time as 2026-11-24, 2026-11-24T09:30, or 24h for a day ago"]) from None
    return int((found if found.tzinfo else found.replace(tzinfo=zone)).timestamp() * 1000)


def period_ms(args: argparse.Namespace, now_ms: int, zone: ZoneInfo) -> tuple[int, int]:
    """[from, to) of the command line. Raises ConfigError."""
    start = moment_ms(args.start, "--from", now_ms, zone)
    end = moment_ms(args.end, "--to", now_ms, zone, end=True) if args.end else now_ms + 1
    if start >= end:
        raise ConfigError(["--from: is not before --to"])
    return start, end
