# cython: annotation_typing=False
"""Who receives what the readers of either engine cut the streams into: PostgreSQL's messages, MySQL's packets.

One class for both, so that an observer of either is one object, with one base, that its readers call in C.
"""

from __future__ import annotations

MAX_KEPT_BYTES = 256 << 10
"""Of one message or packet: a longer one is handed over as its beginning."""


class Sink:
    """Receives both directions of one session."""

    wants_rows: bool
    """True while the bodies of rows must be shown."""
    stop: bool
    """Set by `message` and `packet`: what follows is another principal's and is not read in this call."""
    in_rows: bool
    """MySQL: True while packets are rows; the protocol does not say what a packet is."""
    free: bool
    """PostgreSQL: set by `row` when what it was shown is no row (a header, a trailer, a keepalive) and takes nothing of the allowance."""
    wants_asides: bool
    """True once the session is logged in: what is said beside rows is shown to `aside`."""
    holds_errors: bool
    """PostgreSQL: True while an ErrorResponse must be shown whole, since it will be replaced."""

    def rows(self, count: int, size: int) -> None:
        """`count` rows of `size` bytes went by; 0 rows for more bytes of one that was counted: PostgreSQL's size arrives with the header,
        MySQL's long row goes on in a further packet."""
        raise NotImplementedError

    def row(self, data: bytes, start: int, end: int, whole: bool) -> bool:
        """The body of one row, before `rows` counts it. False: do not let it pass."""
        raise NotImplementedError

    def fits(self, size: int) -> bool:
        """PostgreSQL: False for a row of so many bytes, more than are kept, when its length alone says that it may not pass."""
        raise NotImplementedError

    def scan(self, data: bytes, pos: int, most: int) -> tuple[int, int, int]:
        """Look into complete rows (all of the first one's type) from `pos` on, at most `most`, and let them pass, before `rows` counts
        them: the position behind the last one, how many, bytes of their bodies. The next one, if it is complete, goes to `row`."""
        raise NotImplementedError

    def aside(self, kind: int, data: bytes, start: int, end: int, size: int, may: bool) -> int:
        """The server says something beside its rows, MySQL's an error: data[start:end] is the body, or the beginning of it, `size` its length.
        1: it tells of a record, and takes a row's place in the allowance; 0: it tells of none; -1: it would, and it or its patients may
        not pass."""
        raise NotImplementedError

    def message(self, kind: int, body: bytes) -> None:
        """Any other message of PostgreSQL's server."""
        raise NotImplementedError

    def packet(self, payload: bytes) -> None:
        """Any other packet of MySQL's server."""
        raise NotImplementedError

    def request(self, kind: int, body: bytes, whole: bool) -> None:
        """A message of PostgreSQL's client, a command of MySQL's: its body or the beginning of it, True when that is whole."""
        raise NotImplementedError
