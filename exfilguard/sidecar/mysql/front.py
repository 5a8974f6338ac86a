"""A connection to MySQL or MariaDB from accept to login; refusals; ending what the server does.

Rules:
- The nonce of the greeting is the server's own, so that every authentication plugin works through the guard.
- Each side has packet numbers of its own: with TLS on one side only, one side has a packet more.
- `caching_sha2_password` asks for the password itself on a secure connection, and for it encrypted on another. Where the two
  sides differ, the guard translates (passwords.py): the password passes through memory, and is never kept or logged. So too for
  COM_CHANGE_USER, whose authentication then comes here, in a compressed session in envelopes.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Coroutine
from typing import Any, cast

from ...errors import ProtocolError
from ...observe.identity import Identity
from ...observe.mysql.patients import OriginColumns
from ...observe.mysql.quick import Reader
from ...observe.mysql.session import MysqlObserver
from ...runtime.clock import now_ms
from ...runtime.tasks import spawn
from ...wire.mysql import messages, startup
from ...wire.mysql.compression import Algorithm, Envelopes, Wrapping, envelope
from ...wire.mysql.discard import Discard
from ...wire.mysql.messages import packet
from ..engine import Refusal
from ..relay import CONNECT_TIMEOUT_S, Session
from ..sides import TOO_MANY, ServerSide
from ..tls import account_problem
from . import passwords
from .kill import kill
from .parting import Parting

log = logging.getLogger(__name__)

ERRORS = {
    Refusal.LOGIN: (3118, "HY000"),  # ER_ACCOUNT_HAS_BEEN_LOCKED
    Refusal.CUT: (1226, "42000"),  # ER_USER_LIMIT_REACHED
    Refusal.TOO_MANY: (1040, "08004"),  # ER_CON_COUNT_ERROR
    Refusal.UPSTREAM: (1053, "08S01"),  # ER_SERVER_SHUTDOWN
    Refusal.FORBIDDEN: (1227, "42000"),  # ER_SPECIFIC_ACCESS_DENIED_ERROR
    Refusal.SPOOL: (1021, "HY000"),  # ER_DISK_FULL
    Refusal.IDLE: (4031, "HY000"),  # ER_CLIENT_INTERACTION_TIMEOUT
    Refusal.SHUTDOWN: (1053, "08S01"),  # ER_SERVER_SHUTDOWN
    Refusal.PROTOCOL: (1835, "HY000"),  # ER_MALFORMED_PACKET
}
CACHING_SHA2 = "caching_sha2_password"
FULL_AUTHENTICATION = b"\x01\x04"
REQUEST_PUBLIC_KEY = b"\x02"


class MysqlFront:
    """See engine.Front."""

    __slots__ = (
        "again",
        "awaiting",
        "capabilities",
        "client_buffer",
        "client_next",
        "client_secure",
        "client_wrapping",
        "compression",
        "greeted",
        "nonce",
        "offered",
        "password",
        "plugin",
        "server_buffer",
        "server_next",
        "server_wrapping",
        "session",
        "thread_id",
    )

    def __init__(self, session: Session) -> None:
        self.session = session
        self.client_buffer = self.server_buffer = b""
        """Bytes of the login that are not whole packets yet; bounded by `startup.split`."""
        self.client_next = self.server_next = 0
        """The number of the next packet on either side."""
        self.awaiting = "greeting"
        """greeting, response, busy (a TLS handshake), auth, one of the password translations, done."""
        self.again = False
        """This is the authentication of a COM_CHANGE_USER."""
        self.compression: Algorithm = ""
        """Of the session, from the login on."""
        self.client_wrapping: Wrapping | None = None
        self.server_wrapping: Wrapping | None = None
        """What lies around either side's packets during that authentication, in a compressed session."""
        self.greeted: startup.Greeting | None = None
        self.offered = 0
        self.capabilities = 0
        self.client_secure = False
        self.nonce = b""
        self.plugin = ""
        self.password = b""
        """On its way from one side to the other; empty at any other time."""
        self.thread_id = 0

    # -- engine.Front -----------------------------------------------------------------------------------------------

    def connected(self) -> None:
        session = self.session
        session.client.divert = self._client_data
        if session.guard.sessions_open >= session.guard.max_sessions or session.client.crowded:
            session.refuse(Refusal.TOO_MANY, TOO_MANY, "max_sessions reached")
            return
        spawn(self._reach(), "connect upstream")

    def login_reply(self, data: bytes) -> bytes:
        return data

    def refusal(self, why: Refusal, message: str) -> bytes:
        code, sqlstate = ERRORS[why]
        payload = messages.err(code, sqlstate, message)
        observer = cast("MysqlObserver | None", self.session.observer)
        if observer is None or not observer.authenticated:
            return packet(self.client_next, payload)
        if self.client_wrapping is not None:
            return self.client_wrapping.seal(packet(self.client_next, payload))
        whole = packet(self.client_next if self.again else observer.next_sequence, payload)
        if self.session.envelopes is not None:
            return self.session.envelopes.seal(whole)
        number = observer.next_envelope
        return whole if number is None else envelope(number, whole)

    def statement_error(self, message: str) -> tuple[bytes, Discard] | None:
        observer = cast("MysqlObserver", self.session.observer)
        payload = messages.err(*ERRORS[Refusal.CUT], message)
        return packet(observer.next_sequence, payload), Discard(observer.capabilities, only_reads=observer.only_reads)

    def cancel(self) -> Coroutine[Any, Any, None] | None:
        """With `kill_dsn` the server is told; without, the end of its connection stops it at its next write."""
        listener = self.session.listener
        return kill(listener, self.thread_id) if listener.kill_dsn and self.thread_id else None

    def leave(self, server: ServerSide) -> None:
        session = self.session
        refused = self.server_next == 1 and self.greeted is None  # an error in the greeting's place
        if self.server_next > 1 or refused or session.listener.upstream.startswith("unix:"):
            server.close_softly()
            return
        session.server = None
        Parting(server, self.greeted, self.server_buffer)

    # -- the database -----------------------------------------------------------------------------------------------

    async def _reach(self) -> None:
        session = self.session
        side = ServerSide(session)
        side.divert = self._server_data
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await session.guard.dial(side)
        except (OSError, TimeoutError) as error:
            self._unreachable(error)
            return
        if session.closed:
            self.leave(side)
            return
        session.server = side
        if self.server_buffer:
            self._server_data(b"")

    def _unreachable(self, error: BaseException) -> None:
        session = self.session
        log.warning("listener %s: the database cannot be reached: %s", session.listener.name, type(error).__name__)
        session.guard.counters.upstream_failures += 1
        session.refuse(Refusal.UPSTREAM, "the guard cannot reach the database", "upstream unreachable")

    def _server_data(self, data: bytes) -> None:
        try:
            if self.server_wrapping is not None:
                data = self.server_wrapping.open(data, startup.MAX_LOGIN_PACKET_BYTES)
            self.server_buffer += data
            while self.session.server is not None and not self.session.closed and self.awaiting != "done":
                found = startup.split(self.server_buffer)
                if found is None:
                    return
                number, payload, self.server_buffer = found
                self.server_next = number + 1
                self._server_packet(payload)
        except ProtocolError as error:
            self._garbage("server", error)

    def _server_packet(self, payload: bytes) -> None:
        if self.awaiting == "greeting":
            self._greeting(payload)
        elif payload[0] == messages.ERR:
            self._changed(payload) if self.again else self._login_failed(payload)
        elif self.awaiting == "public key":
            self._public_key(payload)
        elif self.awaiting != "auth":
            raise ProtocolError("the server speaks out of turn")
        elif payload[0] == messages.OK:
            self._changed(payload) if self.again else self._login_succeeded(payload)
        else:
            if payload[0] in (messages.EOF, messages.AUTH_NEXT_FACTOR):
                # AuthSwitchRequest, or the same for a further factor.
                name, _, nonce = payload[1:].partition(b"\0")
                self.plugin, self.nonce = name.decode("ascii", "replace"), nonce.rstrip(b"\0")[:20]
            elif payload == FULL_AUTHENTICATION and self.plugin == CACHING_SHA2 and self._sides_differ():
                self.awaiting = "password" if self.client_secure else "encrypted password"
            self._to_client(payload)

    def _greeting(self, payload: bytes) -> None:
        if payload[0] == messages.ERR:  # too many connections, a blocked host
            self._to_client(payload)
            self.session.close()
            return
        found = self.greeted = startup.greeting(payload)
        self.thread_id, self.nonce, self.plugin = found.thread_id, found.nonce, found.plugin
        shown = startup.offer(payload, tls=self.session.guard.tls is not None)
        self.offered = startup.greeting(shown).capabilities
        self.awaiting = "response"
        self._to_client(shown)
        if self.client_buffer:
            self._client_data(b"")

    def _login_failed(self, payload: bytes) -> None:
        session, observer = self.session, cast("MysqlObserver | None", self.session.observer)
        self._to_client(payload)
        if observer is not None:
            session.guard.emit(session, observer.login_failed(messages.sqlstate(payload), now_ms()))
        session.close()

    def _login_succeeded(self, payload: bytes) -> None:
        session, observer = self.session, cast("MysqlObserver", self.session.observer)
        self.awaiting = "done"
        self._to_client(payload)
        agreed = self.capabilities
        if agreed & messages.CLIENT_COMPRESS:
            self.compression = "zlib"
        elif agreed & messages.CLIENT_ZSTD_COMPRESSION_ALGORITHM:
            self.compression = "zstd"
        if self.compression and session.listener.mode == "enforce":
            session.envelopes = Envelopes(self.compression)
        events = observer.login_succeeded(agreed, self.compression, now_ms(), session.envelopes)
        session.guard.emit(session, events)
        opens = session.envelopes or observer.inflater
        if opens is not None and session.server is not None:
            session.server.turn = opens.turn
        if self._sides_differ():
            observer.on_change_user = self._change_user
        self._hand_over(b"")

    def _hand_over(self, first: bytes) -> None:
        """From here on both sides' bytes are the relay's: `first`, and what has come already."""
        session = self.session
        session.client.divert = None
        if session.server is not None:
            session.server.divert = None
        client, server = self.client_wrapping, self.server_wrapping
        self.client_wrapping = self.server_wrapping = None
        rest, self.server_buffer = first + self.server_buffer, b""
        if client is None or server is None:
            if rest:
                session.from_server(rest)
        else:
            if session.envelopes is None:
                session.from_server(client.seal(rest))
            else:
                session.envelopes.next = client.next
                session.from_server(rest, opened=True)
            if server.rest:
                session.from_server(server.rest)
        rest, self.client_buffer = self.client_buffer, b""
        if client is not None:
            rest = envelope(client.next - 1, rest) + client.rest
        if rest:
            session.from_client(rest)

    def _change_user(self, plugin: str) -> None:
        """COM_CHANGE_USER is about to be sent: what follows it, up to OK or ERR, comes here."""
        session = self.session
        if session.server is None:
            return
        self.again, self.awaiting = True, "auth"
        self.plugin = plugin or self.plugin
        self.client_next = self.server_next = 1
        number = cast("MysqlObserver", session.observer).client_envelope
        if number is not None:
            self.client_wrapping = Wrapping(self.compression, number + 1)
            self.server_wrapping = Wrapping(self.compression, number + 1)
        session.client.divert = self._client_data
        session.server.divert = self._server_data

    def _changed(self, payload: bytes) -> None:
        """The end of COM_CHANGE_USER, of which the observer is told as of any other answer."""
        self.again, self.awaiting = False, "done"
        self._hand_over(packet(self.client_next, payload))

    # -- the client -------------------------------------------------------------------------------------------------

    def _client_data(self, data: bytes) -> None:
        try:
            if self.client_wrapping is not None:
                data = self.client_wrapping.open(data, startup.MAX_LOGIN_PACKET_BYTES)
            self.client_buffer += data
            while self.awaiting not in ("greeting", "busy", "done") and not self.session.closed:
                found = startup.split(self.client_buffer)
                if found is None:
                    return
                number, payload, self.client_buffer = found
                self.client_next = (number + 1) & 0xFF
                self._client_packet(payload)
            if len(self.client_buffer) > startup.MAX_LOGIN_PACKET_BYTES:
                raise ProtocolError("the client speaks out of turn")
        except ProtocolError as error:
            self._garbage("client", error)

    def _client_packet(self, payload: bytes) -> None:
        if self.awaiting == "response":
            self._response(payload)
        elif self.awaiting == "password":
            # In clear, as the client's TLS allows; the database's connection has none.
            self.password = payload
            self.awaiting = "public key"
            self._to_server(REQUEST_PUBLIC_KEY)
        elif self.awaiting == "encrypted password":
            self._encrypted_password(payload)
        elif self.awaiting == "auth":
            self._to_server(payload)
        else:
            raise ProtocolError("the client speaks out of turn")

    def _response(self, payload: bytes) -> None:
        session, guard = self.session, self.session.guard
        if startup.is_ssl_request(payload):
            if guard.tls is None or self.client_secure:
                raise ProtocolError("TLS was not offered")
            self.awaiting = "busy"
            early, self.client_buffer = self.client_buffer, b""
            spawn(self._upgrade(guard.tls, early), "client TLS")
            return
        found = startup.login(payload)
        session.login = found.user
        certified = bool(guard.listener.tls_client_ca)
        shown = session.client.tls_object() if self.client_secure else None
        if certified and (problem := account_problem(shown, found.user)):
            session.refuse(Refusal.LOGIN, problem, "client certificate refused")
            return
        observer = Reader(
            guard.setting,
            session.id,
            session.source,
            cast("OriginColumns", guard.columns),
            Identity(guard.rules, guard.contexts, session.id, session.source),
            classifier=guard.classifier,
            asked=guard.asked,
            templates=guard.templates,
            allow_replication=guard.may_replicate(found.user),
            certified=certified,
        )
        observer.startup(found)
        if found.plugin:
            self.plugin = found.plugin
        if not session.admit(observer, observer.application):
            return
        context = guard.upstream_tls
        response = startup.answer(payload, tls=context is not None)
        self.capabilities = startup.response_capabilities(response) & self.offered
        if context is None:
            self.awaiting = "auth"
            self._to_server(response)
        else:
            self.awaiting = "busy"
            spawn(self._upstream_tls(context, response), "upstream TLS")

    async def _upgrade(self, context: ssl.SSLContext, early: bytes) -> None:
        """TLS towards the client, whose first TLS bytes may have come behind its request."""
        if await self.session.client.start_tls(context, early):
            self.client_secure = True
            self.awaiting = "response"
            self._client_data(b"")

    async def _upstream_tls(self, context: ssl.SSLContext, response: bytes) -> None:
        session = self.session
        server = session.server
        if server is None:
            return
        self._to_server(response[: startup.SSL_REQUEST_BYTES])
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await server.start_client_tls(context, session.guard.upstream_host)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self._unreachable(error)
            return
        if not session.closed:
            self.awaiting = "auth"
            self._to_server(response)
            self._client_data(b"")

    # -- passwords --------------------------------------------------------------------------------------------------

    def _sides_differ(self) -> bool:
        """True when one side is secure in the server's eyes and the other is not."""
        guard = self.session.guard
        server_secure = guard.upstream_tls is not None or guard.listener.upstream.startswith("unix:")
        return server_secure != self.client_secure

    def _public_key(self, payload: bytes) -> None:
        """The database's key: the client's password goes to it encrypted."""
        password, self.password = self.password, b""
        self.awaiting = "auth"
        self._to_server(passwords.encrypt(payload[1:], startup.scrambled(password, self.nonce)))

    def _encrypted_password(self, payload: bytes) -> None:
        """The client has no TLS, the database's connection is secure: the guard has a key of its own for the way in between."""
        if payload == REQUEST_PUBLIC_KEY:
            self.awaiting = "busy"
            spawn(self._own_key(), "password key")
            return
        self.awaiting = "auth"
        self._to_server(startup.scrambled(passwords.decrypt(payload), self.nonce))

    async def _own_key(self) -> None:
        pem = await passwords.public_key()
        self.awaiting = "encrypted password"
        self._to_client(b"\x01" + pem)
        self._client_data(b"")

    # -- both -------------------------------------------------------------------------------------------------------

    def _to_client(self, payload: bytes) -> None:
        data = packet(self.client_next, payload)
        self.session.client.write(data if self.client_wrapping is None else self.client_wrapping.seal(data))
        self.client_next = (self.client_next + 1) & 0xFF

    def _to_server(self, payload: bytes) -> None:
        server = self.session.server
        if server is not None:
            data = packet(self.server_next, payload)
            server.write(data if self.server_wrapping is None else self.server_wrapping.seal(data))
            self.server_next = (self.server_next + 1) & 0xFF

    def _garbage(self, who: str, error: ProtocolError) -> None:
        session = self.session
        session.guard.counters.garbage += 1
        if who == "server" and session.server is not None:
            session.server.close_softly()  # whatever it is, no login would be read
        log.info("listener %s: closed a %s that does not speak the protocol: %s", session.listener.name, who, error)
        session.refuse(Refusal.PROTOCOL, "this port speaks the MySQL protocol, version 10", "not the protocol")
