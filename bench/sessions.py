"""`make bench-sessions`: thousands of real sessions of a real PostgreSQL through one relay, most of them idle.

Every session is a login that the server answered with a backend of its own, and asks one question afterwards, which has to come back
with its own answer. Then most are silent while some hundred ask on; one client more than `max_sessions` is refused in
PostgreSQL's words. Beside it the same direct, for the rate of set-ups. Memory is the relay's resident memory for each session.

    make bench-sessions                  5,000 sessions; QUICK=1: 1,000
    make bench-sessions SESSIONS=2000    as many as the machine has memory for: a backend takes about 2 MB
"""

from __future__ import annotations

import asyncio
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
from exfilguard.embedded.postgres import EmbeddedPostgres
from exfilguard.runtime.stats import total
from exfilguard.sidecar.descriptors import descriptor_limit

from .relay_paths import config, sidecar, wait_for
from .report import QUICK, Report, percentile

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
        if self.heard.endswith(_READY):
            self._answer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._answer()

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(bytes(self.heard))

    async def say(self, data: bytes) -> bytes:
        """What the server answers, up to ReadyForQuery. Raises Refused."""
        self.heard.clear()
        self._waiting = asyncio.get_running_loop().create_future()
        assert self.transport is not None
        self.transport.write(data)
        answer = await self._waiting
        if not answer.endswith(_READY):
            raise Refused(answer.decode("utf-8", "replace"))
        return answer

    async def ask(self, number: int) -> None:
        """Raises AssertionError when the answer is another's."""
        text = b"SELECT %d * 2" % number
        answer = await self.say(b"Q" + struct.pack("!I", len(text) + 5) + text + b"\0")
        own = b"%d" % (number * 2)
        assert struct.pack("!HI", 1, len(own)) + own in answer, f"session {number} got another answer"


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


async def _join(port: int) -> Member:
    _, member = await asyncio.get_running_loop().create_connection(Member, "127.0.0.1", port)
    try:
        await member.say(_HELLO)
    except Refused:
        if member.transport is not None:
            member.transport.close()
        raise
    return member


async def _crowd(port: int, sessions: int, relay_pid: int, data_dir: str, busy: int, busy_s: float) -> Measured:
    members: list[Member] = []
    limit = asyncio.Semaphore(AT_ONCE)

    async def join() -> None:
        async with limit:
            members.append(await _join(port))

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
            await _join(port)
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


def _backends(admin: psycopg.Connection) -> int:
    row = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'crowd'").fetchone()
    return int(row[0]) if row is not None else 0


def main() -> int:
    report = Report("sessions")
    with tempfile.TemporaryDirectory(prefix="exfilguard-sessions-") as name:
        Path(name).chmod(0o711)
        found = measure(Path(name), SESSIONS, BUSY, BUSY_S)
    direct, through = found["direct"], found["sidecar"]
    report.facts["sessions"] = SESSIONS
    report.facts["ways"] = {
        way: {key: getattr(one, key) for key in Measured.__slots__ if key != "refused"} for way, one in found.items()
    }
    report.facts["refused"] = "C53300" in through.refused
    report.bar("sessions_at_once", through.sessions, SESSIONS, at_most=False)
    report.bar("idle_session_kib", round(through.kib_per_session, 1), 20)
    report.bar("one_more_is_told_53300", int("C53300" in through.refused), 1, at_most=False)
    report.bar("set_up_ratio_of_direct", round(through.set_up_per_s / direct.set_up_per_s, 2), 0.5, at_most=False)
    print(
        f"set-ups a second: direct {direct.set_up_per_s:,.0f}, through {through.set_up_per_s:,.0f}; {BUSY} busy among {SESSIONS}: "
        f"p50 {through.latency_p50_ms:.1f} ms (direct {direct.latency_p50_ms:.1f}), p99 {through.latency_p99_ms:.1f} ms "
        f"(direct {direct.latency_p99_ms:.1f}); {through.answers:,} answers, all right"
    )
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
