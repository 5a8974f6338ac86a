"""The relay: clients on one side, the database on the other, the observer looking over the shoulder.

One `Session` per client connection, made of two asyncio Protocols that write into each other's transport:

    client ──► ClientSide ──► Session ──► ServerSide ──► database
           ◄──            ◄──         ◄──

Rules:
- `observe`: bytes are forwarded first and counted second. `enforce`: counted first, forwarded up to the row where the
  local budget ends. In both, a standing `cut` or `lock` verdict ends the session at a message boundary with the
  engine's own error, and cancels what the backend is doing.
- Nothing here waits: no Kafka, no DNS, no disk sync. Events go to the spool (a memory copy).
- Back-pressure both ways: when one side's buffer is full, the other side is not read, so a slow client never grows memory.
- A sidecar that fails must not stop care: an error in counting makes the session `desynced`, and `on_desync` decides.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..config.schema import ListenerConfig
from ..errors import ProtocolError
from ..events.query import QueryEvent
from ..events.verdict import Verdict, severity
from ..runtime.clock import elapsed_s, now_ms
from ..runtime.tasks import spawn
from .engine import Front, Observer, Refusal
from .gate import Gate
from .in_step import InStep
from .sides import LINGER_S, TOO_MANY, ClientSide, ServerSide, Side, Talk

if TYPE_CHECKING:
    from ..wire.mysql.compression import Envelopes
    from .budget import LocalBudget
    from .throttle import Throttle
    from .worker import Guard

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
SHUTDOWN_WORDS = "terminating connection due to administrator command"
_DENIED = {
    "server_export": "writing or reading the server's files",
    "foreign": "reaching another server",
    "replication": "replication",
    "watched_call": "this function",
    "aggregate": "packing patients into one value",
    "copy": "COPY",
}
_OF_THE_CONNECTION = ("login", "application_name", "connection_attribute")
"""Evidence that does not change from statement to statement."""


class Session(Talk):
    """One client connection and its connection to the database."""

    __slots__ = (
        "application",
        "budget",
        "client",
        "closed",
        "downstream",
        "early",
        "ending",
        "enforces",
        "envelopes",
        "front",
        "gate",
        "guard",
        "heard_ms",
        "held",
        "id",
        "in_step",
        "journal",
        "listener",
        "login",
        "observer",
        "passed",
        "principal",
        "refuses_when_full",
        "rows_total",
        "screened",
        "server",
        "session_limit",
        "source",
        "started",
        "throttle",
        "upstream",
    )  # fmt: skip

    def __init__(self, guard: Guard, client: ClientSide, source: str) -> None:
        self.guard = guard
        self.listener: ListenerConfig = guard.listener
        self.client = client
        self.server: ServerSide | None = None
        self.downstream: Side | None = client if isinstance(client, Side) else None
        self.upstream: Side | None = None
        """The same two sides, once more for calls in C."""
        self.gate: Gate = guard.gate
        self.source = source
        self.id = secrets.token_hex(8)
        self.front: Front = guard.make_front(self)
        self.observer: Observer | None = None
        self.principal = ""
        self.login = ""
        self.application = ""
        self.rows_total = 0
        self.enforces = self.listener.mode == "enforce"
        self.journal = guard.worker.journal
        self.screened = False
        """The beginning of a request is held back by the observer."""
        self.refuses_when_full = guard.worker.config.spool.on_full == "refuse"
        """New statements are refused while the spool is full."""
        self.budget: LocalBudget | None = None
        self.session_limit = 0
        """Rows after which a session-scoped cut ends this session; 0: none stands."""
        self.throttle: Throttle | None = None
        self.envelopes: Envelopes | None = None
        """Set for a compressed session whose rows are counted first: what lies around the server's messages."""
        self.ending: Verdict | None = None
        """Set while a result is being brought to its next message boundary."""
        self.closed = False
        self.started = False
        self.passed = False
        """The client's bytes at hand were forwarded before they were read."""
        self.heard_ms = now_ms()
        """When either side last said something: at the login, or behind it."""
        self.in_step: InStep | None = None
        """Set after a cut that the session survives, until the server is ready again."""
        self.held = b""
        """The beginning of a row that may not be forwarded before its patient is known; bounded by the wire reader."""
        self.early = b""
        """Client bytes that arrived while the database was being reached; bounded, since reading is paused then."""

    # -- start-up ---------------------------------------------------------------------------------------------------

    def admit(self, observer: Observer, application: str) -> bool:
        """The client said who it is: False when it was refused, by a bound or by the standing verdict."""
        guard = self.guard
        if guard.sessions_open >= guard.max_sessions or self.client.crowded:
            self.refuse(Refusal.TOO_MANY, TOO_MANY, "max_sessions reached")
            return False
        self.observer = observer
        self.principal = observer.principal
        self.budget = guard.budget_of(self.principal)
        self.application = application
        self.started = True
        guard.opened(self)
        verdict = guard.verdict_for(self.principal)
        if verdict is not None and severity(verdict.level) >= severity("cut") and verdict.scope == "principal":
            self.refuse(Refusal.LOGIN, refusal(verdict), f"login refused: verdict {verdict.level}")
            return False
        if verdict is not None:
            self.apply(verdict)
        return True

    async def connect(self, reach: Callable[[], Awaitable[ServerSide]], first: bytes) -> None:
        """Connect to the database, send it what the client has sent so far, and let both sides flow."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                server = await reach()
        except (OSError, TimeoutError, ssl.SSLError, ProtocolError) as error:
            log.warning("listener %s: the database cannot be reached: %s", self.listener.name, type(error).__name__)
            self.guard.counters.upstream_failures += 1
            self.refuse(Refusal.UPSTREAM, "the guard cannot reach the database", "upstream unreachable")
            return
        if self.closed:
            server.abort()
            return
        self.server = server
        if isinstance(server, Side):
            self.upstream = server
        server.write(first)
        early, self.early = self.early, b""
        if early:
            self.from_client(early)
        self.client.resume()

    # -- data -------------------------------------------------------------------------------------------------------

    def from_client(self, data: bytes) -> None:
        try:
            self._from_client(data)
        except Exception as error:
            self.failed(error, forwarded=self.passed)

    def _from_client(self, data: bytes) -> None:
        downstream = self.downstream
        pump = downstream.direct.pump if downstream is not None and downstream.direct is not None else None
        began = pump.now_s if pump is not None else elapsed_s()
        observer, server = self.observer, self.server
        if observer is None or self.closed:
            return
        self.passed = False
        if server is None:
            self.early += data
            return
        guard, gate = self.guard, self.gate
        if gate.telling and self.at_rest:
            self.dismiss(Refusal.SHUTDOWN, SHUTDOWN_WORDS)
            return
        if self.refuses_when_full and self.journal.full and self.ending is None:
            self.refuse(Refusal.SPOOL, "the guard's spool is full and its policy refuses new statements", "spool full")
            return
        self.heard_ms = now = pump.now_ms if pump is not None else now_ms()
        forward_first = False
        if self.screened or gate.screens:
            if not self.screened and self._passes(data, now):
                events: list[QueryEvent] = []
            else:
                data, events = observer.screen(data, now, self._judge)
                self.screened = observer.holding
        else:
            forward_first = not self.enforces and observer.passes_first(data)
            if forward_first:
                self._to_server(data)
                self.passed = True
            events = observer.client_data(data, now)
        if not forward_first and observer.forbidden:
            text = f"{observer.forbidden} is not allowed through this guard"
            self.refuse(Refusal.FORBIDDEN, text, f"{observer.forbidden} refused")
            return
        if not forward_first:
            self._to_server(data)
        if events:
            guard.emit(self, events)
        if observer.principal != self.principal:
            self._follow()
        if self.throttle is not None:
            server.pace(self.throttle.take(0, now_ms()))  # a new statement, or session, waits for what the others took
        if observer.desynced:
            self._desynced()
        gate.added.observe(elapsed_s() - began)

    def from_server(self, data: bytes, opened: bool = False) -> None:
        """The database's bytes; `opened`: what was inside their envelopes."""
        try:
            self._from_server(data, opened)
        except Exception as error:
            forwarded = self.listener.mode == "observe" and self.ending is None
            self.failed(error, forwarded=forwarded and not (self.observer is not None and self.observer.refusals))

    def _from_server(self, data: bytes, opened: bool) -> None:
        observer, guard, downstream = self.observer, self.guard, self.downstream
        pump = downstream.direct.pump if downstream is not None and downstream.direct is not None else None
        began = pump.now_s if pump is not None else elapsed_s()
        if observer is None or self.closed:
            return
        if self.throttle is not None and not opened and self._waits(data):
            return
        if self.envelopes is not None and not opened:
            try:
                data = self.envelopes.open(data)
            except ProtocolError:
                self.cancel_backend()
                self.refuse(Refusal.PROTOCOL, "the server's compression can no longer be followed", "desynced")
                return
        if self.in_step is not None:
            self.in_step.from_server(data)
            return
        self.heard_ms = now = pump.now_ms if pump is not None else now_ms()
        if self.ending is not None or self.enforces or observer.refusals:
            self._count_then_forward(data, now)
        else:
            passing = data if observer.authenticated else self.front.login_reply(data)
            if downstream is not None:
                downstream.write(passing)
            else:
                self.client.write(passing)
            events = observer.observed(data, now)
            self._counted(events, observer.portion_rows, observer.principal, now)
        if observer.untold():
            guard.unreported.add(self)
        if observer.desynced and not self.closed:
            self._desynced()
        self.gate.added.observe(elapsed_s() - began)

    def _waits(self, data: bytes) -> bool:
        """True: another session of the principal has taken what is not paid yet, and these bytes wait for it."""
        if self.throttle is None or self.server is None or self.ending is not None or self.in_step is not None:
            return False
        return self.server.put_back(data, self.throttle.take(0, now_ms()))

    def _counted(self, events: list[QueryEvent], rows: int, principal: str, now: int) -> None:
        """What became of bytes that were forwarded."""
        if rows:
            self._account(rows, now)
        if events:
            self.guard.emit(self, events)
        if principal != self.principal:
            self._follow()
        if self.session_limit and self.rows_total >= self.session_limit:
            self._end_for_session_share()

    def failed(self, error: Exception, *, forwarded: bool) -> None:
        """An error of the guard's own while it read this session: it must not stop care. The session is desynced when its bytes were
        forwarded before, as in `observe`; where they are counted first, it ends, since what has passed is not known. The log has the
        place and no message: that could hold a value."""
        at = error.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        place = f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}" if at is not None else "?"
        log.error(
            "listener %s: the guard failed at a session: %s at %s", self.listener.name, type(error).__name__, place
        )
        if self.closed or self.observer is None:
            self.abort()
            return
        try:
            events = self.observer.give_up(now_ms())
            if events:
                self.guard.emit(self, events)
            self._desynced(close=not forwarded)
        except Exception:
            self.abort()

    def _count_then_forward(self, data: bytes, now: int) -> None:
        observer = cast("Observer", self.observer)
        if not observer.authenticated:
            data = self.front.login_reply(data)
        if self.held:
            data, self.held = self.held + data, b""
        while data and not self.closed:
            data = self._count_part(data, now)
            if observer.principal != self.principal and not self.closed:
                self._follow()
        if self.session_limit and self.rows_total >= self.session_limit:
            self._end_for_session_share()

    def _count_part(self, data: bytes, now: int) -> bytes:
        """What one principal is charged for; returns the bytes behind it."""
        guard, observer = self.guard, cast("Observer", self.observer)
        budget = self.budget
        if self.ending is not None:
            rows_left: int | None = 0
            patients_left: int | None = None
        else:
            rows_left = budget.rows_left(self.principal, now) if budget else None
            patients_left = budget.patients_left(self.principal, now) if budget else None
        if self.ending is None and observer.answered(data, now, rows_left, patients_left):
            self._charge(observer.portion_rows, tuple(observer.portion_patients), observer.portion_estimated, now)
            self._to_client(data)
            return b""
        known = budget.known_patients(self.principal, now) if budget and patients_left is not None else None
        result = observer.server_data(
            data, now, allowed_rows=rows_left, allowed_patients=patients_left, known_patients=known, follow=True
        )
        self._charge(result.rows, result.new_patients, result.estimated, now)
        cut_at, rest, behind = result.cut_at, b"", b""
        if result.hold_at is not None:
            self.held = data[result.hold_at :]
            data = data[: result.hold_at]
        elif result.stop_at is not None:
            rest = data[result.stop_at :]
            data = data[: result.stop_at]
        elif cut_at is not None:
            behind = data[cut_at:]
            data = data[:cut_at] + result.tail
        for start, end, instead in reversed(result.patches):
            data = data[:start] + instead + data[end:]
        self._to_client(data)
        if result.events:
            guard.emit(self, result.events)
        if self.ending is not None:
            if cut_at is not None or observer.at_boundary:
                self._finish_ending()
        elif cut_at is not None:
            guard.counters.local_cuts += 1
            limit, unit = guard.local_limit_reached(rows_left)
            text = f"result stopped by the local budget of {limit} {unit} in {self.listener.budget_window_ms // 1000} s"
            if self.listener.on_cut == "error" and self._stay(text, f"local budget: {unit}", behind):
                return b""
            self.cancel_backend()
            self.refuse(Refusal.CUT, text, f"local budget: {unit}")
        return rest

    def _stay(self, message: str, detail: str, rest: bytes) -> bool:
        """End the statement with an error and keep the session; False where its engine cannot."""
        found = self.front.statement_error(f"ExfilGuard: {message}")
        if found is None:
            return False
        packet, discard = found
        self.deliver(packet)
        self.guard.emit(self, [self._event("refused", f"{detail}; the session goes on")])
        self.in_step = InStep(self, discard, self.front.cancel())
        self.in_step.from_server(rest)
        return True

    def deliver(self, data: bytes) -> None:
        """Whole messages that hold no row, to the client and the observer."""
        observer = cast("Observer", self.observer)
        self._to_client(data)
        events = observer.server_data(data, now_ms()).events
        if events:
            self.guard.emit(self, events)

    def _to_server(self, data: bytes) -> None:
        if self.upstream is not None:
            self.upstream.write(data)
        elif self.server is not None:
            self.server.write(data)

    def _to_client(self, data: bytes) -> None:
        sealed = data if self.envelopes is None else self.envelopes.seal(data)
        if self.downstream is not None:
            self.downstream.write(sealed)
        else:
            self.client.write(sealed)

    def _charge(self, rows: int, patients: tuple[str, ...], estimated: int, now: int) -> None:
        if self.budget is not None:
            self.budget.charge(self.principal, rows, patients, estimated, now)
        self._account(rows, now)

    def _account(self, rows: int, now: int) -> None:
        if not rows:
            return
        self.rows_total += rows
        if self.throttle is not None and self.server is not None:
            self.server.pace(self.throttle.take(rows, now))

    # -- verdicts ---------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Another principal is charged now: its limits and its verdict hold."""
        guard, observer = self.guard, cast("Observer", self.observer)
        guard.moved(self, observer.principal)
        self.budget = guard.budget_of(self.principal)
        self.session_limit = 0
        if self.throttle is not None:
            self.throttle = None
            if self.server is not None:
                self.server.resume("throttle")
        verdict = guard.verdict_for(self.principal)
        if verdict is not None and not observer.refusals:
            self.apply(verdict)

    def _judge(self, principals: Collection[str], text: bytes, piece: bool = False, *, harmless: bool = False) -> str:
        """Why a statement that would be charged to these may not pass; empty: it may (observe/screening.py)."""
        for principal in principals:
            verdict = None if harmless else self._stopped(principal)
            if verdict is not None:
                event = self._event("refused", f"statement refused: verdict {verdict.level}")
                self.guard.emit(self, [replace(event, principal=principal)])
                self.guard.counters.refused += 1
                return f"ExfilGuard: {refusal(verdict)}"
            flag = self.guard.denied_flag(principal, text, piece)
            if flag:
                event = self._event("refused", f"statement refused: {flag}")
                self.guard.emit(self, [replace(event, principal=principal, flags=(flag,))])  # type: ignore[arg-type]
                self.guard.counters.refused += 1
                return f"ExfilGuard: {_DENIED[flag]} is not allowed through this guard; ask your IT for an allowance"
        return ""

    def _stopped(self, principal: str) -> Verdict | None:
        """The verdict that lets none of its statements pass."""
        verdict = self.guard.verdict_for(principal)
        if verdict is not None and verdict.scope == "principal" and severity(verdict.level) >= severity("cut"):
            return verdict
        return None

    def _passes(self, data: bytes, now: int) -> bool:
        """True: a statement that the observer holds, and nobody refuses. Nearly all are; `screen` has the others."""
        observer = cast("Observer", self.observer)
        flags = observer.hold(data, now)
        if flags is None:
            return False
        stopped = self.gate.standing and self._stopped(observer.principal) is not None
        if stopped or (flags and self.guard.denied_of(observer.principal, flags)):
            observer.let_go()
            return False
        return True

    def apply(self, verdict: Verdict) -> None:
        """A verdict on this session's principal came into force (or was lifted)."""
        if not verdict.in_force(now_ms()):
            self.session_limit = 0
            self.throttle = None
            if self.server is not None:
                self.server.resume("throttle")
            return
        if verdict.level == "throttle":
            self.throttle = self.guard.throttle_of(verdict)
        elif severity(verdict.level) >= severity("cut"):
            if verdict.scope == "session":
                self.session_limit = max(1, verdict.session_rows)
                if self.rows_total >= self.session_limit:
                    self.end(verdict)
            elif self._must_end():
                self.end(verdict)

    def _must_end(self) -> bool:
        """True when a cut or lock of the principal ends the connection. Where the principal is only a statement's or a setting's,
        an idle connection is left to the next one: the locked one's statements are refused by themselves."""
        observer = self.observer
        return observer is None or observer.awaiting_reply or observer.evidence in _OF_THE_CONNECTION

    def _end_for_session_share(self) -> None:
        verdict = self.guard.verdict_for(self.principal)
        if verdict is not None and verdict.scope == "session":
            self.end(verdict)
        else:
            self.session_limit = 0

    def end(self, verdict: Verdict) -> None:
        """Cut: stop the backend, finish the message that is half sent, then the error, then close."""
        if self.closed or self.ending is not None:
            return
        self.ending = verdict
        self.guard.counters.verdict_cuts += 1
        self.cancel_backend()
        observer = self.observer
        if self.server is None or observer is None or observer.at_boundary:
            self._finish_ending()
        else:
            # However slow the client: the rest of this one message is read at once, before the database, whose backend a
            # lock-out hook is about to terminate, breaks it off in its middle.
            self.server.resume_all()
            asyncio.get_running_loop().call_later(LINGER_S, self.abort)

    def _finish_ending(self) -> None:
        verdict = self.ending
        if verdict is not None and not self.closed:
            self.refuse(Refusal.CUT, refusal(verdict), f"session ended: verdict {verdict.level}")

    def cancel_backend(self) -> None:
        work = self.front.cancel()
        if work is not None:
            spawn(work, "cancel backend")

    # -- ends -------------------------------------------------------------------------------------------------------

    def refuse(self, why: Refusal, message: str, detail: str) -> None:
        """Tell the client why in the engine's own words, record it, close both sides."""
        if self.closed:
            return
        self.client.write(self.front.refusal(why, f"ExfilGuard: {message}"))
        if self.started:
            self.guard.emit(self, [self._event("refused", detail)])
        self.guard.counters.refused += 1
        self.close()

    @property
    def at_rest(self) -> bool:
        """True when nothing is asked, nothing is being answered, and no transaction is open."""
        observer = self.observer
        if observer is None or not observer.authenticated:
            return False  # it is logging in
        return not (observer.awaiting_reply or observer.in_transaction or self.in_step)

    def dismiss(self, why: Refusal, message: str) -> None:
        """End a session that is at rest, or whose time is up, in the engine's words. Nobody did anything wrong."""
        if not self.closed:
            if self.observer is not None and self.observer.authenticated and self.observer.at_boundary:
                self.client.write(self.front.refusal(why, message))
            self.close()

    def client_gone(self) -> bool:
        """The client says no more. True when it may still hear the rest of what it asked for, as from the database itself."""
        observer, server = self.observer, self.server
        if self.closed or observer is None or server is None or not observer.awaiting_reply:
            self.close()
            return False
        if not server.write_eof():
            self.close()
            return False
        return True

    def _event(self, kind: Any, detail: str) -> QueryEvent:
        observer = self.observer
        return QueryEvent(
            time_ms=now_ms(),
            kind=kind,
            listener=self.listener.name,
            session=self.id,
            principal=self.principal or "unknown",
            evidence=observer.evidence if observer is not None else "login",
            login=self.login,
            source=self.source,
            application=self.application,
            detail=detail,
        )

    def _desynced(self, *, close: bool = False) -> None:
        if not self.guard.note_desynced(self) and not close:
            return
        if close or self.listener.on_desync == "close":
            self.cancel_backend()
            self.refuse(Refusal.PROTOCOL, "the protocol can no longer be followed", "desynced")

    def close(self) -> None:
        """Flush what is buffered towards the client, close both sides, report the rest."""
        if self.closed:
            return
        self.closed = True
        if self.observer is not None and self.started:
            events = self.observer.close(now_ms())
            if events:
                self.guard.emit(self, events)
            self.guard.gone(self)
        self.client.close_softly()
        if self.server is not None:
            self.front.leave(self.server)

    def abort(self) -> None:
        self.close()
        self.client.abort()
        if self.server is not None:
            self.server.abort()


def refusal(verdict: Verdict) -> str:
    """What the refused client reads: what stands, why in general, whom to ask. No figures of other accounts."""
    what = "is locked" if verdict.level == "lock" else "is stopped for now"
    return f"account {what} after an unusual volume of records; ask your IT on-call (reference {verdict.revision})"
