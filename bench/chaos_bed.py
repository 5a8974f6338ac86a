"""What the chaos scenarios run on: the topology of deploy/cluster under constant load from real drivers, and the oracle.

The oracle is what the drivers received, row by row and account by account; it is held against what lies on the topic (each frame
once), against the detectors' windows as a new owner would restore them, and against the archive's files. A statement that was broken off may be counted for more
rows than its client received, never for fewer.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pymysql
from kafka.errors import KafkaError

from deploy.cluster.telephone import Telephone
from deploy.cluster.topology import WEST_ACCOUNT, Choices, Topology
from exfilguard.cli.main import main as command
from exfilguard.config.schema import ArchiveConfig, SpoolConfig
from exfilguard.embedded.postgres import EmbeddedPostgres
from exfilguard.errors import BrokerError
from exfilguard.evidence.reader import ArchiveReader
from exfilguard.lab import attack, patients
from exfilguard.runtime.kafka import count_events
from tests.integration.stack import stored_totals

TENANT = "chaos"
PATIENTS = 4_000
PEOPLE = 6
ROWS = 5
SETTLE_S = 60.0
STILL_S = 12.0
TOLD_WITHIN_S = 150.0
"""A fault that should tell is held for as long at most."""
FOR_EVER_MS = 1 << 52
POLICY = """
version = "chaos"
default_class = "anybody"
[class.anybody]
limits = [ { unit = "rows", window = "24h", alert = 1_000_000_000 } ]
"""
CLOCK_SOURCE = Path(__file__).with_name("chaos_clock.c")
NORMAL_ALERTS = {"ExtractionInProgress", "AccountLocked"}
"""They stand from the beginning: one account is locked all the time."""


class Person(threading.Thread):
    """One account with one connection at a time: asks, counts the rows that came, goes on after a failure."""

    def __init__(self, bed: Bed, account: str, seed: int) -> None:
        super().__init__(name=account, daemon=True)
        self.bed, self.account = bed, account
        self._rng = random.Random(seed)
        self.rows = 0
        self.queries = 0
        self.broken = 0
        """Statements or connections that ended without an answer."""
        self.refused: list[str] = []
        """What the server or the guard said no to."""
        self.longest_s = 0.0
        self.leaves = threading.Event()

    def connect(self) -> Any:
        return psycopg.connect(self.bed.east_dsn(self.account), autocommit=True, connect_timeout=5)

    def ask(self, connection: Any, first: int) -> int:
        return len(
            connection.execute(
                "SELECT id FROM patient WHERE id BETWEEN %s AND %s", (first, first + ROWS - 1)
            ).fetchall()
        )

    def kind(self, error: Exception) -> str:
        state = getattr(error, "sqlstate", "") or ""
        return "" if state[:2] in ("", "08", "57") else state

    def run(self) -> None:
        connection = None
        while not (self.bed.over.is_set() or self.leaves.is_set()):
            if self.bed.calm.is_set():
                self.bed.over.wait(0.05)
                continue
            began = time.monotonic()
            try:
                connection = connection or self.connect()
                self.rows += self.ask(connection, self._rng.randrange(1, 300))
                self.queries += 1
                self.longest_s = max(self.longest_s, time.monotonic() - began)
            except (psycopg.Error, pymysql.MySQLError, OSError) as error:
                self.broken += 1
                if said := self.kind(error):
                    self.refused.append(said)
                connection = None
                self.bed.over.wait(0.2)
            self.bed.over.wait(self.bed.think_s * self._rng.random() * 2)


class Western(Person):
    """The same on the MariaDB."""

    def connect(self) -> Any:
        host, port = self.bed.topology.network.hosts["west"].address, self.bed.topology.ports["west"]
        return pymysql.connect(
            host=host, port=port, user=WEST_ACCOUNT, password=self.bed.password, database="dpi", autocommit=True,
            connect_timeout=5, read_timeout=30,
        )  # fmt: skip

    def ask(self, connection: Any, first: int) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT id FROM patient WHERE id BETWEEN %s AND %s", (first, first + ROWS - 1))
            return len(cursor.fetchall())

    def kind(self, error: Exception) -> str:
        number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        return "" if number in (0, 2002, 2003, 2006, 2013, 1053, 1927) else str(number)


class Bed:
    """Started once, used by as many scenarios as fit."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory, self.seed = directory, seed
        self.password = "chaos-" + str(seed)
        self.database = EmbeddedPostgres(directory / "postgres")
        policy = directory / "policy.toml"
        policy.write_text(POLICY, encoding="utf-8")
        self.clock = directory / "clock"
        self.set_clock(0)
        library = directory / "clock.so"
        built = subprocess.run(
            ["gcc", "-O1", "-shared", "-fPIC", "-o", library, CLOCK_SOURCE, "-ldl"], check=False, timeout=60
        )
        self.has_clock = built.returncode == 0
        faked = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self.clock)}
        self.choices = Choices(
            tenant=TENANT, policy=str(policy), east_mode="enforce", budget_rows=1_000_000_000,
            spool=SpoolConfig(segment_bytes=1 << 16, max_bytes=1 << 26), archive=ArchiveConfig(commit_ms=1_000),
            environment={"sidecar-east": faked} if self.has_clock else None,
        )  # fmt: skip
        self.over, self.calm = threading.Event(), threading.Event()
        self.think_s = 0.05
        self.people: list[Person] = []
        self.extra: list[Person] = []
        self.lost_before = 0
        """Rows that earlier scenarios have lost, each within its stated limit."""
        self.small_disks: set[str] = set()
        self.telephone = Telephone()
        """Alertmanager's receiver."""
        self.expects: tuple[str, ...] = ()
        self.began = time.time()
        self._mounts: list[Path] = []

    def east_dsn(self, account: str) -> str:
        t = self.topology
        dsn = self.database.dsn(account, self.password, patients.DATABASE, port=t.ports["east"])
        return dsn.replace("127.0.0.1", t.network.hosts["east"].address)

    def start(self) -> None:
        self.database.start()
        with psycopg.connect(self.database.admin_dsn, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {patients.DATABASE}")
        admin = psycopg.conninfo.make_conninfo(self.database.admin_dsn, dbname=patients.DATABASE)
        patients.load(admin, PATIENTS, self.seed, self.password)
        self.topology = Topology(self.directory, self.database, self.password, self.choices)
        self.topology.webhook = self.telephone.url
        self._mount("east", self.topology.data_dir("east"), 16)
        self._mount("kafka-3", self.topology.kafka.nodes[2].log_dir, 96)
        self.topology.start(lambda text: print(f"  {text}", flush=True))
        accounts = patients.staff().all[:PEOPLE]
        self.people = [Person(self, name, self.seed + n) for n, name in enumerate(accounts)]
        self.people.append(Western(self, WEST_ACCOUNT, self.seed + 99))
        for person in self.people:
            person.start()
        config = str(self.topology.config_path("operator"))
        assert (
            command(["lock", patients.EXPORT_ACCOUNT, "--reason", "chaos: stands all the time", "--config", config])
            == 0
        )
        self.topology.wait(self.lock_stands, 30, "the standing lock is not enforced")

    def stop(self) -> None:
        self.over.set()
        for person in self.everybody:
            person.join(10)
        if hasattr(self, "topology"):
            self.topology.stop()
        self.database.stop()
        self.telephone.close()
        for path in self._mounts:
            subprocess.run(["umount", "-l", str(path)], check=False, timeout=10)

    def _mount(self, name: str, path: Path, megabytes: int) -> None:
        """A disk of its own that can be filled; where that is not allowed, it is not."""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        command_line = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "exfilguard-chaos", str(path)]
        if (
            os.geteuid() == 0
            and subprocess.run(command_line, check=False, capture_output=True, timeout=10).returncode == 0
        ):
            self.small_disks.add(name)
            self._mounts.append(path)

    # -- hands ------------------------------------------------------------------------------------------------------

    def set_clock(self, seconds: int) -> None:
        """East's wall clock, seconds ahead. In place: its processes have the file mapped."""
        with self.clock.open("r+b" if self.clock.is_file() else "wb") as file:
            file.write(seconds.to_bytes(8, sys.byteorder, signed=True))

    def busier(self, times: int) -> None:
        """So many times the people, until `quieter`."""
        known = [p.account for p in self.people[:-1]]
        self.extra = [
            Person(self, known[n % len(known)], self.seed + 1_000 + n) for n in range((times - 1) * len(known))
        ]
        for person in self.extra:
            person.start()

    def quieter(self) -> None:
        """The others leave; what they received stays in the oracle."""
        for person in self.extra:
            person.leaves.set()
        for person in self.extra:
            person.join(10)

    @property
    def everybody(self) -> list[Person]:
        return [*self.people, *self.extra]

    def sleep(self, seconds: float) -> None:
        """Time passes; what ends is started again by its supervisor."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.topology.check()
            time.sleep(0.1)

    def hold(self, at_least_s: float) -> None:
        """The fault goes on until the alerts that it should lead to have arrived at Alertmanager's receiver."""
        self.sleep(at_least_s)
        end = time.monotonic() + TOLD_WITHIN_S - at_least_s
        while time.monotonic() < end and not set(self.expects) <= self.told().keys():
            self.sleep(0.5)

    def hush(self) -> None:
        """Until what is expected rings no more from a fault before, as long as that may reasonably take."""
        end = time.monotonic() + 75.0
        while time.monotonic() < end and set(self.expects) & self.telephone.ringing():
            self.sleep(0.5)

    def told(self) -> dict[str, float]:
        """Alert -> seconds from the beginning of the fault until it arrived at Alertmanager's receiver."""
        rang = self.telephone.since(self.began)
        return {name: after for name, after in rang.items() if name not in NORMAL_ALERTS}

    def fail_over(self) -> None:
        """The PostgreSQL server is killed, its standby (streaming replication) promoted, and the installation told the new address."""
        old = self.database
        standby = EmbeddedPostgres(self.directory / "standby")
        standby.password = old.password
        copy_cluster(old, standby)
        standby.start()
        self.sleep(2.0)
        self.began = time.time()
        old.kill()
        with psycopg.connect(standby.admin_dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_promote(true, 30)")
        self.database = standby
        self.topology.move_database(standby)

    def kill_child(self, sidecar: str, command_name: str) -> None:
        """`kill -9` of one process of a sidecar."""
        os.kill(self.child(sidecar, command_name), signal.SIGKILL)

    def child(self, sidecar: str, command_name: str) -> int:
        """Its process id."""
        parent = self.topology.part(sidecar).pid
        for path in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split():
            argv = Path(f"/proc/{path}/cmdline").read_bytes().split(b"\0")
            if command_name.encode() in argv:
                return int(path)
        raise AssertionError(f"{sidecar} has no {command_name}")

    def kill(self, name: str) -> None:
        os.kill(self.topology.part(name).pid, signal.SIGKILL)

    # -- eyes -------------------------------------------------------------------------------------------------------

    def lock_stands(self) -> bool:
        """A fresh login of the locked account is refused by the guard."""
        return bool(attack.try_login(self.east_dsn(patients.EXPORT_ACCOUNT)))

    def begin(self) -> None:
        """The next scenario starts here."""
        self.began = time.time()
        self.sizes = {path: path.stat().st_size for path in (self.directory / "logs").glob("*.log")}
        for person in self.people:
            person.longest_s = 0.0

    def said(self) -> list[str]:
        """Lines of the logs that an operator would read as trouble."""
        out = []
        for path in sorted((self.directory / "logs").glob("*.log")):
            with path.open("rb") as file:
                file.seek(self.sizes.get(path, 0))
                lines = file.read().decode("utf-8", "replace").splitlines()
            out += [line for line in lines if " ERROR " in line]
        return out

    def everything_counted(self) -> bool:
        """Spooled, published and counted agree, as far as the processes that live have it."""
        return not self.topology.waiting_for() and self.topology.total("spool_oldest_seconds") < 2.0

    def received(self) -> dict[str, int]:
        out: dict[str, int] = defaultdict(int)
        for person in self.everybody:
            out[person.account] += person.rows
        return dict(out)

    def slack(self) -> dict[str, int]:
        """Rows that may be counted and did not arrive: of statements that were broken off."""
        out: dict[str, int] = defaultdict(int)
        for person in self.everybody:
            out[person.account] += person.broken * ROWS
        return dict(out)

    def settle(self) -> dict[str, Any]:
        """The load pauses; the three counts, once they agree or have stood still for long enough."""
        self.calm.set()
        time.sleep(0.5)
        keys = str(self.topology.frame_keys)
        config = replace(self.topology.config, kafka=self.topology.kafka.admin(frame_keys_dir=keys))
        deadline = time.monotonic() + SETTLE_S
        out: dict[str, Any] = {}
        since = time.monotonic()
        while time.monotonic() < deadline:
            self.topology.check()
            before = out
            try:
                topic = count_events(config, 0.5).rows_by_account
                stored = asyncio.run(stored_totals(config, config.kafka.partitions))
                windows = {key.partition("/")[2]: totals[-1][0] for key, totals in stored.items()}
                out = self._compare(topic, windows, self.archived())
            except (KafkaError, BrokerError, OSError) as error:
                out = {
                    "lost": -1,
                    "double": 0,
                    "windows_differ": 0,
                    "archive_differs": 0,
                    "unreadable": type(error).__name__,
                }
            if not any(out.values()):
                break
            since = since if out == before else time.monotonic()
            agree = not out["windows_differ"] and not out["archive_differs"]
            if time.monotonic() - since > STILL_S and agree and self.everything_counted():
                break
            time.sleep(0.3)
        self.lost_before += max(0, out["lost"])
        self.calm.clear()
        return out

    def archived(self) -> dict[str, int]:
        """Rows by account in the archive's files."""
        reader = ArchiveReader(Path(self.topology.configs["archive"].archive_dir))
        with reader.scan(TENANT, 0, FOR_EVER_MS) as connection:
            return dict(connection.execute("SELECT principal, sum(rows)::BIGINT FROM events GROUP BY 1").fetchall())

    def _compare(self, topic: dict[str, int], windows: dict[str, int], archive: dict[str, int]) -> dict[str, Any]:
        received, slack = self.received(), self.slack()
        accounts = set(received)
        return {
            "lost": max(0, sum(max(0, received[a] - topic.get(a, 0)) for a in accounts) - self.lost_before),
            "double": sum(max(0, topic.get(a, 0) - received[a] - slack[a]) for a in accounts),
            "windows_differ": sum(abs(topic.get(a, 0) - windows.get(a, 0)) for a in accounts),
            "archive_differs": sum(abs(topic.get(a, 0) - archive.get(a, 0)) for a in accounts),
        }


def copy_cluster(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    """`pg_basebackup`, with what a standby needs to follow (`-R`)."""
    standby.data_dir.mkdir(mode=0o700)
    directory, account = standby.data_dir, primary.as_user()
    if account:
        os.chown(directory, account["user"], account["group"])
    argv = [
        *(str(primary.bin / "pg_basebackup"), "-D", str(directory / "cluster"), "-R", "-X", "stream", "--no-sync"),
        *("-c", "fast", "-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres"),
    ]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PGPASSWORD": primary.password}
    subprocess.run(argv, check=True, timeout=120, cwd=directory, env=environment, capture_output=True, **account)
