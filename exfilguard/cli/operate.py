"""`exfilguard lock | unlock | verdicts`: what an operator does, with a reason, through the verdicts topic."""

from __future__ import annotations

import argparse
import getpass
import secrets
import time
from typing import Any

import orjson

from ..config.load import parse_duration_ms
from ..errors import ConfigError
from ..events.chain import ChainWriter
from ..events.codec import encode_verdict
from ..events.topics import Topics
from ..events.verdict import Verdict
from ..runtime.clock import now_ms
from .common import add_config_option, load

GRACE_MS = 600_000
"""After an unlock, the detector leaves the account alone for this long (see detect.judge)."""


def register(commands: Any) -> None:
    for name, text in (("lock", "lock an account everywhere, now"), ("unlock", "lift the verdict on an account")):
        parser = commands.add_parser(name, help=text, description=text)
        add_config_option(parser)
        parser.add_argument("principal", help="the account, as events name it")
        parser.add_argument("--reason", required=True, help="why; it is recorded")
        parser.add_argument("--by", default=getpass.getuser(), help="who decides; default: the user logged in here")
        parser.add_argument("--json", action="store_true", help="for programs")
        if name == "lock":
            parser.add_argument(
                "--for", dest="duration", default="", metavar="1h", help="until then; default: until lifted"
            )
        parser.set_defaults(run=run_lock if name == "lock" else run_unlock)
    text = "list the standing verdicts"
    parser = commands.add_parser("verdicts", help=text, description=text)
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run_verdicts)


def publish(config: Any, verdict: Verdict) -> None:
    """Write one verdict to the topic, acknowledged by all replicas. Raises BrokerError."""
    from ..runtime.kafka import producer_of, send_now

    record = ChainWriter(verdict.issuer, secrets.token_hex(8)).seal(encode_verdict(verdict))
    with producer_of(config) as producer:
        send_now(producer, Topics(config.kafka.prefix).verdicts, verdict.key.encode(), record)


def standing(config: Any) -> dict[str, Verdict]:
    """Every key's newest verdict, read from the topic. Raises BrokerError."""
    from ..runtime.kafka import read_verdicts

    return read_verdicts(config)


def run_lock(args: argparse.Namespace) -> int:
    config = load(args)
    try:
        duration_ms = parse_duration_ms(args.duration) if args.duration else 0
    except ValueError as error:
        raise ConfigError([f"--for: {error}"]) from None
    return _issue(args, config, "lock", duration_ms)


def run_unlock(args: argparse.Namespace) -> int:
    return _issue(args, load(args), "none", GRACE_MS)


def _issue(args: argparse.Namespace, config: Any, level: Any, lasts_ms: int) -> int:
    now = now_ms()
    known = standing(config).get(f"{config.tenant}/{args.principal}")
    verdict = Verdict(
        tenant=config.tenant,
        principal=args.principal,
        level=level,
        revision=max(now, known.revision + 1 if known is not None else 0),
        issued_ms=now,
        reason=args.reason,
        issuer=f"operator:{args.by}",
        crossed_ms=now,
        expires_ms=now + lasts_ms if lasts_ms else 0,
        total=known.total if known is not None and level == "none" else 0,
    )
    publish(config, verdict)
    before = known.level if known is not None else "none"
    if args.json:
        print(encode_verdict(verdict).decode())
    else:
        print(f"{verdict.key}: {before} -> {level} (reference {verdict.revision}); see `exfilguard status`")
    return 0


def run_verdicts(args: argparse.Namespace) -> int:
    now = now_ms()
    verdicts = sorted((v for v in standing(load(args)).values() if v.in_force(now)), key=lambda v: -v.issued_ms)
    if args.json:
        print(orjson.dumps([orjson.loads(encode_verdict(v)) for v in verdicts]).decode())
        return 0
    if not verdicts:
        print("no verdict is in force")
    for v in verdicts:
        until = (
            "until lifted" if not v.expires_ms else time.strftime("until %H:%M:%S", time.localtime(v.expires_ms / 1000))
        )
        print(f"{v.level:8} {v.key}  {until}  {v.reason}  ({v.issuer}, {v.revision})")
    return 0
