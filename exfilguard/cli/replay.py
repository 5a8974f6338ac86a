"""`exfilguard replay SOURCE`: what one or two policies would have alerted, cut and locked over recorded traffic."""

from __future__ import annotations

import argparse
import datetime as dt
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from ..config.schema import Config
from ..detect.policy import policy_at
from ..errors import ConfigError
from ..events.verdict import LEVELS
from ..stream.recorded import Block, in_order, last_time, save
from ..stream.replay import Account, Replay, compare
from .common import DEFAULT_CONFIG, load
from .recordings import KAFKA, recording_of
from .svg import COLOURS, FAINT, INK, Drawing

SHOWN_ACCOUNTS = 30
END_OF_TIME_MS = 1 << 52
HOUR_MS = 3_600_000
PROGRESS_S = 0.5
MAX_BARS = 400


def register(commands: Any) -> None:
    text = "what a policy would have said of recorded traffic"
    parser = commands.add_parser("replay", help=text, description=text)
    parser.add_argument("source", metavar="SOURCE", help=f"a file of frames, an archive's directory, or `{KAFKA}`")
    parser.add_argument(
        "--config", "-c", default="", metavar="FILE", help=f"default: {DEFAULT_CONFIG} where there is one"
    )
    parser.add_argument(
        "--policy",
        "-p",
        action="append",
        default=[],
        metavar="FILE",
        help="twice to compare two; default: the configured one",
    )
    parser.add_argument("--tenant", default="", help="of the archive, or of events without a frame; default: all")
    parser.add_argument(
        "--from", dest="start", default="", metavar="TIME", help="of the archive: 2027-01-31 or 2027-01-31T08:00"
    )
    parser.add_argument("--to", dest="end", default="", metavar="TIME", help="of the archive: up to this time")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw what happened when")
    parser.add_argument("--save", metavar="FILE", help="also write what was read, to be replayed again")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    config = _config(args.config)
    paths = args.policy or [config.detector.policy if config is not None else ""]
    if len(paths) > 2:
        raise ConfigError(["--policy: one policy, or two to compare"])
    policies = [policy_at(path) for path in paths]
    max_patients = config.detector.max_patients if config is not None else Config().detector.max_patients
    recording = recording_of(config, args.source, args.tenant, _time(args.start, 0), _time(args.end, END_OF_TIME_MS))
    if args.save:
        save(recording.frames(), args.save)
        recording = recording_of(config, args.save, args.tenant, 0, END_OF_TIME_MS)
    began = time.monotonic()
    results = compare(_with_progress(in_order(recording)), policies, max_patients)
    if len(results) == 2 and results[0].policy == results[1].policy:
        results[1].policy += " (second)"
    if not args.json:
        for result in results:
            _tell(result)
        if len(results) == 2:
            _compare(*results)
        print(f"read and judged in {time.monotonic() - began:.1f} s")
    if args.plot:
        Path(args.plot).write_text(plot(results), encoding="utf-8")
    if args.json:
        out: dict[str, Any] = {"policies": [r.as_dict() for r in results]}
        if len(results) == 2:
            out["differences"] = differences(*results)
        sys.stdout.buffer.write(orjson.dumps(out, option=orjson.OPT_INDENT_2) + b"\n")
    return 1 if any(r.unread for r in results) else 0


def _with_progress(frames: Iterator[bytes | Block]) -> Iterator[bytes | Block]:
    """On a terminal, how far the recording is read."""
    shown = sys.stderr.isatty()
    said = time.monotonic()
    for n, frame in enumerate(frames):
        yield frame
        if shown and (n % 500 == 0 or isinstance(frame, Block)) and time.monotonic() - said > PROGRESS_S:
            said = time.monotonic()
            print(f"\rread up to {_clock(last_time(frame))}", end="\x1b[K", file=sys.stderr, flush=True)
    if shown:
        print("\r", end="\x1b[K", file=sys.stderr, flush=True)


def _config(path: str) -> Config | None:
    if not path and not Path(DEFAULT_CONFIG).is_file():
        return None
    return load(argparse.Namespace(config=path or DEFAULT_CONFIG))


def _time(text: str, default: int) -> int:
    if not text:
        return default
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError([f"{text}: is no time: write 2027-01-31 or 2027-01-31T08:00"]) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp() * 1000)


def _clock(ms: int) -> str:
    return f"{dt.datetime.fromtimestamp(ms / 1000, dt.UTC):%Y-%m-%d %H:%M:%S}" if ms else "never"


def _ranked(result: Replay) -> list[Account]:
    return sorted(result.accounts.values(), key=lambda a: (-_rank(a.level), a.first_ms))


def _rank(level: str) -> int:
    return LEVELS.index(level)


def _tell(result: Replay) -> None:
    print(
        f"policy {result.policy}: {result.events:,} events of {_clock(result.first_ms)} to {_clock(result.last_ms)} UTC"
    )
    if result.unread:
        print(f"  {result.unread:,} frames could not be read")
    if not result.accounts:
        print("  nobody would have been alerted, cut or locked")
    for level in ("alert", "throttle", "cut", "lock"):
        names = [a for a in result.accounts.values() if a.level == level]
        if names:
            print(f"  {level + ':':9} {len(names):,} account{'' if len(names) == 1 else 's'}")
    for account in _ranked(result)[:SHOWN_ACCOUNTS]:
        cut = f", cut {_clock(account.cut_ms)}" if account.cut_ms else ""
        print(f"  {account.level:8} {account.principal}: first {_clock(account.first_ms)}{cut}")
        for reason in account.reasons:
            print(f"             {reason}")
    if len(result.accounts) > SHOWN_ACCOUNTS:
        print(f"  and {len(result.accounts) - SHOWN_ACCOUNTS:,} more accounts: --json has them all")


def differences(one: Replay, other: Replay) -> list[dict[str, str]]:
    """Accounts that the two policies treat differently."""
    out = []
    for key in sorted(one.accounts.keys() | other.accounts.keys()):
        first = one.accounts[key].level if key in one.accounts else "none"
        second = other.accounts[key].level if key in other.accounts else "none"
        if first != second:
            out.append({"account": key, one.policy: first, other.policy: second})
    return out


def _compare(one: Replay, other: Replay) -> None:
    rows = differences(one, other)
    print(
        f"{one.policy} against {other.policy}: "
        + (f"{len(rows):,} accounts differ" if rows else "the same for every account")
    )
    for row in rows[:SHOWN_ACCOUNTS]:
        account, *levels = row.values()
        print(f"  {account}: {levels[0]} -> {levels[1]}")


def _summary(result: Replay, shown: int) -> str:
    parts = []
    for level, what in (("lock", "locked"), ("cut", "cut"), ("throttle", "slowed"), ("alert", "alerted")):
        count = sum(a.level == level for a in result.accounts.values())
        if count:
            parts.append(f"{count:,} {what}")
    more = len(result.accounts) - shown
    return ", ".join(parts) + (f"; {more:,} more accounts not drawn" if more > 0 else "")


# -- the picture ------------------------------------------------------------------------------------------------------

_LEFT, _RIGHT, _TOP, _ROW, _RATE = 190, 30, 46, 18, 70


def plot(results: list[Replay]) -> str:
    """Events over time, and each account's verdicts; one band a policy."""
    shown = [_ranked(r)[:SHOWN_ACCOUNTS] for r in results]
    height = _TOP + sum(_RATE + 40 + _ROW * max(1, len(accounts)) for accounts in shown) + 30
    width = 1_000
    drawing = Drawing(
        width, height, "What the policy would have done" if len(results) == 1 else "What two policies would have done"
    )
    first = min((r.first_ms for r in results if r.first_ms), default=0)
    last = max((r.last_ms for r in results), default=1)
    span = max(1, last - first)

    def x(ms: int) -> float:
        return _LEFT + (width - _LEFT - _RIGHT) * (ms - first) / span

    for i, level in enumerate(("alert", "throttle", "cut", "lock")):
        drawing.dot(width - 420 + 75 * i, 20, 5, COLOURS[level])
        drawing.text(width - 410 + 75 * i, 24, level)
    drawing.line(width - 125, 20, width - 100, 20, COLOURS["cut"], 2, "2 3")
    drawing.text(width - 94, 24, "from its cut on")
    y = float(_TOP)
    for result, accounts in zip(results, shown, strict=True):
        drawing.text(16, y + 12, f"policy {result.policy}", bold=True)
        drawing.text(_LEFT, y + 12, _summary(result, len(accounts)), colour="#5b6b78")
        base = y + _RATE
        bins = max(
            1, min(MAX_BARS, len(result.rate.bins))
        )  # a frame is at one time: no more bars than there are such times
        rate = [0] * bins
        for at, count in result.rate.bins.items():
            rate[min(bins - 1, max(0, int(bins * (at * result.rate.step_ms - first) / span)))] += count
        top = max(rate) or 1
        step = (width - _LEFT - _RIGHT) / bins
        for i, count in enumerate(rate):
            if count:
                tall = (_RATE - 16) * math.sqrt(count / top)
                drawing.rect(_LEFT + i * step, base - tall, step, tall, "#a9bccb")
        drawing.text(16, base - 4, f"{result.events:,} events", colour="#5b6b78")
        drawing.line(_LEFT, base, width - _RIGHT, base, INK)
        y = base + 8
        if not accounts:
            drawing.text(_LEFT, y + 12, "nobody alerted, cut or locked")
            y += _ROW
        places = {f"{a.tenant}/{a.principal}": n for n, a in enumerate(accounts)}
        for n, account in enumerate(accounts):
            middle = y + n * _ROW + 8
            drawing.text(_LEFT - 8, middle + 4, account.principal[:26], anchor="end")
            drawing.line(_LEFT, middle, width - _RIGHT, middle, FAINT)
            if account.cut_ms:
                drawing.line(x(account.cut_ms), middle, width - _RIGHT, middle, COLOURS["cut"], 2, "2 3")
        for verdict in result.verdicts:
            place = places.get(verdict.key)
            if place is not None:
                middle = y + place * _ROW + 8
                drawing.dot(
                    x(verdict.issued_ms),
                    middle,
                    4.5,
                    COLOURS[verdict.level],
                    f"{_clock(verdict.issued_ms)}: {verdict.reason}",
                )
        y += len(accounts) * _ROW + 32
    drawing.text(16, height - 12, "UTC", colour="#5b6b78", size=11)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        ms = first + int(span * share)
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        drawing.text(
            x(ms),
            height - 12,
            _clock(ms)[: -3 if span > HOUR_MS else None],
            anchor=anchor,
            colour="#5b6b78",
            size=11,
        )
    return drawing.svg()
