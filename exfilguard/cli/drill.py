"""`exfilguard drill`: a rehearsed extraction with a canary account against a live installation, timed against its objectives.

    --setup, once:  own schema, synthetic patients, canary account and witness
    a drill:        checks ─► extraction through the guard ─► alert, cut, suspension, fresh logins ─► lifted ─► report

Safe by construction (lab/canary.py). Whatever happens, the canary account is given back at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import secrets
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import orjson
import psycopg

from .. import __version__
from ..config.load import parse_address, parse_duration_ms
from ..config.schema import Config, ListenerConfig
from ..errors import ConfigError, DrillAborted, EvidenceError
from ..events.chain import ChainWriter
from ..events.codec import decode_verdict, encode_verdict
from ..events.topics import Topics
from ..events.verdict import Verdict, severity
from ..evidence.drill import DrillResult, Step, document
from ..lab import canary, canary_mysql
from ..runtime.clock import now_ms
from .common import add_config_option, load

ACCOUNT = "exfilguard_canary"
CANARIES = 12_000
MAX_SECONDS = 60
POLL_S = 0.05
ARCHIVE_WAIT_S = 30.0
GRACE_MS = 60_000
"""After a drill the detector leaves the canary alone for this long: what was taken is still in its windows."""
OBJECTIVES = {
    "alert": ("2s", "from the limit crossed to the verdict"),
    "cut": ("1s", "from the limit crossed to the end of the extraction"),
    "locked": ("5s", "from the limit crossed to logins refused by the database"),
    "unlocked": ("10s", "from the order to lift to a working login"),
}


def register(commands: Any) -> None:
    text = "rehearse an extraction with a canary account, and report"
    parser = commands.add_parser("drill", help=text, description=f"{text}.")
    add_config_option(parser)
    parser.add_argument("--listener", metavar="NAME", help="default: the first")
    parser.add_argument(
        "--dsn-file",
        required=True,
        metavar="FILE",
        help="the canary's connection string, straight to the database; mysql://USER:PASSWORD@HOST:PORT for MySQL",
    )
    parser.add_argument("--setup", action="store_true", help="create schema, synthetic patients and accounts, once")
    parser.add_argument("--admin-dsn-file", metavar="FILE", help="with --setup: connection string of an administrator")
    parser.add_argument(
        "--hook-role", default="exfilguard_hook", metavar="ROLE", help="with --setup: may lock the canary"
    )
    parser.add_argument(
        "--canaries", type=int, default=CANARIES, metavar="N", help="with --setup; default: %(default)s"
    )
    parser.add_argument("--account", default=ACCOUNT, metavar="NAME", help="with --setup; default: %(default)s")
    parser.add_argument("--max-seconds", type=int, default=MAX_SECONDS, metavar="S", help="default: %(default)s")
    parser.add_argument("--out", default=".", metavar="DIR", help="where the report goes; default: here")
    parser.add_argument("--lang", choices=("fr", "en"), help="default: report.language")
    parser.add_argument("--json", action="store_true", help="print the result as JSON too")
    for name, (default, meaning) in OBJECTIVES.items():
        parser.add_argument(
            f"--{name}-within", default=default, metavar="TIME", help=f"{meaning}; default: %(default)s"
        )
    parser.set_defaults(run=run)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the drill goes."""

    config: Config
    listener: ListenerConfig
    dsn: str
    account: str
    table: str
    column: str
    objectives: dict[str, int]
    engine: Any = canary
    """The module that speaks to this database: lab/canary.py or lab/canary_mysql.py."""

    def direct(self, user: str = "") -> str:
        return str(self.engine.at(self.dsn, user=user))

    def guarded(self, user: str = "") -> str:
        host, port = parse_address(self.listener.listen)
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- compared, not bound
        return str(self.engine.at(self.dsn, user=user, host=host, port=port))

    @property
    def key(self) -> str:
        return f"{self.config.tenant}/{self.account}"


def run(args: argparse.Namespace) -> int:
    """0: every step met its objective; 1: one did not, or the drill was aborted; 2: configuration."""
    config = load(args)
    listener = _listener(config, args.listener)
    table, column = _column(listener)
    engine = canary if listener.engine == "postgres" else canary_mysql
    if args.setup:
        return _set_up(args, table, column, engine)
    dsn = _secret(args.dsn_file, "--dsn-file")
    try:
        account = engine.user_of(dsn)
    except (ValueError, psycopg.Error):
        raise ConfigError([f"--dsn-file {args.dsn_file}: this is no connection string for this database"]) from None
    objectives = {}
    for name in OBJECTIVES:
        try:
            objectives[name] = parse_duration_ms(getattr(args, f"{name}_within"))
        except ValueError as error:
            raise ConfigError([f"--{name}-within: {error}"]) from None
    target = Target(config, listener, dsn, account, table, column, objectives, engine)
    result = DrillResult(config.tenant, account, listener.name, listener.listen, now_ms(), max_seconds=args.max_seconds)
    try:
        _perform(target, result)
    except DrillAborted as error:
        result.aborted = str(error)
    except engine.Error as error:
        code = engine.code_of(error)
        result.aborted = f"the database refused what the drill needs ({code}): check --dsn-file, and --setup"
    finally:
        result.ended_ms = now_ms()
    return _report(args, config, result)


def _listener(config: Config, name: str | None) -> ListenerConfig:
    found = [one for one in config.listener if name in (None, one.name)]
    if not found:
        raise ConfigError([f"--listener: there is no listener {name}" if name else "there is no [[listener]]"])
    return found[0]


def _column(listener: ListenerConfig) -> tuple[str, str]:
    """The canary's table and column have the names of a patient column that any schema may hold. Raises ConfigError."""
    for configured in listener.patient_columns:
        *schema, table, column = configured.split(".")
        if schema in ([], [canary.SCHEMA]):
            return table, column
    raise ConfigError(
        [
            f"listener {listener.name}: no patient column covers the schema {canary.SCHEMA}: add "
            f'"{canary.SCHEMA}.patient.id" to patient_columns'
        ]
    )


def _secret(name: str, option: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError([f"{option} {name}: cannot be read: run `exfilguard drill --setup` first?"]) from None


def _set_up(args: argparse.Namespace, table: str, column: str, engine: Any) -> int:
    """Writes --dsn-file, readable by its owner only."""
    if not args.admin_dsn_file:
        raise ConfigError(["--admin-dsn-file: is needed with --setup"])
    admin = _secret(args.admin_dsn_file, "--admin-dsn-file")
    password = secrets.token_urlsafe(24)
    try:
        engine.set_up(admin, args.account, password, args.canaries, table, column, args.hook_role)
    except ValueError:
        raise ConfigError(
            [f"--admin-dsn-file {args.admin_dsn_file}: this is no connection string for this database"]
        ) from None
    except engine.Error as error:
        code = engine.code_of(error)
        raise DrillAborted(f"the canary could not be made ({code}): is --admin-dsn-file an administrator's?") from None
    dsn = engine.new_dsn(admin, args.account, password)
    descriptor = os.open(args.dsn_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(dsn + "\n")
    print(
        f"{args.canaries:,} synthetic patients in {canary.SCHEMA}.{table}; the account {args.account} can read nothing else"
    )
    print("to rehearse a suspension, give it a class in the policy:")
    print('  [class.canary]\n  limits = [ { unit = "patients", window = "10s", alert = 1_000, lock = 2_000 } ]')
    print(f'  [accounts]\n  "{args.account}" = "canary"')
    print(f"its connection string is in {args.dsn_file}; now: exfilguard drill --dsn-file {args.dsn_file}")
    return 0


# -- the drill --------------------------------------------------------------------------------------------------------


def limit_of(config: Config, account: str) -> tuple[int, str]:
    """The smallest number of patients beyond which the policy cuts or locks this account, and which of both; (0, "") when it
    does neither. Raises DrillAborted."""
    from ..detect.policy import policy_at

    policy = policy_at(config.detector.policy)
    if account in policy.shared or account in policy.break_glass:
        raise DrillAborted("the policy lists the canary under shared or break_glass: it would never be suspended")
    name = policy.class_of(account)
    for allowance in policy.allowances:
        if fnmatchcase(account, allowance.account):
            raise DrillAborted("an allowance of the policy covers the canary: its drill would prove nothing")
    steps = [
        (value, level)
        for limit in policy.classes[name].limits
        if limit.unit == "patients"
        for level, value in limit.steps
        if severity(level) >= severity("cut")
    ]
    return min(steps, default=(0, ""))


def _perform(target: Target, result: DrillResult) -> None:
    """Raises DrillAborted, the engine's Error, BrokerError."""
    result.canaries = target.engine.check(target.direct(), target.table)
    result.limit, result.level = limit_of(target.config, target.account)
    if not result.limit:
        raise DrillAborted("the policy cuts this account at no number of patients: give its class a limit")
    if result.canaries < result.limit + 5 * canary.PAGE:
        raise DrillAborted(
            f"the policy cuts this account at {result.limit:,} patients and there are {result.canaries:,} canaries: run --setup "
            "with more, or give the account a class with smaller limits"
        )
    result.max_rows = result.canaries
    known = _verdicts(target)
    if known and known[-1].in_force(now_ms()):
        raise DrillAborted(f"a verdict stands on the canary already: exfilguard unlock {target.account} --reason drill")
    if known and known[-1].level == "none" and now_ms() < known[-1].expires_ms:
        left_s = (known[-1].expires_ms - now_ms()) // 1000 + 1
        raise DrillAborted(f"the canary was given back a moment ago and is left alone: again in {left_s} s")
    witness = target.account + canary.WITNESS
    for dsn, which in ((target.guarded(), "guard"), (target.direct(), "database"), (target.guarded(witness), "guard")):
        if state := target.engine.try_login(dsn):
            raise DrillAborted(
                f"a canary account cannot log in at the {which} ({state}): check --dsn-file, and --setup"
            )
    try:
        _rehearse(target, result, witness)
    finally:
        _give_back(target, result)


def _rehearse(target: Target, result: DrillResult, witness: str) -> None:
    taken = target.engine.extract(target.guarded(), target.table, target.column, result.max_rows, result.max_seconds)
    result.delivered = len(taken.received)
    crossed = taken.crossed_ms(result.limit)
    goals = target.objectives
    result.times |= {"started": taken.started_ms, "crossed": crossed, "ended": taken.ended_ms}
    deadline = time.monotonic() + max(goals["alert"], goals["locked"]) / 1000 + 1.0
    locked_ms = 0
    locks = result.level == "lock"
    while locks and taken.sqlstate and time.monotonic() < deadline and not locked_ms:
        if target.engine.try_login(target.direct()):
            locked_ms = now_ms()
        time.sleep(POLL_S)
    since = [v for v in _verdicts(target) if v.issued_ms >= taken.started_ms and v.level != "none"]
    hard = [v for v in since if severity(v.level) >= severity("cut")]
    spoken = since[0].issued_ms if since else 0
    if hard:
        result.reason = hard[0].reason
    start = crossed or taken.ended_ms
    result.times |= {"alert": spoken, "locked": locked_ms}
    alert = since[0].reason if since else ""
    result.steps.append(
        Step(
            "alert",
            bool(since) and spoken - start <= goals["alert"],
            max(0, spoken - start) if since else -1,
            goals["alert"],
            alert,
        )
    )
    cut_ms = taken.ended_ms if taken.sqlstate else 0
    detail = (
        f"{target.engine.CODE} {taken.sqlstate}"
        if taken.sqlstate
        else f"nobody stopped it: the drill's limit did ({taken.limited})"
    )
    result.step("cut", cut_ms, start, goals["cut"], detail)
    not_rehearsed = (
        f"not rehearsed: the policy cuts this account at {result.limit:,}, before it locks; give it a class of its own"
    )
    if locks:
        result.step("locked", locked_ms, start, goals["locked"])
    else:
        result.steps.append(Step("locked", True, detail=not_rehearsed))
    through, direct = target.engine.try_login(target.guarded()), target.engine.try_login(target.direct())
    result.steps.append(
        Step("relogin_guard", bool(through), detail=f"{target.engine.CODE} {through}" if through else "")
    )
    refused = f"{target.engine.CODE} {direct}" if direct else ""
    result.steps.append(Step("relogin_database", bool(direct) or not locks, detail=refused if locks else not_rehearsed))
    result.steps.append(Step("care", not target.engine.try_login(target.guarded(witness)), detail=witness))
    ordered = now_ms()
    _lift(target, "drill: the rehearsal is over")
    deadline = time.monotonic() + goals["unlocked"] / 1000 + 1.0
    open_ms = 0
    while time.monotonic() < deadline and not open_ms:
        if not target.engine.try_login(target.guarded()) and not target.engine.try_login(target.direct()):
            open_ms = now_ms()
        time.sleep(POLL_S)
    result.times |= {"ordered": ordered, "unlocked": open_ms}
    result.step("unlocked", open_ms, ordered, goals["unlocked"])
    result.steps.append(_exposure_step(target, taken))


def _exposure_step(target: Target, taken: canary.Extraction) -> Step:
    """The archive's report must name exactly the canaries that were received."""
    from ..evidence.exposure import exposure
    from ..evidence.reader import ArchiveReader
    from ..evidence.resolve import Candidate, digester_of, resolve

    config = target.config
    try:
        key = config.sidecar.digest_key or (Path(config.data_dir) / "digest.key").read_text(encoding="utf-8")
        digester = digester_of(key)
    except (OSError, EvidenceError):
        return Step("report", False, detail="the digest key is not on this machine")
    named: set[int] = set()
    deadline = time.monotonic() + ARCHIVE_WAIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(EvidenceError):
            found = exposure(
                ArchiveReader(Path(config.archive_dir)),
                config.tenant,
                target.account,
                taken.started_ms - 1_000,
                now_ms() + 1,
            )
            candidates = (Candidate(str(n)) for n in taken.received)
            named = {int(c.identifier) for c in resolve(found, digester, candidates).found.values()}
            if named == taken.received and len(found.patients) == len(named) and not found.estimated:
                return Step("report", True, detail=f"{len(named):,}")
        time.sleep(1.0)
    return Step("report", False, detail=f"{len(named):,} / {len(taken.received):,}")


def _verdicts(target: Target) -> list[Verdict]:
    """All verdicts on the canary that the topic holds, oldest first."""
    from ..runtime.kafka import whole_topic

    out = []
    for _, value in whole_topic(target.config, Topics(target.config.kafka.prefix).verdicts, 0.5):
        with contextlib.suppress(Exception):
            verdict = decode_verdict(value)
            if verdict.key == target.key:
                out.append(verdict)
    return sorted(out, key=lambda v: v.revision)


def _lift(target: Target, reason: str) -> None:
    from ..runtime.kafka import producer_of, send_now

    known = _verdicts(target)
    now = now_ms()
    verdict = Verdict(
        tenant=target.config.tenant,
        principal=target.account,
        level="none",
        revision=max(now, known[-1].revision + 1 if known else 0),
        issued_ms=now,
        reason=reason,
        issuer=f"operator:{getpass.getuser()}",
        crossed_ms=now,
        expires_ms=now + GRACE_MS,
    )
    record = ChainWriter(verdict.issuer, secrets.token_hex(8)).seal(encode_verdict(verdict))
    with producer_of(target.config) as producer:
        send_now(producer, Topics(target.config.kafka.prefix).verdicts, verdict.key.encode(), record)


def _give_back(target: Target, result: DrillResult) -> None:
    """An aborted drill leaves no lock behind."""
    known = _verdicts(target)
    if known and known[-1].level != "none" and known[-1].in_force(now_ms()):
        _lift(target, "drill: given back after an aborted rehearsal")


def _report(args: argparse.Namespace, config: Config, result: DrillResult) -> int:
    from ..evidence.render import html
    from ..evidence.words import Words

    words = Words(args.lang or config.report.language, config.report.timezone)
    made = document(result, words, config.report.establishment, now_ms(), __version__)
    stem = Path(args.out) / f"drill-{time.strftime('%Y%m%d-%H%M%S', time.localtime(result.started_ms / 1000))}"
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".html").write_text(html(made), encoding="utf-8")
        stem.with_suffix(".json").write_bytes(orjson.dumps(result.as_json(), option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as error:
        raise EvidenceError(f"{stem}: the report cannot be written: {error.strerror}: choose another --out") from None
    if args.json:
        print(orjson.dumps(result.as_json()).decode())
        return 0 if result.passed else 1
    for step in result.steps:
        measured = words.duration(step.measured_ms) if step.measured_ms >= 0 else ""
        verdict = words("passed") if step.good else words("failed_word").upper()
        print(f"{verdict:8} {words('drill_' + step.key)}  {measured}  {step.detail}")
    print(made.headline.text)
    print(f"  {stem}.html\n  {stem}.json")
    return 0 if result.passed else 1
