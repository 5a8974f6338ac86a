"""What `exfilguard status` may say on a machine that has no relay: the verdicts in force are not known to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from exfilguard.cli import status
from exfilguard.cli.main import main
from exfilguard.runtime.stats import Snapshot


@pytest.mark.parametrize(
    ("process", "says"), [("relay-0", "no verdict is in force"), ("detector-1", "exfilguard verdicts")]
)
def test_only_a_relays_machine_says_that_no_verdict_stands(
    process: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "exfilguard.toml").write_text(f'tenant = "c"\ndata_dir = "{tmp_path}"\n', encoding="utf-8")
    monkeypatch.setattr(status, "read_all", lambda _: {process: Snapshot(process.partition("-")[0], "0")})
    assert main(["status", "--config", str(tmp_path / "exfilguard.toml")]) == 0
    assert says in capsys.readouterr().out.splitlines()[-1]
