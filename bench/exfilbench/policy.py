"""The policy under test: the built-in one, with what every installation must say of itself (its nightly batch)."""

from __future__ import annotations

from exfilguard.detect.policy import DEFAULT_POLICY, Policy, load_policy

from .clinic import digest_of

HONEYTOKENS = tuple(range(800_000, 800_020))
"""Patients outside of the clinic's numbers: no search and no list shows them."""
SITE = """
[[allowance]]
account = "batch_pmsi"
reason = "nightly activity extraction"
owner = "medical information department"
since = 2026-01-01
expires = 2026-12-31
hours = "01:30-04:00"
class = "nightly"
"""


def bench_policy() -> Policy:
    text = DEFAULT_POLICY.read_text(encoding="utf-8")
    tokens = ", ".join(f'"{digest_of(p)}"' for p in HONEYTOKENS)
    return load_policy(text.replace("honeytokens = []", f"honeytokens = [{tokens}]") + SITE, "exfilbench")
