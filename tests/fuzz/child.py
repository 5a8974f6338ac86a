"""What an input does to a process: tried in one of its own, since a fault in compiled code leaves no exception behind."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from mmap import mmap
from pathlib import Path

CPU_S = 30


def outlived(action: Callable[..., object], *arguments: object) -> str:
    """Empty when a process came through `action`; else the exception's name, or the signal that ended it (SIGXCPU: it took more
    than CPU_S of processor time)."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 0
        faulthandler.disable()
        try:
            soft = int(sum(os.times()[:2])) + CPU_S
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
            signal.signal(signal.SIGXCPU, signal.SIG_DFL)
            action(*arguments)
        except BaseException as error:
            status = 1
            os.write(2, f"{type(error).__name__}\n".encode())
        os._exit(status)
    _, ended = os.waitpid(child, 0)
    if os.WIFSIGNALED(ended):
        return signal.Signals(os.WTERMSIG(ended)).name
    return "" if os.WEXITSTATUS(ended) == 0 else "Exception"


class Mark:
    """Which input is being tried, in a file that outlives the process."""

    NONE = -1

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file() or path.stat().st_size != 8:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(struct.pack("=q", self.NONE))
        with path.open("r+b") as file:
            self._view = mmap(file.fileno(), 8)

    def get(self) -> int:
        return int(struct.unpack("=q", self._view[:8])[0])

    def set(self, number: int) -> None:
        self._view[:8] = struct.pack("=q", number)
