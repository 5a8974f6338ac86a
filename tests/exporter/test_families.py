"""Several processes' figures become one, as the catalogue says."""

from __future__ import annotations

from exfilguard.exporter.server import families
from exfilguard.runtime.stats import Snapshot

LABELS = {"tenant": "c", "listener": "dpi", "use": "listener"}


def test_counters_add_up_ages_take_the_oldest_certificates_the_first_to_end() -> None:
    one = Snapshot(
        "relay",
        "0",
        values=[
            ("queries_total", {"tenant": "c", "listener": "dpi"}, 3),
            ("spool_oldest_seconds", {}, 5),
            ("certificate_expiration_timestamp_seconds", LABELS, 2_000),
            ("of_a_newer_release", {}, 1),
        ],
        histograms=[("relay_added_seconds", {"tenant": "c", "listener": "dpi"}, [(0.1, 1), (1e308, 2)], 0.5)],
    )
    two = Snapshot(
        "relay",
        "1",
        values=[
            ("queries_total", {"tenant": "c", "listener": "dpi"}, 4),
            ("spool_oldest_seconds", {}, 2),
            ("certificate_expiration_timestamp_seconds", LABELS, 1_000),
        ],
        histograms=[("relay_added_seconds", {"tenant": "c", "listener": "dpi"}, [(0.1, 0), (1e308, 1)], 2.0)],
    )
    samples = {(s.name, s.labels.get("le", "")): s.value for family in families([one, two]) for s in family.samples}
    assert samples == {
        ("exfilguard_queries_total", ""): 7,
        ("exfilguard_spool_oldest_seconds", ""): 5,
        ("exfilguard_certificate_expiration_timestamp_seconds", ""): 1_000,
        ("exfilguard_relay_added_seconds_bucket", "0.1"): 1,
        ("exfilguard_relay_added_seconds_bucket", "+Inf"): 3,
        ("exfilguard_relay_added_seconds_count", ""): 3,
        ("exfilguard_relay_added_seconds_sum", ""): 2.5,
    }
