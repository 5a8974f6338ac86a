"""Log lines to standard error, and never a wait for who reads them.

A pipe or a journal's socket that nobody empties fills up within hours, or at once where somebody provokes warnings; a process that
then writes a line waits until it is read, and a relay with it all its sessions.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import stat
from collections.abc import Callable

MAX_LINE_BYTES = 4_096
"""PIPE_BUF of Linux: what is not longer is written whole or not at all."""


class Unhurried(logging.Handler):
    """What there is no room for is left out, and how much that was is said as soon as there is."""

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self.left_out = 0
        self._write = _writer(descriptor)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            if self.left_out:
                line = f"{self.left_out} lines were left out: nobody read the log\n{line}"
            data = line.encode("utf-8", "backslashreplace")[: MAX_LINE_BYTES - 1] + b"\n"
        except Exception:
            self.handleError(record)
            return
        try:
            self._write(data)
            self.left_out = 0
        except BlockingIOError:
            self.left_out += 1
        except OSError:
            return  # closed, or its disk is full


def _writer(descriptor: int) -> Callable[[bytes], object]:
    """Writes to it, or raises BlockingIOError, and does not change how others write there: a pipe is opened once more, a socket asked
    each time. A pipe of somebody else's, or a terminal, is written to when it has room, which is nearly as good."""
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(kind):
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            return lambda data: os.write(own, data)
        if stat.S_ISSOCK(kind):
            journal = socket.socket(fileno=os.dup(descriptor))
            return lambda data: journal.send(data, socket.MSG_DONTWAIT)
    except OSError:
        pass
    room = select.poll()
    room.register(descriptor, select.POLLOUT)

    def write(data: bytes) -> None:
        if not room.poll(0):
            raise BlockingIOError
        os.write(descriptor, data)

    return write
