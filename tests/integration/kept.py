"""Secrets stay where they belong: in no argument or environment of a process, where every user of the machine could read them, and in
no log."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from exfilguard.config.schema import Config


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        children = [child for at in Path(f"/proc/{pid}/task").glob("*/children") for child in at.read_text().split()]
        return [pid, *(one for child in children for one in family(int(child)))]
    return []


def secrets_of(config: Config) -> set[bytes]:
    """Every setting that is marked as a secret, and the passwords in connection strings."""
    return {part.encode() for value in _secrets(config) for part in _parts(value)}


def _secrets(section: Any) -> Iterator[str]:
    for field in fields(section):
        value = getattr(section, field.name)
        if is_dataclass(value):
            yield from _secrets(value)
        elif isinstance(value, list):
            for item in value:
                if is_dataclass(item):
                    yield from _secrets(item)
        elif value and (field.metadata.get("secret") or field.name.endswith("dsn")):
            yield str(value)


def _parts(value: str) -> list[str]:
    try:
        password = conninfo_to_dict(value).get("password")
    except ProgrammingError:
        return [value]
    return [value, str(password)] if password else [value]


def shown_by(pid: int, secrets: Iterable[bytes]) -> tuple[int, list[str]]:
    """(processes looked at, those whose arguments or environment hold a secret) of a process and its family."""
    looked, shown = 0, []
    for one in family(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            command = Path(f"/proc/{one}/cmdline").read_bytes()
            seen = command + Path(f"/proc/{one}/environ").read_bytes()
            looked += 1
            if any(secret in seen for secret in secrets):
                shown.append(command.replace(b"\0", b" ").decode(errors="replace")[:80])
    return looked, shown


def holding(paths: Iterable[Path], secrets: Iterable[bytes]) -> list[Path]:
    """The files that hold a secret; one that has just gone holds none."""
    out = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            text = path.read_bytes()
            if any(secret in text for secret in secrets):
                out.append(path)
    return out
