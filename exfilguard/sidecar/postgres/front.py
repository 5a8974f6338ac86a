"""A connection to PostgreSQL from accept to login; refusals; CancelRequest."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, cast

from ...errors import ProtocolError
from ...observe.identity import Identity
from ...observe.patients import PatientColumns
from ...observe.quick import Reader
from ...observe.session import SessionObserver
from ...runtime.tasks import spawn
from ...wire.postgres import startup
from ...wire.postgres.discard import Discard
from ..engine import Refusal
from ..relay import Session
from ..sides import ServerSide, ignore
from ..tls import account_problem
from .cancel import send_cancel

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

SQLSTATES = {
    Refusal.LOGIN: "28000",  # invalid_authorization_specification
    Refusal.CUT: "53400",  # configuration_limit_exceeded
    Refusal.TOO_MANY: "53300",  # too_many_connections
    Refusal.UPSTREAM: "08006",  # connection_failure
    Refusal.FORBIDDEN: "42501",  # insufficient_privilege
    Refusal.SPOOL: "53100",  # disk_full
    Refusal.IDLE: "57P05",  # idle_session_timeout
    Refusal.SHUTDOWN: "57P01",  # admin_shutdown
    Refusal.PROTOCOL: "08P01",  # protocol_violation
}


class PostgresFront:
    """See engine.Front."""

    __slots__ = ("buffer", "encrypted", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.buffer = b""
        """Bytes of the start-up phase; bounded by the start-up parser."""
        self.encrypted = False

    def connected(self) -> None:
        self.session.client.divert = self.client_data

    def login_reply(self, data: bytes) -> bytes:
        # SCRAM channel binding ends here: see DESIGN 2.1. Only the offer is changed, before authentication.
        return startup.strip_scram_plus(data)

    def refusal(self, why: Refusal, message: str) -> bytes:
        return startup.error_response("FATAL", SQLSTATES[why], message)

    def statement_error(self, message: str) -> tuple[bytes, Discard] | None:
        return startup.error_response("ERROR", SQLSTATES[Refusal.CUT], message), Discard()

    def cancel(self) -> Coroutine[Any, Any, None] | None:
        observer = cast("SessionObserver | None", self.session.observer)
        key = observer.backend_key if observer is not None else None
        return None if key is None else send_cancel(self.session.guard, startup.cancel_request(key))

    def leave(self, server: ServerSide) -> None:
        server.close_softly()

    # -- start-up ---------------------------------------------------------------------------------------------------

    def client_data(self, data: bytes) -> None:
        """The client's bytes up to its StartupMessage."""
        session = self.session
        self.buffer += data
        try:
            self._start_up()
        except ProtocolError as error:
            session.guard.counters.garbage += 1
            log.info("listener %s: closed a client that does not speak the protocol: %s", session.listener.name, error)
            text = "this port speaks the PostgreSQL protocol, version 3"
            session.refuse(Refusal.PROTOCOL, text, "not the protocol")

    def _start_up(self) -> None:
        session, guard = self.session, self.session.guard
        if guard.tls is not None and not self.encrypted and startup.is_tls(self.buffer):
            direct, self.buffer = self.buffer, b""
            spawn(self._upgrade(guard.tls, direct), "client TLS")
            return
        while self.buffer and not session.started and not session.closed:
            request, used = startup.parse(self.buffer)
            if request is None:
                return
            raw, rest = self.buffer[:used], self.buffer[used:]
            self.buffer = rest
            if isinstance(request, startup.SSLRequest | startup.GSSENCRequest):
                wanted = isinstance(request, startup.SSLRequest) and not self.encrypted
                if wanted and guard.tls is not None:
                    if rest:
                        # Bytes that came in clear behind the request would be taken for encrypted ones.
                        raise ProtocolError("data before the TLS handshake")
                    session.client.write(b"S")
                    spawn(self._upgrade(guard.tls), "client TLS")
                    return
                session.client.write(b"N")
            elif isinstance(request, startup.CancelRequest):
                self.buffer = b""
                session.client.divert = ignore
                spawn(self._pass_cancel(raw), "forward cancel")
                return
            else:
                self.buffer = b""
                self._start(raw, request.params, rest)
                return

    async def _pass_cancel(self, request: bytes) -> None:
        await send_cancel(self.session.guard, request)
        self.session.close()

    async def _upgrade(self, context: ssl.SSLContext, direct: bytes = b"") -> None:
        """TLS towards the client. `direct`: its first bytes, when it did not ask for TLS but began it."""
        client = self.session.client
        if not await client.start_tls(context, direct):
            return
        self.encrypted = True
        if direct and client.tls_object().selected_alpn_protocol() != "postgresql":
            # Without it, somebody could send a browser's TLS connection here.
            self.session.guard.counters.tls_failures += 1
            text = "direct TLS needs ALPN postgresql: use sslnegotiation=postgres with this client"
            self.session.refuse(Refusal.PROTOCOL, text, "direct TLS without ALPN")

    def _start(self, raw: bytes, params: dict[str, str], rest: bytes) -> None:
        """The client sent its StartupMessage: check the standing verdict, then connect to the database."""
        session = self.session
        session.login = params.get("user", "")
        guard, listener = session.guard, session.listener
        if startup.replicates(params) and not guard.may_replicate(session.login):
            text = "replication is not allowed through this guard for this account: see allow_replication"
            session.refuse(Refusal.FORBIDDEN, text, "replication start-up refused")
            return
        shown = session.client.tls_object() if self.encrypted else None
        if listener.tls_client_ca and (problem := account_problem(shown, session.login)):
            session.refuse(Refusal.LOGIN, problem, "client certificate refused")
            return
        observer = Reader(
            guard.setting,
            session.id,
            session.source,
            cast("PatientColumns", guard.columns),
            Identity(guard.rules, guard.contexts, session.id, session.source),
            classifier=guard.classifier,
            asked=guard.asked,
            templates=guard.templates,
        )
        observer.startup(params)
        if not session.admit(observer, params.get("application_name", "")):
            return
        session.client.divert = None
        session.client.pause()
        session.early = rest  # who needs no password may have asked already: it is looked at as all that follows
        spawn(session.connect(self._reach, raw), "connect upstream")

    async def _reach(self) -> ServerSide:
        """A connection to the database, TLS done when configured. Raises OSError, TimeoutError, SSLError, ProtocolError."""
        guard = self.session.guard
        side = ServerSide(self.session)
        context = guard.upstream_tls
        if context is None:
            await guard.dial(side)
            return side
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        side.divert = lambda data: None if answer.done() else answer.set_result(data)
        side.lost = lambda: None if answer.done() else answer.set_exception(ConnectionResetError())
        host = await guard.dial(side)
        try:
            side.write(startup.ssl_request())
            if await answer != b"S":
                raise ProtocolError("the database refused TLS: set upstream_tls or enable ssl there")
            side.divert = side.lost = None
            await side.start_client_tls(context, host)
        except BaseException:  # the time is over, too: nobody else knows of this connection yet
            side.abort()
            raise
        return side
