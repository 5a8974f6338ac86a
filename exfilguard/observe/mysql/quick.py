"""The observer of a MySQL session: the one with the compiled shortcut for common cases, where it could be compiled."""

from __future__ import annotations

from .session import MysqlObserver

try:
    from ._quick import QuickMysqlObserver
except ImportError:  # no C compiler at installation
    QuickMysqlObserver = None  # type: ignore[assignment,misc]

Reader: type[MysqlObserver] = MysqlObserver if QuickMysqlObserver is None else QuickMysqlObserver
