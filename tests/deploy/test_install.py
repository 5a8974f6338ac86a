"""deploy/install.sh in a throw-away root: what it puts where, with which modes, twice the same, and gone again."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from exfilguard.cli.main import build_parser
from exfilguard.config.load import load_config

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "install.sh"


def install(root: Path | None, *arguments: str, expect: int = 0) -> str:
    environment = {"PATH": os.environ["PATH"]} | ({"DESTDIR": str(root)} if root is not None else {})
    done = subprocess.run(
        ["sh", str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def tree(root: Path) -> dict[str, tuple[str, int]]:
    """path -> (mode, time of the last change in ns)"""
    return {
        str(path.relative_to(root)): (oct(stat.S_IMODE(path.stat().st_mode)), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
    }


def test_it_installs_with_the_right_modes_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    install(tmp_path, "--no-packages")
    first = tree(tmp_path)
    modes = {path: mode for path, (mode, _) in first.items()}
    assert modes["etc/exfilguard"] == "0o750"
    assert modes["etc/exfilguard/exfilguard.toml"] == "0o640"
    assert modes["var/lib/exfilguard"] == "0o700"
    assert modes["etc/systemd/system/exfilguard@.service"] == "0o644"
    assert "etc/systemd/system/exfilguard@sidecar.service.d/reload.conf" in modes
    assert "+" not in install(tmp_path, "--no-packages")
    assert tree(tmp_path) == first
    assert load_config(tmp_path / "etc/exfilguard/exfilguard.toml", {}).listener, "what it writes can be started from"


def test_settings_are_never_replaced_units_are(tmp_path: Path) -> None:
    install(tmp_path, "--no-packages")
    settings = tmp_path / "etc/exfilguard/exfilguard.toml"
    unit = tmp_path / "etc/systemd/system/exfilguard@.service"
    settings.write_text('tenant = "mine"\n', encoding="utf-8")
    unit.write_text("old", encoding="utf-8")
    install(tmp_path, "--no-packages")
    assert settings.read_text(encoding="utf-8") == 'tenant = "mine"\n'
    assert unit.read_bytes() == (ROOT / "deploy/systemd/exfilguard@.service").read_bytes()


def test_a_dry_run_says_everything_and_does_nothing(tmp_path: Path) -> None:
    wheel = tmp_path / "exfilguard.whl"
    wheel.write_bytes(b"")
    target = tmp_path / "root"
    said = install(target, "--dry-run", "--wheel", str(wheel), "--extras", "hooks ldap")
    for words in ("python3 -m venv", f"{wheel}[hooks,ldap]", "exfilguard@.service", "exfilguard.toml"):
        assert words in said
    assert not target.exists()
    # As the live system would be changed; needs no rights, for it only talks.
    said = install(None, "--dry-run", "--wheel", str(wheel), "--parts", "sidecar exporter")
    assert "systemctl enable exfilguard@sidecar.service" in said
    assert "systemctl restart exfilguard@exporter.service" in said


def test_every_command_of_the_guard_that_it_runs_is_one(tmp_path: Path) -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    found = re.findall(r'"\$prefix/bin/exfilguard" ((?:[a-z-]+|"\S+"| )+)', text)
    assert found
    for arguments in found:
        build_parser().parse_args(arguments.replace("$etc", str(tmp_path)).replace('"', "").split())


def test_it_goes_as_it_came_and_keeps_what_is_the_operators(tmp_path: Path) -> None:
    install(tmp_path, "--no-packages")
    spool = tmp_path / "var/lib/exfilguard/spool"
    spool.mkdir()
    said = install(tmp_path, "--uninstall")
    assert "kept:" in said
    assert not list(tmp_path.glob("etc/systemd/system/exfilguard*"))
    assert spool.is_dir()
    install(tmp_path, "--uninstall", "--purge")
    assert not (tmp_path / "etc/exfilguard").exists()
    assert not (tmp_path / "var/lib/exfilguard").exists()
    install(tmp_path, "--uninstall", "--purge")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--parts", "sidecar detektor"], "detektor is no part"),
        (["--wheel"], "--wheel needs a file"),
        (["--wheel", "/nowhere.whl"], "no such file"),
        (["--whel"], "is no option"),
        (["--purge"], "belongs to --uninstall"),
        ([], "--wheel FILE is needed the first time"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, arguments: list[str], says: str) -> None:
    assert says in install(tmp_path, "--dry-run", *arguments, expect=2)


def test_systemd_takes_the_units_as_they_lie_there(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed: apt install systemd")
    install(tmp_path, "--no-packages")
    units = tmp_path / "etc/systemd/system"
    for unit in units.glob("*.service"):  # the program is not there, and would be complained of
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(encoding="utf-8"), flags=re.MULTILINE)
        unit.write_text(text, encoding="utf-8")
    shutil.copy(units / "exfilguard@.service", units / "exfilguard@sidecar.service")
    for name in ("exfilguard@sidecar.service", "exfilguard-drill.service", "exfilguard-drill.timer"):
        done = subprocess.run(
            [program, "verify", str(units / name)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "exfilguard" not in done.stderr
