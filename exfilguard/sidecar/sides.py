"""The two ends of a session: sockets with back-pressure, a turn for each session in a large result, soft closes.

A side hands what it reads to a `Talk`, which is the session (relay.py), or to the engine's login while `divert` is set.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from ..wire import proxy
from .engine import Refusal
from .proxied import ProxyHeader, addresses_of
from .receiver import Receiver

if TYPE_CHECKING:
    from .relay import Session
    from .worker import Guard

WRITE_HIGH_BYTES = 256 << 10
"""A side with this much unsent data stops the other side's reading."""
TURN_BYTES = 64 << 10
"""A result is worked on in portions of this size, and every other session has its turn in between. The event loop by itself
would read a fast one up to 32 times in a row, 256 kB each: most of a second for everybody else."""
_TURN = "others' turn"
LINGER_S = 5.0
"""A refused client that does not read its error is dropped after this time."""
STALLED_LOOKS = 12
"""Who still has rows to read is looked at again after each LINGER_S, and dropped when so often in a row it had read nothing."""
TLS_TIMEOUT_S = 10.0
"""A client that has begun TLS must have finished the handshake by then."""
MAX_REFUSING = 64
"""Clients that may get as far as being refused properly; one more is refused at once."""
TOO_MANY = "the guard's max_sessions is reached: try again later"


class Talk:
    """What the two sides speak to."""

    __slots__ = ()

    def from_client(self, data: bytes) -> None:
        """The client's bytes, behind the login. Never raises."""
        raise NotImplementedError

    def from_server(self, data: bytes, opened: bool = False) -> None:
        """The database's bytes; `opened`: what was inside their envelopes. Never raises."""
        raise NotImplementedError


class Side(Receiver):
    """What the two sides share: writing with back-pressure, and a soft close that flushes. An asyncio.Protocol to whom calls it."""

    pumped = True
    """Where compiled, the sockets are read and written by _pump.pyx."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.direct: Any = None
        """The transport, where it is one of _pump.pyx."""
        self.paused_by: set[str] = set()
        self.divert: Callable[[bytes], None] | None = None
        """While set, this side's bytes go here: the engine's login is going on."""

    def attach(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.direct = getattr(transport, "itself", None)
        self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)

    async def secure(
        self, context: ssl.SSLContext, *, server: bool = False, host: str | None = None, timeout_s: float | None = None
    ) -> None:
        """TLS from here on. Raises OSError, SSLError, TimeoutError.

        asyncio's start_tls hands decrypted bytes on before it returns (uvloop's does not): whoever answered them then would
        answer in clear. So they wait until this side has the encrypted transport and the caller has gone on."""
        loop = asyncio.get_running_loop()
        early: list[bytes] = []
        then, wait = self.divert, early.append
        self.divert = wait
        transport = await loop.start_tls(
            cast("asyncio.Transport", self.transport), cast("asyncio.Protocol", self), context,
            server_side=server, server_hostname=host, ssl_handshake_timeout=timeout_s,
        )  # fmt: skip
        if transport is not None:
            self.attach(transport)

        def go_on() -> None:
            if self.divert is wait:
                self.divert = then
                if early:
                    self.data_received(b"".join(early))

        loop.call_soon(go_on)

    def write(self, data: bytes) -> None:
        if self.direct is not None:
            self.direct.write(data)
        elif data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def pause(self, why: str = "start-up") -> None:
        if not self.paused_by and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()
        self.paused_by.add(why)

    def resume(self, why: str = "start-up") -> None:
        if why not in self.paused_by:
            return
        self.paused_by.discard(why)
        if not self.paused_by and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def resume_all(self) -> None:
        """Whatever others asked for."""
        for why in self.paused_by - {_TURN}:
            self.resume(why)

    def close_softly(self) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.close()
            asyncio.get_running_loop().call_later(LINGER_S, transport.abort)

    def write_eof(self) -> bool:
        """Say that nothing more comes. False where only a close can say that: TLS."""
        transport = self.transport
        if transport is None or transport.is_closing() or not transport.can_write_eof():
            return False
        transport.write_eof()
        return True

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class ClientSide(Side):
    """Speaks to the application: to the engine's front while it logs in, then to the session."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self.guard = guard
        self.session: Session | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.addresses = proxy.Header()
        """The client's and the one it connected to; behind a load balancer as its PROXY header says."""
        self.lingers = False
        self.gone = False
        self.crowded = False
        """There is no room for it: it is told so when it has said who it is. libpq does not show an error that comes earlier, in
        answer to its question about TLS."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.attach(transport)
        if self.session is None:  # a TLS upgrade calls this again
            self.guard.counters.connections += 1
            self.guard.clients += 1
            self.addresses = addresses_of(transport)
            self.session = self.guard.make_session(self)
            delay = self.guard.listener.login_timeout_ms / 1000
            self.timer = asyncio.get_running_loop().call_later(delay, self._too_slow)
            beyond = self.guard.worker.clients() - self.guard.worker.max_clients
            self.crowded = beyond > 0
            if beyond > MAX_REFUSING:
                self.session.refuse(Refusal.TOO_MANY, TOO_MANY, "too many connections")
            elif self.guard.believes(self.addresses.source):
                self.divert = ProxyHeader(self).data_received
            else:
                self.session.front.connected()

    def _too_slow(self) -> None:
        session = self.session
        if session is not None and not (session.observer is not None and session.observer.authenticated):
            self.guard.counters.login_timeouts += 1
            session.abort()

    def data_received(self, data: bytes) -> None:
        if self.divert is not None:
            self.divert(data)
        elif self.session is not None:
            self.session.from_client(data)

    async def start_tls(self, context: ssl.SSLContext, early: bytes = b"") -> bool:
        """Take the client's TLS handshake, of which `early` has been read already. False, and the connection aborted, when it
        fails."""
        transport = cast("asyncio.Transport", self.transport)
        if early:
            asyncio.get_running_loop().call_soon(_feed, transport, early)
        try:
            await self.secure(context, server=True, timeout_s=TLS_TIMEOUT_S)
        except (OSError, ssl.SSLError, TimeoutError):
            self.guard.counters.tls_failures += 1
            transport.abort()
            self.connection_lost(None)  # TLS keeps a reset in the middle of its handshake to itself
            return False
        return True

    def tls_object(self) -> ssl.SSLObject:
        """After `start_tls`: what was negotiated."""
        return cast("ssl.SSLObject", cast("asyncio.Transport", self.transport).get_extra_info("ssl_object"))

    def eof_received(self) -> bool:
        if self.session is None:
            return False
        return self.session.client_gone()

    def close_softly(self) -> None:
        """What was written reaches the client even when it is still sending: a socket that is closed with unread bytes in it
        answers with a reset, which may overtake the error. So: say the end, read on for a while, and throw that away."""
        if self.lingers or not self.write_eof():
            super().close_softly()
            return
        self.lingers = True
        self.guard.lingering += 1
        self.divert = ignore
        self.resume_all()
        transport = self.transport
        if transport is not None:
            left = transport.get_write_buffer_size()
            asyncio.get_running_loop().call_later(LINGER_S, self._lingered, left, STALLED_LOOKS)

    def _lingered(self, before: int, looks: int) -> None:
        """The time to read the end is over, but not for a slow client whose rows have not all left yet."""
        transport = cast("asyncio.Transport", self.transport)
        left = transport.get_write_buffer_size()
        looks = STALLED_LOOKS if left < before else looks - 1
        if left and looks:
            asyncio.get_running_loop().call_later(LINGER_S, self._lingered, left, looks)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.gone:
            return
        self.gone = True
        self.guard.clients -= 1
        if self.timer is not None:
            self.timer.cancel()
        if self.lingers:
            self.lingers = False
            self.guard.lingering -= 1
        if self.session is not None:
            if not self.session.closed:
                self.session.close()
            if self.session.server is not None:
                self.session.server.close_softly()

    def pause_writing(self) -> None:
        if self.session is not None and self.session.server is not None:
            self.session.server.pause("client is slow")

    def resume_writing(self) -> None:
        if self.session is not None and self.session.server is not None:
            self.session.server.resume("client is slow")


def ignore(data: bytes) -> None:
    """For `divert`: what comes is not read."""


def _feed(transport: asyncio.Transport, data: bytes) -> None:
    """Hand bytes that were read before to the protocol that has the connection now: TLS."""
    protocol = cast("asyncio.BufferedProtocol", transport.get_protocol())
    while data:
        room = memoryview(protocol.get_buffer(len(data)))
        taken = min(len(room), len(data))
        room[:taken] = data[:taken]
        protocol.buffer_updated(taken)
        data = data[taken:]


class ServerSide(Side):
    """Speaks to the database."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.plain: Talk | None = session if isinstance(session, Talk) else None
        """The same, for a call in C."""
        self.lost: Callable[[], None] | None = None
        """Told that the connection is gone, while the engine's front awaits something of it."""
        self.rest = b""
        """What has arrived and is worked on in turns; bounded, since reading is paused meanwhile."""
        self.rest_at = 0
        self.turn: Callable[[bytes, int, int], int] | None = None
        """How many bytes from a position on are one turn, TURN_BYTES at most: of a compressed session, whose bytes are more than they seem."""
        self.throttle_timer: asyncio.TimerHandle | None = None
        self.over = False
        """The database has gone: nothing waits any more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.attach(transport)

    def data_received(self, data: bytes) -> None:
        if self.divert is not None:
            self.divert(data)
            return
        size = TURN_BYTES if self.turn is None else self.turn(data, 0, TURN_BYTES)
        if len(data) <= size and not self.rest:
            if self.plain is not None:
                self.plain.from_server(data)
            else:
                self.session.from_server(data)
            return
        self.rest = self.rest[self.rest_at :] + data
        self.rest_at = 0
        self.pause(_TURN)
        self._next_turn()

    async def start_client_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Begin TLS towards the database. Raises OSError, SSLError."""
        await self.secure(context, host=host)

    def _next_turn(self) -> None:
        """One portion, unless a slow client or the throttle asks to wait: then `resume` goes on here."""
        if not self.rest or self.paused_by != {_TURN}:
            return
        at = self.rest_at
        size = TURN_BYTES if self.turn is None else self.turn(self.rest, at, TURN_BYTES)
        portion = self.rest[at : at + size]
        self.rest_at = at + size
        if self.rest_at >= len(self.rest):
            self.rest, self.rest_at = b"", 0
        self.session.from_server(portion)
        asyncio.get_running_loop().call_soon(self._next_turn if self.rest else self._turns_over)

    def _turns_over(self) -> None:
        if not self.rest:
            self.resume(_TURN)

    def resume(self, why: str = "start-up") -> None:
        super().resume(why)
        if self.rest and why != _TURN:
            self._next_turn()

    def _finish_turns(self) -> None:
        """The database has gone: what it had sent is still the client's."""
        self.over = True
        rest, self.rest = self.rest[self.rest_at :], b""
        if rest:
            self.session.from_server(rest)

    def pace(self, seconds: float) -> None:
        """Do not read the database for that long from now: the throttle. The latest call decides."""
        if seconds < 0.001:
            return
        self.pause("throttle")
        if self.throttle_timer is not None:
            self.throttle_timer.cancel()
        self.throttle_timer = asyncio.get_running_loop().call_later(seconds, self.resume, "throttle")

    def put_back(self, data: bytes, seconds: float) -> bool:
        """These bytes, the ones that were handed on last, come again after that time. False when there is nothing to wait for."""
        if seconds < 0.001 or self.over:
            return False
        self.rest = data + self.rest[self.rest_at :]
        self.rest_at = 0
        self.pause(_TURN)
        self.pace(seconds)
        return True

    def eof_received(self) -> bool:
        self._finish_turns()
        self.session.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.throttle_timer is not None:
            self.throttle_timer.cancel()  # it may be hours, and holds the session
        if self.lost is not None:
            self.lost()
        if self.session.server is self:
            self._finish_turns()
            self.session.close()

    def pause_writing(self) -> None:
        self.session.client.pause("database is slow")

    def resume_writing(self) -> None:
        self.session.client.resume("database is slow")
