"""The observer of a PostgreSQL session: the one with the compiled shortcut for common cases, where it could be compiled."""

from __future__ import annotations

from .session import SessionObserver

try:
    from ._quick import QuickObserver
except ImportError:  # no C compiler at installation
    QuickObserver = None  # type: ignore[assignment,misc]

Reader: type[SessionObserver] = SessionObserver if QuickObserver is None else QuickObserver
