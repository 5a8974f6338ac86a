"""Who owns a directory: a file that one process holds locked until it ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def hold(path: Path) -> int | None:
    """A descriptor that keeps `path` this process's own for as long as it is open; None while another one has it. The file is made
    when it is missing, with its directory. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def is_held(path: Path) -> bool:
    """True while another process has it; False also where that cannot be told."""
    try:
        descriptor = hold(path) if path.exists() else -1
    except OSError:
        return False
    if descriptor is not None and descriptor >= 0:
        os.close(descriptor)
    return descriptor is None
