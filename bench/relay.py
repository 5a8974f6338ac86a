"""`make bench-relay`: what the sidecar costs, beside PgBouncer (session pooling), HAProxy (tcp) and no proxy at all.

All in one run, interleaved: each round does the same load over each way, one after the other, and the figures are medians of
what was paired within a round. The sidecar observes, finds patients by origin, digests and publishes to a real broker.

- queries: `pgbench -S`, simple and prepared protocol (and, without bars, two other ways to ask for the same row); latency from pgbench's log of every transaction, CPU from /proc/PID/stat
  of all processes of a way (the sidecar's: relay and shipper, until everything is published); both after a warm-up: PgBouncer
  hands out server connections that served earlier loads, everybody else's are new, and a new one of PostgreSQL's first has to
  map the shared buffers page by page; PgBouncer also checks each client's password itself (SCRAM), at the start of a load;
- bulk: 750,000 rows with their patient column: SELECT in text and in binary, COPY; read by a client that only throws away, over
  one connection a way that has read them once before;
- memory: 5,000 idle sessions against a server that only accepts; resident memory while a very large result passes.

`--engine`: `postgres`, `mysql` (relay_mysql.py), or both, which is the default of a full run; of a short one it is `postgres`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from . import relay_mysql, relay_stages
from .relay_idle import idle_kib
from .relay_page import write_page
from .relay_parts import OURS, STOPPED, Parts, Sample, tell_queries
from .relay_paths import DATABASE, PASSWORD, USER, World, published
from .report import QUICK, RESULTS, Report

WAYS = ("direct", "pgbouncer", "haproxy", "sidecar")
QUERY_WAYS = (*WAYS, "enforcing")
"""The last is the sidecar where it counts before it forwards; it has no bars."""
PROTOCOLS = ("simple", "prepared")
EVERYDAY = ("extended", "quoted")
"""What applications send as often: a text with parameters that is parsed each time (`-M extended`), and one with strings in it. They have
no bars."""
QUOTED = "SELECT abalance FROM pgbench_accounts WHERE aid = :aid AND filler <> 'Lefèvre, Zoé, née le 1er mai :aid';"
CLIENTS = (1, 16, 64)
EVERYDAY_CLIENTS = (16,)
ROUNDS = int(os.environ.get("ROUNDS", "1" if QUICK else "5"))
SECONDS = 1 if QUICK else 3
WARM_S = 0.4 if QUICK else 2.0
"""Of each load, before what is measured; in a short run it is taken from the second that there is."""
BULK_ROUNDS = 3 if QUICK else 9
ROWS = 750_000
LARGE_GB = 1 if QUICK else 10
SESSIONS = 1_000 if QUICK else 5_000
SCALE = 1
"""100,000 rows: few enough for a server process to have seen all their pages within WARM_S, with 64 clients too."""
ONLY = set(os.environ.get("ONLY", "").split(",")) - {""}
"""For work on one figure: `queries`, `bulk`, `memory`, and names of ways to leave the others out; `page` writes the page in a short run too."""

PARTS = ONLY & {"queries", "bulk", "memory"}

STATEMENTS = {
    "select text": "SELECT patient_id, nom, naissance, ville FROM bulk",
    "select binary": "SELECT patient_id, nom, naissance, ville FROM bulk",
    "copy": "COPY bulk TO STDOUT",
}


def main() -> int:
    parser = argparse.ArgumentParser(description="what the sidecar costs", usage="[QUICK=1] make bench-relay [ARGS=..]")
    parser.add_argument("--engine", choices=("postgres", "mysql", "both"), default="postgres" if QUICK else "both")
    parser.add_argument(
        "--seconds", type=float, default=0, help="stop after this time (exit status 75); run again to go on"
    )
    given = parser.parse_args()
    status = 0
    if given.engine != "mysql":
        status = _postgres(given.seconds)
    if given.engine != "postgres" and status != STOPPED:
        status |= relay_mysql.measure(PARTS, page="page" in ONLY, seconds=given.seconds)
    return status


def _postgres(seconds: float) -> int:
    report = Report("relay")
    report.facts["cores"] = os.cpu_count()
    report.facts["warm_s"] = WARM_S
    report.facts["size"] = (
        f"{'a short run' if QUICK else 'a full run'}: {ROUNDS} rounds of {SECONDS} s a load, {BULK_ROUNDS} of each large result"
    )
    key = [QUICK, ROUNDS, SECONDS, BULK_ROUNDS, sorted(ONLY - {"page"})]
    parts = Parts(RESULTS / "relay-parts.json", key, seconds)
    with tempfile.TemporaryDirectory(prefix="exfilguard-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with World(directory) as world:
            _load(world)
            world.start_sidecar(["pgbench_accounts.aid", "bulk.patient_id"])
            if not PARTS or "queries" in PARTS:
                for way in ways(QUERY_WAYS):  # caches, prepared code, first fingerprints
                    pgbench(world, way, "-S", "-n", "-c", "4", "-t", "500")
                for turn in range(ROUNDS):
                    for protocol in (*PROTOCOLS, *EVERYDAY):
                        parts.run(f"queries {turn} {protocol}", partial(_queries, world, protocol))
            if not PARTS or "bulk" in PARTS:
                for statement in STATEMENTS:
                    parts.run(f"bulk {statement}", partial(_bulk, world, statement))
            if not PARTS or "memory" in PARTS:
                parts.run("memory large", partial(_large, world))
                parts.run("memory idle", partial(_idle, world))
    if parts.stopped:
        print(f"stopped with {len(parts.samples)} parts measured: run again to go on", file=sys.stderr)
        return STOPPED
    tell_queries(parts.of("queries"), report, QUERY_WAYS, "pgbouncer", PROTOCOLS)
    _tell_bulk(parts.of("bulk"), report)
    _tell_memory(parts.of("memory"), report)
    report.facts["stages"] = relay_stages.measure()
    status = report.finish()
    if not QUICK or "page" in ONLY:
        write_page(report)
    parts.finished()
    return status


def _load(world: World) -> None:
    pgbench(world, "direct", "-i", "-s", str(SCALE), "-q")
    _script(world).write_text(f"\\set aid random(1, {100_000 * SCALE})\n{QUOTED}\n", encoding="utf-8")
    with psycopg.connect(world.dsn("direct"), autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE bulk AS SELECT n AS patient_id, 'NOM' || n AS nom, DATE '1940-01-01' + n % 25000 AS naissance, "
            f"(ARRAY['Paris','Lyon','Marseille','Brest'])[1 + n % 4] AS ville FROM generate_series(1, {ROWS}) AS n"
        )
        connection.execute("ALTER TABLE bulk ADD PRIMARY KEY (patient_id)")
        connection.execute("VACUUM ANALYZE bulk")


def pgbench(
    world: World, way: str, *arguments: str, cwd: Path | None = None, meanwhile: Callable[[], None] = lambda: None
) -> None:
    address = ("-h", "127.0.0.1", "-p", str(world.ways[way].port), "-U", USER, DATABASE)
    with subprocess.Popen(
        [str(world.server.bin / "pgbench"), *arguments, *address],
        env={**os.environ, "PGPASSWORD": PASSWORD, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    ) as running:
        meanwhile()
        _, said = running.communicate()
    if running.returncode or "aborted" in said:
        raise SystemExit(f"error: pgbench over {way}: {said[-500:]}")


def ways(among: Sequence[str] = WAYS) -> list[str]:
    chosen = [way for way in among if not ONLY & set(QUERY_WAYS) or way in ONLY]
    random.shuffle(chosen)
    return chosen


# -- many small queries -----------------------------------------------------------------------------------------------


def _queries(world: World, protocol: str) -> list[Sample]:
    return [
        {"clients": clients, "protocol": protocol, "way": way, **_one_load(world, way, protocol, clients)}
        for clients in (EVERYDAY_CLIENTS if protocol in EVERYDAY else CLIENTS)
        for way in ways(QUERY_WAYS)
    ]


def _script(world: World) -> Path:
    return world.directory / "quoted.sql"


def _one_load(world: World, way: str, protocol: str, clients: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=world.directory) as name:
        logs = Path(name)
        found = world.ways[way]
        before = published(world.data_dir)
        since_us, before_cpu = 0, found.used()

        def warm() -> None:
            nonlocal since_us, before_cpu
            time.sleep(WARM_S)
            since_us, before_cpu = time.time_ns() // 1000, found.used()

        seconds = SECONDS if QUICK else SECONDS + round(WARM_S)
        load = ("-f", str(_script(world)), "-M", "simple") if protocol == "quoted" else ("-S", "-M", protocol)
        pgbench(
            world, way, *load, "-n", "-c", str(clients), "-T", str(seconds), "--log",
            "--log-prefix", str(logs / "log"), cwd=logs, meanwhile=warm,
        )  # fmt: skip
        ours = way in OURS
        if ours:
            world.settled()
        # client, transaction, microseconds, script, and when it ended: seconds and microseconds of the epoch
        lines = [line.split(" ") for log in logs.iterdir() for line in log.read_text().splitlines()]
    if ours:
        told = published(world.data_dir) - before
        if told < len(lines):
            raise SystemExit(f"error: {len(lines)} queries, but only {told} events published")
    measured = [(int(line[4]) * 1_000_000 + int(line[5]), int(line[2])) for line in lines]
    latencies = sorted(took for ended_us, took in measured if ended_us >= since_us)
    count = len(latencies)
    return {
        "p50_us": latencies[count // 2],
        "p99_us": latencies[count * 99 // 100],
        "tps": count * 1e6 / (max(ended_us for ended_us, _ in measured) - since_us),
        **found.cpu_figures(before_cpu, count),
    }


# -- large results ----------------------------------------------------------------------------------------------------


def _bulk(world: World, statement: str) -> list[Sample]:
    out = []
    with contextlib.ExitStack() as stack:
        # One connection a way for all turns: a server process that is new has to map the table's pages first.
        links = {way: stack.enter_context(psycopg.connect(world.dsn(way), autocommit=True)).pgconn for way in ways()}
        for turn in range(BULK_ROUNDS + 1):
            for way in random.sample(sorted(links), len(links)):
                before = world.ways[way].cpu_s()
                took = _drain(links[way], STATEMENTS[statement].encode(), statement == "select binary", ROWS)
                if way == "sidecar":
                    world.settled()
                if turn:  # the first one only warms
                    used = world.ways[way].cpu_s() - before
                    out.append({"statement": statement, "way": way, "seconds": took, "cpu_s": used})
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
        ours, name = seconds[s, "sidecar"], s.replace(" ", "_")
        if ours and seconds[s, "direct"] and seconds[s, "pgbouncer"]:
            against = {w: statistics.median(b / a for a, b in zip(ours, seconds[s, w], strict=True)) for w in WAYS[:2]}
            report.bar(f"bulk_{name}_speed_vs_pgbouncer", round(against["pgbouncer"], 2), 1.0, at_most=False)
            report.bar(f"bulk_{name}_speed_vs_direct", round(against["direct"], 2), 0.95, at_most=False)


def _drain(connection: Any, sql: bytes, binary: bool, rows: int) -> float:
    """Seconds until the last byte of the result; the client looks at nothing but the number of rows the server names."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!I", len(body) + 4) + body

    if binary:
        request = message(b"P", b"\0" + sql + b"\0\0\0") + message(b"B", b"\0\0\0\0\0\0\0\1\0\1")
        request += message(b"D", b"P\0") + message(b"E", b"\0\0\0\0\0") + message(b"S", b"")
    else:
        request = message(b"Q", sql + b"\0")
    with socket.socket(fileno=os.dup(connection.socket)) as link:
        link.setblocking(True)
        buffer = bytearray(1 << 20)
        began = time.perf_counter()
        link.sendall(request)
        tail = b""
        while not tail.endswith(b"Z\0\0\0\5I"):
            read = link.recv_into(buffer)
            if not read:
                raise SystemExit("error: the connection ended within a result")
            tail = (tail + bytes(buffer[max(0, read - 64) : read]))[-64:]
        took = time.perf_counter() - began
    if str(rows).encode() not in tail:
        raise SystemExit(f"error: not {rows} rows: {tail!r}")
    return took


# -- memory -----------------------------------------------------------------------------------------------------------


def _large(world: World) -> list[Sample]:
    rows = LARGE_GB * 1_000_000
    sql = f"COPY (SELECT n, repeat('x', 985) FROM generate_series(1, {rows}) AS n) TO STDOUT"
    before = world.ways["sidecar"].rss_kib()
    began = time.monotonic()
    with psycopg.connect(world.dsn("sidecar"), autocommit=True) as connection:
        _drain(connection.pgconn, sql.encode(), False, rows)
    after = world.ways["sidecar"].rss_kib()
    print(f"  {LARGE_GB} GB in {time.monotonic() - began:.1f} s, RSS {before} -> {after} KiB", file=sys.stderr)
    return [{"large": {"gigabytes": LARGE_GB, "rss_before_kib": before, "rss_after_kib": after}}]


def _idle(world: World) -> list[Sample]:
    return [{"idle_kib": idle_kib(world.directory, world.broker.bootstrap, SESSIONS)}]


def _tell_memory(samples: list[Sample], report: Report) -> None:
    for sample in samples:
        if large := sample.get("large"):
            report.facts["large"] = large
            grown = (large["rss_after_kib"] - large["rss_before_kib"]) / 1024
            report.bar("large_result_rss_growth_mib", round(grown, 1), 8)
        else:
            report.facts["idle_sessions"] = SESSIONS
            report.bar("idle_session_kib", round(sample["idle_kib"], 1), 20)


if __name__ == "__main__":
    sys.exit(main())
