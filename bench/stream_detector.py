"""Two parts of `make bench-stream`: the detector as fast as it can, and the time from event to verdict at half of that."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition

from exfilguard.events.codec import decode_verdict
from exfilguard.events.query import QueryEvent

from .load import FRAME_EVENTS, Frames
from .producer import LoadProducer
from .report import QUICK, Report, percentile
from .stream_worker import Worker, cpu_s, now_ms, resident, wait_counted

BACKLOG_FRAMES = 1_600 if QUICK else 2_000
"""Read in about a second."""
STOPPED_S = 3.0
"""The detector is stopped for no longer, however much was written by then: it would lose its place in the group, whose session
lasts 6 s, and what is measured next would be the way back into it."""
ROUNDS = 3 if QUICK else 5
LATENCY_S = 4.0 if QUICK else 12.0
SETTLED_S, THIEF_EVERY_S = 0.5, 0.01
THIEF_PATIENTS = 200_000


class Running:
    """A detector that has seen every account, on one partition, and its load."""

    def __init__(self, directory: Path, bootstrap: str, bodies: list[list[bytes]]) -> None:
        self.worker = Worker(directory, bootstrap, "worker")
        self.process = self.worker.start()
        try:
            self.worker.wait_ready()
            self.frames, self.producer = Frames(bodies, "0"), LoadProducer(bootstrap, self.worker.topics.queries)
            for _ in range(len(bodies)):
                self.producer.send(self.frames.next(now_ms()))
            self.producer.flush()
            self.wait_counted()
        except BaseException:
            self.end()
            raise

    def wait_counted(self) -> int:
        return wait_counted(self.worker, self.frames.events)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def detector(report: Report, running: Running) -> None:
    """Events a second, of a backlog that was written while the detector was stopped."""
    worker, process, frames = running.worker, running.process, running.frames
    rates, cpu, backlogs = [], [], []
    done = frames.events
    for _ in range(ROUNDS):
        process.send_signal(signal.SIGSTOP)
        until = time.monotonic() + STOPPED_S
        for _ in range(BACKLOG_FRAMES):
            running.producer.send(frames.next(now_ms()))
            if time.monotonic() > until:
                break
        running.producer.flush()
        used = cpu_s(process.pid)
        began = time.perf_counter()
        process.send_signal(signal.SIGCONT)
        counted = running.wait_counted() - done
        rates.append(counted / (time.perf_counter() - began))
        cpu.append(counted / (cpu_s(process.pid) - used))
        backlogs.append(counted)
        done += counted
    report.bar("detector_events_per_s", sorted(rates)[len(rates) // 2], 1_000_000, at_most=False)
    report.bar("detector_gaps", worker.total("frames_gap_total"), 0)
    report.facts |= {
        "detector_events_per_s_rounds": rates,
        "detector_backlog_events_rounds": backlogs,
        "detector_events_per_cpu_s": sorted(cpu)[len(cpu) // 2],
        "detector_rss_bytes": resident(process.pid),
    }


class Watcher(threading.Thread):
    """When each account's first verdict was seen on the topic, and when the detector had sent it; nanoseconds."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker
        self._ended = threading.Event()
        self.seen: dict[str, tuple[int, int]] = {}

    def run(self) -> None:
        consumer = KafkaConsumer(
            bootstrap_servers=self._worker.config.kafka.bootstrap, fetch_max_wait_ms=500,
            auto_offset_reset="earliest", enable_auto_commit=False,
        )  # fmt: skip
        consumer.assign([TopicPartition(self._worker.topics.verdicts, 0)])
        consumer.seek_to_beginning()
        while not self._ended.is_set():
            for records in consumer.poll(timeout_ms=50).values():
                now = time.time_ns()
                for record in records:
                    if record.value is not None:
                        sent = record.timestamp * 1_000_000
                        self.seen.setdefault(decode_verdict(record.value).principal, (now, sent))
        consumer.close()

    def finish(self) -> None:
        self._ended.set()
        self.join()


def latency(report: Report, running: Running, rate: float, broker_pid: int) -> None:
    """Paced frames at `rate` events a second, and a hundred times a second an account that takes too much at once."""
    sys.setswitchinterval(0.0005)  # the watcher must not wait for the load
    process, frames, producer = running.process, running.frames, running.producer
    watcher = Watcher(running.worker)
    watcher.start()
    time.sleep(0.5)
    sent: dict[str, int] = {}
    lateness = []
    used, broker, own, began = cpu_s(process.pid), cpu_s(broker_pid), time.process_time(), time.perf_counter()
    due, pause = 0.0, FRAME_EVENTS / rate
    while (now := time.perf_counter() - began) < LATENCY_S:
        if now < due:
            time.sleep(min(0.001, due - now))
            continue
        lateness.append(now - due)
        producer.send(frames.next(now_ms()))
        due += pause
        if now > len(sent) * THIEF_EVERY_S + SETTLED_S:
            name = f"thief{len(sent):05d}"
            event = QueryEvent(
                time_ms=now_ms(), kind="query", listener="dpi", session="x", principal=name, rows=THIEF_PATIENTS,
                patients_estimated=THIEF_PATIENTS,
            )  # fmt: skip
            sent[name] = time.time_ns()
            producer.send(frames.special(event))
    took = time.perf_counter() - began
    shares = {
        "half_load_cores_detector": (cpu_s(process.pid) - used) / took,
        "half_load_cores_broker": (cpu_s(broker_pid) - broker) / took,
        "half_load_cores_load": (time.process_time() - own) / took,
    }
    producer.flush()
    running.wait_counted()
    time.sleep(0.5)
    watcher.finish()
    seen = watcher.seen
    values = [(seen[name][0] - at) / 1e6 for name, at in sent.items() if name in seen]
    published = [(seen[name][1] - at) / 1e6 for name, at in sent.items() if name in seen]
    report.bar("event_to_verdict_p99_ms_at_half_load", percentile(values, 0.99) if values else 1e9, 20)
    report.bar("event_to_verdict_missing", len(sent) - len(values), 0)
    report.facts |= {
        "event_to_verdict_ms": {
            f"p{q:g}": percentile(values, q / 100) for q in (1, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)
        }
        if values
        else {},
        "event_to_verdict_sent_ms": {f"p{q:g}": percentile(published, q / 100) for q in (50, 99)} if values else {},
        "event_to_verdict_verdicts": len(values),
        "half_load_events_per_s": rate,
        "half_load_sent_events_per_s": (len(lateness) * FRAME_EVENTS) / took,
        "half_load_late_ms_p99": percentile(lateness, 0.99) * 1e3,
    } | shares
