"""A relay between two ends that one thread drives: what is said on one side, what arrives on the other, and how it ends.

Both ends are sockets of the test. Beside them a neighbour asks and is answered all the time, through the same process: when its
answer has come, the relay has done what was to be done before, so nothing here sleeps.
"""

from __future__ import annotations

import errno
import re
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from exfilguard.config.schema import Config, KafkaConfig, ListenerConfig
from exfilguard.runtime.stats import read_snapshot
from exfilguard.wire.mysql import messages
from exfilguard.wire.mysql import startup as login
from tests.badinput import mysql, postgres
from tests.badinput.case import Case
from tests.integration.stack import Stack, listener, port_of
from tests.wire import build

_T = TypeVar("_T")
SETTINGS = {
    "observe, forward": {"mode": "observe", "on_desync": "forward"},
    "observe, close": {"mode": "observe", "on_desync": "close"},
    "enforce, close": {"mode": "enforce", "on_desync": "close", "budget_rows": 10**17, "budget_patients": 10**17},
}
"""The columns of the page: mode and on_desync."""
PROXIED = "PROXY header"
PHASES = {"postgres": postgres.PHASES, "mysql": mysql.PHASES}
QUIET_ROUNDS = 10
"""The neighbour was answered so often and nothing more came: it is over."""
QUIET_S = 0.005
"""And for so long at least: the relay is not the only process of a machine."""
PATIENCE_S = 20.0
_PG_ERROR = re.compile(rb"E....SFATAL\0VFATAL\0C(.....)\0M", re.DOTALL)
_MY_ERROR = re.compile(rb"....\xff(..)#.....(?:ExfilGuard|terminating)", re.DOTALL)


class Wire:
    """One end of a connection, without waiting."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = end
        self.heard = b""
        self.over = ""
        """closed, or reset, by the other end."""

    def listen(self) -> None:
        while not self.over:
            try:
                data = self.socket.recv(1 << 20)
            except BlockingIOError:
                return
            except OSError as error:
                self.over = "reset" if error.errno == errno.ECONNRESET else "closed"
                return
            self.heard += data
            if not data:
                self.over = "closed"

    def send(self, data: bytes) -> bytes:
        """As much as goes; returns the rest."""
        try:
            return data[self.socket.send(data) :] if data else b""
        except BlockingIOError:
            return data
        except OSError:  # the relay has closed: nobody hears the rest
            return b""

    def end(self, how: str) -> None:
        with suppress(OSError):
            if how == "half-close":
                self.socket.shutdown(socket.SHUT_WR)
                return
            if how == "reset":
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        self.over = self.over or "by itself"


class Database:
    """The socket that one listener takes for its database."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._socket.setblocking(False)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def accept(self) -> Wire | None:
        try:
            return Wire(self._socket.accept()[0])
        except BlockingIOError:
            return None

    def close(self) -> None:
        self._socket.close()


class Stand:
    """The relay, its listeners, and the neighbour."""

    def __init__(self, directory: Path, certificate: tuple[str, str]) -> None:
        self.databases: dict[str, Database] = {}
        listeners: list[ListenerConfig] = []
        cert, key = certificate
        for engine in PHASES:
            for name, settings in SETTINGS.items():
                made = self._listener(listener_name(engine, name), engine=engine, **settings)
                # One engine with TLS, one without: the relay then runs on the sockets in C.
                listeners.append(
                    replace(made, tls="terminate", tls_cert=cert, tls_key=key) if engine == "postgres" else made
                )
        listeners.append(self._listener(listener_name("hasty"), login_timeout_ms=1_500))
        listeners.append(self._listener(listener_name(PROXIED), proxy_protocol_in=["127.0.0.0/8"]))
        self.ports = {one.name: port_of(one.listen) for one in listeners}
        self.stack = Stack(
            Config(
                tenant="clinic", data_dir=str(directory / "data"), kafka=KafkaConfig(bootstrap="127.0.0.1:9"),
                listener=listeners,
            )
        )  # fmt: skip
        self.stack.start("relay")
        self.stack.relay_ready()
        self.pid = self.stack.parts["relay"].pid
        self._stats = self.stack.data_dir / "run" / "relay-0.stats"
        self.pings = 0
        self._neighbour = self._log_in()

    def _listener(self, name: str, **settings: object) -> ListenerConfig:
        database = self.databases[name] = Database()
        return listener(database.address, name=name, **settings)

    def _log_in(self) -> tuple[Wire, Wire]:
        name = listener_name("postgres", "observe, forward")
        client = self.connect(name)
        client.send(postgres.HELLO)
        server = self.until(self.databases[name].accept)
        self.until(lambda: server.listen() or len(server.heard) >= len(postgres.HELLO))
        server.send(build.LOGIN)
        self.until(lambda: client.listen() or client.heard == build.LOGIN)
        return client, server

    def close(self) -> None:
        for end in self._neighbour:
            end.end("close")
        self.stack.stop()
        for database in self.databases.values():
            database.close()

    # -- driving it -------------------------------------------------------------------------------------------------

    def connect(self, name: str) -> Wire:
        return Wire(socket.create_connection(("127.0.0.1", self.ports[name]), timeout=10))

    @staticmethod
    def until(what: Callable[[], _T | None]) -> _T:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := what()):
            assert time.monotonic() < deadline, "the relay does nothing"
            time.sleep(0.0002)
        return found

    def ping(self) -> None:
        """The neighbour asks, and is answered."""
        client, server = self._neighbour
        asked = build.query("SELECT 1")
        answer = build.description(("a", 0, 0, 23)) + build.row(b"1") + build.complete("SELECT 1") + build.READY
        client.heard = server.heard = b""
        client.send(asked)
        self.until(lambda: server.listen() or server.heard == asked)
        server.send(answer)
        self.until(lambda: client.listen() or client.heard == answer)
        self.pings += 1

    def desynced(self) -> float:
        found = read_snapshot(self._stats)
        assert found is not None, "the relay answers"
        return sum(value for name, _, value in found.values if name == "desynced_total")

    def play(self, engine: str, settings: str, case: Case) -> str:
        """What becomes of it, in words."""
        name = listener_name(PROXIED) if case.phase == PROXIED else listener_name(engine, settings)
        talk = Talk(self, name)
        before = self.desynced()
        try:
            talk.reach(engine, case.phase)
            talk.say(case)
            talk.settle()
            return talk.outcome(engine, case, desynced=self.desynced() > before)
        except AssertionError as error:
            raise AssertionError(f"{name}, {case.phase}, {case.side}: {case.what}: {error}") from None
        finally:
            talk.close()


def listener_name(*words: str) -> str:
    """Of a listener."""
    return "-".join(words).replace(", ", "-").replace(" ", "-")


class Talk:
    """One conversation through the relay."""

    def __init__(self, stand: Stand, name: str) -> None:
        self.stand = stand
        self._database = stand.databases[name]
        self.client = stand.connect(name)
        self.server: Wire | None = None
        self._others: list[Wire] = []
        """Cancels."""
        self._client_at = self._server_at = 0

    def listen(self) -> tuple[object, ...]:
        """Hear both; returns what shows whether anything happened."""
        while (came := self._database.accept()) is not None:
            if self.server is None:
                self.server = came
            else:
                self._others.append(came)
        self.client.listen()
        if self.server is not None:
            self.server.listen()
            self._refuse_nobody(self.server)
        for other in self._others:
            other.listen()
            if other.heard and not other.over:
                other.end("close")  # a cancel: done
        server = self.server
        return len(self.client.heard), self.client.over, server and (len(server.heard), server.over), len(self._others)

    @staticmethod
    def _refuse_nobody(server: Wire) -> None:
        """Whom the guard takes its leave as (sidecar/mysql/parting.py) is told what a server tells."""
        at = server.heard.find(login.NOBODY)
        if at >= 0:
            server.heard = server.heard[: at - login.SSL_REQUEST_BYTES - 4]
            server.send(messages.packet(2, messages.err(1045, "28000", "Access denied")))

    def reached(self) -> Wire:
        self.stand.until(lambda: self.listen() and self.server is not None)
        assert self.server is not None
        return self.server

    def until_heard(self, end: Wire, size: int) -> None:
        self.stand.until(lambda: self.listen() and len(end.heard) >= size)

    def reach(self, engine: str, phase: str) -> None:
        found = PHASES[engine][phase]
        said = shown = 0
        for side, data in found.steps:
            if side == ">":
                self.client.send(data)
                said += len(data)
                if found.connected:
                    self.until_heard(self.reached(), said)
            else:
                if side == "<":
                    self.reached().send(data)
                shown += len(data)
                self.until_heard(self.client, shown)
        if found.connected:
            self.reached()
        self._client_at = len(self.client.heard)
        self._server_at = len(self.server.heard) if self.server is not None else 0

    def say(self, case: Case) -> None:
        end = self.client if case.side == "client" else self.reached()
        rest = case.data
        deadline = time.monotonic() + PATIENCE_S
        while rest and not end.over and time.monotonic() < deadline:
            rest = end.send(rest)
            self.listen()
            if rest:
                self.stand.ping()
                if len(rest) == len(case.data):
                    time.sleep(0.001)
        if case.end:
            self.settle()  # what was said has arrived
            end.end(case.end)

    def settle(self) -> None:
        state, quiet = self.listen(), 0
        least = time.monotonic() + QUIET_S
        while quiet < QUIET_ROUNDS or time.monotonic() < least:
            self.stand.ping()
            now = self.listen()
            quiet = quiet + 1 if now == state else 0
            state = now

    def outcome(self, engine: str, case: Case, *, desynced: bool) -> str:
        client, server = self.client, self.server
        shown = client.heard[self._client_at :]
        found = (_PG_ERROR if engine == "postgres" else _MY_ERROR).search(shown)
        words = []
        arrived = shown if case.side == "server" else server.heard[self._server_at :] if server is not None else b""
        if case.data:
            if arrived[: len(case.data)] == case.data:
                words.append("forwarded")
            elif arrived and (case.side == "client" or not found or found.start() > 0):
                words.append("forwarded in part" if case.data.startswith(arrived[:1]) else "forwarded, changed")
            else:
                words.append("not forwarded")
        if desynced:
            words.append("desynced")
        if found is not None:
            code = found[1].decode("ascii") if engine == "postgres" else str(int.from_bytes(found[1], "little"))
            words.append(f"error {code}")
        elif case.side == "client" and shown and words[:1] != ["forwarded"]:
            words.append(f"answered {shown[:1]!r}" if len(shown) == 1 else "answered")
        words.append(self._end(case))
        return ", ".join(words)

    def _end(self, case: Case) -> str:
        client, server = self.client.over, self.server.over if self.server is not None else None
        if case.end in ("close", "reset"):
            other = server if case.side == "client" else client
            return "the other side stays open" if other == "" else "both closed"
        if client and (server or server is None):
            return "both closed" if server else "closed"
        if case.end == "half-close" and server:
            return "passed on, the answer is awaited"
        if client:
            return "client closed, database open"
        return "goes on" if not server else "client open, database closed"

    def close(self) -> None:
        for end in (self.client, self.server, *self._others):
            if end is not None:
                end.end("close")
        for _ in range(QUIET_ROUNDS):  # what was still on its way is not the next conversation's
            self.stand.ping()
            while (late := self._database.accept()) is not None:
                late.end("close")
