"""What `make bench-relay` runs: a database, a broker, and ways to the database: direct, PgBouncer, HAProxy, the sidecar.

`World` is PostgreSQL's; MySQL's is in relay_mysql.py."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

from exfilguard.cli.common import write_resolved
from exfilguard.config.schema import Config, KafkaConfig, ListenerConfig, SidecarConfig
from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.embedded.child import free_port, port_is_taken
from exfilguard.embedded.postgres import EmbeddedPostgres
from exfilguard.runtime.process import Part, own_command
from exfilguard.runtime.stats import read_all, total

USER, PASSWORD, DATABASE = "bench", "bench-password", "bench"
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Way:
    """One way to the database."""

    name: str
    port: int
    pids: list[int] = field(default_factory=list)

    def cpu_s(self) -> float:
        """Seconds of CPU its processes have used, user and system, all threads."""
        return sum(sum(self.cpu_parts_s(pid)) for pid in self.pids)

    @staticmethod
    def cpu_parts_s(pid: int) -> tuple[float, float]:
        """(user, system) seconds of one process (/proc/PID/stat)."""
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
        values = after_name.split()
        return int(values[11]) * _TICK_S, int(values[12]) * _TICK_S

    def used(self) -> list[tuple[float, float]]:
        """`cpu_parts_s` of each of its processes."""
        return [self.cpu_parts_s(pid) for pid in self.pids]

    def cpu_figures(self, before: list[tuple[float, float]], count: int) -> dict[str, float]:
        """Microseconds a query since `used` gave `before`: of all its processes; of the first, user and system, and of the others."""
        used = [
            (user - user_before, system - system_before)
            for (user, system), (user_before, system_before) in zip(self.used(), before, strict=True)
        ]
        figures = {"cpu_us": sum(map(sum, used)) * 1e6 / count}
        if used:
            figures["user_us"], figures["system_us"] = (part * 1e6 / count for part in used[0])
            figures["others_us"] = sum(map(sum, used[1:])) * 1e6 / count
        return figures

    def rss_kib(self) -> int:
        """Resident memory of its first process."""
        for line in Path(f"/proc/{self.pids[0]}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        return 0


class Ways:
    """What the worlds of both engines share. Everything listens on 127.0.0.1 and ends with the bench."""

    config: Config

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.broker = EmbeddedBroker(log_path=directory / "broker.log")
        self.ways: dict[str, Way] = {}
        self._stack = contextlib.ExitStack()
        self.data_dir = directory / "guard"

    def __exit__(self, *exc: Any) -> None:
        self._stack.close()

    def _start(self, name: str, argv: list[str], port: int, as_user: bool) -> None:
        options: dict[str, Any] = {}
        if as_user and os.getuid() == 0:
            account = pwd.getpwnam("nobody")
            options = {"user": account.pw_uid, "group": account.pw_gid}
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options)
        self._stack.callback(_end, process)
        wait_for(lambda: port_is_taken(port), f"{name} to listen: {self.directory / (name + '.log')}")
        self.ways[name] = Way(name, port, [process.pid])

    def _haproxy(self, upstream_port: int) -> tuple[list[str], int, bool]:
        port = free_port()
        settings = self.directory / "haproxy.cfg"
        settings.write_text(
            "global\n  nbthread 1\n  maxconn 2000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n"
            f"  timeout server 1h\nlisten db\n  bind 127.0.0.1:{port}\n  server s 127.0.0.1:{upstream_port}\n",
            encoding="ascii",
        )
        return [program("haproxy"), "-db", "-f", str(settings)], port, False

    def _start_sidecar(self, settings: Config) -> None:
        """Relay and shipper, publishing: the one listener of these settings, which observes, and as a way of its own another, which
        enforces a budget that nobody reaches."""
        self.config = settings
        observing, port = settings.listener[0], free_port()
        limits = {"mode": "enforce", "budget_rows": 10**9, "budget_patients": 10**8}
        settings.listener.append(replace(observing, name="enforcing", listen=f"127.0.0.1:{port}", **limits))
        pids = self._stack.enter_context(sidecar(settings))
        self.ways["sidecar"] = Way("sidecar", int(observing.listen.rpartition(":")[2]), pids)
        self.ways["enforcing"] = Way("enforcing", port, pids)

    def settled(self) -> None:
        """Everything the relay recorded is in Kafka."""
        wait_for(lambda: spooled(self.data_dir) == published(self.data_dir), "the spool to be published", 30.0)


class World(Ways):
    """PostgreSQL's."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.server = EmbeddedPostgres(directory / "server")

    def __enter__(self) -> World:
        self._stack.enter_context(self.server)
        self._stack.enter_context(self.broker)
        with psycopg.connect(self.server.admin_dsn, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
            connection.execute(f"CREATE DATABASE {DATABASE} OWNER {USER}")
        self.ways["direct"] = Way("direct", self.server.port)
        self._start("pgbouncer", *self._pgbouncer())
        self._start("haproxy", *self._haproxy(self.server.port))
        return self

    def dsn(self, way: str) -> str:
        return self.server.dsn(USER, PASSWORD, DATABASE, port=self.ways[way].port)

    def _pgbouncer(self) -> tuple[list[str], int, bool]:
        port = free_port()
        users = self.directory / "users.txt"
        users.write_text(f'"{USER}" "{PASSWORD}"\n', encoding="ascii")
        users.chmod(0o644)
        settings = self.directory / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self.server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {users}\n"
            "pool_mode = session\nmax_client_conn = 1000\ndefault_pool_size = 200\nserver_reset_query =\n"
            "log_connections = 0\nlog_disconnections = 0\nlog_stats = 0\nignore_startup_parameters = extra_float_digits\n",
            encoding="ascii",
        )
        return [program("pgbouncer"), str(settings)], port, True

    def start_sidecar(self, patient_columns: list[str]) -> None:
        """Patients by origin. The tables must be there."""
        catalog = psycopg.conninfo.make_conninfo(self.server.admin_dsn, dbname=DATABASE)
        upstream = f"127.0.0.1:{self.server.port}"
        self._start_sidecar(
            config(self.data_dir, self.broker.bootstrap, free_port(), upstream, patient_columns, catalog)
        )
        wait_for(lambda: (self.data_dir / "columns.json").is_file(), "the patient columns to be resolved")


def config(
    data_dir: Path, bootstrap: str, port: int, upstream: str, columns: list[str], catalog: str = "", **listener: Any
) -> Config:
    return Config(
        tenant="bench",
        data_dir=str(data_dir),
        kafka=KafkaConfig(bootstrap=bootstrap),  # verdicts are waited for as with Kafka: not polled every 20 ms
        sidecar=SidecarConfig(id="bench"),
        listener=[
            ListenerConfig(
                name="bench", listen=f"127.0.0.1:{port}", upstream=upstream, patient_columns=columns,
                catalog_dsn=catalog, **listener,
            )
        ],
    )  # fmt: skip


@contextlib.contextmanager
def sidecar(settings: Config) -> Iterator[list[int]]:
    """Its processes' ids, the relay's first."""
    directory = Path(settings.data_dir)
    path = directory / "resolved.toml"
    write_resolved(settings, path)
    parts = [Part(n, own_command(n, "--config", str(path)), directory / f"{n}.log") for n in ("relay", "shipper")]
    try:
        for part in parts:
            part.start()
        wait_for(lambda: all(read_all(directory).get(name) for name in ("relay-0", "shipper")), "the sidecar")
        yield [part.pid for part in parts]
    finally:
        for part in parts:
            if part.process is not None:
                _end(part.process)


def spooled(data_dir: Path) -> int:
    return int(total(data_dir, "events_spooled_total"))


def published(data_dir: Path) -> int:
    return int(total(data_dir, "events_published_total"))


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise SystemExit(f"error: {name} is not installed; on Debian/Ubuntu: apt install {name}")
    return found


def wait_for(what: Callable[[], Any], message: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise SystemExit(f"error: waited {seconds:.0f} s for {message}")
        time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
