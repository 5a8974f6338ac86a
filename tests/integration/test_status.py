"""What `exfilguard status` may say on a machine that has no relay: the verdicts in force are not known to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from exfilguard.cli import status
from exfilguard.cli.main import main
from exfilguard.events.verdict import Verdict
from exfilguard.runtime.stats import Snapshot
from exfilguard.sidecar.verdict_table import VerdictTable


@pytest.mark.parametrize(
    ("process", "says"), [("relay-0", "no verdict is in force"), ("detector-1", "exfilguard verdicts")]
)
def test_only_a_relays_machine_says_that_no_verdict_stands(
    process: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "exfilguard.toml").write_text(f'tenant = "c"\ndata_dir = "{tmp_path}"\n', encoding="utf-8")
    there = [process, "shipper"] if process == "relay-0" else [process]
    monkeypatch.setattr(status, "read_all", lambda _: {name: Snapshot(name.partition("-")[0], "0") for name in there})
    assert main(["status", "--config", str(tmp_path / "exfilguard.toml")]) == 0
    assert says in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(("there", "missing"), [("shipper", "relay"), ("relay-0", "shipper")])
def test_half_a_sidecar_is_not_healthy(
    there: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ends before it answers for the first time leaves nothing that could be asked: all that answered was well."""
    (tmp_path / "exfilguard.toml").write_text(f'tenant = "c"\ndata_dir = "{tmp_path}"\n', encoding="utf-8")
    monkeypatch.setattr(status, "read_all", lambda _: {there: Snapshot(there.partition("-")[0], "0")})
    assert main(["status", "--config", str(tmp_path / "exfilguard.toml")]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "DOWN" in line]
    assert line.split() == [missing, "DOWN"]
    assert main(["status", "--json", "--config", str(tmp_path / "exfilguard.toml")]) == 1


def test_another_tenants_verdicts_are_not_this_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several establishments share the topics: `status` named their accounts as locked here."""
    (tmp_path / "exfilguard.toml").write_text(f'tenant = "c"\ndata_dir = "{tmp_path}"\n', encoding="utf-8")
    table = VerdictTable(tmp_path / "verdicts.json")
    for tenant, principal in (("c", "anna"), ("other", "bert")):
        table.apply(Verdict(tenant, principal, "lock", 1, 1, "a reason", "operator:x"))
    table.save()
    main(["status", "--config", str(tmp_path / "exfilguard.toml")])
    said = capsys.readouterr().out
    assert "anna" in said
    assert "bert" not in said
