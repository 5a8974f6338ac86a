"""From the configuration to the hooks; a hook of another package, really installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exfilguard.config.load import parse_config
from exfilguard.config.responder import PluginHookConfig, ResponderConfig
from exfilguard.errors import ConfigError
from exfilguard.respond.build import build_hooks

EXAMPLE = Path(__file__).with_name("plugin_package")

EVERYTHING = """
[responder.postgres]
dsn = "host=h user=exfilguard_hook"
[responder.mysql]
address = "h:3306"
password = "p"
[responder.keycloak]
url = "https://sso.example"
realm = "clinic"
client_secret = "s"
[responder.scim]
url = "https://idp.example/scim/v2"
token = "t"
[responder.mail]
address = "mail.example:25"
sender = "exfilguard@clinic.example"
recipients = ["oncall@clinic.example"]
[[responder.application]]
name = "ehr"
dsn = "host=h"
state = "SELECT id FROM u WHERE login = %(account)s"
locked = "SELECT true"
lock = ["UPDATE u SET x = 1"]
unlock = ["UPDATE u SET x = 0"]
[[responder.command]]
name = "door"
argv = ["/usr/local/bin/door"]
[[responder.webhook]]
name = "team"
url = "https://teams.example/hook"
template = "teams"
"""


def test_every_section_makes_its_hook_and_those_that_suspend_come_first(tmp_path: Path) -> None:
    config = parse_config(EVERYTHING, "x", tmp_path, {})
    hooks = build_hooks(config.responder, {"urgences"})
    assert [hook.name for hook in hooks] == ["postgres", "mysql", "keycloak", "scim", "ehr", "door", "mail", "team"]
    assert [hook.suspends for hook in hooks] == [True] * 6 + [False] * 2


def test_a_plug_in_that_is_not_installed_says_so() -> None:
    config = ResponderConfig(plugin=[PluginHookConfig(name="x", hook="no-such-hook")])
    with pytest.raises(ConfigError, match="no installed package offers the hook no-such-hook"):
        build_hooks(config, ())


def test_the_example_package_is_installed_found_and_works(tmp_path: Path) -> None:
    """In a directory of its own, by pip, then found through its entry point by a fresh process."""
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(EXAMPLE, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    badges = tmp_path / "badges"
    badges.mkdir()
    (badges / "anna").write_text("day and night")
    (badges / "secret").write_text("hush")
    (tmp_path / "badge.secret").write_text("hush\n")
    script = f"""
import asyncio, json
from pathlib import Path
from exfilguard.config.load import parse_config
from exfilguard.respond.build import build_hooks
from tests.respond.orders import order
text = '''
[[responder.plugin]]
name = "door"
hook = "badge"
settings = ["directory={badges}"]
secret_file = "badge.secret"
'''
[hook] = build_hooks(parse_config(text, "x", Path({str(tmp_path)!r}), {{}}).responder, ())
async def play():
    undo = await hook.before(order("anna"))
    locked = await hook.lock(order("anna"))
    state = Path({str(badges)!r}, "anna").read_text()
    back = await hook.unlock(order("anna"), undo)
    return [hook.name, undo, locked.outcome, state, back.outcome]
print(json.dumps(asyncio.run(play())))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[2], env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["door", {"state": "day and night"}, "done", "closed", "done"]
    assert (badges / "anna").read_text() == "day and night"


MISTAKES = """
[responder]
concurrency = 0
mass_lock_window = "10ms"
[responder.mysql]
address = "nowhere"
[responder.ldap]
url = "http://ldap"
filter = "(uid=x"
[responder.keycloak]
url = "https://user:pw@sso.example"
[responder.scim]
url = "ftp://x"
filter_attribute = "a b"
[responder.mail]
address = "mail:25"
user = "u"
tls = "none"
[[responder.application]]
name = "postgres"
state = "DELETE FROM users"
locked = "SELECT 1"
lock = []
unlock = ["x"]
[[responder.webhook]]
name = "w"
url = "not an address"
secret = "short-secret"
[[responder.webhook]]
name = "w"
url = "https://pd.example"
template = "pagerduty"
[[responder.command]]
name = "a b"
argv = []
[[responder.plugin]]
name = "p"
hook = "h"
settings = ["nonsense"]
timeout = "1ms"
"""


def test_every_mistake_at_once_and_no_secret_among_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(MISTAKES, "x.toml", tmp_path, {})
    text = "\n".join(caught.value.problems)
    for key in (
        "responder.concurrency", "responder.mass_lock_window", "responder.mysql.address", "responder.mysql.password",
        "responder.ldap.url", "responder.ldap.filter", "responder.ldap.bind_dn", "responder.keycloak.url", "responder.keycloak.realm",
        "responder.scim.url", "responder.scim.token", "responder.scim.filter_attribute", "responder.mail.tls", "responder.mail.sender",
        "responder.application[0].name", "responder.application[0].state", "responder.application[0].lock",
        "responder.application[0].dsn", "responder.webhook[0].url", "responder.webhook[0].secret", "responder.webhook[1].name",
        "responder.webhook[1].token", "responder.command[0].name", "responder.command[0].argv", "responder.plugin[0].settings",
        "responder.plugin[0].timeout",
    ):  # fmt: skip
        assert f"{key}:" in text, key
    assert "short-secret" not in text
    assert "user:pw" not in text
