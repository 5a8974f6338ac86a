"""The MySQL part of `make bench-relay` (`ARGS='--engine mysql'`): the sidecar beside HAProxy (tcp) and no proxy at all, on MariaDB.

As for PostgreSQL (relay.py): interleaved rounds, medians of what was paired within a round, observing and publishing on.

- queries: sysbench oltp_point_select without and with prepared statements; latencies from its histogram (bars of about 2%);
- bulk: 750,000 rows with their patient column, SELECT in text and in binary form, read by a client that only throws away.
"""

from __future__ import annotations

import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from exfilguard.embedded.child import free_port
from exfilguard.embedded.mariadb import EmbeddedMariadb, missing_programs

from . import relay_stages
from .relay_page import write_page
from .relay_parts import OURS, STOPPED, Parts, Sample, tell_queries
from .relay_paths import DATABASE, PASSWORD, USER, Way, Ways, config, program, published
from .report import QUICK, RESULTS, Report

WAYS = ("direct", "haproxy", "sidecar")
QUERY_WAYS = (*WAYS, "enforcing")
"""The last is the sidecar where it counts before it forwards; it has no bars."""
PROTOCOLS = ("simple", "prepared")
STATEMENTS = ("select text", "select binary")
PS_MODE = {"simple": "disable", "prepared": "auto"}
CLIENTS = (1, 16) if QUICK else (1, 16, 64)
ROUNDS = int(os.environ.get("ROUNDS", "1" if QUICK else "5"))
SECONDS = 1 if QUICK else 3
BULK_ROUNDS = 2 if QUICK else 9
ROWS = 750_000
TABLE_ROWS = 50_000
SELECT = "SELECT patient_id, nom, naissance, ville FROM bulk"
_BUCKET = re.compile(r"^\s*([\d.]+) \|.*?(\d+)\s*$", re.MULTILINE)


class MysqlWorld(Ways):
    """One MariaDB, and four ways to it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.server = EmbeddedMariadb(directory / "server", settings={"innodb-buffer-pool-size": "256M"})

    def __enter__(self) -> MysqlWorld:
        if missing := missing_programs():
            raise SystemExit(f"error: {missing} is not installed")
        self._stack.enter_context(self.server)
        self._stack.enter_context(self.broker)
        with self.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {DATABASE}")
            cursor.execute(f"CREATE USER {USER}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'")
            cursor.execute(f"GRANT ALL ON {DATABASE}.* TO {USER}@'127.0.0.1'")
        self.ways["direct"] = Way("direct", self.server.port)
        self._start("haproxy", *self._haproxy(self.server.port))
        return self

    def start_sidecar(self, patient_columns: list[str]) -> None:
        upstream = f"127.0.0.1:{self.server.port}"
        self._start_sidecar(
            config(self.data_dir, self.broker.bootstrap, free_port(), upstream, patient_columns, engine="mariadb")
        )

    def connect(self, way: str) -> Any:
        return self.server.connect(USER, PASSWORD, database=DATABASE, port=self.ways[way].port)


def measure(chosen: set[str], *, page: bool, seconds: float = 0) -> int:
    """`chosen`: some of `queries`, `bulk`; all when empty. `page`: write it in a short run too. `seconds`: stop after this time with
    the exit status STOPPED; the next run goes on. The exit status."""
    report = Report("relay-mysql")
    report.facts["cores"] = os.cpu_count()
    key = [QUICK, ROUNDS, SECONDS, BULK_ROUNDS, list(CLIENTS), sorted(chosen)]
    parts = Parts(RESULTS / "relay-mysql-parts.json", key, seconds)
    with tempfile.TemporaryDirectory(prefix="exfilguard-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with MysqlWorld(directory) as world:
            _load(world)
            world.start_sidecar(["sbtest1.id", "bulk.patient_id"])
            if not chosen or "queries" in chosen:
                for way in QUERY_WAYS:
                    for mode in PS_MODE.values():
                        sysbench(world, way, "--threads=4", "--time=0", "--events=1000", f"--db-ps-mode={mode}", "run")
                for turn in range(ROUNDS):
                    for protocol in PROTOCOLS:
                        parts.run(f"queries {turn} {protocol}", partial(_queries, world, turn, protocol))
            if not chosen or "bulk" in chosen:
                for statement in STATEMENTS:
                    parts.run(f"bulk {statement}", partial(_bulk, world, statement))
    if parts.stopped:
        print(f"stopped with {len(parts.samples)} parts measured: run again to go on", file=sys.stderr)
        return STOPPED
    tell_queries(parts.of("queries"), report, QUERY_WAYS, "haproxy", PROTOCOLS)
    _tell_bulk(parts.of("bulk"), report)
    report.facts["stages"] = relay_stages.measure("mysql")
    status = report.finish()
    if not QUICK or page:
        write_page(
            report, "relay-mysql", "What the sidecar costs, on MariaDB",
            "`make bench-relay ARGS='--engine mysql'`", "sysbench `oltp_point_select`",
        )  # fmt: skip
    parts.finished()
    return status


def _load(world: MysqlWorld) -> None:
    sysbench(world, "direct", "prepare")
    with world.connect("direct") as connection, connection.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE bulk (patient_id INT PRIMARY KEY, nom VARCHAR(20), naissance DATE, ville VARCHAR(20)) AS "
            "SELECT seq AS patient_id, CONCAT('NOM', seq) AS nom, '1940-01-01' + INTERVAL seq % 25000 DAY AS naissance, "
            f"ELT(1 + seq % 4, 'Paris', 'Lyon', 'Marseille', 'Brest') AS ville FROM seq_1_to_{ROWS}"
        )
        cursor.execute("ANALYZE TABLE bulk")


def sysbench(world: MysqlWorld, way: str, *arguments: str) -> str:
    """What it printed."""
    done = subprocess.run(
        [
            program("sysbench"), "oltp_point_select", "--db-driver=mysql", "--mysql-host=127.0.0.1",
            f"--mysql-port={world.ways[way].port}", f"--mysql-user={USER}", f"--mysql-password={PASSWORD}",
            f"--mysql-db={DATABASE}", "--tables=1", f"--table-size={TABLE_ROWS}", "--histogram=on", *arguments,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode or "FATAL" in done.stdout + done.stderr:
        raise SystemExit(f"error: sysbench over {way}: {(done.stdout + done.stderr)[-500:]}")
    return done.stdout


def _shuffled(turn: int, ways: Sequence[str] = WAYS) -> list[str]:
    """The ways in another order each turn."""
    at = turn % len(ways)
    return [*ways[at:], *ways[:at]]


# -- many small queries -----------------------------------------------------------------------------------------------


def _queries(world: MysqlWorld, turn: int, protocol: str) -> list[Sample]:
    return [
        {"protocol": protocol, "clients": clients, "way": way, **_one_load(world, way, protocol, clients)}
        for clients in CLIENTS
        for way in _shuffled(turn, QUERY_WAYS)
    ]


def _one_load(world: MysqlWorld, way: str, protocol: str, clients: int) -> dict[str, float]:
    before_cpu, before = world.ways[way].used(), published(world.data_dir)
    printed = sysbench(
        world, way, f"--threads={clients}", f"--time={SECONDS}", f"--db-ps-mode={PS_MODE[protocol]}", "run"
    )
    ours = way in OURS
    if ours:
        world.settled()
    buckets = [(float(ms), int(count)) for ms, count in _BUCKET.findall(printed.partition("SQL statistics")[0])]
    count = sum(n for _, n in buckets)
    if not count:
        raise SystemExit(f"error: no histogram from sysbench: {printed[-500:]}")
    if ours and (told := published(world.data_dir) - before) < count:
        raise SystemExit(f"error: {count} queries, but only {told} events published")
    return {
        "p50_us": _percentile(buckets, count, 0.50),
        "p99_us": _percentile(buckets, count, 0.99),
        "tps": count / SECONDS,
        **world.ways[way].cpu_figures(before_cpu, count),
    }


def _percentile(buckets: list[tuple[float, int]], count: int, share: float) -> float:
    """Microseconds: the middle of the bucket with that rank."""
    seen = 0
    for ms, n in buckets:
        seen += n
        if seen >= count * share:
            return ms * 1000
    return buckets[-1][0] * 1000


# -- large results ----------------------------------------------------------------------------------------------------


def _bulk(world: MysqlWorld, statement: str) -> list[Sample]:
    out, sizes = [], set()
    for turn in range(BULK_ROUNDS + 1):
        for way in _shuffled(turn):
            before = world.ways[way].cpu_s()
            took, size = _read_all(world, way, binary=statement == "select binary")
            sizes.add(size)
            if way == "sidecar":
                world.settled()
            if turn:  # the first one only warms
                used = world.ways[way].cpu_s() - before
                out.append({"statement": statement, "way": way, "seconds": took, "cpu_s": used})
    if len(sizes) != 1:
        raise SystemExit(f"error: the ways gave results of different lengths: {sizes}")
    return out


def _tell_bulk(samples: list[Sample], report: Report) -> None:
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    cpu: dict[tuple[str, str], list[float]] = defaultdict(list)
    for sample in samples:
        seconds[sample["statement"], sample["way"]].append(sample["seconds"])
        cpu[sample["statement"], sample["way"]].append(sample["cpu_s"])
    report.facts["bulk"] = [
        {"statement": s, "way": w, "seconds": statistics.median(seconds[s, w]), "cpu_s": statistics.median(cpu[s, w])}
        for s in STATEMENTS
        for w in WAYS
        if seconds[s, w]
    ]
    for row in report.facts["bulk"]:
        print(
            f"  {row['statement']:14} {row['way']:9} {row['seconds']:.3f} s, cpu {row['cpu_s']:.3f} s", file=sys.stderr
        )
    for s in STATEMENTS:
        if not seconds[s, "sidecar"]:
            continue
        for against, limit in (("haproxy", 1.0), ("direct", 0.95)):
            ratios = [b / a for a, b in zip(seconds[s, "sidecar"], seconds[s, against], strict=True)]
            name = f"bulk_{s.replace(' ', '_')}_speed_vs_{against}"
            report.bar(name, round(statistics.median(ratios), 2), limit, at_most=False)


def _read_all(world: MysqlWorld, way: str, *, binary: bool) -> tuple[float, int]:
    """Seconds until the last byte of the result, and its bytes; the client looks at nothing but the EOF at its end."""
    connection = world.connect(way)
    with socket.socket(fileno=os.dup(connection._sock.fileno())) as link:
        link.settimeout(None)
        if binary:
            answer = _ask(link, b"\x16" + SELECT.encode())
            request = b"\x17" + answer[5:9] + b"\0\1\0\0\0"
        else:
            request = b"\x03" + SELECT.encode()
        buffer = bytearray(1 << 20)
        began = time.perf_counter()
        link.sendall(len(request).to_bytes(3, "little") + b"\0" + request)
        tail, size = b"", 0
        # EOF: 0xFE, no warnings, status autocommit (perhaps "no good index used"); PyMySQL does not ask for the newer form.
        while not re.search(rb"\x05\0\0.\xfe\0\0[\x02\x22]\0\Z", tail, re.DOTALL) or size < ROWS:
            read = link.recv_into(buffer)
            if not read:
                raise SystemExit("error: the connection ended within a result")
            size += read
            tail = (tail + bytes(buffer[max(0, read - 64) : read]))[-64:]
        took = time.perf_counter() - began
    connection.close()
    return took, size


def _ask(link: socket.socket, request: bytes) -> bytes:
    """The answer to COM_STMT_PREPARE without parameters: up to the EOF behind its columns."""
    link.sendall(len(request).to_bytes(3, "little") + b"\0" + request)
    answer = b""
    while not re.search(rb"\x05\0\0.\xfe\0\0..\Z", answer, re.DOTALL):
        answer += link.recv(65536)
    if answer[4]:
        raise SystemExit(f"error: the statement was not prepared: {answer[:100]!r}")
    return answer
