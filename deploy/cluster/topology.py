"""The small installation as processes: three secured brokers, a sidecar before a PostgreSQL and one before a MariaDB, two detectors,
responder, archive, console, an exporter a machine, Prometheus and Alertmanager. Each part has the Kafka user of its role."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from exfilguard.cli.common import write_resolved
from exfilguard.cli.main import main
from exfilguard.config.responder import MySQLHookConfig, PostgresHookConfig
from exfilguard.config.schema import (
    ArchiveConfig,
    Config,
    ConsoleConfig,
    DetectorConfig,
    ExporterConfig,
    KafkaConfig,
    ListenerConfig,
    ResponderConfig,
    SidecarConfig,
    SpoolConfig,
)
from exfilguard.embedded.child import Child, free_port
from exfilguard.embedded.kafka_cluster import KafkaCluster
from exfilguard.embedded.mariadb import ADMIN as MARIADB_ADMIN
from exfilguard.embedded.mariadb import EmbeddedMariadb
from exfilguard.embedded.postgres import EmbeddedPostgres
from exfilguard.errors import EmbeddedError
from exfilguard.lab import patients
from exfilguard.runtime.process import Part, Supervisor, own_command
from exfilguard.runtime.stats import Snapshot, read_all, total

from .network import Network

DEPLOY = Path(__file__).parents[1]
ACLS = DEPLOY / "kafka" / "acls.toml"
MACHINES = ["kafka-1", "kafka-2", "kafka-3", "east", "west", "core"]
USERS = {
    "sidecar-east": "east", "sidecar-west": "west", "detector": "core", "responder": "core", "console": "core",
    "archive": "core", "operator": "core",
}  # fmt: skip
READY_S = 90.0
WEST_ACCOUNT = "dpi_west"
WEST_PATIENTS = 3_000


@dataclass(frozen=True, slots=True)
class Choices:
    """What the demo and the chaos scenarios want different."""

    tenant: str = "clinique-demo"
    policy: str = ""
    east_mode: str = "observe"
    budget_rows: int = 0
    spool: SpoolConfig = SpoolConfig()
    archive: ArchiveConfig = ArchiveConfig(enabled=True)
    watched: bool = True
    """With Prometheus and Alertmanager."""
    environment: dict[str, dict[str, str]] | None = None
    """Part -> variables it is started with."""


def load_west(server: EmbeddedMariadb, password: str) -> None:
    """A small hospital on MariaDB, an application account, and the lock-out hook's account with the grants that ship."""
    with server.connect() as connection, connection.cursor() as cursor:
        for statement in (
            "CREATE DATABASE dpi CHARACTER SET utf8mb4",
            "USE dpi",
            "CREATE TABLE dpi.patient (id BIGINT PRIMARY KEY, nom VARCHAR(60) NOT NULL)",
            f"INSERT INTO dpi.patient SELECT seq, CONCAT('NOM', seq MOD 97) FROM seq_1_to_{WEST_PATIENTS}",
            f"CREATE USER {WEST_ACCOUNT}@'%' IDENTIFIED BY '{password}'",
            f"GRANT SELECT, UPDATE ON dpi.* TO {WEST_ACCOUNT}@'%'",
        ):
            cursor.execute(statement)


class Topology:
    """Start, look at and stop all of it. Every call comes from the thread that made it."""

    def __init__(self, directory: Path, database: EmbeddedPostgres, password: str, choices: Choices) -> None:
        """`database`: loaded with the lab's hospital, whose accounts have `password`."""
        self.directory = directory
        self.choices = choices
        self.database = database
        self.password = password
        self.mariadb = EmbeddedMariadb(directory / "mariadb")
        self.network = Network(MACHINES)
        hosts = self.network.hosts
        self.kafka = KafkaCluster(directory / "kafka", [hosts[f"kafka-{n}"] for n in (1, 2, 3)])
        self.secrets = directory / "secrets"
        self.frame_keys = directory / "frame-keys"
        self.supervisor = Supervisor()
        self.ports = {name: free_port() for name in ("east", "west", "console", "prometheus", "alertmanager")}
        self.exporters = {machine: free_port() for machine in ("east", "west", "core")}
        self.configs: dict[str, Config] = {}
        self.monitors: list[Child] = []
        self.webhook = ""
        """Where Alertmanager's pages go; set it before `start`."""

    # -- start and stop ---------------------------------------------------------------------------------------------

    def start(self, tell: Callable[[str], None] = lambda text: None) -> None:
        """Returns when every part works. Raises EmbeddedError."""
        if not self.network.separate:
            tell(f"all machines are this one's loopback, and no link can be cut: {self.network.why_not}")
        tell("starting a MariaDB server" + (", machines as network namespaces" if self.network.separate else ""))
        self.mariadb.start()
        load_west(self.mariadb, self.password)
        tell("starting three brokers of Apache Kafka: TLS, SCRAM-SHA-512, ACLs, three copies of each record")
        self.kafka.start()
        self._setup_kafka()
        self._write_configs()
        tell("starting 2 sidecars, 2 detectors, responder, archive, console, 3 exporters")
        for name in ("sidecar-east", "sidecar-west", "archive", "detector", "responder", "console"):
            if name == "detector":
                self.add_part("detector-1", "detector", "detector", "--worker", "1")
                self.add_part("detector-2", "detector", "detector", "--worker", "2")
            else:
                self.add_part(name, name, name.partition("-")[0])
        for machine in self.exporters:
            self.add_part(f"exporter-{machine}", f"exporter-{machine}", "exporter")
        self.supervisor.start()
        if self.choices.watched:
            self._start_monitors()
        self.wait(lambda: not self.waiting_for(), READY_S, self.waiting_for)

    def _setup_kafka(self) -> None:
        """With the product's own command. Passwords are files of mode 600."""
        admin = self.directory / "admin.toml"
        write_resolved(Config(kafka=self.kafka.admin()), admin)
        where = ("--passwords", str(self.secrets), "--frame-keys", str(self.frame_keys))
        users = [part for user in USERS for part in ("--user", user)]
        with contextlib.redirect_stdout(io.StringIO()):
            for _ in range(20):
                if not main(["kafka-setup", "--config", str(admin), "--acls", str(ACLS), *where, *users]):
                    return
                time.sleep(1.0)
        raise EmbeddedError("kafka-setup did not succeed: see above")

    def user(self, name: str, **changes: Any) -> KafkaConfig:
        """The Kafka settings of one user."""
        password = (self.secrets / f"{name}.password").read_text(encoding="utf-8").strip()
        if name.startswith("sidecar-"):
            changes["frame_key"] = (self.frame_keys / f"{USERS[name]}.key").read_text(encoding="ascii").strip()
        elif name in ("detector", "archive"):
            changes["frame_keys_dir"] = str(self.frame_keys)
        return self.kafka.client(name, password, **changes)

    def data_dir(self, machine: str) -> Path:
        return self.directory / "data" / machine

    def _write_configs(self) -> None:
        hosts = self.network.hosts
        hook = secrets.token_urlsafe(16)
        self._make_west_hook(hook)
        key = secrets.token_hex(32)
        common = Config(tenant=self.choices.tenant, spool=self.choices.spool)
        east = ListenerConfig(
            name="east",
            listen=f"{hosts['east'].address}:{self.ports['east']}",
            upstream=f"unix:{self.database.socket_path}",
            mode=self.choices.east_mode,  # type: ignore[arg-type]
            budget_rows=self.choices.budget_rows,
            budget_exempt=[patients.BATCH_ACCOUNT] if self.choices.budget_rows else [],
            patient_columns=patients.PATIENT_COLUMNS,
            catalog_dsn=self._direct(patients.CATALOG_ACCOUNT),
        )
        west = ListenerConfig(
            name="west",
            engine="mariadb",
            listen=f"{hosts['west'].address}:{self.ports['west']}",
            upstream=f"unix:{self.mariadb.socket_path}",
            patient_columns=["patient.id"],
        )
        responder = ResponderConfig(
            postgres=PostgresHookConfig(dsn=self._direct(patients.HOOK_ACCOUNT), accounts=["*"]),
            mysql=MySQLHookConfig(address=f"unix:{self.mariadb.socket_path}", password=hook, accounts=[WEST_ACCOUNT]),
        )
        # As long as a real one: an alert rings in the last two weeks.
        certificate, private = self.kafka.authority.issue(
            "console", [hosts["core"].address, self.network.here], lasts=timedelta(days=25)
        )
        console = ConsoleConfig(
            listen=f"{hosts['core'].address}:{self.ports['console']}", tls_cert=str(certificate), tls_key=str(private)
        )
        for user, machine in USERS.items():
            self.configs[user] = replace(
                common,
                data_dir=str(self.data_dir(machine)),
                kafka=self.user(user),
                sidecar=SidecarConfig(id=machine, digest_key=key),
                listener=[east] if machine == "east" else [west] if machine == "west" else [],
                detector=DetectorConfig(policy=self.choices.policy),
                responder=responder if user in ("responder", "console", "operator") else ResponderConfig(),
                archive=self.choices.archive,
                console=console,
            )
        for machine, port in self.exporters.items():
            self.configs[f"exporter-{machine}"] = replace(
                common,
                data_dir=str(self.data_dir(machine)),
                exporter=ExporterConfig(listen=f"{hosts[machine].address}:{port}"),
            )
        for name, config in self.configs.items():
            Path(config.data_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
            write_resolved(config, self.config_path(name))

    def _direct(self, account: str) -> str:
        """By the Unix socket: a namespace does not hide it, and it is the way the database is reached on one host."""
        return psycopg.conninfo.make_conninfo(
            host=str(self.database.socket_path.parent), port=self.database.port, user=account, password=self.password,
            dbname=patients.DATABASE,
        )  # fmt: skip

    def move_database(self, database: EmbeddedPostgres) -> None:
        """The PostgreSQL server is another one now: what an operator does after a failover. Raises EmbeddedError."""
        self.database = database
        for name, config in self.configs.items():
            listeners = [
                replace(
                    one, upstream=f"unix:{database.socket_path}", catalog_dsn=self._direct(patients.CATALOG_ACCOUNT)
                )
                if one.name == "east"
                else one
                for one in config.listener
            ]
            hook = config.responder.postgres
            if hook.dsn:
                hook = replace(hook, dsn=self._direct(patients.HOOK_ACCOUNT))
            self.configs[name] = replace(config, listener=listeners, responder=replace(config.responder, postgres=hook))
            write_resolved(self.configs[name], self.config_path(name))
        if main(["restart", "--config", str(self.config_path("sidecar-east"))]):
            raise EmbeddedError("exfilguard restart did not succeed: see above")
        responder = self.part("responder")
        if responder.process is not None:
            responder.process.terminate()

    def config_path(self, name: str) -> Path:
        return self.directory / "etc" / f"{name}.toml"

    def _make_west_hook(self, password: str) -> None:
        """With the script that ships, run by MariaDB's own client, which knows DELIMITER."""
        script = (DEPLOY / "mysql" / "hook.sql").read_text(encoding="utf-8")
        done = subprocess.run(
            ["mariadb", "--no-defaults", "-h127.0.0.1", f"-P{self.mariadb.port}", f"-u{MARIADB_ADMIN}"],
            input=f"{script}\nALTER USER exfilguard_hook@'%' IDENTIFIED BY '{password}';\n", capture_output=True, text=True,
            timeout=60, check=False, env={**os.environ, "MYSQL_PWD": self.mariadb.password},
        )  # fmt: skip
        if done.returncode:
            raise EmbeddedError(f"deploy/mysql/hook.sql: {done.stderr.strip()[-300:]}")

    def machine_of(self, config: str) -> str:
        return config.partition("-")[2] if config.startswith("exporter-") else USERS[config]

    def add_part(self, name: str, config: str, command: str, *arguments: str) -> None:
        argv = own_command(command, "--config", str(self.config_path(config)), *arguments)
        variables = (self.choices.environment or {}).get(name, {})
        if variables:
            argv = ["env", *(f"{key}={value}" for key, value in variables.items()), *argv]
        argv = [*self.network.hosts[self.machine_of(config)].enter, *argv]
        self.supervisor.parts.append(Part(name, argv, self.directory / "logs" / f"{name}.log"))

    def part(self, name: str) -> Part:
        return next(part for part in self.supervisor.parts if part.name == name)

    def log(self, name: str) -> str:
        path = self.directory / "logs" / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def _start_monitors(self) -> None:
        programs = {name: shutil.which(name) for name in ("prometheus", "prometheus-alertmanager")}
        if missing := [name for name, found in programs.items() if found is None]:
            raise EmbeddedError(f"not installed: {', '.join(missing)}: apt install prometheus prometheus-alertmanager")
        directory = self.directory / "monitor"
        directory.mkdir(exist_ok=True)
        manager, ours = f"127.0.0.1:{self.ports['alertmanager']}", f"127.0.0.1:{self.ports['prometheus']}"
        routes = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8")
        for receiver in ("oncall", "daytime"):
            # Older versions of Alertmanager have no url_file.
            routes = routes.replace(
                f"url_file: /etc/alertmanager/{receiver}.url", f"url: {self.webhook or 'http://127.0.0.1:9/'}{receiver}"
            )
        (directory / "alertmanager.yml").write_text(routes, encoding="utf-8")
        for name in ("alerts.yml", "recording.yml"):
            shutil.copy(DEPLOY / "prometheus" / name, directory)
        targets = '", "'.join(f"{self.network.hosts[m].address}:{port}" for m, port in self.exporters.items())
        shipped = (DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
        (directory / "prometheus.yml").write_text(
            shipped.replace("alertmanager:9093", manager).replace("exfilguard:9187", targets), encoding="utf-8"
        )
        for name, argv in (
            ("Alertmanager", [
                str(programs["prometheus-alertmanager"]), f"--config.file={directory / 'alertmanager.yml'}",
                f"--storage.path={directory / 'am'}", f"--web.listen-address={manager}", "--cluster.listen-address=",
            ]),
            ("Prometheus", [
                str(programs["prometheus"]), f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'tsdb'}", f"--web.listen-address={ours}",
            ]),
        ):  # fmt: skip
            child = Child(name, directory / f"{name}.log")
            child.start(argv)
            self.monitors.append(child)

    def stop(self) -> None:
        """What still holds events first, the brokers last."""
        for child in self.monitors:
            child.stop()
        for part in ("exporter-", "console", "responder", "detector-"):  # together: each takes seconds
            self.supervisor.signal(part, signal.SIGTERM)
        self.supervisor.stop(grace_s=25.0)
        self.kafka.stop()
        self.mariadb.stop()
        self.network.close()

    # -- what goes on -----------------------------------------------------------------------------------------------

    def snapshots(self) -> dict[str, Snapshot | None]:
        """By machine and process."""
        return {f"{m}/{name}": s for m in self.exporters for name, s in read_all(self.data_dir(m)).items()}

    def waiting_for(self) -> str:
        found = self.snapshots()
        for name in ("east/relay-", "east/shipper", "west/relay-", "west/shipper", "core/archive"):
            if not any(known.startswith(name) and snapshot is not None for known, snapshot in found.items()):
                return name.removesuffix("-")
        detectors = [found.get(f"core/detector-{n}") for n in (1, 2)]
        held = sum(len(d.details["partitions"]) for d in detectors if d is not None and d.details.get("ready"))
        if held < self.configs["detector"].kafka.partitions:
            return "detectors (they share the partitions)"
        responder = found.get("core/responder")
        if responder is None or not responder.details.get("partitions"):
            return "responder"
        return ""

    def check(self) -> None:
        """Restart what has ended, as systemd or Kubernetes would."""
        self.supervisor.check()

    def wait(self, ready: Callable[[], Any], seconds: float, what: Callable[[], str] | str) -> Any:
        """The first true value of `ready`, restarting what ends meanwhile. Raises EmbeddedError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check()
            if found := ready():
                return found
            time.sleep(0.05)
        text = what if isinstance(what, str) else what()
        raise EmbeddedError(f"not within {seconds:.0f} s: {text}; logs are below {self.directory / 'logs'}")

    def total(self, metric: str, **labels: str) -> float:
        return sum(total(self.data_dir(machine), metric, **labels) for machine in self.exporters)

    @property
    def config(self) -> Config:
        """The operator's."""
        return self.configs["operator"]
