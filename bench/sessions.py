"""`make bench-sessions`: thousands of real sessions of a real PostgreSQL, or MariaDB, through one relay, most of them idle.

Every session is a login that the server answered with a backend of its own, and asks one question afterwards, which has to come back
with its own answer. Then most are silent while some hundred ask on; one client more than `max_sessions` is refused in
the engine's words. Beside it the same direct, for the rate of set-ups. Memory is the relay's resident memory for each session.

    make bench-sessions                  5,000 sessions; QUICK=1: 1,000
    make bench-sessions SESSIONS=2000    as many as the machine has memory for: a backend of PostgreSQL takes about 2 MB
    make bench-sessions ARGS=mysql       MariaDB

docs/benchmarks/sessions.md tells of the last full run of each engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from exfilguard.embedded.child import free_port
from exfilguard.embedded.mariadb import EmbeddedMariadb
from exfilguard.embedded.postgres import EmbeddedPostgres
from exfilguard.runtime.stats import total
from exfilguard.sidecar.descriptors import descriptor_limit

from .relay_page import DOCS
from .relay_paths import config, sidecar, wait_for
from .report import QUICK, RESULTS, Report, percentile

SESSIONS = int(os.environ.get("SESSIONS", "1_000" if QUICK else "5_000"))
BUSY = 200
BUSY_S = 2.0 if QUICK else 5.0
AT_ONCE = 50
"""Logins under way at once."""
WARM = 50
"""The first sessions pay for what all share."""
BARE = {
    "shared_buffers": "32MB",
    "max_wal_size": "64MB",
    "autovacuum": "off",
    "jit": "off",
    "max_parallel_workers": "0",
}
_BODY = b"user\0crowd\0database\0postgres\0\0"
_HELLO = struct.pack("!II", len(_BODY) + 8, 196608) + _BODY
_READY = b"Z\0\0\0\5I"
# CLIENT_PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH; an account without a password
_RESPONSE = struct.pack("<IIB23x", 0x88201, 1 << 24, 45) + b"crowd\0\0mysql_native_password\0"
_EOF = b"\5\0\0\5\xfe\0\0\2\0"
"""The last packet of a result of one column and one row."""


class Refused(Exception):
    """The server's words, or the guard's."""


class Member(asyncio.Protocol):
    """One session made of bytes: no driver's memory, no driver's time."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.heard += data
        if self.complete():
            self._answer()

    def complete(self) -> bool:
        """The server has said all it will say to what it was last told."""
        return self.heard.endswith(_READY)

    def connection_lost(self, exc: Exception | None) -> None:
        self._answer()

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(bytes(self.heard))

    async def say(self, data: bytes) -> bytes:
        """What the server answers, all of it. Raises Refused."""
        self.heard.clear()
        assert self.transport is not None
        self.transport.write(data)
        return await self.listen()

    async def listen(self) -> bytes:
        self._waiting = asyncio.get_running_loop().create_future()
        if self.complete() or self.transport is None or self.transport.is_closing():
            self._answer()
            return bytes(self.heard)
        answer = await self._waiting
        if not self.complete():
            raise Refused(answer.decode("utf-8", "replace"))
        return answer

    async def log_in(self) -> None:
        """Raises Refused."""
        await self.say(_HELLO)

    async def ask(self, number: int) -> None:
        """Raises AssertionError when the answer is another's."""
        text = b"SELECT %d * 2" % number
        answer = await self.say(b"Q" + struct.pack("!I", len(text) + 5) + text + b"\0")
        own = b"%d" % (number * 2)
        assert struct.pack("!HI", 1, len(own)) + own in answer, f"session {number} got another answer"


class MysqlMember(Member):
    """The same of MariaDB."""

    def complete(self) -> bool:
        if len(self.heard) < 5 or self.heard[4] == 0xFF:
            return False
        if self.heard[3] == 1 and self.heard[4]:  # a result
            return self.heard.endswith(_EOF)
        return len(self.heard) >= 4 + int.from_bytes(self.heard[:3], "little")

    async def log_in(self) -> None:
        await self.listen()  # the greeting
        answer = await self.say(len(_RESPONSE).to_bytes(3, "little") + b"\1" + _RESPONSE)
        if answer[4]:
            raise Refused(answer.decode("utf-8", "replace"))

    async def ask(self, number: int) -> None:
        text = b"\3SELECT %d * 2" % number
        answer = await self.say(len(text).to_bytes(3, "little") + b"\0" + text)
        own = b"%d" % (number * 2)
        row = bytes((len(own) + 1, 0, 0, 4, len(own))) + own
        assert row in answer, f"session {number} got another answer"


MEMBERS: dict[str, type[Member]] = {"postgres": Member, "mysql": MysqlMember}


@dataclass(frozen=True, slots=True)
class Measured:
    """What a crowd costs and how it is served."""

    sessions: int
    set_up_per_s: float
    kib_per_session: float
    """0 without a relay."""
    answers: int
    latency_p50_ms: float
    latency_p99_ms: float
    refused: str
    """What one more than `max_sessions` was told; empty when none was tried."""


async def _join(port: int, engine: str) -> Member:
    _, member = await asyncio.get_running_loop().create_connection(MEMBERS[engine], "127.0.0.1", port)
    try:
        await member.log_in()
    except Refused:
        if member.transport is not None:
            member.transport.close()
        raise
    return member


async def _crowd(
    port: int, sessions: int, relay_pid: int, data_dir: str, busy: int, busy_s: float, engine: str = "postgres"
) -> Measured:
    members: list[Member] = []
    limit = asyncio.Semaphore(AT_ONCE)

    async def join() -> None:
        async with limit:
            members.append(await _join(port, engine))

    await asyncio.gather(*(join() for _ in range(WARM)))
    before_kib = _rss_kib(relay_pid)
    began = time.perf_counter()
    await asyncio.gather(*(join() for _ in range(sessions - WARM)))
    set_up_s = time.perf_counter() - began
    kib = (_rss_kib(relay_pid) - before_kib) / (sessions - WARM) if relay_pid else 0.0
    refused = ""
    if relay_pid:
        assert await asyncio.to_thread(total, data_dir, "sessions") == sessions
        try:
            await _join(port, engine)
        except Refused as error:
            refused = str(error)
    for start in range(0, sessions, 500):
        await asyncio.gather(*(m.ask(n) for n, m in enumerate(members[start : start + 500], start)))
    times: list[float] = []
    until = time.perf_counter() + busy_s

    async def work(number: int, member: Member) -> None:
        while time.perf_counter() < until:
            asked = time.perf_counter()
            await member.ask(number)
            times.append((time.perf_counter() - asked) * 1e3)

    await asyncio.gather(*(work(n, m) for n, m in enumerate(members[:busy])))
    for member in members:
        if member.transport is not None:
            member.transport.close()
    return Measured(
        sessions,
        (sessions - WARM) / set_up_s,
        kib,
        sessions + len(times),
        percentile(times, 0.5),
        percentile(times, 0.99),
        refused,
    )


def _rss_kib(pid: int) -> int:
    if not pid:
        return 0
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def measure(
    directory: Path, sessions: int, busy: int, busy_s: float, ways: Sequence[str] = ("direct", "sidecar")
) -> dict[str, Measured]:
    """`directory`: may be entered by the user PostgreSQL runs as."""
    descriptor_limit()
    settings = {**BARE, "max_connections": str(sessions + 50)}
    out: dict[str, Measured] = {}
    with EmbeddedPostgres(directory / "server", settings=settings) as server:
        hba = server.data_dir / "cluster" / "pg_hba.conf"
        hba.write_text("host all crowd 127.0.0.1/32 trust\n" + hba.read_text(encoding="utf-8"), encoding="utf-8")
        with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
            admin.execute("CREATE ROLE crowd LOGIN")
            admin.execute("SELECT pg_reload_conf()")
            if "direct" in ways:
                out["direct"] = asyncio.run(_crowd(server.port, sessions, 0, "", busy, busy_s))
                wait_for(lambda: _backends(admin) == 0, "the direct sessions to end", 60.0)
            port = free_port()
            guard = config(
                directory / "guard",
                "127.0.0.1:9",
                port,
                f"127.0.0.1:{server.port}",
                ["patient.id"],
                max_sessions=sessions,
            )
            with sidecar(guard) as pids:
                out["sidecar"] = asyncio.run(_crowd(port, sessions, pids[0], guard.data_dir, busy, busy_s))
                wait_for(lambda: total(guard.data_dir, "sessions") == 0, "all sessions to end", 60.0)
                wait_for(lambda: _backends(admin) == 0, "all backends to end", 60.0)
    return out


def measure_mysql(
    directory: Path, sessions: int, busy: int, busy_s: float, ways: Sequence[str] = ("direct", "sidecar")
) -> dict[str, Measured]:
    """The same on MariaDB."""
    descriptor_limit()
    settings = {"max-connections": str(sessions + 50), "back-log": "1000", "performance-schema": "OFF"}
    settings |= {"table-open-cache": "64", "open-files-limit": "19000", "thread-stack": "256K"}
    out: dict[str, Measured] = {}
    with (
        EmbeddedMariadb(directory / "server", settings=settings) as server,
        server.connect() as admin,
        admin.cursor() as cursor,
    ):
        cursor.execute("CREATE USER crowd@'127.0.0.1' IDENTIFIED BY ''")

        def connected() -> int:
            cursor.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'crowd'")
            return int(cursor.fetchone()[0])

        if "direct" in ways:
            out["direct"] = asyncio.run(_crowd(server.port, sessions, 0, "", busy, busy_s, "mysql"))
            wait_for(lambda: not connected(), "the direct sessions to end", 60.0)
        port = free_port()
        guard = config(
            directory / "guard", "127.0.0.1:9", port, f"127.0.0.1:{server.port}", ["patient.id"],
            max_sessions=sessions, engine="mariadb",
        )  # fmt: skip
        with sidecar(guard) as pids:
            out["sidecar"] = asyncio.run(_crowd(port, sessions, pids[0], guard.data_dir, busy, busy_s, "mysql"))
            wait_for(lambda: total(guard.data_dir, "sessions") == 0, "all sessions to end", 60.0)
            wait_for(lambda: not connected(), "all of the server's to end", 60.0)
    return out


def _backends(admin: psycopg.Connection) -> int:
    row = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'crowd'").fetchone()
    return int(row[0]) if row is not None else 0


REFUSED = {"postgres": "C53300", "mysql": "#08004"}


def main() -> int:
    engine = "mysql" if "mysql" in sys.argv[1:] else "postgres"
    report = Report(f"sessions-{engine}" if engine == "mysql" else "sessions")
    with tempfile.TemporaryDirectory(prefix="exfilguard-sessions-") as name:
        Path(name).chmod(0o711)
        found = (measure_mysql if engine == "mysql" else measure)(Path(name), SESSIONS, BUSY, BUSY_S)
    direct, through = found["direct"], found["sidecar"]
    report.facts["sessions"] = SESSIONS
    report.facts["ways"] = {
        way: {key: getattr(one, key) for key in Measured.__slots__ if key != "refused"} for way, one in found.items()
    }
    code = REFUSED[engine]
    report.facts["refused"] = code in through.refused
    report.bar("sessions_at_once", through.sessions, SESSIONS, at_most=False)
    report.bar("idle_session_kib", round(through.kib_per_session, 1), 20)
    report.bar(f"one_more_is_told_{code[1:]}", int(code in through.refused), 1, at_most=False)
    report.bar("set_up_ratio_of_direct", round(through.set_up_per_s / direct.set_up_per_s, 2), 0.5, at_most=False)
    print(
        f"set-ups a second: direct {direct.set_up_per_s:,.0f}, through {through.set_up_per_s:,.0f}; {BUSY} busy among {SESSIONS}: "
        f"p50 {through.latency_p50_ms:.1f} ms (direct {direct.latency_p50_ms:.1f}), p99 {through.latency_p99_ms:.1f} ms "
        f"(direct {direct.latency_p99_ms:.1f}); {through.answers:,} answers, all right"
    )
    status = report.finish()
    if not QUICK:
        write_page()
    return status


def write_page() -> None:
    """docs/benchmarks/sessions.md, of the last run of each engine that is not a quick one."""
    lines = [
        "# Sessions at once",
        "",
        "Generated by `make bench-sessions` (PostgreSQL) and `make bench-sessions ARGS=mysql` (MariaDB); not edited. Every session is a login of",
        f"its own and asks one question, which must come back with its own answer; then {BUSY} of them ask without a pause for {BUSY_S:.0f} s and the",
        "others are silent. Memory is the relay's resident memory for each session. `set_up_ratio_of_direct` is how fast sessions are set up",
        "through the sidecar, to direct.",
        "",
        "| engine | way | sessions | set-ups/s | KiB a session | answers | p50, ms | p99, ms |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    bars = ["", "| engine | bar | value | limit | | when |", "|---|---|--:|--:|---|---|"]
    for engine, name in (("PostgreSQL", "sessions"), ("MariaDB", "sessions-mysql")):
        path = RESULTS / f"{name}.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if found.get("quick", True):
            continue
        for way, one in found["ways"].items():
            kib = f"{one['kib_per_session']:.1f}" if way == "sidecar" else ""
            lines.append(
                f"| {engine} | {way} | {one['sessions']:,} | {one['set_up_per_s']:,.0f} | {kib} | {one['answers']:,} | "
                f"{one['latency_p50_ms']:.1f} | {one['latency_p99_ms']:.1f} |"
            )
        bars += [
            f"| {engine} | {bar['name']} | {bar['value']:g} | {bar['bar']:g} | {'ok' if bar['ok'] else '**short**'} | {found['when'][:10]} |"
            for bar in found["bars"]
        ]
    (DOCS / "sessions.md").write_text("\n".join([*lines, *bars]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
