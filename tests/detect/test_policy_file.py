"""A policy file as an operator writes it: watched, refused whole where it has a mistake, and taken by the detector at once."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from exfilguard.cli.main import main
from exfilguard.config.schema import Config, DetectorConfig
from exfilguard.detect.policy import default_policy
from exfilguard.errors import ConfigError
from exfilguard.events.codec import encode_frame, frame_head
from exfilguard.runtime.kafka import TopicWatch
from exfilguard.runtime.policy_file import NeverLocked, PolicyFile
from exfilguard.stream.detector import Detector, Held

NOW = 1_767_600_000_000
POLICY = """
version = "{version}"
default_class = "everybody"
[class.everybody]
limits = [ {{ unit = "patients", window = "1h", alert = {alert}, cut = {cut} }} ]
"""


def write(path: Path, version: str, alert: int, cut: int) -> None:
    """As an editor does: another file, then renamed; its time differs even where the clock is coarse."""
    other = path.with_suffix(".new")
    other.write_text(POLICY.format(version=version, alert=alert, cut=cut), encoding="utf-8")
    before = path.stat().st_mtime_ns if path.exists() else 0
    os.utime(other, ns=(before + 1_000_000_000, before + 1_000_000_000))
    other.replace(path)


def test_a_change_is_taken_and_a_mistake_is_refused_with_its_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "policy.toml"
    write(path, "one", 100, 500)
    file = PolicyFile(str(path))
    assert (file.policy.version, file.reload()) == ("one", False)
    write(path, "two", 200, 500)
    assert file.reload()
    assert file.policy.version == "two"
    write(path, "three", 900, 500)  # cut below alert
    with caplog.at_level(logging.ERROR):
        assert not file.reload()
    assert (file.policy.version, file.refused) == ("two", 1)
    assert f"{path}:4: class.everybody: cut must be more than alert" in caplog.text
    assert not file.reload()  # said once
    assert file.refused == 1
    write(path, "four", 300, 900)
    assert file.current().version == "four"


def test_a_file_that_is_gone_is_no_change_and_one_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    write(path, "one", 100, 500)
    file = PolicyFile(str(path))
    path.unlink()
    assert not file.reload()
    path.write_bytes(b"\xff\xfe\x00")
    assert not file.reload()
    assert (file.policy.version, file.refused) == ("one", 1)
    with pytest.raises(ConfigError, match="UTF-8"):
        PolicyFile(str(path))


def test_without_a_file_the_built_in_policy_holds() -> None:
    file = PolicyFile("")
    assert not file.reload()
    assert file.policy == default_policy()


def frame(seq: int, patients: range) -> bytes:
    event: dict[str, Any] = {
        "time_ms": NOW + seq, "kind": "query", "listener": "dpi", "session": "s", "principal": "a", "rows": len(patients),
        "patients": [f"{n:016x}" for n in patients], "patients_by": "origin",
    }  # fmt: skip
    return encode_frame(frame_head("clinic", "one", "1"), seq, [orjson.dumps(event)])


def test_the_detector_judges_by_the_new_file_from_the_next_event_on(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    write(path, "one", 100, 500)
    detector = Detector(Config(tenant="clinic", detector=DetectorConfig(policy=str(path))), "w", TopicWatch(Config()))
    engine = detector.new_engine(0)
    detector.held[0] = Held(engine)
    assert engine.feed(0, frame(0, range(90)), NOW).verdicts == []
    write(path, "broken", 600, 500)
    detector._reload_policy()
    write(path, "two", 10, 20)
    detector._reload_policy()
    (verdict,) = engine.feed(1, frame(1, range(80, 91)), NOW + 1).verdicts
    assert (verdict.level, verdict.policy, verdict.total, verdict.limit) == ("cut", "two", 91, 20)
    values = {name: value for name, _, value in detector.snapshot().values}
    assert values["policy_refused_total"] == 1


def test_check_config_names_every_mistake_of_the_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "policy.toml", "x", 600, 500)
    (tmp_path / "exfilguard.toml").write_text('tenant = "clinic"\n[detector]\npolicy = "policy.toml"\n')
    assert main(["check-config", str(tmp_path / "exfilguard.toml")]) != 0
    told = capsys.readouterr()
    assert "policy.toml:4: class.everybody: cut must be more than alert" in told.out + told.err


def test_an_emergency_account_that_is_added_is_protected_at_once(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    write(path, "one", 100, 500)
    protected = NeverLocked(PolicyFile(str(path)))
    assert "samu" not in protected
    text = path.read_text(encoding="utf-8").replace("[class", 'break_glass = ["samu"]\nshared = ["dpi"]\n[class')
    before = path.stat().st_mtime_ns
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(before + 1_000_000_000, before + 1_000_000_000))
    assert "samu" in protected
    assert "dpi" in protected
    assert "thief" not in protected
