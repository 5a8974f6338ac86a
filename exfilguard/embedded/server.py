"""What the throw-away servers share: a port, start and stop; the databases also a directory and an unprivileged account."""

from __future__ import annotations

import os
import pwd
import secrets
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ..errors import EmbeddedError
from .child import Child, free_port, is_root, port_is_taken


class Server:
    """One server process on a port of this machine."""

    name: str
    """As errors say it."""
    start_s: float
    """How long a start may take,"""
    stop_s: float
    """and a stop, before it is killed."""
    stop_signal: int = signal.SIGTERM

    def __init__(self, port: int | None, log_path: Path | None) -> None:
        self.port = port or free_port()
        self._child = Child(self.full_name, log_path, self.stop_signal)

    @property
    def full_name(self) -> str:
        return f"the embedded {self.name}"

    @property
    def alive(self) -> bool:
        return self._child.alive

    @property
    def pid(self) -> int:
        return self._child.pid

    def start(self) -> None:
        """Returns when the server answers. Raises EmbeddedError."""
        if port_is_taken(self.port):
            raise EmbeddedError(f"port {self.port} is in use: stop what listens there or choose another port")
        self.run()
        self._child.wait_until(self.ready, self.start_s)

    def run(self) -> None:
        """Prepares what it needs and starts `self._child`. Raises EmbeddedError."""
        raise NotImplementedError

    def ready(self) -> bool:
        """True when the server answers."""
        raise NotImplementedError

    def stop(self) -> None:
        self._child.stop(grace_s=self.stop_s)

    def kill(self) -> None:
        self._child.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()


class EmbeddedServer(Server):
    """One server in `data_dir`, which must be empty or missing, and reachable for the user it runs as."""

    accounts: tuple[str, ...]
    """Who it runs as when it is started by root; the first that this machine has. Empty: as root."""
    default_settings: Mapping[str, str]

    def __init__(self, data_dir: Path, port: int | None = None, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(port, data_dir / "server.log")
        self.data_dir = data_dir
        self.password = secrets.token_urlsafe(24)
        """Of the account that may do everything."""
        self._settings = {**self.default_settings, **(settings or {})}
        self._account: pwd.struct_passwd | None = None

    def run(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if is_root() and self.accounts:
            self._account = self._unprivileged()
            os.chown(self.data_dir, self._account.pw_uid, self._account.pw_gid)
        argv, environment = self.prepare()
        self._child.start(argv, env=environment, **self.as_user())

    def prepare(self) -> tuple[list[str], Mapping[str, str] | None]:
        """Creates the data where there is none: the server's command line and environment (None: this one's). Raises EmbeddedError."""
        raise NotImplementedError

    def secret_file(self, name: str, text: str) -> Path:
        """A file in `data_dir` for the server's eyes only."""
        path = self.data_dir / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)
        return path

    def as_user(self) -> dict[str, Any]:
        """For subprocess: the account."""
        return {} if self._account is None else {"user": self._account.pw_uid, "group": self._account.pw_gid}

    def _unprivileged(self) -> pwd.struct_passwd:
        for name in self.accounts:
            try:
                return pwd.getpwnam(name)
            except KeyError:
                continue
        neither = f"neither {' nor '.join(self.accounts)}"
        raise EmbeddedError(f"{self.name} does not run as root and this machine has {neither}: use another user")
