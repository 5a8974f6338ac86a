"""The AppArmor profile: apparmor_parser takes it, and the unit names it. No kernel here has AppArmor: it is not run."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
PROFILE = DEPLOY / "apparmor" / "exfilguard"


def parse(path: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("apparmor_parser") or "/usr/sbin/apparmor_parser"
    if not Path(program).is_file():
        pytest.skip("apparmor_parser is not installed: apt install apparmor")
    command = [program, "--skip-kernel-load", "--skip-cache", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_apparmor_parser_takes_it_and_would_not_take_a_broken_one(tmp_path: Path) -> None:
    done = parse(PROFILE)
    assert done.returncode == 0, done.stderr
    broken = tmp_path / "broken"
    broken.write_text(PROFILE.read_text(encoding="utf-8").replace("rwkml,", "rwkml"), encoding="utf-8")
    assert parse(broken).returncode != 0


def test_the_unit_names_it_and_it_reaches_what_the_unit_uses() -> None:
    unit = (DEPLOY / "systemd" / "exfilguard@.service").read_text(encoding="utf-8")
    text = PROFILE.read_text(encoding="utf-8")
    named = re.search(r"^AppArmorProfile=-(\S+)$", unit, re.MULTILINE)
    assert named is not None
    assert f"profile {named[1]} " in text
    for line, rule in (
        ("ExecStart=/opt/exfilguard/bin/", "/opt/exfilguard/bin/* rix,"),
        ("WorkingDirectory=/var/lib/exfilguard", "owner /var/lib/exfilguard/** rwkml,"),
        (" --config /etc/exfilguard/", "/etc/exfilguard/** r,"),
    ):
        assert line in unit
        assert f"\n  {rule}\n" in text
