"""`exfilguard demo`: a clinic, a thief, and what happens, in about a minute; real servers and processes throughout.

The figures come from outside the guard: what the thief's and the clinic's connections received, what the database says about
the account, and what lies on the Kafka topic.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import secrets
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import orjson
import psycopg

from ..config.schema import (
    Config,
    DetectorConfig,
    ExporterConfig,
    ListenerConfig,
    PostgresHookConfig,
    ResponderConfig,
    SidecarConfig,
)
from ..detect.policy import DEFAULT_POLICY, load_policy
from ..embedded.child import free_port
from ..embedded.postgres import EmbeddedPostgres
from ..errors import EmbeddedError
from ..events.verdict import severity
from ..lab import attack, clinic, patients
from ..runtime.clock import now_ms
from ..runtime.kafka import count_events
from ..runtime.process import setup_logging
from .demo_view import View
from .installation import Installation

PATIENTS = 100_000
SEED = 20241119
CALM_S = 8.0
AFTER_S = 6.0
PAGE_PAUSE_S = 0.02
"""The application renders a page between two of the thief's queries."""
BUDGET_ROWS = 3_000
TENANT = "clinique-demo"

POLICY = """
[class.export]    # the application account that may read every file: it exports a few hundred at a time
limits = [ {{ unit = "patients", window = "10s", alert = 1_000, lock = 2_500 }} ]

[[allowance]]
account = "{batch}"
reason = "nightly activity extraction, agreed with the data protection officer"
owner = "medical information department"
since = {since}
expires = {expires}
class = "statistics"

[class.statistics]    # what the nightly extraction needs
limits = [ {{ unit = "patients", window = "24h", alert = 20_000, cut = 30_000 }} ]
"""


def register(commands: Any) -> None:
    text = "a clinic, a thief and the guard, in about a minute"
    parser = commands.add_parser("demo", help=text, description=text)
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--keep", metavar="DIR", help="keep the data directory there (it must be empty)")
    parser.add_argument(
        "--mode",
        choices=("observe", "enforce"),
        default="observe",
        help="observe: the verdict through Kafka alone stops the thief; enforce: a local budget stops at the exact row. "
        "Default: %(default)s",
    )
    parser.add_argument(
        "--attack",
        choices=get_args(attack.Method),
        default="pages",
        help="pages: as the application's export does, %(default)s; select, copy: the whole table in one statement",
    )
    parser.add_argument("--patients", type=int, default=PATIENTS, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--seed", type=int, default=SEED, metavar="N", help="of the synthetic data; default: %(default)s"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    setup_logging("demo")
    directory = _directory(args.keep)
    view = View()
    try:
        with view:
            figures = Demo(args, directory, view).play()
        report(figures, view)
        if args.json:
            Path(args.json).write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2) + b"\n")
    finally:
        if args.keep:
            print(f"the data directory is kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return 0 if held(figures) else 1


def _directory(keep: str | None) -> Path:
    """Raises EmbeddedError when --keep names a directory that is in use."""
    if keep is None:
        path = Path(tempfile.mkdtemp(prefix="exfilguard-demo-"))
    else:
        path = Path(keep).resolve()
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise EmbeddedError(f"--keep {path}: is not empty: name a new directory")
    os.chmod(path, 0o711)  # noqa: S103 -- PostgreSQL may have to run as another user, below it
    return path


def held(figures: dict[str, Any]) -> bool:
    """Did the guard do all it promises?"""
    return bool(
        figures["cut_ms"]
        and figures["locked_ms"]
        and figures["lock_effective"]
        and not figures["normal_queries_refused"]
        and not figures["events_lost"]
        and not figures["rows_past_local_limit"]
        # A row that the database broke off in its middle is counted and was not received.
        and 0 <= figures["rows_on_topic"] - figures["rows_received_by_clients"] <= 1
    )


@dataclass(slots=True)
class LockWatch:
    """Asks the database itself, directly and as its superuser, since when the account is suspended."""

    dsn: str
    account: str
    locked_ms: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        query = "SELECT rolcanlogin, (SELECT count(*) FROM pg_stat_activity WHERE usename = rolname) FROM pg_roles WHERE rolname = %s"
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while not self.stop.wait(0.005):
                row = connection.execute(query, (self.account,)).fetchone()
                if row is not None and not row[0] and not row[1]:
                    self.locked_ms = now_ms()
                    return


class Demo:
    """One performance."""

    def __init__(self, args: argparse.Namespace, directory: Path, view: View) -> None:
        self.args = args
        self.directory = directory
        self.view = view
        self.password = secrets.token_urlsafe(12)
        self.database = EmbeddedPostgres(directory / "postgres")
        self.listen_port = free_port()
        self.people = patients.staff()
        self.limit = 0

    def play(self) -> dict[str, Any]:
        """Raises EmbeddedError, ConfigError, psycopg.Error."""
        view = self.view
        view.say("starting a PostgreSQL server")
        with self.database:
            self._load()
            installation = Installation(self._config())
            view.say("starting broker, sidecar, detector, responder and exporter")
            installation.start(lambda waiting: view.note(f"waiting for the {waiting}"))
            stop = threading.Event()
            view.watch(installation, stop)
            try:
                return self._perform(installation)
            finally:
                stop.set()
                view.note("stopping")
                installation.stop()

    def _load(self) -> None:
        view, count = self.view, self.args.patients
        with psycopg.connect(self.database.admin_dsn, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {patients.DATABASE}")
        began = time.monotonic()
        view.say(f"loading {count:,} synthetic patients with stays and reports (seed {self.args.seed})")
        patients.load(
            self._admin_dsn,
            count,
            self.args.seed,
            self.password,
            lambda done: view.progress("patients loaded", done, count),
        )
        view.say(f"loaded in {time.monotonic() - began:.1f} s")

    @property
    def _admin_dsn(self) -> str:
        return psycopg.conninfo.make_conninfo(self.database.admin_dsn, dbname=patients.DATABASE)

    def _direct(self, account: str) -> str:
        return self.database.dsn(account, self.password, patients.DATABASE)

    def _guarded(self, account: str) -> str:
        return self.database.dsn(account, self.password, patients.DATABASE, port=self.listen_port)

    def _config(self) -> Config:
        data = self.directory / "data"
        data.mkdir(mode=0o700)
        today = dt.datetime.now(dt.UTC).date()
        tomorrow = today + dt.timedelta(days=1)
        base = DEFAULT_POLICY.read_text(encoding="utf-8")
        extra = POLICY.format(batch=patients.BATCH_ACCOUNT, since=today.isoformat(), expires=tomorrow.isoformat())
        # Without its allowance the batch would be judged as any application account.
        base = base.replace('"batch_*" = "batch"\n', f'"{patients.EXPORT_ACCOUNT}" = "export"\n')
        policy = data / "policy.toml"
        policy.write_text(base + extra, encoding="utf-8")
        loaded = load_policy(base + extra, str(policy))
        self.limit = min(
            value
            for limit in loaded.classes["export"].limits
            for level, value in limit.steps
            if limit.unit == "patients" and severity(level) >= severity("cut")
        )
        enforce = self.args.mode == "enforce"
        return Config(
            tenant=TENANT,
            data_dir=str(data),
            sidecar=SidecarConfig(id="demo"),
            listener=[
                ListenerConfig(
                    name="dpi",
                    listen=f"127.0.0.1:{self.listen_port}",
                    upstream=f"127.0.0.1:{self.database.port}",
                    mode=self.args.mode,
                    budget_rows=BUDGET_ROWS if enforce else 0,
                    budget_exempt=[patients.BATCH_ACCOUNT] if enforce else [],
                    patient_columns=patients.PATIENT_COLUMNS,
                    catalog_dsn=self._direct(patients.CATALOG_ACCOUNT),
                )
            ],
            detector=DetectorConfig(policy=str(policy)),
            responder=ResponderConfig(postgres=PostgresHookConfig(dsn=self._direct(patients.HOOK_ACCOUNT))),
            exporter=ExporterConfig(listen=f"127.0.0.1:{free_port()}"),
        )

    # -- the play ---------------------------------------------------------------------------------------------------

    def _perform(self, installation: Installation) -> dict[str, Any]:
        view, thief = self.view, patients.EXPORT_ACCOUNT
        accounts = [*self.people.all, patients.BATCH_ACCOUNT]
        ward = clinic.Clinic(
            {name: self._guarded(name) for name in accounts}, self.people, self.args.patients, self.args.seed
        )
        view.clinic = ward.tally
        view.say(f"{len(self.people.all)} people work in the clinic; the nightly batch runs under its allowance")
        ward.start()
        time.sleep(CALM_S)
        calm = ward.tally.percentile_ms(0.5)

        view.say(
            f"a thief logs in as {thief} (limit: {self.limit:,} patients in 10 s) and begins to page through the files"
        )
        watch = LockWatch(self._admin_dsn, thief)
        watching = threading.Thread(target=watch.run, name="lock watch", daemon=True)
        watching.start()
        loot = view.loot = attack.Loot()
        pause = PAGE_PAUSE_S if self.args.attack == "pages" else 0.0
        attack.dump(self._guarded(thief), self.args.attack, loot, pause)
        crossed_ms = loot.crossed_ms(self.limit)
        if crossed_ms:
            view.say(
                f"LIMIT of {self.limit:,} patients crossed {crossed_ms - loot.started_ms} ms into the attack",
                alarm=True,
            )
        if loot.sqlstate:
            view.say(f"CUT {loot.ended_ms - crossed_ms} ms later, after {len(loot.patients):,} patients", alarm=True)
            view.say(f"the thief reads: {loot.message}")
        else:
            view.say(f"the thief took everything: {len(loot.patients):,} patients", alarm=True)
        watching.join(10.0)
        watch.stop.set()
        if watch.locked_ms:
            view.say(
                f"SUSPENDED in the database {watch.locked_ms - crossed_ms} ms after the limit was crossed", alarm=True
            )
        through, direct = attack.try_login(self._guarded(thief)), attack.try_login(self._direct(thief))
        again = attack.dump(self._guarded(thief), self.args.attack)
        view.say(
            f"the thief logs in again: {'refused' if through else 'ADMITTED'} by the guard, "
            f"{'refused' if direct else 'ADMITTED'} by the database",
            alarm=True,
        )
        time.sleep(AFTER_S)
        view.say("the clinic has gone on; its people log out")
        ward.stop()
        tally = ward.tally
        settled = self._settle(installation)
        on_topic = count_events(installation.config)
        received = tally.rows + tally.batch_rows + loot.rows + again.rows
        budget = BUDGET_ROWS if self.args.mode == "enforce" else 0
        return {
            "patients_total": self.args.patients,
            "mode": self.args.mode,
            "attack": self.args.attack,
            "limit_patients": self.limit,
            "attack_started_ms": loot.started_ms,
            "rows_delivered_to_attacker": loot.rows + again.rows,
            "patients_exposed": len(loot.patients | again.patients),
            "limit_crossed_ms": crossed_ms,
            "cut_ms": loot.ended_ms if loot.sqlstate else 0,
            "locked_ms": watch.locked_ms,
            "lock_effective": bool(through and direct and not again.rows),
            "rows_past_local_limit": max(0, loot.rows + again.rows - budget) if budget else 0,
            "normal_accounts": len(accounts),
            "normal_queries": tally.queries,
            "normal_queries_refused": tally.refused,
            "normal_latency_ms_p50": round(tally.percentile_ms(0.5), 3),
            "normal_latency_ms_p50_before": round(calm, 3),
            "normal_latency_ms_p99": round(tally.percentile_ms(0.99), 3),
            "events_spooled": settled[0],
            "events_published": settled[1],
            "events_counted": settled[2],
            "events_on_topic": on_topic.events,
            "events_lost": max(0, settled[0] - settled[2]) + max(0, on_topic.events - settled[2]),
            "rows_received_by_clients": received,
            "rows_on_topic": on_topic.rows,
            "errors_of_clinic": tally.errors,
        }

    def _settle(self, installation: Installation) -> tuple[int, int, int]:
        """Events spooled, published and counted, once they stand still."""
        names = ("events_spooled_total", "events_published_total", "events_processed_total")
        before: tuple[int, ...] = ()
        deadline = time.monotonic() + 15.0
        while time.monotonic() < deadline:
            found = tuple(int(installation.total(name)) for name in names)
            if found == before and found[0] == found[1] == found[2]:
                break
            before = found
            time.sleep(0.3)
        return before[0], before[1], before[2]


def report(figures: dict[str, Any], view: View) -> None:
    """The incident in ten lines."""
    f = figures

    def clock(ms: int) -> str:
        if not ms:
            return "never"
        return f"{dt.datetime.fromtimestamp(ms / 1000).astimezone():%H:%M:%S}.{ms % 1000:03d}"

    def after(ms: int) -> str:
        return f"{ms - f['limit_crossed_ms']} ms after the limit" if ms and f["limit_crossed_ms"] else "never"

    share = 100 * f["patients_exposed"] / f["patients_total"]
    verdict = "the guard held" if held(f) else "THE GUARD DID NOT HOLD: see the figures"
    lines: list[tuple[str, str]] = [
        ("account", f"{patients.EXPORT_ACCOUNT}, with its real password, by {f['attack']}; guard in {f['mode']} mode"),
        ("began", clock(f["attack_started_ms"])),
        ("limit crossed", f"{clock(f['limit_crossed_ms'])}  (more than {f['limit_patients']:,} patients in 10 s)"),
        ("cut", f"{clock(f['cut_ms'])}  {after(f['cut_ms'])}"),
        ("suspended", f"{clock(f['locked_ms'])}  {after(f['locked_ms'])}, as the database itself says"),
        ("fresh login", "refused by guard and database" if f["lock_effective"] else "ADMITTED"),
        ("patients exposed", f"{f['patients_exposed']:,} of {f['patients_total']:,} ({share:.1f} %), {f['rows_delivered_to_attacker']:,} rows"),
        ("clinic", f"{f['normal_queries']:,} queries of {f['normal_accounts']} accounts, {f['normal_queries_refused']} refused, median {f['normal_latency_ms_p50']:.1f} ms"),
        ("events", f"{f['events_published']:,} published, {f['events_counted']:,} counted, {f['events_lost']} lost"),
        ("result", f"{verdict}; undo: exfilguard unlock {patients.EXPORT_ACCOUNT} --reason .."),
    ]  # fmt: skip
    view.incident(lines)
