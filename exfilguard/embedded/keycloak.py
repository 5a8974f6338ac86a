"""Keycloak itself, for the tests and the benches: built once, H2 in its own directory, HTTP on loopback.

The distribution comes from Maven Central (org.keycloak:keycloak-quarkus-dist, Apache-2.0) into a cache directory, once. Needs
Java 17 and Maven. https://www.keycloak.org/server/configuration
"""

from __future__ import annotations

import os
import secrets
import subprocess
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

from ..errors import EmbeddedError
from .child import Child, free_port, port_is_taken
from .maven import CACHE, missing_programs, unpacked

VERSION = "26.7.3"
START_S = 120.0
ADMIN = "admin"


def distribution() -> Path:
    """Directory of the unpacked distribution, fetched on first use. Raises EmbeddedError."""
    cache = CACHE / f"keycloak-{VERSION}"
    if cache.is_dir():
        return cache
    if missing := missing_programs():
        raise EmbeddedError(f"Keycloak needs {missing}: on Debian/Ubuntu apt install openjdk-17-jre-headless maven")
    return unpacked(cache.name, f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip", _build)


def _build(archive: Path, directory: Path) -> None:
    with zipfile.ZipFile(archive) as found:
        found.extractall(directory)
    distribution = directory / f"keycloak-{VERSION}"
    script = distribution / "bin" / "kc.sh"
    script.chmod(0o755)
    # Without this, each server would build itself first, for half a minute.
    built = subprocess.run(
        [str(script), "build", "--db=dev-file", "--health-enabled=false"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if built.returncode:
        raise EmbeddedError(f"Keycloak could not be built: {built.stdout.strip().splitlines()[-1:]}")
    for path in list(distribution.iterdir()):
        path.rename(directory / path.name)
    distribution.rmdir()


class EmbeddedKeycloak:
    """One server; `data_dir` holds its database and its log. A new start on the same directory keeps the data."""

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self.data_dir = data_dir
        self.port = port or free_port()
        self.password = secrets.token_urlsafe(18)
        """Of the administrator `admin` in the realm master."""
        self._child = Child("Keycloak", data_dir / "server.log")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        return self._child.alive

    def start(self) -> None:
        """Returns when it answers. Raises EmbeddedError."""
        if port_is_taken(self.port):
            raise EmbeddedError(f"port {self.port} is in use: stop what listens there or choose another port")
        program, home = distribution(), self.data_dir / "home"
        home.mkdir(parents=True, exist_ok=True)
        for name in ("lib", "providers", "themes", "conf", "version.txt"):
            if not (home / name).is_symlink():
                (home / name).symlink_to(program / name)
        # Java itself and not bin/kc.sh, which would leave it behind when it is killed.
        self._child.start(
            [
                "java", "-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
                "-Djava.util.logging.manager=org.jboss.logmanager.LogManager", f"-Dkc.home.dir={home}",
                f"-Djboss.server.config.dir={home / 'conf'}", "-Dpicocli.disable.closures=true",
                "-Djava.util.concurrent.ForkJoinPool.common.threadFactory="
                "io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
                "-cp", str(home / "lib" / "quarkus-run.jar"), "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
                "start", "--optimized", "--http-enabled=true", "--hostname-strict=false", "--http-host=127.0.0.1",
                f"--http-port={self.port}", "--cache=local", "--log-level=warn",
            ],
            env={
                **os.environ, "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN, "KC_BOOTSTRAP_ADMIN_PASSWORD": self.password,
                # H2 writes half a second after it has said yes: `kill -9` would undo what a hook was told.
                "KC_DB_URL_PROPERTIES": ";NON_KEYWORDS=VALUE;WRITE_DELAY=0",
            },
        )  # fmt: skip
        self._child.wait_until(self._ready, START_S)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/realms/master", timeout=2):  # noqa: S310 -- loopback, http
                return True
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        self._child.stop(grace_s=20.0)

    def kill(self) -> None:
        self._child.kill()

    def __enter__(self) -> EmbeddedKeycloak:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()
