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
    for text in ("= =", "a = " + "[" * 50_000, "a = " + "9" * 5_000):
        with pytest.raises(ConfigError, match="not valid TOML"):
            load_policy(text, "p")
    with pytest.raises(ConfigError, match="no class is defined"):
        load_policy("", "p")


def test_contradictions_are_named() -> None:
    text = """
version = "x"
default_class = "a"
expiry = "2h"
longest_expiry = "1h"
step_down = "sometimes"
break_glass = ["samu"]
shared = ["samu"]
honeytokens = ["nonsense"]
honeytoken_level = "shout"
[class.a]
surplus = { alert = 100, cut = 50 }
day = { typical = 0 }
privileged = "yes"
limits = [
  { unit = "patients", window = "1h", alert = 100, cut = 900 },
  { unit = "patients", window = "24h", alert = 200, cut = 500 },
  { unit = "patients", window = "24h", alert = 300 },
]
[habit]
days = 99
[drift]
deviations = { alert = 5, cut = 3 }
tenant_share = 300
tenant_exempt = ["nobody"]
[flags]
copy = "explode"
teleport = "alert"
[cross.source]
min_accounts = 9
max_accounts = 3
share = 200
exempt = ["zzz"]
limits = [ { unit = "patients", window = "24h", alert = 1 } ]
[cross.shape]
max_accounts = 1_000
limits = []
[cross.moon]
[[allowance]]
account = "batch"
reason = "r"
owner = "o"
since = 2026-01-01
expires = 2028-01-01
flags = ["copies"]
[[allowance]]
account = "b"
reason = "r"
since = 2026-02-01
expires = 2026-01-01
"""
    with pytest.raises(ConfigError) as caught:
        load_policy(text, "p")
    told = "\n".join(caught.value.problems)
    for part in (
        "longest_expiry: is shorter", "step_down: must be", "samu is a break-glass account too", "no digest of 16 hex",
        "honeytoken_level: must be one of", "class.a.surplus: cut must be more than alert", "class.a.day.typical: must be",
        "class.a.privileged: must be true", "cut at 900 patients in 1h never takes effect", "patients in 24h is given twice",
        "habit.days: must be at most", "drift.deviations: cut must be more", "drift.tenant_share: is a percentage",
        "drift.tenant_exempt: nobody", "copy: must be one of", "flags.teleport: unknown", "cross.source.max_accounts: is less",
        "cross.source.share: is a percentage", "cross.source.exempt: zzz", "cross.shape.max_accounts: must be at most",
        "cross.shape: needs limits", "cross.moon: unknown", "holds longer than 400 days", "copies is no flag",
        "allowance[1].owner: is missing", "allowance[1].expires: lies before since", "allowance[1]: allows nothing",
    ):  # fmt: skip
        assert part in told, part


def test_allowances_that_end_are_known_a_week_before() -> None:
    text = """
version = "x"
default_class = "a"
[class.a]
limits = [ { unit = "rows", window = "1h", alert = 1 } ]
[[allowance]]
account = "batch"
reason = "nightly"
owner = "IT"
since = 2026-01-01
expires = 2026-01-31
multiply = 3
"""
    policy = load_policy(text, "p")
    (allowance,) = policy.allowances
    day = 86_400_000
    assert policy.ending(allowance.expires_ms - 8 * day) == ()
    assert policy.ending(allowance.expires_ms - 6 * day) == (allowance,)
    assert policy.ending(allowance.expires_ms) == ()
    assert not allowance.covers("batch", allowance.since_ms - 1)
