"""The table of standing verdicts survives a restart and rubbish."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

from exfilguard.events.verdict import Verdict
from exfilguard.sidecar.verdict_table import VerdictTable

LOCK = Verdict(tenant="t", principal="p", level="lock", revision=5, issued_ms=1, reason="r", issuer="i")


def test_the_newest_revision_stands_and_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.json"
    table = VerdictTable(path)
    assert table.apply(LOCK)
    assert not table.apply(replace(LOCK, revision=5, level="none"))
    assert not table.apply(replace(LOCK, revision=4, level="none"))
    assert table.apply(replace(LOCK, revision=6, level="cut"))
    table.save()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert VerdictTable(path).verdicts() == [replace(LOCK, revision=6, level="cut")]


def test_rubbish_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.json"
    for rubbish in (b"", b"{", b"{}", b"[1, {}]", b"\xff\xfe"):
        path.write_bytes(rubbish)
        assert VerdictTable(path).verdicts() == []
