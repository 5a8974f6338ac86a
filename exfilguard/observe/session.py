# cython: annotation_typing=False
"""One PostgreSQL session: pairs what the server answers with what the client asked, and says what left the database.

The rooms: requests.py (what was asked), columns.py (what a result's columns are, and whose its rows), answers.py (what the server's
messages say), and here the session as a whole. What MySQL's does alike is in observer.py (what the relay calls, who is charged) and
tally.py (what is counted and told). Everything that grows is bounded: pending requests, statements, portals, kept bytes.
"""

from __future__ import annotations

from ..wire.postgres import startup
from .answers import Answers
from .portion import Result
from .requests import MAX_PENDING, MAX_STATEMENTS

__all__ = ["MAX_PENDING", "MAX_STATEMENTS", "SessionObserver"]


class SessionObserver(Answers):
    """See Observer."""

    def startup(self, params: dict[str, str]) -> None:
        """The StartupMessage's parameters: establishes who is charged."""
        self.login = params.get("user", "")
        self.database = params.get("database", self.login)
        self.application = params.get("application_name", "")
        if startup.replicates(params):
            self.always = ("replication",)
        self._identity.login(self.login, params)
        self._charge(None)

    @property
    def at_boundary(self) -> bool:
        """True when the server's bytes so far are whole messages."""
        return self._lost or self._backend.at_boundary

    def _read_server(self, data: bytes, allowed_rows: int | None, hold: bool, found: Result) -> None:
        self._patches = found.patches
        scan = self._backend.feed(data, allowed_rows, hold=hold)
        found.cut_at, found.hold_at, found.stop_at = scan.cut_at, scan.hold_at, scan.stop_at

    def _read_passed(self, data: bytes) -> None:
        if self._patches:
            self._patches = []
        self._backend.feed(data)
