"""Policy files: the built-in one, and every mistake at once."""

from __future__ import annotations

import pytest

from exfilguard.detect.policy import default_policy, load_policy
from exfilguard.errors import ConfigError


def test_default_policy() -> None:
    policy = default_policy()
    assert policy.class_of("dr.martin") == "clinician"
    assert policy.class_of("dpi_export") == "application"
    assert policy.max_level == "lock"
    assert policy.never_locked == frozenset()


def test_every_mistake_at_once() -> None:
    text = """
version = 3
max_level = "kill"
expiry = "soon"
default_class = "nobody"
surprise = 1
shared = "pool"
session_share = 0
[class.a]
limits = [ { unit = "files", window = "2m", alert = -1, shout = 3 }, { unit = "rows", window = "1m", alert = 10, lock = 5 }, { unit = "rows", window = "1m" } ]
[class.b]
[accounts]
"x" = "zzz"
[[allowance]]
account = "batch"
hours = "25:00-3"
multiply = 0
class = "zzz"
"""
    with pytest.raises(ConfigError) as caught:
        load_policy(text, "policy.toml")
    told = "\n".join(caught.value.problems)
    for part in (
        "version: must be text", "max_level: must be one of", "expiry: write a duration", "default_class: no such class",
        "surprise: unknown", "shared: must be a list", "session_share: must be", "unit must be", "window must be",
        "alert must be a whole", "shout is not a step", "lock must be more than alert", "needs at least one of",
        "class.b: needs limits", "accounts.x: no such class", "reason: is missing", "expires: is missing",
        "hours: write it in UTC", "multiply: must be", "allowance[0].class: no such class",
    ):  # fmt: skip
        assert part in told, part
    assert "policy.toml:3: max_level" in told


def test_not_toml_and_empty() -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_policy("= =", "p")
    with pytest.raises(ConfigError, match="no class is defined"):
        load_policy("", "p")
