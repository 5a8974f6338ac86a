"""/metrics: asks every process of this data directory at scrape time and adds up their plain integers."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from operator import add
from pathlib import Path
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from ..config.load import parse_address
from ..config.schema import Config
from ..runtime.process import stop_on_signals
from ..runtime.stats import Labels, Snapshot, read_snapshot, run_dir
from .catalogue import METRICS, PREFIX

log = logging.getLogger(__name__)


class Ended:
    """What processes had counted that have ended or are down. A sum over processes goes back without it when a relay is replaced, and
    Prometheus takes that for a restart: it counts all that is left of the sum once more, and `increase(..) > 0` pages at night. What a
    process counted after it was asked last is lost."""

    def __init__(self) -> None:
        self._last: dict[str, Snapshot] = {}
        """By process, as it answered last."""
        self._sum = Snapshot("ended", "0")
        self._lock = threading.Lock()

    def since(self, snapshots: Mapping[str, Snapshot | None]) -> list[Snapshot]:
        """To be added to those that answer now. `snapshots`: None for one that is down."""
        with self._lock:
            for name, last in list(self._last.items()):
                now = snapshots.get(name)
                another = now is not None and now.details.get("began_ms") != last.details.get("began_ms")
                if another or name not in snapshots:
                    self._sum = _added(self._sum, self._last.pop(name))
            self._last |= {name: counts(now) for name, now in snapshots.items() if now is not None}
            return [self._sum, *(last for name, last in self._last.items() if snapshots[name] is None)]


def counts(snapshot: Snapshot) -> Snapshot:
    """Only what never goes back."""
    values = [value for value in snapshot.values if value[0] in METRICS and METRICS[value[0]].kind == "counter"]
    return replace(snapshot, values=values)


def _added(one: Snapshot, other: Snapshot) -> Snapshot:
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    buckets: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[dict[float, int], float]] = {}
    for snapshot in (one, other):
        for name, labels, value in snapshot.values:
            key = (name, tuple(sorted(labels.items())))
            values[key] = values.get(key, 0) + value
        for name, labels, found, total in snapshot.histograms:
            key = (name, tuple(sorted(labels.items())))
            merged, so_far = buckets.get(key, ({}, 0.0))
            buckets[key] = ({bound: merged.get(bound, 0) + count for bound, count in found}, so_far + total)
    return replace(
        one,
        values=[(name, dict(labels), value) for (name, labels), value in values.items()],
        histograms=[(name, dict(labels), sorted(f.items()), total) for (name, labels), (f, total) in buckets.items()],
    )


class ProcessCollector(Collector):
    """Private registry's only collector. An unknown metric from a newer process is left out, never an error."""

    def __init__(self, data_dir: str | Path) -> None:
        self.data_dir = Path(data_dir)
        self._ended = Ended()
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="scrape")

    def snapshots(self) -> dict[str, Snapshot | None]:
        paths = sorted(run_dir(self.data_dir).glob("*.stats"))
        return dict(zip([p.stem for p in paths], self._pool.map(read_snapshot, paths), strict=True))

    def collect(self) -> Iterator[Family]:
        snapshots = self.snapshots()
        up = GaugeMetricFamily(PREFIX + "process_up", METRICS["process_up"].help, labels=["process"])
        for name, snapshot in snapshots.items():
            up.add_metric([name], 0.0 if snapshot is None else 1.0)
        yield up
        alive = {name: snapshot for name, snapshot in snapshots.items() if snapshot is not None}
        own = Snapshot("exporter", "0", [*_began(alive), *_disk(self.data_dir)])
        yield from families([*alive.values(), *self._ended.since(snapshots), own])


def _began(alive: Mapping[str, Snapshot]) -> Iterator[tuple[str, Labels, float]]:
    for name, snapshot in alive.items():
        if began_ms := snapshot.details.get("began_ms"):
            yield "process_start_time_seconds", {"process": name}, began_ms / 1000


def _disk(directory: Path) -> Iterator[tuple[str, Labels, float]]:
    """Nothing where the directory is not there (yet)."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return
    yield "data_disk_free_bytes", {}, disk.f_bavail * disk.f_frsize
    yield "data_disk_size_bytes", {}, disk.f_blocks * disk.f_frsize


_COMBINE: dict[str, Callable[[float, float], float]] = {"sum": add, "max": max, "min": min}


def families(snapshots: Iterable[Snapshot]) -> Iterator[Family]:
    """Metric families of several processes' snapshots, combined as the catalogue says."""
    values: dict[str, dict[tuple[str, ...], float]] = {}
    histograms: dict[str, dict[tuple[str, ...], tuple[dict[float, int], float]]] = {}
    for snapshot in snapshots:
        for name, labels, value in snapshot.values:
            metric = METRICS.get(name)
            if metric is None or metric.kind == "histogram":
                continue
            key = tuple(str(labels.get(label, "")) for label in metric.labels)
            series = values.setdefault(name, {})
            series[key] = _COMBINE[metric.combine](series[key], value) if key in series else value
        for name, labels, buckets, total in snapshot.histograms:
            metric = METRICS.get(name)
            if metric is None or metric.kind != "histogram":
                continue
            key = tuple(str(labels.get(label, "")) for label in metric.labels)
            merged, so_far = histograms.setdefault(name, {}).get(key, ({}, 0.0))
            for bound, count in buckets:
                merged[bound] = merged.get(bound, 0) + count
            histograms[name][key] = (merged, so_far + total)
    for name, metric in METRICS.items():
        if name in values:
            family_type = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = family_type(PREFIX + name, metric.help, labels=metric.labels)
            for key, value in sorted(values[name].items()):
                family.add_metric(list(key), value)
            yield family
        elif name in histograms:
            histogram = HistogramMetricFamily(PREFIX + name, metric.help, labels=metric.labels)
            for key, (merged, total) in sorted(histograms[name].items()):
                ordered = [("+Inf" if bound >= 1e300 else repr(bound), merged[bound]) for bound in sorted(merged)]
                histogram.add_metric(list(key), buckets=ordered, sum_value=total)
            yield histogram


def serve(config: Config) -> tuple[WSGIServer, threading.Thread]:
    """Start the HTTP server in a daemon thread. Raises OSError when the address is taken."""
    registry = CollectorRegistry()
    registry.register(ProcessCollector(config.data_dir))
    host, port = parse_address(config.exporter.listen)
    return start_http_server(port, addr=host, registry=registry)


def run_exporter(config: Config) -> int:
    """Run until SIGTERM. Returns the exit status."""
    stop = stop_on_signals()
    try:
        server, _ = serve(config)
    except OSError as error:
        log.error("exporter.listen %s: %s: choose another port", config.exporter.listen, error.strerror)
        return 1
    log.info("metrics at http://%s/metrics", config.exporter.listen)
    stop.wait()
    server.shutdown()
    return 0
