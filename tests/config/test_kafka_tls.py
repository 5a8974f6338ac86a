"""The guard's own certificate towards the brokers: a pair or nothing, only with TLS, and its end is told."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest

from exfilguard.config.load import parse_config
from exfilguard.config.schema import Config
from exfilguard.errors import BrokerError, ConfigError
from exfilguard.runtime.kafka import certificate_figures, client_settings, whole_topic
from exfilguard.stream import app as stream

from .test_certificates import made

TEXT = '[kafka]\nbootstrap = "k:9093"\nsecurity_protocol = "{protocol}"\n'


def test_both_clients_show_it_and_its_end_is_a_figure(tmp_path: Path) -> None:
    cert, key = made(tmp_path, "guard", 9)
    text = TEXT.format(protocol="SSL") + f'cert_file = "{cert}"\nkey_file = "{key}"\n'
    config = parse_config(text, "here", tmp_path, {})
    assert client_settings(config)["ssl_certfile"] == str(cert)
    assert isinstance(stream.client_settings(config)["ssl_context"], ssl.SSLContext)
    ((name, labels, until),) = certificate_figures(config)
    assert name == "certificate_expiration_timestamp_seconds"
    assert labels == {"tenant": "default", "use": "kafka"}
    assert 8 < (until - time.time()) / 86_400 < 9
    cert.unlink()
    assert certificate_figures(config)[0][2] == 0, "what cannot be read alarms as if it had expired"


def test_without_one_nothing_is_shown_or_told(tmp_path: Path) -> None:
    config = parse_config(TEXT.format(protocol="SSL"), "here", tmp_path, {})
    assert "ssl_certfile" not in client_settings(config)
    assert certificate_figures(config) == []


@pytest.mark.parametrize(
    ("protocol", "lines", "says"),
    [
        ("SSL", 'cert_file = "{cert}"', "kafka.key_file"),
        ("PLAINTEXT", 'cert_file = "{cert}"\nkey_file = "{key}"', "has no effect without TLS"),
        ("SSL", 'cert_file = "{cert}"\nkey_file = "{other}"', "is not the key of"),
    ],
)
def test_a_pair_that_cannot_work_is_refused(tmp_path: Path, protocol: str, lines: str, says: str) -> None:
    cert, key = made(tmp_path, "guard", 9)
    _, other = made(tmp_path, "other", 9)
    text = TEXT.format(protocol=protocol) + lines.format(cert=cert, key=key, other=other)
    with pytest.raises(ConfigError, match=says):
        parse_config(text, "here", tmp_path, {})


def test_a_command_before_up_says_what_to_start() -> None:
    with pytest.raises(BrokerError, match="start it first"):
        list(whole_topic(Config(), "exfilguard.verdicts", 0.1))
