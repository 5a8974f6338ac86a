"""What the Python scenarios share: steps by name, each with its result or its error, printed as JSON at the end.

A scenario is a program that knows only the PG* environment. Whatever differs from run to run by itself (process ids, times)
it leaves out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any


def size(n: int) -> int:
    """`n`, or little when a transcript is recorded: those are kept small."""
    return min(n, 5) if os.environ.get("RECORD_TRANSCRIPTS") else n


class Scenario:
    """Collects what a client can see."""

    def __init__(self, sqlstate: Callable[[BaseException], str | None]) -> None:
        self._sqlstate = sqlstate
        self.steps: list[list[Any]] = []
        self.notices: list[Any] = []
        self.rows = 0
        """Rows the client received, as the client counts them."""

    def got(self, rows: Any) -> Any:
        """Rows received: counted, and handed on."""
        rows = list(rows)
        self.rows += len(rows)
        return rows

    def step(self, name: str, action: Callable[[], Any]) -> Any:
        value = None
        try:
            value = action()
            shown = plain(value)
        except Exception as error:
            shown = self.error(error)
        self.add(name, shown)
        return value

    async def astep(self, name: str, action: Any) -> Any:
        value = None
        try:
            value = await action
            shown = plain(value)
        except Exception as error:
            shown = self.error(error)
        self.add(name, shown)
        return value

    def error(self, error: BaseException) -> dict[str, Any]:
        return {"error": type(error).__name__, "sqlstate": self._sqlstate(error), "text": str(error)}

    def add(self, name: str, shown: Any) -> None:
        notices, self.notices = self.notices, []
        self.steps.append([name, shown, notices])

    def print(self) -> None:
        print(json.dumps({"steps": self.steps, "rows": self.rows}, ensure_ascii=False))


def plain(value: Any) -> Any:
    """As JSON has it; everything else by its repr."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return f"{type(value).__name__} {value}"


def environment() -> dict[str, str]:
    """host, port, user, password, database of the PG* variables."""
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "database": "PGDATABASE"}
    return {key: os.environ[name] for key, name in names.items()}
