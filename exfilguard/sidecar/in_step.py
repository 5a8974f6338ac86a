"""A session that goes on after a cut (`on_cut = "error"`): the client is given the engine's error, the rest is dropped.

    relay ──► client        the statement's error, at a row's boundary
    relay ──► database      cancel, on a connection of its own
    database ──► relay      dropped, until the engine says that it is ready (Discard)
    relay ──► client        that it is ready; from here on as before

The observer is shown what the client is shown, so that its pairing of requests and replies stays right. The database is read
again when the cancel was delivered: so the backend gets no further than what it had sent, and a cancel that is still on its way
cannot hit the client's next statement. Where it was done nevertheless, and has changed something, an error would be a lie: then
the session is closed, as after a lost connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ProtocolError
from ..runtime.tasks import spawn
from .engine import Refusal

if TYPE_CHECKING:
    from .relay import Session

log = logging.getLogger(__name__)

_WHY = "cancel under way"


class Discard(Protocol):
    """An engine's way to find the end of a statement that was cut (wire/postgres/discard.py)."""

    done: bool

    @property
    def stands(self) -> bool:
        """True when the statement was done, with effects, before the cancel reached it."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """(what the client may see before it is in step, what follows once `done`). Raises ProtocolError."""


class InStep:
    """Brings one session back in step; `from_server` gets the database's bytes until `session.in_step` is None again."""

    __slots__ = ("_cancelling", "_discard", "_rest", "_session")

    def __init__(self, session: Session, discard: Discard, cancel: Coroutine[Any, Any, None] | None) -> None:
        self._session = session
        self._discard = discard
        self._rest = b""
        self._cancelling: asyncio.Task[None] | None = None
        if cancel is not None:
            self._cancelling = spawn(cancel, "cancel backend")
            self._cancelling.add_done_callback(lambda _: self._cancelled())
            if session.server is not None:
                session.server.pause(_WHY)

    def from_server(self, data: bytes) -> None:
        if self._discard.done:  # the server side's reading is paused, but a portion may be under way
            self._rest += data
            return
        session = self._session
        try:
            passing, rest = self._discard.feed(data)
        except ProtocolError as error:
            log.warning("listener %s: lost the end of a statement that was cut: %s", session.listener.name, error)
            session.abort()
            return
        if passing:
            session.deliver(passing)
        if self._discard.done:
            self._rest = rest
            if self._cancelling is None or self._cancelling.done():
                self._finish()

    def _cancelled(self) -> None:
        session = self._session
        if session.closed:
            return
        if self._discard.done:
            self._finish()
        if session.server is not None:
            session.server.resume(_WHY)

    def _finish(self) -> None:
        session = self._session
        rest, self._rest = self._rest, b""
        session.in_step = None
        if self._discard.stands:
            text = "the database was done before it could be stopped: what the statement changed stands"
            session.refuse(Refusal.CUT, text, "local budget: cut too late to keep the session")
            return
        session.from_server(rest, opened=True)
