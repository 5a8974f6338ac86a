"""Certificates that cannot be used are refused before anything starts, with the remedy."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from exfilguard.config.certificates import expires_at, problem_of
from exfilguard.config.load import parse_config
from exfilguard.errors import ConfigError

DAY = datetime.timedelta(days=1)


def made(directory: Path, name: str, days: float = 30) -> tuple[Path, Path]:
    """A self-signed certificate that expires in so many days, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - 60 * DAY).not_valid_after(now + days * DAY).sign(key, hashes.SHA256())
    )  # fmt: skip
    cert_path, key_path = directory / f"{name}.crt", directory / f"{name}.key"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key_path.write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    return cert_path, key_path


def test_a_good_pair_and_its_expiry(tmp_path: Path) -> None:
    cert, key = made(tmp_path, "good", 30)
    assert problem_of(cert, key) == ""
    left = expires_at(cert) - datetime.datetime.now(datetime.UTC).timestamp()
    assert 29 * 86_400 < left <= 30 * 86_400


def test_every_bad_one_says_what_to_do(tmp_path: Path) -> None:
    good, key = made(tmp_path, "good")
    other, other_key = made(tmp_path, "other")
    expired, expired_key = made(tmp_path, "expired", -1)
    text = tmp_path / "text"
    text.write_text("no certificate", encoding="utf-8")
    assert "expired on" in problem_of(expired, expired_key)
    assert "SIGHUP" in problem_of(expired, expired_key)
    assert "is not the key of" in problem_of(good, other_key)
    assert "does not exist" in problem_of(tmp_path / "nowhere", key)
    assert "does not exist" in problem_of(good, tmp_path / "nowhere")
    assert "PEM" in problem_of(text, key)
    assert problem_of(other, other_key) == ""


def test_check_config_names_the_setting(tmp_path: Path) -> None:
    made(tmp_path, "expired", -1)
    text = (
        '[[listener]]\nname = "dpi"\nlisten = "127.0.0.1:6432"\nupstream = "127.0.0.1:5432"\ntls = "terminate"\n'
        'tls_cert = "expired.crt"\ntls_key = "expired.key"\nproxy_protocol_in = ["nonsense"]\n'
    )
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "x.toml", tmp_path, {})
    found = "\n".join(caught.value.problems)
    assert "tls_cert" in found
    assert "expired on" in found
    assert "proxy_protocol_in" in found


def test_files_are_found_from_wherever_a_part_is_started(tmp_path: Path) -> None:
    made(tmp_path, "good")
    text = (
        '[[listener]]\nname = "dpi"\nlisten = "127.0.0.1:6432"\nupstream = "127.0.0.1:5432"\ntls = "terminate"\n'
        'tls_cert = "good.crt"\ntls_key = "good.key"\n'
    )
    listener = parse_config(text, "x.toml", tmp_path, {}).listener[0]
    assert Path(listener.tls_cert) == tmp_path / "good.crt"


@pytest.mark.parametrize(("key", "said"), [("expired.key", "expired on"), ("other.key", "is not the key of")])
@pytest.mark.parametrize("part", [["sidecar", "--config"], ["check-config"]], ids=" ".join)
def test_nothing_starts_with_a_bad_one(tmp_path: Path, part: list[str], key: str, said: str) -> None:
    """As its operator sees it: which setting, and what to do."""
    cert, _ = made(tmp_path, "expired" if key == "expired.key" else "good", -1 if key == "expired.key" else 30)
    made(tmp_path, "other")
    path = tmp_path / "exfilguard.toml"
    path.write_text(
        f'data_dir = "{tmp_path}/data"\n[[listener]]\nname = "dpi"\nlisten = "127.0.0.1:6432"\nupstream = "127.0.0.1:5432"\n'
        f'tls = "terminate"\ntls_cert = "{cert.name}"\ntls_key = "{key}"\n',
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "exfilguard", *part, str(path)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stdout + done.stderr
    assert "listener[0].tls_cert" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
