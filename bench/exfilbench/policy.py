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


SMALL_NIGHT = (("alert = 3_000, cut = 3_500, lock = 7_000", "alert = 1_000, cut = 1_300, lock = 7_000"),)
"""A clinic of four wards exports 750 patients a night: `cut` belongs just above, as the policy says."""


def bench_policy(small: bool = False) -> Policy:
    """`small`: the clinic of four wards."""
    text = DEFAULT_POLICY.read_text(encoding="utf-8")
    for old, new in SMALL_NIGHT if small else ():
        if old not in text:
            raise ValueError("the built-in policy has changed: SMALL_NIGHT must follow")
        text = text.replace(old, new)
    tokens = ", ".join(f'"{digest_of(p)}"' for p in HONEYTOKENS)
    return load_policy(text.replace("honeytokens = []", f"honeytokens = [{tokens}]") + SITE, "exfilbench")
