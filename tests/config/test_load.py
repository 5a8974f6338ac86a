"""The configuration: every mistake at once, with line, key and remedy; secrets from files; what runs is what was written."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from exfilguard.cli.common import write_resolved
from exfilguard.cli.main import main
from exfilguard.config.load import load_config, parse_config
from exfilguard.config.reference import render
from exfilguard.config.schema import Config, KafkaConfig, ListenerConfig
from exfilguard.errors import ConfigError

ROOT = Path(__file__).parents[2]

TEN_MISTAKES = """
tennant = "clinic"
[kafka]
bootstrap = "localhost"
partitions = 0
[spool]
max_bytes = "lots"
on_full = "explode"
[[listener]]
name = "dpi server"
listen = "0.0.0.0:70000"
upstream = "db:5432"
mode = "enforce"
patient_columns = ["id"]
progress_rows = -4
"""


def problems(text: str, base: Path = ROOT, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "exfilguard.toml", base, environ or {})
    return caught.value.problems


def test_ten_mistakes_are_ten_lines_with_place_and_remedy() -> None:
    found = problems(TEN_MISTAKES)
    expected = [
        ("exfilguard.toml:2: tennant", "tenant"),
        ("exfilguard.toml:4: kafka.bootstrap", "host:port"),
        ("exfilguard.toml:5: kafka.partitions", "at least 1"),
        ("exfilguard.toml:7: spool.max_bytes", '"64MB"'),
        ("exfilguard.toml:8: spool.on_full", "forward, refuse"),
        ("exfilguard.toml:10: listener[0].name", "letters"),
        ("exfilguard.toml:11: listener[0].listen", "65535"),
        ("exfilguard.toml:13: listener[0].mode", "budget_rows"),
        ("exfilguard.toml:14: listener[0].patient_columns", "table.column"),
        ("exfilguard.toml:15: listener[0].progress_rows", "negative"),
    ]
    for where, remedy in expected:
        assert [line for line in found if line.startswith(where) and remedy in line], (where, found)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('data_dir = "a\\u0000b"', "exfilguard.toml:1: data_dir: has a NUL"),
        ('[kafka]\npassword_file = "a\\u0000b"', "exfilguard.toml:2: kafka.password_file: has a NUL"),
        ("a = " + "[" * 50_000, "not valid TOML"),
        ("a = " + "9" * 5_000, "not valid TOML"),
        ('[kafka]\nbootstrap = "h:\N{SUPERSCRIPT TWO}"', "write it as host:port"),
    ],
)
def test_what_no_configuration_has_is_told_like_any_mistake(text: str, told: str) -> None:
    assert any(told in line for line in problems(text))


def test_an_environment_that_only_looks_like_numbers_is_told_too() -> None:
    for name, value in (("KAFKA__PARTITIONS", "\N{SUPERSCRIPT TWO}"), ("LISTENER__\N{SUPERSCRIPT TWO}__NAME", "x")):
        assert problems("", environ={f"EXFILGUARD_{name}": value})


def test_the_command_reports_them_all_and_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "exfilguard.toml"
    path.write_text(TEN_MISTAKES, encoding="utf-8")
    assert main(["check-config", str(path)]) == 2
    out = capsys.readouterr().out
    assert out.count("error: ") >= 10
    assert "listener[0].listen" in out


def test_a_missing_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--config", str(tmp_path / "no.toml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_environment_overrides_and_secret_files(tmp_path: Path) -> None:
    (tmp_path / "hook").write_text("postgresql://hook:s3cret@db/x\n", encoding="utf-8")
    text = '[responder.postgres]\ndsn_file = "hook"\n[[listener]]\nname="a"\nlisten="h:1"\nupstream="h:2"\n'
    environ = {"EXFILGUARD_KAFKA__BOOTSTRAP": "k:9092", "EXFILGUARD_LISTENER__0__PROGRESS_ROWS": "7"}
    config = parse_config(text, "x", tmp_path, environ)
    assert config.responder.postgres.dsn == "postgresql://hook:s3cret@db/x"
    assert config.kafka.bootstrap == "k:9092"
    assert config.listener[0].progress_rows == 7


def test_a_secret_is_never_quoted(tmp_path: Path) -> None:
    text = '[sidecar]\ndigest_key = "TOPSECRET"\n[responder.postgres]\ndsn = 5\n'
    assert "TOPSECRET" not in " ".join(problems(text))


def test_what_the_processes_read_is_what_was_configured(tmp_path: Path) -> None:
    config = Config(
        tenant="t",
        data_dir=str(tmp_path),
        kafka=KafkaConfig(bootstrap="k:9092", password='a"b\\c\n'),
        listener=[
            ListenerConfig(name="a", listen="h:1", upstream="unix:/s/.s.PGSQL.5432", patient_columns=["p.id", "q.id"]),
            ListenerConfig(name="b", listen="h:2", upstream="h:3", catalog_dsn="host='x y'", budget_window_ms=5_000),
        ],
    )
    path = tmp_path / "resolved.toml"
    write_resolved(config, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_config(path, {}) == config
    write_resolved(replace(config, listener=[]), path)
    assert load_config(path, {}).listener == []


def test_the_reference_is_generated_from_the_schema() -> None:
    page = (ROOT / "docs" / "CONFIGURATION.md").read_text(encoding="utf-8")
    assert page == render() + "\n", "run: python -m exfilguard.config.reference > docs/CONFIGURATION.md"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ('listen = "0.0.0.0:9188"', "passwords in clear"),
        ('oidc_issuer = "https://sso.example"', "oidc_client_id"),
        ('oidc_roles = ["nurses=boss"]', "claim-value=role"),
        ('tls_cert = "a.pem"', "needs tls_key"),
    ],
)
def test_a_console_that_would_not_be_safe_is_refused(tmp_path: Path, settings: str, text: str) -> None:
    path = tmp_path / "exfilguard.toml"
    path.write_text(f"[console]\n{settings}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=text):
        load_config(path, {})
    path.write_text('[console]\nlisten = "0.0.0.0:1"\npublic_url = "https://guard.example"\n', encoding="utf-8")
    assert load_config(path, {}).console.listen == "0.0.0.0:1"
