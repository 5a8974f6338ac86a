"""One relay process: the listeners, the spool, the standing verdicts, its figures.

Started by the supervisor as `exfilguard relay --worker N`. Verdicts and patient columns arrive from the shipper as lines
of JSON on a Unix socket; the tables saved on disk are read at start, so that a restart enforces what stood before.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import secrets
import signal
import socket
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast

import orjson
import uvloop

from ..config.load import identity_keys, parse_address
from ..config.schema import Config, ListenerConfig
from ..errors import CodecError, ConfigError
from ..events.codec import decode_verdict
from ..events.query import QueryEvent
from ..events.verdict import Verdict, severity
from ..observe.asked import AskedColumns
from ..observe.classify import Classifier
from ..observe.contexts import Contexts
from ..observe.copy_tables import CopyTables, table_of
from ..observe.identity import Rules
from ..observe.mysql.patients import OriginColumns
from ..observe.mysql.statement import normalise as mysql_normalise
from ..observe.mysql.statement import templates as mysql_templates
from ..observe.outlet import COMPILED
from ..observe.patients import Digester, PatientColumns
from ..observe.statement import normalise as postgres_normalise
from ..observe.tally import Setting
from ..observe.templates import Templates
from ..runtime.clock import now_ms
from ..runtime.holding import hold
from ..runtime.stats import DISK_TROUBLE, Snapshot, StatsServer, run_dir, short_path
from ..wire import proxy
from .budget import LocalBudget
from .descriptors import RESERVED_DESCRIPTORS, descriptor_limit, descriptor_problem
from .dialing import named
from .drain import drain, stop_listening
from .engine import FrontMaker, Refusal
from .gate import Gate
from .journal import Counters, Journal, ListenerOutlet
from .listening import BACKLOG, ask_whether_there, open_sockets
from .mysql.front import MysqlFront
from .postgres.front import PostgresFront
from .relay import Session
from .sides import ClientSide, ServerSide
from .throttle import Throttle
from .tls import Certificates
from .verdict_table import VerdictTable

try:
    from ._pump import PumpLoop as make_loop
except ImportError:  # no C compiler at installation
    make_loop = uvloop.new_event_loop  # type: ignore[assignment,misc]

log = logging.getLogger(__name__)

STALLED_S = 0.1
ARRIVING = 1_000
"""Clients beyond `max_sessions` that may be logging in, or be told that there are too many."""
MAX_CANCELS = 32
"""Cancels on their way to the database at once; more wait. They need no login, so nothing else bounds them."""
MAX_CONTROL_LINE = 64 << 20
"""Bytes of what the shipper says at once: the columns of half a million tables."""
MAX_SHAPED_BYTES = 64 << 10
"""The flags of a longer text are not kept by its shape, which costs more than they do."""

FRONTS: dict[str, FrontMaker] = {"postgres": PostgresFront, "mysql": MysqlFront, "mariadb": MysqlFront}


class Guard:
    """Everything the sessions of one listener share."""

    def __init__(self, worker: Worker, listener: ListenerConfig) -> None:
        self.worker = worker
        self.listener = listener
        self.make_front = FRONTS[listener.engine]
        self.counters = Counters()
        self.setting = Setting(
            listener.name,
            worker.digester,
            listener.progress_rows,
            listener.progress_ms,
            listener.large_value_bytes,
            # for observers that encode their statements themselves
            ListenerOutlet(worker.journal, self.counters, listener.name) if COMPILED else None,
        )
        self.gate = Gate()
        self.gate.standing = worker.verdicts
        self.columns: PatientColumns | OriginColumns = (
            PatientColumns(listener.patient_columns)
            if listener.engine == "postgres"
            else OriginColumns(listener.patient_columns)
        )
        self.contexts = worker.contexts
        self.rules = identity_rules(listener)
        self.classifier = Classifier(self.rules.engine, listener.watch)
        self.asked = AskedColumns([*listener.patient_columns, *listener.asked_columns], self.rules.engine)
        make = Templates if listener.engine == "postgres" else mysql_templates
        self.templates = make(self.asked, settings=self.rules.settings_count, doubted=self.classifier.doubted)
        self.denied = denied_flags(listener)
        self._deny_except = [allowance.rpartition(":")[::2] for allowance in listener.deny_except]
        self.budget: LocalBudget | None = None
        if listener.mode == "enforce":
            self.budget = LocalBudget(listener.budget_rows, listener.budget_patients, listener.budget_window_ms)
        self._exempt = tuple(listener.budget_exempt)
        self.sessions: dict[str, set[Session]] = defaultdict(set)
        self.sessions_open = 0
        self.unreported: set[Session] = set()
        """Sessions with rows that no event has told yet: a result that stalls is still reported in time."""
        self.certificates = Certificates(listener)
        upstream = listener.upstream
        self._name = None if upstream.startswith("unix:") else named(*parse_address(upstream))
        self._load_balancers = [ipaddress.ip_network(network) for network in listener.proxy_protocol_in]
        self._desynced_sessions: set[str] = set()
        self.listening: list[tuple[asyncio.Server, socket.socket]] = []
        self.clients = 0
        """Connections from clients: logged in, logging in, or told the end and not gone yet."""
        self.max_sessions = min(listener.max_sessions, worker.max_clients)
        self.cancels = asyncio.Semaphore(MAX_CANCELS)
        self._next_idle_ms = 0
        self.lingering = 0
        """Clients that were told the end and have not closed yet."""

    @property
    def tls(self) -> ssl.SSLContext | None:
        """Towards clients; None when TLS is refused."""
        return self.certificates.server

    @property
    def upstream_tls(self) -> ssl.SSLContext | None:
        """Towards the database."""
        return self.certificates.client

    def believes(self, address: str) -> bool:
        """True for a load balancer, whose PROXY header says who the client is."""
        if not self._load_balancers or not address:
            return False
        found = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found in network for network in self._load_balancers)

    def make_session(self, client: ClientSide) -> Session:
        """For a client that was accepted."""
        return Session(self, client, client.addresses.source or "unix")

    # -- sessions ---------------------------------------------------------------------------------------------------

    def budget_of(self, principal: str) -> LocalBudget | None:
        """The local budget, for an account it applies to."""
        return None if any(fnmatchcase(principal, pattern) for pattern in self._exempt) else self.budget

    def may_replicate(self, account: str) -> bool:
        """True for an account that `allow_replication` names."""
        return any(fnmatchcase(account, pattern) for pattern in self.listener.allow_replication)

    def opened(self, session: Session) -> None:
        self.sessions[session.principal].add(session)
        self.sessions_open += 1

    def denied_flag(self, principal: str, sql: bytes, piece: bool = False) -> str:
        """The flag for which this statement, or piece of one, does not pass; empty when it may."""
        if not self.denied:
            return ""
        if piece:
            return self.denied_of(principal, self.classifier.words(sql))
        if len(sql) > MAX_SHAPED_BYTES:
            return self.denied_of(principal, self.classifier.flags("", sql, self.columns.mentioned_in))
        normalise = mysql_normalise if self.rules.engine == "mysql" else postgres_normalise
        fingerprint, _ = normalise(sql.decode("utf-8", "replace"))
        return self.denied_of(principal, self.classifier.flags(fingerprint, sql, self.columns.mentioned_in))

    def denied_of(self, principal: str, flags: Collection[str]) -> str:
        """The one of a statement's flags for which it does not pass; empty when it may."""
        for flag in flags:
            if flag in self.denied and not any(
                flag == allowed and fnmatchcase(principal, pattern) for pattern, allowed in self._deny_except
            ):
                return flag
        return ""

    def moved(self, session: Session, principal: str) -> None:
        """Another principal is charged for this session now."""
        held = self.sessions.get(session.principal)
        if held is not None:
            held.discard(session)
            if not held:
                del self.sessions[session.principal]
        session.principal = principal
        self.sessions[principal].add(session)

    def gone(self, session: Session) -> None:
        held = self.sessions.get(session.principal)
        if held is not None and session in held:
            held.discard(session)
            self.sessions_open -= 1
            if not held:
                del self.sessions[session.principal]
        self._desynced_sessions.discard(session.id)
        self.unreported.discard(session)

    def report_stalled(self) -> None:
        """Progress of results that have stopped flowing."""

        def report(session: Session) -> None:
            observer = session.observer
            self.unreported.discard(session)
            if observer is not None and observer.untold():
                if events := observer.tick(now_ms()):
                    self.emit(session, events)
                self.unreported.add(session)

        self._each(list(self.unreported), report, forwarded=self.listener.mode == "observe")

    def _each(self, sessions: list[Session], work: Callable[[Session], None], *, forwarded: bool) -> None:
        """An error of the guard's own at one session keeps no other from what is done with all of them."""
        for session in sessions:
            try:
                work(session)
            except Exception as error:
                session.failed(error, forwarded=forwarded)

    def close_idle(self) -> None:
        """Sessions in which nothing was said for `idle_timeout`. Looked for four times in that time, and not more often than
        once a second."""
        limit = self.listener.idle_timeout_ms
        now = now_ms()
        if not limit or now < self._next_idle_ms:
            return
        self._next_idle_ms = now + min(limit // 4, 1_000)
        for session in self.all_sessions():
            observer = session.observer
            if observer is not None and not observer.awaiting_reply and now - session.heard_ms >= limit:
                self.counters.idle_closed += 1
                session.dismiss(Refusal.IDLE, "terminating connection due to idle-session timeout")

    def all_sessions(self) -> list[Session]:
        return [session for sessions in self.sessions.values() for session in sessions]

    def note_desynced(self, session: Session) -> bool:
        """True the first time for this session."""
        if session.id in self._desynced_sessions:
            return False
        self._desynced_sessions.add(session.id)
        self.counters.desynced += 1
        return True

    def local_limit_reached(self, rows_left: int | None) -> tuple[int, str]:
        """Which local limit a cut was for."""
        if (
            self.listener.budget_rows
            and rows_left is not None
            and (not self.listener.budget_patients or rows_left == 0)
        ):
            return self.listener.budget_rows, "rows"
        if self.listener.budget_patients:
            return self.listener.budget_patients, "patients"
        return self.listener.budget_rows, "rows"

    def emit(self, session: Session, events: Sequence[QueryEvent]) -> None:
        counters = self.counters
        for event in events:
            counters.rows += event.rows
            counters.result_bytes += event.bytes
            counters.patients += len(event.patients) + event.patients_estimated
            if event.kind == "query":
                counters.queries += 1
            self.worker.journal.append(counters, event)

    # -- verdicts ---------------------------------------------------------------------------------------------------

    def verdict_for(self, principal: str) -> Verdict | None:
        verdict = self.worker.verdicts.get(f"{self.worker.config.tenant}/{principal}")
        return verdict if verdict is not None and verdict.in_force(now_ms()) else None

    def throttle_of(self, verdict: Verdict) -> Throttle:
        """One pace for all sessions of the principal in this process."""
        return self.worker.throttle_of(verdict)

    def apply(self, verdict: Verdict) -> None:
        if self.budget is not None and verdict.level == "none" and verdict.issuer.startswith("operator:"):
            self.budget.forgive(verdict.principal)  # else whom a person has freed is cut again at the next row
        self._each(
            list(self.sessions.get(verdict.principal, ())), lambda session: session.apply(verdict), forwarded=False
        )

    # -- upstream ---------------------------------------------------------------------------------------------------

    @property
    def upstream_host(self) -> str:
        """Name of the database's host, for its certificate."""
        upstream = self.listener.upstream
        return "" if upstream.startswith("unix:") else parse_address(upstream)[0]

    async def dial(self, side: ServerSide) -> str:
        """Connect `side` to the database. Returns its host name, for the certificate. Raises OSError."""
        loop = asyncio.get_running_loop()
        upstream = self.listener.upstream
        protocol = cast("asyncio.Protocol", side)
        if upstream.startswith("unix:"):
            await loop.create_unix_connection(lambda: protocol, upstream.removeprefix("unix:"))
            return ""
        host, port = parse_address(upstream)
        if self._name is None:
            transport, _ = await loop.create_connection(lambda: protocol, host, port)
        else:
            transport, _ = await loop.create_connection(lambda: protocol, sock=await self._name.connected())
        ask_whether_there(transport.get_extra_info("socket"))
        if self.listener.proxy_protocol_out != "off":
            side.write(proxy.build(self.listener.proxy_protocol_out, side.session.client.addresses))
        return host

    async def open_stream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of its own to the database, beside the sessions'. Raises OSError."""
        upstream = self.listener.upstream
        if upstream.startswith("unix:"):
            return await asyncio.open_unix_connection(upstream.removeprefix("unix:"))
        if self._name is None:
            reader, writer = await asyncio.open_connection(*parse_address(upstream))
        else:
            reader, writer = await asyncio.open_connection(sock=await self._name.connected())
        if self.listener.proxy_protocol_out != "off":
            writer.write(
                proxy.build(self.listener.proxy_protocol_out, proxy.Header())
            )  # for nobody: a cancel is the guard's
        return reader, writer


def denied_flags(listener: ListenerConfig) -> frozenset[str]:
    """Flags of the statements that do not pass."""
    named = set(listener.deny)
    if "default" in named:
        named.discard("default")
        if listener.mode == "enforce":
            named |= {"server_export", "foreign", "replication"}
    return frozenset(named)


def identity_rules(listener: ListenerConfig) -> Rules:
    """What the listener believes of its clients."""
    pattern = listener.application_name_pattern
    return Rules(
        engine="postgresql" if listener.engine == "postgres" else "mysql",
        trusted_sources=tuple(listener.trusted_sources),
        settings=tuple(listener.identity_settings),
        variables=tuple(listener.identity_variables),
        attributes=tuple(listener.identity_attributes),
        roles=tuple(listener.identity_roles),
        name_pattern=re.compile(pattern) if pattern else None,
        pooled=listener.pooled,
    )


class Worker:
    """One relay process."""

    def __init__(self, config: Config, number: int, sockets: Mapping[str, Sequence[int]] | None = None) -> None:
        """`sockets`: listener -> descriptors of the sockets that the supervisor holds."""
        self.config = config
        self.number = number
        self._sockets = sockets or {}
        self.inherits = bool(self._sockets)
        self.max_clients = room_for_clients(config, descriptor_limit())
        self.data_dir = Path(config.data_dir)
        self.digester = Digester(digest_key(config))
        identity = config.identity
        self.contexts = Contexts(
            identity_keys(identity.keys),
            max_ttl_ms=identity.max_ttl_ms,
            skew_ms=identity.skew_ms,
            capacity=identity.nonces,
        )
        self.verdicts: dict[str, Verdict] = {}
        self.throttles: dict[str, Throttle] = {}
        """By key, of principals under a `throttle` verdict that have a session."""
        self.journal = Journal(
            config.tenant,
            self.data_dir / "spool" / str(number),
            config.spool.segment_bytes,
            config.spool.max_bytes,
        )
        self.guards = {listener.name: Guard(self, listener) for listener in config.listener}
        self.draining = False
        self.leaving_since = 0.0
        """time.monotonic() at which another relay took over; 0: none has."""

    # -- verdicts and columns ---------------------------------------------------------------------------------------

    def learn(self, verdict: Verdict) -> None:
        known = self.verdicts.get(verdict.key)
        if verdict.tenant != self.config.tenant or (known is not None and known.revision >= verdict.revision):
            return
        self.verdicts[verdict.key] = verdict
        if verdict.level != "throttle":
            self.throttles.pop(verdict.key, None)
        self._set_screens()
        for guard in self.guards.values():
            guard.apply(verdict)

    def throttle_of(self, verdict: Verdict) -> Throttle:
        """The pace of the principal in this process; all workers together keep the verdict's."""
        held = self.throttles.get(verdict.key)
        rows_per_s = max(1, verdict.throttle_rows_per_s) / self.config.sidecar.workers
        if held is None:
            now = now_ms()
            for key in [key for key, found in self.throttles.items() if found.expired(now)]:
                del self.throttles[key]
            held = self.throttles[verdict.key] = Throttle(rows_per_s, verdict.expires_ms)
        held.rows_per_s, held.expires_ms = rows_per_s, verdict.expires_ms
        return held

    def _set_screens(self) -> None:
        """While an account is cut or locked, every request is looked at before it is sent."""
        now = now_ms()
        blocked = any(
            v.scope == "principal" and severity(v.level) >= severity("cut") and v.in_force(now)
            for v in self.verdicts.values()
        )
        for guard in self.guards.values():
            guard.gate.screens = blocked or bool(guard.denied)

    def _set_columns(self, message: object) -> None:
        if not isinstance(message, dict):
            return
        guard = self.guards.get(str(message.get("listener")))
        if guard is not None and isinstance(guard.columns, PatientColumns):
            origins, others = (
                {(int(table), int(column)) for table, column in message[name]} for name in ("origins", "others")
            )
            guard.columns.set_origins(origins, others, {int(table) for table in message["identity_tables"]})
            guard.columns.copies = CopyTables([table_of(found) for found in message.get("tables", ())])

    def load_saved(self) -> None:
        """What stood before this process started."""
        for verdict in VerdictTable(self.data_dir / "verdicts.json").verdicts():
            self.verdicts[verdict.key] = verdict
        self._set_screens()
        try:
            for message in orjson.loads((self.data_dir / "columns.json").read_bytes()):
                self._set_columns(message)
        except (OSError, orjson.JSONDecodeError, ValueError, TypeError, KeyError):
            return  # not resolved yet: columns are matched by name until the shipper says more

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                try:
                    message = orjson.loads(line)
                    if "verdict" in message:
                        self.learn(decode_verdict(orjson.dumps(message["verdict"])))
                    elif "columns" in message:
                        self._set_columns(message["columns"])
                except (orjson.JSONDecodeError, CodecError, TypeError, ValueError, KeyError):
                    log.error("a control message could not be read and was left out")
        except (OSError, ValueError):
            log.warning("the control connection was lost; the shipper connects again")
        except asyncio.CancelledError:
            return  # the process ends; asyncio's own callback would report the cancellation as an error
        finally:
            writer.close()

    # -- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        stop, leave = asyncio.Event(), asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, leave.set)
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        self.load_saved()
        control = await self._heard()
        for guard in self.guards.values():
            await self._listen(guard)
        stats = StatsServer(run_dir(self.data_dir) / f"relay-{self.number}.stats", self.snapshot)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), STALLED_S)
            self._set_screens()  # a verdict may have run out
            for guard in self.guards.values():
                guard.report_stalled()
                guard.close_idle()
            if leave.is_set() and await self._left():
                break
        await drain(self)
        if control is not None:
            control.close()
        stats.close()

    async def _heard(self) -> asyncio.Server | None:
        """Where the shipper tells verdicts. Without it, because the disk takes no socket, those that are saved stand: better than no
        way to the database. Raises OSError."""
        path = run_dir(self.data_dir) / f"relay-{self.number}.sock"
        try:
            path.unlink(missing_ok=True)
            with short_path(path) as address:
                return await asyncio.start_unix_server(self._control, address, limit=MAX_CONTROL_LINE)
        except OSError as error:
            if error.errno not in DISK_TROUBLE:
                raise
            log.error(
                "%s cannot be made (%s): no new verdict is heard of until the disk is mended", path, error.strerror
            )
            return None

    async def _listen(self, guard: Guard) -> None:
        """Raises OSError."""
        listener = guard.listener
        held = [socket.socket(fileno=number) for number in self._sockets.get(listener.name, ())]
        for one in held or open_sockets(listener.listen):
            ask_whether_there(one)
            server = await asyncio.get_running_loop().create_server(
                lambda: cast("asyncio.Protocol", ClientSide(guard)), sock=one, backlog=BACKLOG
            )
            guard.listening.append((server, one))
        log.info("listener %s: %s -> %s, %s", listener.name, listener.listen, listener.upstream, listener.mode)

    async def _left(self) -> bool:
        """Another relay has taken over. True when nobody is here any more, or `sidecar.handover` is over."""
        if not self.leaving_since:
            self.leaving_since = time.monotonic()
            await stop_listening(self)
            log.info("another relay has taken over: %d sessions stay until they end", self.sessions_open())
        if not self.clients():
            return True
        return time.monotonic() - self.leaving_since > self.config.sidecar.handover_ms / 1000

    def clients(self) -> int:
        return sum(guard.clients for guard in self.guards.values())

    def sessions_open(self) -> int:
        return sum(guard.sessions_open for guard in self.guards.values())

    def _reload(self) -> None:
        for guard in self.guards.values():
            guard.certificates.reload()

    def snapshot(self) -> Snapshot:
        out = Snapshot(role="relay", instance=str(self.number))
        out.values.append(("events_spooled_total", {}, self.journal.recorded))
        for guard in list(self.guards.values()):
            labels = {"tenant": self.config.tenant, "listener": guard.listener.name}
            c = guard.counters
            out.values += [
                ("queries_total", labels, c.queries),
                ("rows_total", labels, c.rows),
                ("patients_total", labels, c.patients),
                ("result_bytes_total", labels, c.result_bytes),
                ("connections_total", labels, c.connections),
                ("sessions", labels, guard.sessions_open),
                ("refused_total", labels, c.refused),
                ("records_past_limit_total", labels, c.records_past_limit),
                ("desynced_total", {"protocol": guard.listener.protocol}, c.desynced),
                ("garbage_connections_total", labels, c.garbage),
                ("upstream_failures_total", labels, c.upstream_failures),
                ("cuts_total", {**labels, "by": "budget"}, c.local_cuts),
                ("cuts_total", {**labels, "by": "verdict"}, c.verdict_cuts),
                ("spool_lost_events_total", labels, c.spool_gap),
                ("idle_sessions_closed_total", labels, c.idle_closed),
                ("login_timeouts_total", labels, c.login_timeouts),
                ("tls_failures_total", labels, c.tls_failures),
                ("cancels_failed_total", labels, c.cancels_failed),
            ]
            out.values += [
                ("certificate_expiration_timestamp_seconds", {**labels, "use": use}, until)
                for use, until in guard.certificates.expire_at.items()
            ]
            out.histograms.append(
                ("relay_added_seconds", labels, guard.gate.added.cumulative(), guard.gate.added.total)
            )
        out.details = {"pid": os.getpid(), "verdicts": len(self.verdicts), "spool_full": self.journal.full}
        return out


def digest_key(config: Config) -> bytes:
    """The configured key, or one made once and kept in the data directory, readable by its owner only."""
    if config.sidecar.digest_key:
        return config.sidecar.digest_key.encode()
    path = Path(config.data_dir) / "digest.key"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
    for _ in range(50):
        if key := path.read_text(encoding="ascii").strip():
            return key.encode()
        time.sleep(0.02)  # another worker is writing it this moment
    raise ConfigError([f"{path}: is empty: remove it, or set sidecar.digest_key_file"])


def room_for_clients(config: Config, descriptors: int) -> int:
    """How many clients one relay can hold. Each has two descriptors, its own and the database's."""
    wanted = sum(listener.max_sessions for listener in config.listener) + ARRIVING
    room = (descriptors - RESERVED_DESCRIPTORS) // 2
    if problem := descriptor_problem(config, descriptors):
        log.error("%s", problem)
    return max(1, min(wanted, room))


def lock_path(config: Config, number: int) -> Path:
    """Held by the relay of that number: its spool and its sockets are its own."""
    return Path(config.data_dir) / "spool" / str(number) / "lock"


def _loop_for(config: Config) -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where every listener has TLS: asyncio's TLS, in Python, costs a statement more than the sockets in C save. One listener
    in clear is enough for those."""
    encrypted = all(one.tls != "refuse" or one.upstream_tls != "disable" for one in config.listener)
    return uvloop.new_event_loop if encrypted else make_loop


def run_worker(config: Config, number: int, sockets: Mapping[str, Sequence[int]] | None = None) -> int:
    """Run until SIGTERM. Returns the exit status."""
    try:
        if hold(lock_path(config, number)) is None:
            log.error("cannot start: another relay has the number %d", number)
            return 1
        worker = Worker(config, number, sockets)
        with asyncio.Runner(loop_factory=_loop_for(config)) as runner:
            runner.run(worker.run())
    except OSError as error:
        log.error(
            "cannot start: %s (%s)",
            error.strerror,
            "is the listen address in use?" if error.errno == 98 else "see above",
        )
        return 1
    return 0
