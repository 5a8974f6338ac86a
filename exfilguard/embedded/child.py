"""Server processes of the one-machine installation: started, waited for, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import EmbeddedError
from ..runtime.process import die_with_parent


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_taken(port: int, host: str = "127.0.0.1") -> bool:
    """True when somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0


class Child:
    """One server process. Not restarted by itself: a supervisor or a test decides."""

    def __init__(self, name: str, log_path: Path | None, stop_signal: int = signal.SIGTERM) -> None:
        self.name = name
        self.log_path = log_path
        self._stop_signal = stop_signal
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        argv: Sequence[str],
        *,
        user: int | None = None,
        group: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Raises EmbeddedError when the program cannot be run."""
        log = open(self.log_path, "ab") if self.log_path is not None else subprocess.DEVNULL  # noqa: SIM115
        try:
            self.process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=user,
                group=group,
                extra_groups=[] if user is not None else None,
                env=dict(env) if env is not None else None,
                # Its own process group: Ctrl-C on the terminal reaches the supervisor only, which stops things in order.
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(self._stop_signal),
            )
        except OSError as error:
            raise EmbeddedError(f"{self.name} cannot be started: {error.strerror}") from None
        finally:
            if not isinstance(log, int):
                log.close()

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Raises EmbeddedError, with the end of the log, when the process ends or is not ready in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.alive:
                raise EmbeddedError(f"{self.name} ended while starting: {self.last_words()}")
            if ready():
                return
            time.sleep(0.02)
        self.kill()
        raise EmbeddedError(f"{self.name} was not ready within {seconds:.0f} s: {self.last_words()}")

    def last_words(self) -> str:
        """The last lines of its log."""
        if self.log_path is None or not self.log_path.is_file():
            return "it left no log"
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join(lines[-3:]) or f"its log {self.log_path} is empty"

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self, grace_s: float = 10.0) -> None:
        """Ask, wait, then kill. Returns when the process is gone."""
        if self.process is None:
            return
        if self.alive:
            self.process.send_signal(self._stop_signal)
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, for tests and for what does not listen."""
        if self.process is not None:
            if self.alive:
                self.process.kill()
            self.process.wait()


def is_root() -> bool:
    return os.geteuid() == 0
