"""What the relay needs of a database engine. Each engine is a package beside this file, with the same file names in each:

    front.py      `Front`: a connection from accept to login, the engine's own words for a refusal, how it cancels

Everything behind the login is the relay's, the same for every engine: it hands bytes to an `Observer` and forwards them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Coroutine, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from ..events.query import Evidence, Flag, QueryEvent
from ..observe.portion import Result
from ..observe.screening import Judge

if TYPE_CHECKING:
    from .in_step import Discard
    from .relay import Session
    from .sides import ServerSide


class Refusal(Enum):
    """Why a client is turned away or a session ended: each engine has an error code of its own for it."""

    LOGIN = "login"
    """The account may not log in."""
    CUT = "cut"
    """The result went over its limit, or a verdict ends the session."""
    TOO_MANY = "too many"
    """`max_sessions` is reached."""
    UPSTREAM = "upstream"
    """The database cannot be reached."""
    FORBIDDEN = "forbidden"
    """The client asked for what may not pass, such as replication."""
    SPOOL = "spool"
    """The spool is full, and the policy is to refuse."""
    IDLE = "idle"
    """Nothing was said for `idle_timeout`."""
    SHUTDOWN = "shutdown"
    """The guard is being stopped."""
    PROTOCOL = "protocol"
    """The client does not speak the protocol, or it can no longer be followed."""


class Observer(Protocol):
    """Reads both directions of one session and says what left the database (observe/observer.py has the meaning of each)."""

    principal: str
    evidence: Evidence
    authenticated: bool
    desynced: bool
    refusals: int
    """Requests that `screen` refused and whose answer is still to come: read first, forward (patched) then."""
    forbidden: str
    """In fixed words, what the client asked for and may not have: then its bytes are not forwarded."""

    @property
    def at_boundary(self) -> bool:
        """True when the server's bytes so far are whole messages."""

    @property
    def awaiting_reply(self) -> bool:
        """True while the server owes an answer."""

    @property
    def in_transaction(self) -> bool:
        """True while a transaction is open, failed or not."""

    def untold(self) -> bool:
        """True while rows were counted that no event has told yet."""

    def passes_first(self, data: bytes) -> bool:
        """True when nothing in these client bytes can be forbidden: in `observe` they are forwarded before they are shown to it."""

    def client_data(self, data: bytes, now_ms: int) -> list[QueryEvent]:
        """Bytes from the client, behind the login."""

    @property
    def holding(self) -> bool:
        """True while `screen` holds the beginning of a request: the next bytes go there too."""

    def hold(self, data: bytes, now_ms: int) -> tuple[Flag, ...] | None:
        """The quick way past `screen`: these bytes are a statement of the principal at hand, with these flags, and now held until its
        answer is here; or `let_go`, where it must be refused. None: nothing was done."""

    def let_go(self) -> None:
        """What `hold` holds goes to `screen`."""

    def screen(self, data: bytes, now_ms: int, judge: Judge) -> tuple[bytes, list[QueryEvent]]:
        """Like `client_data`, with requests refused that `judge` refuses: the bytes to send to the server instead."""

    def server_data(
        self,
        data: bytes,
        now_ms: int,
        allowed_rows: int | None = None,
        allowed_patients: int | None = None,
        known_patients: Container[str] | None = None,
        *,
        follow: bool = False,
    ) -> Result:
        """Bytes from the server. With an allowance, reading stops where it is spent; with `follow`, where another principal's
        answers begin."""

    def answered(self, data: bytes, now_ms: int, allowed_rows: int | None, allowed_patients: int | None) -> bool:
        """The quick way past `server_data`: True when these bytes are the whole answer to what `hold` holds, all of it allowed."""

    portion_rows: int
    """Rows in the bytes that were shown last."""
    portion_estimated: int

    @property
    def portion_patients(self) -> Iterable[str]:
        """Digests of their patients; not kept by `observed`."""

    def observed(self, data: bytes, now_ms: int) -> list[QueryEvent]:
        """`server_data` for bytes that have passed already: nothing is allowed or held back."""

    def tick(self, now_ms: int, events: list[QueryEvent] | None = None) -> list[QueryEvent]:
        """A progress event when it is time for one."""

    def give_up(self, now_ms: int) -> list[QueryEvent]:
        """Reading failed with an error that is the guard's own: the session is desynced, and its bytes are not read any more."""

    def close(self, now_ms: int) -> list[QueryEvent]:
        """The connection ended."""


class Front(Protocol):
    """One connection in its engine's own way. While `divert` of a side is set, that side's bytes come here."""

    def connected(self) -> None:
        """A client was accepted: set its side's `divert`, or begin by yourself."""

    def login_reply(self, data: bytes) -> bytes:
        """Server bytes as the client may see them, before authentication is complete."""

    def refusal(self, why: Refusal, message: str) -> bytes:
        """The engine's own error packet."""

    def statement_error(self, message: str) -> tuple[bytes, Discard] | None:
        """The error packet that ends the running statement and not the session, and what finds the statement's end in the
        server's bytes. None where the engine cannot go on after a cut: then the session is closed."""

    def cancel(self) -> Coroutine[Any, Any, None] | None:
        """What stops the backend's work, to be run in the background; None when nothing can."""

    def leave(self, server: ServerSide) -> None:
        """The session has ended: so does its connection to the database."""


FrontMaker = Callable[["Session"], Front]
