"""`exfilguard lock | unlock | extend | ack | break-glass`: what an operator decides, with a reason; `verdicts` and `actions`:
what stands, and who did what, when, from where."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import orjson

from ..config.load import parse_duration_ms
from ..config.schema import Config
from ..detect.policy import policy_at
from ..errors import ConfigError, ExfilGuardError
from ..events.action import BOOKKEEPING, Action, Operation
from ..events.codec import MAX_NAME_CHARS, encode_verdict
from ..events.verdict import Level, Verdict
from ..runtime.clock import now_ms
from .common import add_config_option, load
from .decision import (
    Person,
    action_of,
    actions,
    held_verdicts,
    next_revision,
    person,
    publish,
    request_of,
    same_person,
    standing,
)

GRACE_MS = 600_000
"""After an unlock, the detector leaves the account alone for this long (see detect.judge)."""


def register(commands: Any) -> None:
    lock = _command(commands, "lock", run_lock, "lock an account everywhere, now")
    lock.add_argument("--for", dest="duration", default="", metavar="1h", help="until then; default: until lifted")
    lock.add_argument("--even-shared", action="store_true", help="although the policy says that many people share it")
    unlock = _command(commands, "unlock", run_unlock, "lift the verdict on an account")
    unlock.add_argument(
        "--for", dest="duration", default="", metavar="4h", help="the detector leaves it alone so long; default: 10m"
    )
    extend = _command(commands, "extend", run_extend, "let the standing verdict last longer")
    extend.add_argument("--for", dest="duration", required=True, metavar="4h", help="from now on")
    _command(commands, "ack", run_ack, "confirm the standing verdict: a lock then stands until it is lifted")
    glass = _command(
        commands, "break-glass", run_break_glass,
        "free an account at once and keep it free for a while, or override the mass-lock stop", account="?",
    )  # fmt: skip
    glass.add_argument("--for", dest="duration", default="", metavar="1h", help="default: responder.break_glass_for")
    glass.add_argument(
        "--mass-lock", action="store_true", help="suspend all accounts that the mass-lock stop holds back"
    )
    for name, run, text in (
        ("verdicts", run_verdicts, "list the standing verdicts"),
        ("actions", run_actions, "list what hooks and operators did"),
    ):
        parser = commands.add_parser(name, help=text, description=text)
        add_config_option(parser)
        parser.add_argument("--json", action="store_true", help="for programs")
        if name == "actions":
            parser.add_argument("principal", nargs="?", help="of this account only")
        parser.set_defaults(run=run)


def _command(commands: Any, name: str, run: Callable[..., int], text: str, account: str | None = None) -> Any:
    parser = commands.add_parser(name, help=text, description=text)
    add_config_option(parser)
    parser.add_argument("principal", nargs=account, help="the account, as events name it")
    parser.add_argument("--reason", required=True, help="why; it is recorded")
    parser.add_argument(
        "--as", "--by", dest="by", default="", metavar="NAME", help="who decides; default: the user logged in here"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)
    return parser


def _duration_ms(text: str, default_ms: int) -> int:
    try:
        return parse_duration_ms(text) if text else default_ms
    except ValueError as error:
        raise ConfigError([f"--for: {error}"]) from None


def _begin(args: argparse.Namespace) -> tuple[Config, Person]:
    if not args.reason.strip():
        raise ConfigError(["--reason: is empty: say why, it is recorded"])
    # Typed in another encoding than the terminal's: no reason to fail in the night.
    args.reason = args.reason.encode(errors="replace").decode()
    if args.principal is not None and (problem := _no_account(args.principal)):
        raise ConfigError([f"the account {problem}: nothing was changed"])
    return load(args), getattr(args, "person", None) or person(args.by)  # the console knows whom it has let in


def _no_account(name: str) -> str:
    """Why no event can name such an account, and nobody would read a verdict on it; empty when one can."""
    if not name:
        return "is empty"
    if len(name) > MAX_NAME_CHARS:
        return f"has more than {MAX_NAME_CHARS} characters"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "is not UTF-8 text"
    return ""


# -- decisions ----------------------------------------------------------------------------------------------------------


def run_lock(args: argparse.Namespace) -> int:
    config, who = _begin(args)
    lasts_ms = _duration_ms(args.duration, 0)
    policy = policy_at(config.detector.policy)
    if args.principal in policy.shared and not policy.lock_shared and not args.even_shared:
        raise ExfilGuardError(
            f"{args.principal} is a shared account: a lock stops everybody behind it. Nothing was changed; with --even-shared "
            "the sidecar refuses it (the hooks never suspend it)"
        )
    return _issue(args, config, who, "lock", "lock", lasts_ms, args.reason)


def run_unlock(args: argparse.Namespace) -> int:
    config, who = _begin(args)
    known = standing(config).get(f"{config.tenant}/{args.principal}")
    now = now_ms()
    reason = args.reason
    if config.responder.two_person_unlock and known is not None and known.in_force(now) and known.level == "lock":
        request = request_of(actions(config), known, now)
        if request is None or same_person(request.actor, who):
            return _request(args, config, who, known, request)
        reason = f"{args.reason} (asked for by {request.actor}: {request.reason})"
    return _issue(args, config, who, "unlock", "none", _duration_ms(args.duration, GRACE_MS), reason, known)


def _request(args: argparse.Namespace, config: Config, who: Person, known: Verdict, earlier: Action | None) -> int:
    """Two persons: this is the first of them, or the same one again. The lock stands."""
    now = now_ms()
    expires_ms = now + config.responder.request_ttl_ms
    if earlier is None:
        action = action_of(
            config, who, known.principal, "unlock", "requested", known.revision, args.reason, expires_ms=expires_ms
        )
        publish(config, who, None, action)
    else:
        action, expires_ms = earlier, earlier.expires_ms
    if args.json:
        print(orjson.dumps({"done": False, "action": asdict(action)}).decode())
    else:
        until = time.strftime("%H:%M:%S", time.localtime(expires_ms / 1000))
        print(
            f"{known.key}: still locked: a second operator, logged in as somebody else than {action.actor}, must run the same "
            f"command before {until}; in an emergency: exfilguard break-glass",
            file=sys.stderr,
        )
    return 1


def run_extend(args: argparse.Namespace) -> int:
    config, who = _begin(args)
    lasts_ms = _duration_ms(args.duration, 0)
    known = _in_force(config, args.principal)
    now = now_ms()
    verdict = replace(
        known,
        revision=next_revision(known, now),
        issued_ms=now,
        issuer=_issuer_of(known, who),
        reason=f"{known.reason} (extended by {who.name}: {args.reason})",
        expires_ms=now + lasts_ms,
    )
    _refuse_sooner(config, known, verdict)
    return _publish(args, config, who, "extend", verdict, known.level)


def _refuse_sooner(config: Config, known: Verdict | None, verdict: Verdict) -> None:
    """Where two persons lift a lock, one of them cannot let it last a second only. Raises ExfilGuardError."""
    if not config.responder.two_person_unlock or known is None or known.level != "lock" or verdict.level != "lock":
        return
    until = known.expires_ms or sys.maxsize
    if known.in_force(now_ms()) and (verdict.expires_ms or sys.maxsize) < until:
        raise ExfilGuardError(
            f"{known.key}: the lock would end sooner than it does now, and two persons are needed to lift it: let both run "
            "`exfilguard unlock`; nothing was changed"
        )


def run_ack(args: argparse.Namespace) -> int:
    config, who = _begin(args)
    known = _in_force(config, args.principal)
    now = now_ms()
    if known.level != "lock":
        # Only seen, not changed: a person's verdict would keep the detector from stepping up.
        action = action_of(config, who, known.principal, "ack", "done", known.revision, args.reason)
        publish(config, who, None, action)
        _say(args, None, action, f"{known.key}: {known.level} acknowledged")
        return 0
    verdict = replace(
        known,
        revision=next_revision(known, now),
        issued_ms=now,
        issuer=f"operator:{who.name}",
        reason=f"{known.reason} (confirmed by {who.name}: {args.reason})",
        expires_ms=0,
    )
    return _publish(args, config, who, "ack", verdict, known.level)


def run_break_glass(args: argparse.Namespace) -> int:
    config, who = _begin(args)
    if args.mass_lock == bool(args.principal):
        raise ConfigError(["break-glass: name one account to free, or --mass-lock to suspend all that are held"])
    if args.principal:
        lasts_ms = _duration_ms(args.duration, config.responder.break_glass_for_ms)
        return _issue(args, config, who, "break_glass", "none", lasts_ms, f"break-glass: {args.reason}")
    now = now_ms()
    held = held_verdicts(actions(config), standing(config), now)
    for known in held:
        verdict = replace(
            known,
            revision=next_revision(known, now),
            issued_ms=now,
            issuer=f"operator:{who.name}",
            reason=f"{known.reason} (mass-lock stop overridden by {who.name}: {args.reason})",
        )
        _publish(args, config, who, "break_glass", verdict, "held")
    if not held and not args.json:
        print("no account is held by the mass-lock stop")
    return 0


def _in_force(config: Config, principal: str) -> Verdict:
    known = standing(config).get(f"{config.tenant}/{principal}")
    if known is None or not known.in_force(now_ms()):
        raise ExfilGuardError(f"no verdict is in force on {principal}: see `exfilguard verdicts`; nothing was changed")
    return known


def _issuer_of(known: Verdict, who: Person) -> str:
    """A lock becomes the operator's. What is lower stays the detector's, which then may still step up."""
    return f"operator:{who.name}" if known.level == "lock" else known.issuer


def _issue(
    args: argparse.Namespace,
    config: Config,
    who: Person,
    operation: Operation,
    level: Level,
    lasts_ms: int,
    reason: str,
    known: Verdict | None = None,
) -> int:
    now = now_ms()
    known = known or standing(config).get(f"{config.tenant}/{args.principal}")
    verdict = Verdict(
        tenant=config.tenant,
        principal=args.principal,
        level=level,
        revision=next_revision(known, now),
        issued_ms=now,
        reason=reason,
        issuer=f"operator:{who.name}",
        crossed_ms=now,
        expires_ms=now + lasts_ms if lasts_ms else 0,
        total=known.total if known is not None and level == "none" else 0,
    )
    _refuse_sooner(config, known, verdict)
    return _publish(args, config, who, operation, verdict, known.level if known is not None else "none")


def _publish(
    args: argparse.Namespace, config: Config, who: Person, operation: Operation, verdict: Verdict, before: str
) -> int:
    action = action_of(config, who, verdict.principal, operation, "done", verdict.revision, args.reason)
    publish(config, who, verdict, action)
    text = f"{verdict.key}: {before} -> {verdict.level} (reference {verdict.revision}); see `exfilguard status`"
    _say(args, verdict, action, text)
    return 0


def _say(args: argparse.Namespace, verdict: Verdict | None, action: Action, text: str) -> None:
    if not args.json:
        print(text)
        return
    shown = None if verdict is None else orjson.loads(encode_verdict(verdict))
    print(orjson.dumps({"done": True, "verdict": shown, "action": asdict(action)}).decode())


# -- what stands, what was done -----------------------------------------------------------------------------------------


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


def run_actions(args: argparse.Namespace) -> int:
    found = [a for a in actions(load(args)) if args.principal in (None, a.principal)]
    found.sort(key=lambda a: a.started_ms)
    if args.json:
        print(orjson.dumps([asdict(action) for action in found]).decode())
        return 0
    found = [a for a in found if a.outcome not in BOOKKEEPING]
    if not found:
        print("nothing is on record")
    for a in found:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(a.started_ms / 1000))
        by = f"{a.actor}@{a.host}" if a.host else a.actor
        print(
            f"{when}  {a.key}  {a.operation} by {a.hook}: {a.outcome}  {a.reason or a.detail}  ({by}, {a.verdict_revision})"
        )
    return 0
