"""Child processes that never outlive their parent, and a supervisor that starts them again.

The parts of an installation are separate processes in production and on one machine alike; `sidecar` supervises its
relay workers and its shipper, `up` and `demo` supervise everything.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .unhurried import Unhurried

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_libc = ctypes.CDLL(None, use_errno=True)

STABLE_AFTER_S = 10.0
"""A part that ran this long starts its back-off anew."""
MAX_BACKOFF_S = 5.0


def die_with_parent(signum: int = signal.SIGTERM) -> None:
    """Ask the kernel to signal this process when its parent's thread ends (Linux; elsewhere nothing happens)."""
    prctl = getattr(_libc, "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, int(signum))


def own_command(*arguments: str) -> list[str]:
    """The command line of another part of this same installation."""
    return [sys.executable, "-m", "exfilguard", *arguments]


@dataclass(slots=True)
class Part:
    """One supervised process."""

    name: str
    argv: Sequence[str]
    log_path: Path | None = None
    descriptors: Sequence[int] = ()
    """Handed to it under their numbers: listening sockets."""
    replaced: bool = False
    """It ends by itself, and is not started again."""
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    started: float = 0.0
    not_before: float = 0.0
    backoff_s: float = field(default=0.1)

    def start(self) -> None:
        out = None
        if self.log_path is not None:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            out = open(self.log_path, "ab")  # noqa: SIM115 -- handed to the child, closed below
        try:
            self.process = subprocess.Popen(
                list(self.argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                # Its own session: Ctrl-C on the terminal reaches the supervisor only, which stops things in order.
                start_new_session=True,
                pass_fds=tuple(self.descriptors),
                preexec_fn=die_with_parent,
            )
        finally:
            if out is not None:
                out.close()
        self.started = time.monotonic()

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Starts parts, restarts those that end by themselves (with back-off), stops all in reverse order.

    Every call must come from the thread that made the supervisor: the children die with that thread.
    """

    def __init__(self, parts: Sequence[Part] = (), on_restart: Callable[[Part, int], None] | None = None) -> None:
        self.parts = list(parts)
        self._on_restart = on_restart

    def start(self) -> None:
        for part in self.parts:
            if not part.alive:
                part.start()

    def check(self) -> None:
        """Restart what has ended. Call it every 100 ms or so."""
        now = time.monotonic()
        for part in list(self.parts):
            if part.process is None or part.process.poll() is None:
                continue
            if part.replaced:
                log.info("%s, which was replaced, has ended", part.name)
                self.parts.remove(part)
                continue
            if part.not_before == 0.0:
                code = part.process.returncode
                if now - part.started > STABLE_AFTER_S:
                    part.backoff_s = 0.1
                log.error("%s ended with status %d; it is started again in %.1f s", part.name, code, part.backoff_s)
                part.not_before = now + part.backoff_s
                part.backoff_s = min(MAX_BACKOFF_S, part.backoff_s * 2)
                if self._on_restart is not None:
                    self._on_restart(part, code)
            elif now >= part.not_before:
                self.start_again(part)

    def start_again(self, part: Part) -> None:
        """A part that has ended. Where no process can be had now (memory, a program that is being replaced), `check` tries later."""
        part.not_before = 0.0
        try:
            part.start()
        except (OSError, subprocess.SubprocessError) as error:
            log.error("%s cannot be started (%s): tried again in %.1f s", part.name, error, part.backoff_s)
            part.not_before = time.monotonic() + part.backoff_s
            part.backoff_s = min(MAX_BACKOFF_S, part.backoff_s * 2)
        else:
            part.restarts += 1

    def stop(self, grace_s: float = 10.0) -> None:
        """SIGTERM to each in turn, last started first, the next when it has ended; SIGKILL after `grace_s` in all."""
        deadline = time.monotonic() + grace_s
        for part in reversed(self.parts):
            if part.process is None:
                continue
            if part.alive:
                part.process.terminate()
            try:
                part.process.wait(max(0.5, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("%s did not stop within %.0f s and was killed", part.name, grace_s)
                part.process.kill()
                part.process.wait()

    def signal(self, prefix: str, signum: int) -> None:
        """Send a signal to the parts whose name begins with `prefix`."""
        for part in self.parts:
            if part.name.startswith(prefix) and part.process is not None and part.alive:
                part.process.send_signal(signum)

    def run_until(self, stop: threading.Event, poll_s: float = 0.1) -> None:
        while not stop.wait(poll_s):
            self.check()


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    return stop


def forbid_core_dumps() -> None:
    """Keys, passwords and results pass through these processes: a crash must not write them to a disk. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def hand_over_quickly() -> None:
    """For a process whose threads wait for each other: by default Python lets a busy one keep the interpreter for 5 ms."""
    sys.setswitchinterval(0.0005)


def keep_memory() -> None:
    """For a process that takes megabytes from the network all the time: what is freed stays with it instead of going back to the
    kernel and coming again page by page (glibc; elsewhere nothing happens), and the cycle collector looks less often."""
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 1 << 28)
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def setup_logging(role: str) -> None:
    """One line per message on standard error: time, part, level, text. Nothing waits for its reader."""
    logging.basicConfig(
        handlers=[Unhurried()],
        level=os.environ.get("EXFILGUARD_LOG_LEVEL", "INFO").upper(),
        format=f"%(asctime)s {role} %(levelname)s %(message)s",
    )
    for noisy in ("kafka", "aiokafka", "faust", "mode"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
