"""The clinic's installation (docs/INSTALL.md) on two machines with a real systemd: `make test-machine`, as root, about 8 minutes the first time.

Each machine is a fresh Debian in a directory, booted by systemd-nspawn: `apt install debootstrap systemd-container`. They share this machine's
network, so that Kafka is the embedded broker here; everything else is as the page says: install.sh, its user, its modes, its units with all
that they forbid, Debian's PostgreSQL behind its Unix socket.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.embedded.child import free_port
from exfilguard.embedded.mysql import debian_mirror

ROOT = Path(__file__).parents[2]
BASE = ROOT / "build" / "machine"
PACKAGES = (
    "systemd,systemd-sysv,dbus,python3,python3-venv,openssl,ca-certificates,postgresql,libpango-1.0-0,libpangoft2-1.0-0,"
    "libharfbuzz-subset0,iproute2,procps,curl"
)
PARTS_A = "sidecar exporter"
PARTS_B = "detector responder archive exporter console"
PASSWORD = secrets.token_hex(16)


def until(what: Callable[[], bool], seconds: float = 90) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.5)
    return False


class Machine:
    """One container; `run` is a root shell in it."""

    def __init__(self, directory: Path, *, database: bool) -> None:
        self.directory = directory
        subprocess.run(["cp", "-a", str(BASE / "debian"), str(directory)], check=True)
        (directory / "etc" / "machine-id").write_text("", encoding="ascii")
        if not database:  # the network is shared: there is one port 5432
            (directory / "etc/systemd/system/multi-user.target.wants/postgresql.service").unlink()
        kit = directory / "root" / "kit"
        shutil.copytree(ROOT / "deploy", kit / "deploy")
        shutil.copytree(BASE / "dist", kit / "dist")
        self.log = directory.with_suffix(".log").open("w", encoding="utf-8")
        command = [
            "systemd-nspawn",
            "-D",
            str(directory),
            "--register=no",
            "--keep-unit",
            "--resolv-conf=copy-host",
            "-b",
        ]
        if wheels := os.environ.get("PIP_FIND_LINKS"):
            command.insert(-1, f"--bind-ro={wheels}")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def boot(self) -> None:
        assert until(lambda: self.state() in ("running", "degraded"), 200), "systemd did not come up"

    def state(self) -> str:
        try:
            return self.run("systemctl is-system-running || true").strip()
        except (OSError, subprocess.SubprocessError):
            return ""

    def run(self, command: str, expect: int = 0) -> str:
        children = (
            Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii").split()
        )
        if not children:
            raise OSError("not booted yet")
        inside = f"/proc/{children[0]}/root"
        enter = ["nsenter", "-t", children[0], "-m", "-u", "-i", "-p", f"--root={inside}", f"--wd={inside}/root/kit"]
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
        pip = [
            f"{name}={value}" for name, value in os.environ.items() if name.startswith("PIP_") and name != "PIP_CERT"
        ]
        done = subprocess.run(
            [*enter, *clean, *pip, "sh", "-c", command], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == expect, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def settings(self, text: str, **secret: str) -> None:
        """As step 4 has it: owned by root, readable by the guard's group."""
        etc = self.directory / "etc" / "exfilguard"
        for name, content in {"exfilguard.toml": text, **{n.replace("_", "."): c for n, c in secret.items()}}.items():
            (etc / name).write_text(content, encoding="utf-8")
        self.run("chown root:exfilguard /etc/exfilguard/* && chmod 640 /etc/exfilguard/*")

    def stop(self) -> None:
        self.process.terminate()  # systemd-nspawn powers the container off
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Machine]]:
    if missing := [name for name in ("debootstrap", "systemd-nspawn") if shutil.which(name) is None]:
        pytest.skip(f"needs {' and '.join(missing)}: apt install debootstrap systemd-container")
    if os.geteuid() != 0:
        pytest.skip("booting a container needs root")
    if not (BASE / "debian").is_dir():
        shutil.rmtree(BASE / "debian.new", ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(BASE / "debian.new")]
        subprocess.run([*command, debian_mirror()], check=True, stdout=subprocess.DEVNULL)
        bundle = Path("/etc/ssl/certs/ca-certificates.crt")
        if bundle.is_file():  # this machine's, with what its registry needs
            shutil.copy(bundle, BASE / "debian.new" / "etc/ssl/certs/ca-certificates.crt")
        (BASE / "debian.new").rename(BASE / "debian")
    directory = tmp_path_factory.mktemp("machines")
    made: list[Machine] = []
    try:
        for name in ("a", "b"):
            made.append(Machine(directory / name, database=name == "a"))
            made[-1].boot()
        yield made[0], made[1]
    finally:
        for machine in made:
            machine.stop()
        shutil.rmtree(directory, ignore_errors=True)


def ask(a: Machine, statement: str, port: int, password: str = "of the export") -> str:
    dsn = f"host=127.0.0.1 port={port} dbname=dpi user=dpi_export sslmode=disable"
    return a.run(f"PGPASSWORD='{password}' psql '{dsn}' -Atc '{statement}' 2>&1 || true")


def test_the_afternoon(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    a, b = machines
    (wheel,) = (f"dist/{path.name}" for path in (BASE / "dist").glob("exfilguard-*.whl"))
    for machine in machines:  # step 3
        assert "would:" in machine.run(f"sh deploy/install.sh --dry-run --wheel {wheel}")
        machine.run(f"sh deploy/install.sh --wheel {wheel} --extras hooks")
        assert "exfilguard" not in machine.run(
            f"sh deploy/install.sh --wheel {wheel} --extras hooks | grep '^+' | grep -v daemon-reload || true"
        )

    own = "runuser -u postgres -- psql -q -v ON_ERROR_STOP=1"
    a.run(
        f"cd /; {own} -c 'CREATE DATABASE dpi' && {own} -d dpi -c 'CREATE TABLE patient (id bigint PRIMARY KEY, nom text)' "
        "-c \"INSERT INTO patient SELECT i, 'NOM' || i FROM generate_series(1, 50000) i\" "
        "-c \"CREATE ROLE dpi_export LOGIN PASSWORD 'of the export'\" -c 'GRANT SELECT ON patient TO dpi_export'"
    )
    a.run(f"cd /; {own} -d dpi -v hook_password={PASSWORD} -f - < /root/kit/deploy/postgres/hook.sql")
    hba = "/etc/postgresql/15/main/pg_hba.conf"
    a.run(f"sed -i '/^local *all *all/i local dpi all scram-sha-256' {hba} && systemctl reload postgresql@15-main")

    relay, figures, console = free_port(), free_port(), free_port()
    with EmbeddedBroker(log_path=tmp_path / "broker.log") as broker:  # step 4
        common = (
            f'tenant = "clinique-du-parc"\ndata_dir = "/var/lib/exfilguard"\n[kafka]\nbootstrap = "{broker.bootstrap}"\n'
            f'[sidecar]\ndigest_key_file = "digest.key"\n[[listener]]\nname = "dpi"\nlisten = "127.0.0.1:{relay}"\n'
            'upstream = "unix:/var/run/postgresql/.s.PGSQL.5432"\nmode = "observe"\npatient_columns = ["patient.id"]\n'
        )
        key = secrets.token_hex(32)
        a.settings(common + f'[exporter]\nlisten = "127.0.0.1:{figures}"\n', digest_key=key)
        b.settings(
            common + f'[exporter]\nlisten = "127.0.0.1:{free_port()}"\n[console]\nlisten = "127.0.0.1:{console}"\n'
            '[responder.postgres]\ndsn_file = "hook.dsn"\n',
            digest_key=key,
            hook_dsn=f"host=127.0.0.1 port=5432 dbname=dpi user=exfilguard_hook password={PASSWORD}",
        )
        for machine, parts in ((a, PARTS_A), (b, PARTS_B)):  # step 5
            machine.run(f'sh deploy/install.sh --parts "{parts}"')
            units = " ".join(f"exfilguard@{part}" for part in parts.split())
            assert until(
                lambda m=machine, u=units: set(m.run(f"systemctl is-active {u} || true").split()) == {"active"}
            )

        status = "/opt/exfilguard/bin/exfilguard status --json --config /etc/exfilguard/exfilguard.toml || true"
        for machine in machines:
            assert until(lambda m=machine: bool(json.loads(m.run(f"cd /; {status}"))["healthy"])), machine.run(
                f"cd /; {status}"
            )
        assert ask(a, "SELECT id FROM patient ORDER BY id LIMIT 3", relay).split() == ["1", "2", "3"]
        assert "exfilguard_patients_total" in a.run(f"curl -s http://127.0.0.1:{figures}/metrics")

        ask(a, "SELECT id, nom FROM patient", relay)  # a thief
        assert until(lambda: "not permitted to log in" in ask(a, "SELECT 1", 5432)), b.run(
            "journalctl --no-pager -n 80"
        )
        assert "locked" in ask(a, "SELECT 1", relay)
        assert "took" in b.run("cd /; /opt/exfilguard/bin/exfilguard verdicts --config /etc/exfilguard/exfilguard.toml")
        b.run(
            "cd /; /opt/exfilguard/bin/exfilguard unlock dpi_export --reason 'it was us' --config /etc/exfilguard/exfilguard.toml"
        )
        assert until(lambda: ask(a, "SELECT 1", relay).strip() == "1")

        # An upgrade: another wheel, the same command; the units are the new version's, the settings stay.
        before = a.run("systemctl show -p MainPID --value exfilguard@sidecar")
        a.run(
            f"cp {wheel} /tmp/ && echo upgraded >> {wheel.replace('.whl', '.note')} && rm -f /opt/exfilguard/.installed"
        )
        a.run(f'sh deploy/install.sh --wheel {wheel} --extras hooks --parts "{PARTS_A}"')
        assert a.run("systemctl show -p MainPID --value exfilguard@sidecar") != before
        assert until(lambda: ask(a, "SELECT 1", relay).strip() == "1")
        # A mistake in the settings: said, and what runs goes on.
        a.run('sed -i \'s/"observe"/"obsrve"/\' /etc/exfilguard/exfilguard.toml')
        assert "must be one of observe, enforce" in a.run(f'sh deploy/install.sh --parts "{PARTS_A}"', expect=2)
        assert ask(a, "SELECT 1", relay).strip() == "1"

        forbidden = a.run(
            "journalctl --no-pager -u 'exfilguard@*' | grep -ciE 'sigsys|seccomp|permission denied' || true"
        )
        assert forbidden.strip() == "0"
        for machine in machines:  # and away again
            assert "kept:" in machine.run("sh deploy/install.sh --uninstall")
            assert machine.run("pgrep -u exfilguard || true").strip() == ""
            assert machine.run("ls /opt/exfilguard /etc/systemd/system | grep exfil || true").strip() in (
                "",
                "ls: cannot access '/opt/exfilguard': No such file or directory",
            )
            machine.run("test -f /etc/exfilguard/exfilguard.toml && test -d /var/lib/exfilguard")
            machine.run("sh deploy/install.sh --uninstall --purge")
            machine.run("! test -e /etc/exfilguard && ! test -e /var/lib/exfilguard && ! id exfilguard")
