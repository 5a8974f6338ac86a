"""Every command in the documentation works as written: run where it can be, held to the real parser where it cannot."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from exfilguard.cli.main import build_parser
from exfilguard.config.load import parse_config
from exfilguard.embedded.child import free_port
from tests.config.test_certificates import made
from tests.integration.conftest import Hospital, hospital
from tests.integration.kept import holding, shown_by
from tests.integration.stack import DATABASE, PASSWORD, wait_for

from .blocks import ROOT, Block, arguments, commands, fenced, synopses

__all__ = ["hospital"]

FENCED = fenced()
KNOWN = {
    "exfilguard", "deploy/install.sh", "make", "systemctl", "python3", "build-venv/bin/pip", "scp", "openssl", "chmod", "export",
}  # fmt: skip
"""Programs that blocks of other machines may call; another one needs a way of being checked first."""


def parses(words: list[str]) -> bool:
    try:
        build_parser().parse_args(words)
    except SystemExit as ended:
        return ended.code in (0, None)
    return True


@pytest.mark.parametrize("block", FENCED, ids=str)
def test_every_block_says_how_it_is_checked(block: Block) -> None:
    assert block.mark, "write <!-- run --> or <!-- elsewhere --> on the line above"


def test_there_is_something_to_check() -> None:
    assert sum(block.mark.startswith("run") for block in FENCED) >= 5
    assert sum(block.mark == "elsewhere" for block in FENCED) >= 5
    assert len(synopses()) >= 20


@pytest.mark.parametrize(("where", "command"), synopses(), ids=lambda value: value.split(" ")[0])
def test_a_synopsis_is_one_that_the_program_takes(where: str, command: str) -> None:
    assert parses(arguments(command)), f"{where}: {command} -> {arguments(command)}"


@pytest.mark.parametrize("block", [b for b in FENCED if b.mark == "elsewhere"], ids=str)
def test_what_needs_root_or_another_machine_is_right_in_its_dry_form(block: Block, tmp_path: Path) -> None:
    checked = subprocess.run(["sh", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    for line in commands(block.text):
        words = [word for word in shlex.split(line.partition(" > ")[0]) if word != "sudo"]
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        assert words[0] in KNOWN, line
        if words[0] == "exfilguard":
            assert parses(words[1:]), line
        elif words[0] == "make":
            done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        elif words[0] == "systemctl":
            unit = re.sub(r"@\w+\.", "@.", words[-1])
            assert (ROOT / "deploy" / "systemd" / unit).is_file(), unit
        elif words[0] == "deploy/install.sh":
            wheel = tmp_path / "exfilguard.whl"
            wheel.write_bytes(b"")
            given = [str(wheel) if word.endswith(".whl") else word for word in words[1:]]
            given += ["--no-packages"] if "--wheel" not in given else []
            done = subprocess.run(
                ["sh", str(ROOT / "deploy" / "install.sh"), "--dry-run", *given],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr


def test_the_settings_of_the_installation_page_load(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "INSTALL.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "kafka.password").write_text("a password", encoding="utf-8")
    made(tmp_path, "ca")[0].rename(tmp_path / "ca.pem")
    config = parse_config(block, "docs/INSTALL.md", tmp_path, {})
    assert config.kafka.password == "a password"
    assert config.listener[0].upstream.startswith("unix:")


def assert_kept(directory: Path, pid: int, secrets: list[bytes]) -> None:
    """No secret in the arguments or the environment of a process of the installation, nor in its logs."""
    looked, shown = shown_by(pid, secrets)
    assert looked >= 6
    assert not shown
    logs = [*directory.glob("exfilguard-data/logs/*"), directory / "up.log"]
    assert len(logs) >= 5
    assert not holding(logs, secrets)


@pytest.mark.timeout(300)
def test_the_quick_start_as_somebody_types_it(tmp_path: Path, hospital: Hospital) -> None:
    """Block after block in a directory of its own, against a real PostgreSQL; only ports, and passwords that are asked for, are ours."""
    listen, metrics, console = free_port(), free_port(), free_port()
    directory = tmp_path / "try"
    directory.mkdir()
    (directory / "deploy").symlink_to(ROOT / "deploy")
    admin = psycopg.conninfo.conninfo_to_dict(hospital.admin_dsn)
    with psycopg.connect(hospital.admin_dsn, autocommit=True) as connection:  # the page makes the hook's account itself
        connection.execute("DROP OWNED BY exfilguard_hook CASCADE")
        connection.execute("DROP ROLE exfilguard_hook")
    passwords = [f"*:*:*:{admin['user']}:{admin.get('password', '')}", f"*:*:*:dpi_export:{PASSWORD}"]
    (directory / "pgpass").write_text("\n".join(passwords) + "\n", encoding="utf-8")
    (directory / "pgpass").chmod(0o600)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "PGPASSFILE": str(directory / "pgpass"),
        "EXFILGUARD_EXPORTER__LISTEN": f"127.0.0.1:{metrics}",
        "EXFILGUARD_CONSOLE__LISTEN": f"127.0.0.1:{console}",
    }

    def typed(text: str) -> str:
        for ours, there in (("6432", listen), ("5432", hospital.port), ("9187", metrics)):
            text = re.sub(rf"\b{ours}\b", str(there), text)
        # Its superuser and its database are the lab's.
        return text.replace("user=postgres", f"user={admin['user']}").replace("dbname=dpi ", f"dbname={DATABASE} ")

    def run(text: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", typed(text)], cwd=directory, env=environment, capture_output=True, text=True, timeout=90,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    log = directory / "up.log"

    @contextlib.contextmanager
    def left_running(text: str) -> Iterator[subprocess.Popen[bytes]]:
        with log.open("wb") as output:
            up = subprocess.Popen(
                ["bash", "-c", "exec " + typed(text).strip()], cwd=directory, env=environment, stdout=output,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            wait_for(lambda: "ExfilGuard is up" in log.read_text(), 60, "exfilguard up")
            yield up
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(60)

    blocks = [b for b in FENCED if b.page == "docs/QUICKSTART.md" and b.mark.startswith("run")]
    (background,) = [b for b in blocks if b.mark == "run: background"]
    began = blocks.index(background)
    said = "".join(run(block.text) for block in blocks[:began])
    with left_running(background.text):
        said += "".join(run(block.text) for block in blocks[began + 1 :])
    # "Start `up` again": now the database itself refuses the account.
    login = f'psql "host=127.0.0.1 port=5432 dbname={DATABASE} user=dpi_export" -c "SELECT 1" || echo refused'
    with left_running(background.text) as up:
        run('exfilguard lock dpi_export --reason "the hook" --config exfilguard.toml')
        wait_for(lambda: "refused" in run(login), 30, "suspended")
        run('exfilguard unlock dpi_export --reason "the hook" --config exfilguard.toml')
        wait_for(lambda: "refused" not in run(login), 30, "given back")
        password = (directory / "hook.password").read_bytes().strip()
        assert_kept(directory, up.pid, [PASSWORD.encode(), password])
    counted = re.search(
        r'^exfilguard_patients_total\{listener="dpi",tenant="clinique-du-parc"\} (\S+)$', said, re.MULTILINE
    )
    assert counted is not None, said
    assert float(counted[1]) == 5
    assert "LOCK" in said.upper()
