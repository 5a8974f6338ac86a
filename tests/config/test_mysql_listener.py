"""Settings of a MySQL listener: what the other engine has is named, with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from exfilguard.cli.check_config import warnings
from exfilguard.config.load import parse_config
from exfilguard.errors import ConfigError

LISTENER = '[[listener]]\nname = "m"\nengine = "{engine}"\nlisten = "127.0.0.1:1"\nupstream = "127.0.0.1:3306"\npatient_columns = ["patient.id"]\n'


def test_mysql_and_mariadb_are_the_same_protocol(tmp_path: Path) -> None:
    for engine in ("mysql", "mariadb"):
        text = LISTENER.format(engine=engine) + 'kill_dsn = "mysql://guard:secret@127.0.0.1:3306"\n'
        config = parse_config(text, "x", tmp_path, {})
        assert config.listener[0].protocol == "mysql"
        assert not [note for note in warnings(config) if "catalog" in note or "kill_dsn" in note]
    assert [
        note
        for note in warnings(parse_config(LISTENER.format(engine="mysql"), "x", tmp_path, {}))
        if "kill_dsn" in note
    ]


@pytest.mark.parametrize(
    ("engine", "more", "named"),
    [
        ("mysql", 'catalog_dsn = "host=x"', "catalog_dsn: MySQL names"),
        ("mysql", 'kill_dsn = "host=x password=hidden"', "kill_dsn: write it as"),
        ("postgres", 'kill_dsn = "mysql://a:hidden@b"', "kill_dsn: PostgreSQL"),
    ],
)
def test_what_belongs_to_the_other_engine_is_named(tmp_path: Path, engine: str, more: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        parse_config(LISTENER.format(engine=engine) + more + "\n", "x", tmp_path, {})
    assert "hidden" not in str(caught.value)
