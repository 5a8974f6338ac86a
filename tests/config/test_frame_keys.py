"""The sidecars' keys as files: what is read, what is refused, and an exchange without a restart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exfilguard.config.load import load_config
from exfilguard.config.schema import Config, KafkaConfig
from exfilguard.errors import ConfigError
from exfilguard.events.signature import sign
from exfilguard.runtime.frame_keys import KeyFiles, read_keys

ONE, TWO = "1" * 32, "2" * 64


def test_a_file_a_sidecar_of_this_tenant_or_of_another(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "east.key").write_text(f"# since May\n{TWO}\n\n{ONE}\n")
    (tmp_path / "other" / "east.key").write_text(ONE)
    assert read_keys(tmp_path, "mine") == {
        ("mine", "east"): [TWO.encode(), ONE.encode()],
        ("other", "east"): [ONE.encode()],
    }


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", f"{ONE}\nshort\n", "é" * 40])
def test_a_file_without_a_good_key_is_named_and_its_content_is_not(tmp_path: Path, text: str) -> None:
    (tmp_path / "east.key").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_keys(tmp_path, "mine")
    assert "east.key" in str(caught.value)
    assert ONE not in str(caught.value)


def test_an_empty_directory_would_refuse_everything_and_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every frame would be refused"):
        read_keys(tmp_path, "mine")


def test_a_key_is_exchanged_without_a_restart_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "east.key"
    path.write_text(ONE)
    files = KeyFiles(Config(tenant="mine", kafka=KafkaConfig(frame_keys_dir=str(tmp_path))))
    assert files.keys is not None

    def good(key: str) -> bool:
        files.reload()
        assert files.keys is not None
        return not files.keys.refusal(0, "mine", "east-0", b"frame", sign(key.encode(), 0, b"frame"))

    def write(text: str, stamp: int) -> None:
        path.write_text(text)
        os.utime(path, ns=(stamp, stamp))

    assert (good(ONE), good(TWO)) == (True, False)
    write(f"{TWO}\n{ONE}\n", 1)
    assert (good(ONE), good(TWO)) == (True, True)
    write("broken", 2)
    assert (good(ONE), good(TWO)) == (True, True)
    write(TWO, 3)
    assert (good(ONE), good(TWO)) == (False, True)
    assert files.figures() == [
        ("frames_refused_total", {"reason": "unsigned"}, 0),
        ("frames_refused_total", {"reason": "unknown"}, 0),
        ("frames_refused_total", {"reason": "forged"}, 2),
    ]


def test_the_settings_say_what_is_wrong_and_the_directory_is_beside_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "exfilguard.toml"
    path.write_text('[kafka]\nframe_key = "short"\nframe_keys_dir = "keys"\n')
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert "is too short: `openssl rand -hex 32`" in str(caught.value)
    assert "is no directory" in str(caught.value)
    (tmp_path / "keys").mkdir()
    path.write_text('[kafka]\nframe_keys_dir = "keys"\n')
    assert load_config(path, {}).kafka.frame_keys_dir == str(tmp_path / "keys")


def test_without_a_directory_nothing_is_looked_at() -> None:
    files = KeyFiles(Config())
    files.reload()
    assert files.keys is None
    assert files.figures() == []
