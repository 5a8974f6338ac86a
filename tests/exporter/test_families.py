"""Several processes' figures become one, as the catalogue says."""

from __future__ import annotations

import os
import resource
import socket
import time
from pathlib import Path

from exfilguard.exporter.server import ProcessCollector, families
from exfilguard.runtime.stats import Snapshot, StatsServer, read_snapshot, run_dir

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


def test_counters_do_not_go_back_when_processes_are_replaced_end_or_are_down(tmp_path: Path) -> None:
    """Prometheus takes a sum that went back for a restart and counts what is left of it once more."""

    def serve(number: int, queries: int) -> StatsServer:
        time.sleep(0.002)  # each begins at another time
        histogram = ("relay_added_seconds", {"tenant": "c", "listener": "dpi"}, [(0.1, queries), (1e308, queries)], 0.5)
        values = [("queries_total", {"tenant": "c", "listener": "dpi"}, queries), ("sessions", {"listener": "dpi"}, 1)]
        path = run_dir(tmp_path) / f"relay-{number}.stats"
        path.parent.mkdir(parents=True, exist_ok=True)
        return StatsServer(path, lambda: Snapshot("relay", str(number), values, [histogram]))

    collector = ProcessCollector(tmp_path)

    def told() -> tuple[float, float, float]:
        found = {(s.name, s.labels.get("le", "")): s.value for family in collector.collect() for s in family.samples}
        histogram = found["exfilguard_relay_added_seconds_bucket", "+Inf"]
        return found["exfilguard_queries_total", ""], histogram, found.get(("exfilguard_sessions", ""), 0)

    one, two = serve(0, 3), serve(1, 5)
    assert told() == (8, 8, 2)
    one.close()
    assert told() == (8, 8, 1), "it has ended"
    one = serve(0, 1)
    assert told() == (9, 9, 2), "another has its number"
    two._socket.shutdown(socket.SHUT_RDWR)
    assert told() == (9, 9, 1), "it was killed"
    two = serve(1, 2)
    assert told() == told() == (11, 11, 2)
    one.close()
    two.close()
    assert told() == (11, 11, 0)


def test_a_process_that_had_no_descriptor_left_for_a_moment_tells_its_figures_again(tmp_path: Path) -> None:
    """It was down for the exporter from then on, for as long as it lived."""
    path = tmp_path / "relay-0.stats"
    server = StatsServer(path, lambda: Snapshot("relay", "0"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Of two, since the kernel has reserved a descriptor for the one that is awaited.
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        free = os.dup(one.fileno())
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            one.connect(str(path))
            two.connect(str(path))
            time.sleep(0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert read_snapshot(path, timeout_s=2.0) is not None
    server.close()
