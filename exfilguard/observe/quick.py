"""The observer of a PostgreSQL session: the one with the compiled shortcut for common cases, where it could be compiled. And of any
engine's observer: what the relay calls in C."""

from __future__ import annotations

from typing import Any

from .mysql.quick import Reader as MysqlReader
from .session import SessionObserver

try:
    from ._quick import QuickObserver
    from ._shortcut import MysqlShortcut, PostgresShortcut
except ImportError:  # no C compiler at installation
    QuickObserver = None  # type: ignore[assignment,misc]

Reader: type[SessionObserver] = SessionObserver if QuickObserver is None else QuickObserver


def shortcut(observer: object) -> Any:
    """The observer for those who call it in C (_shortcut.pyx), None where it is another one."""
    if QuickObserver is None:
        return None
    if isinstance(observer, QuickObserver):
        return PostgresShortcut(observer)
    return MysqlShortcut(observer) if isinstance(observer, MysqlReader) else None
