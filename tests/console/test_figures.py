"""The console is watched like any other part: it is there, and its certificates end."""

from __future__ import annotations

import time
from pathlib import Path

from exfilguard.cli.console import _figures
from exfilguard.config.schema import Config, ConsoleConfig
from exfilguard.exporter.server import families
from tests.config.test_certificates import made


def test_the_end_of_its_certificate_is_a_figure(tmp_path: Path) -> None:
    cert, key = made(tmp_path, "console", 9)
    found = _figures(Config(tenant="c", console=ConsoleConfig(tls_cert=str(cert), tls_key=str(key))))
    ((sample,),) = [family.samples for family in families([found])]
    assert sample.labels == {"tenant": "c", "listener": "", "use": "console"}
    assert 8 < (sample.value - time.time()) / 86_400 < 9


def test_without_one_there_is_nothing_to_say() -> None:
    assert _figures(Config()).values == []
