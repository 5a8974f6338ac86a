"""The chaos list: what is done to the installation, and what must hold. Small entries; bench/chaos_bed.py does the work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import orjson
from kafka import KafkaProducer

from exfilguard.events import signature
from exfilguard.events.codec import encode_frame, frame_head
from exfilguard.events.topics import Topics
from exfilguard.runtime.kafka import client_settings
from exfilguard.runtime.process import MAX_BACKOFF_S

from .chaos_bed import ROWS, Bed
from .chaos_proxy import Detour, Weather


@dataclass(frozen=True, slots=True)
class Scenario:
    """`act` returns when the fault is over (or, after a kill, has happened)."""

    name: str
    what: str
    act: Callable[[Bed], None]
    breaks_sessions: bool = False
    """Connections may end; the application connects again. Nothing may be refused in any case."""
    may_lose: str = ""
    """Why rows may be missing from the count: a stated limit, measured here."""
    most_lost: Callable[[Bed], int] = lambda bed: 0
    """How many, at most."""
    needs: Callable[[Bed], str] = lambda bed: ""
    """Why it cannot run here; empty when it can."""
    tells: tuple[str, ...] = ()
    """Alerts that must arrive at Alertmanager's receiver while the fault lasts; it is held until they have."""
    silent: str = ""
    """Without `tells`: why nobody is told."""


def _kill(*names: str) -> Callable[[Bed], None]:
    def act(bed: Bed) -> None:
        for name in names:
            bed.kill(name)

    return act


def _child(sidecar: str, name: str) -> Callable[[Bed], None]:
    return lambda bed: bed.kill_child(sidecar, name)


def _brokers(*numbers: int, away_s: float = 8.0) -> Callable[[Bed], None]:
    def act(bed: Bed) -> None:
        nodes = [bed.topology.kafka.nodes[n - 1] for n in numbers]
        for node in nodes:
            node.kill()
        bed.hold(away_s)
        for node in nodes:
            node.start()
        for node in nodes:
            bed.topology.kafka.wait_for(node)

    return act


def _database(*, gently: bool) -> Callable[[Bed], None]:
    def act(bed: Bed) -> None:
        (bed.database.stop if gently else bed.database.kill)()
        bed.hold(2.0)
        bed.database.start()

    return act


def _never_starts(*names: str) -> Callable[[Bed], None]:
    """Killed, and each new start ends at once: a broken installation, a configuration that is wrong."""

    def act(bed: Bed) -> None:
        parts = [bed.topology.part(name) for name in names]
        kept = [part.argv for part in parts]
        for part in parts:
            part.argv = ["false"]
            bed.kill(part.name)
        bed.hold(5.0)
        for part, argv in zip(parts, kept, strict=True):
            part.argv = argv
        bed.sleep(MAX_BACKOFF_S)

    return act


def _hangs(bed: Bed) -> None:
    """East's relay is stopped: it is there, and answers nobody."""
    pid = bed.child(*RELAY)
    os.kill(pid, signal.SIGSTOP)
    try:
        bed.hold(5.0)
    finally:
        os.kill(pid, signal.SIGCONT)


def _again_and_again(bed: Bed) -> None:
    """East's shipper is killed once it is up again, until somebody is told."""
    end = time.monotonic() + 90.0
    while time.monotonic() < end and not set(bed.expects) <= bed.told().keys():
        bed.kill_child("sidecar-east", "shipper")
        bed.sleep(12.0)


def _weather(weather: Weather, seconds: float) -> Callable[[Bed], None]:
    """Between east and the brokers."""

    def act(bed: Bed) -> None:
        space = bed.topology.network.hosts["east"].enter[-1]
        targets = [(node.host.address, node.clients_port) for node in bed.topology.kafka.nodes]
        detour = Detour(space, targets, weather, bed.seed)
        try:
            detour.begin()
            bed.hold(seconds)
        finally:
            detour.end()
        if not detour.bytes:
            raise AssertionError("nothing went through the bad link")

    return act


def _route(bed: Bed, verb: str) -> None:
    """East's way to the three brokers; its clients still reach it."""
    hosts = bed.topology.network.hosts
    space = hosts["east"].enter[-1]
    for n in (1, 2, 3):
        subprocess.run(
            ["ip", "-n", space, "route", verb, "blackhole", hosts[f"kafka-{n}"].address], check=True, timeout=10
        )


def _partition(bed: Bed) -> None:
    _route(bed, "add")
    bed.hold(15.0)
    _route(bed, "del")


def _flapping(bed: Bed) -> None:
    end = time.monotonic() + 12
    while time.monotonic() < end:
        _route(bed, "add")
        bed.sleep(0.3)
        _route(bed, "del")
        bed.sleep(0.7)


def _isolated(bed: Bed) -> None:
    bed.topology.network.cut("kafka-2")
    bed.hold(12.0)
    bed.topology.network.heal("kafka-2")


def _needs_machines(bed: Bed) -> str:
    return "" if bed.topology.network.separate else "needs network namespaces (root)"


def _fill(directory: Callable[[Bed], Path], seconds: float, after: Callable[[Bed], None]) -> Callable[[Bed], None]:
    def act(bed: Bed) -> None:
        junk = directory(bed) / "junk"
        with junk.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
        bed.hold(seconds)
        junk.unlink()
        after(bed)

    return act


def _full_and_alone(bed: Bed) -> None:
    _route(bed, "add")
    try:
        _fill(lambda bed: bed.topology.data_dir("east"), 20.0, lambda bed: None)(bed)
    finally:
        _route(bed, "del")


def _declared(bed: Bed) -> int:
    return int(bed.topology.total("spool_lost_events_total")) * ROWS


def _small(which: str) -> Callable[[Bed], str]:
    return lambda bed: "" if which in bed.small_disks else "needs a small file system (tmpfs, root)"


def _restart_kafka_3(bed: Bed) -> None:
    node = bed.topology.kafka.nodes[2]
    if not node.alive:
        node.start()
    bed.topology.kafka.wait_for(node)


def _out_of_memory(bed: Bed) -> None:
    """detector-2 gets less than it needs: the kernel kills it, again and again; then its limit is lifted."""
    group = Path("/sys/fs/cgroup/memory/exfilguard-chaos")
    group.mkdir(exist_ok=True)
    part = bed.topology.part("detector-2")
    argv = list(part.argv)
    try:
        (group / "memory.limit_in_bytes").write_text(str(48 << 20))
        part.argv = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *argv]
        bed.kill("detector-2")
        bed.hold(12.0)
    finally:
        part.argv = argv
        if part.alive:
            bed.kill("detector-2")
        bed.sleep(1.0)
        with contextlib.suppress(OSError):  # what was killed may not be gone yet
            group.rmdir()


def _needs_cgroup(bed: Bed) -> str:
    return (
        "" if Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").is_file() else "needs the memory cgroup (version 1)"
    )


def _clock(seconds: int) -> Callable[[Bed], None]:
    def act(bed: Bed) -> None:
        bed.set_clock(seconds)
        bed.hold(8.0)
        bed.set_clock(0)
        bed.sleep(3.0)

    return act


def _needs_clock(bed: Bed) -> str:
    return "" if bed.has_clock else "needs a C compiler"


def _expired(bed: Bed) -> None:
    node = bed.topology.kafka.nodes[0]
    node.stop()
    node.issue(lasts=-timedelta(hours=1), age=timedelta(days=2))
    node.start()
    bed.hold(10.0)
    node.stop()
    node.issue()
    node.start()
    bed.topology.kafka.wait_for(node)


def _rolling(bed: Bed) -> None:
    """Parts are replaced one by one; a sidecar of the next release already writes frames of version 2."""
    kafka = bed.topology.configs["sidecar-west"]
    producer = KafkaProducer(**client_settings(kafka), enable_idempotence=False)
    try:
        value = b'{"v":2,"tenant":"chaos","sidecar":"next-0","epoch":"e","seq":0,"events":[]}'
        producer.send(Topics(kafka.kafka.prefix).queries, value=value, partition=0).get(timeout=10)
    finally:
        producer.close(timeout=2)
    for name in ("detector-1", "detector-2", "responder", "archive", "console", "sidecar-west", "sidecar-east"):
        part = bed.topology.part(name)
        if part.process is not None:
            part.process.terminate()
        bed.sleep(3.0)
    bed.hold(0.0)


def _forged(bed: Bed) -> None:
    """West's credential and key are stolen: frames in the name of east's relay, unsigned, and signed as west signs; the thief of the
    data would be somebody whom they make look guilty."""
    kafka = bed.topology.configs["sidecar-west"]
    producer = KafkaProducer(**client_settings(kafka), enable_idempotence=False)
    victim = bed.people[0].account
    try:
        for seq in range(20):
            event = {"time_ms": int(time.time() * 1000), "kind": "query", "listener": "east", "session": "x"}
            event |= {"principal": victim, "rows": 50_000}
            head = frame_head("chaos", "east-0", "e")
            value = encode_frame(head, seq, [orjson.dumps(event)])
            for key in (kafka.kafka.frame_key, ""):
                headers = [(signature.HEADER, signature.sign(key.encode(), 0, value))] if key else []
                producer.send(Topics(kafka.kafka.prefix).queries, value=value, partition=0, headers=headers).get(10)
    finally:
        producer.close(timeout=2)
    bed.hold(5.0)


def _ten_times(bed: Bed) -> None:
    bed.busier(10)
    bed.sleep(10.0)
    bed.quieter()


def _everything(bed: Bed) -> None:
    """The whole core and all brokers at once: a power failure of the machine room that spares the sidecars."""
    for name in ("detector-1", "detector-2", "responder", "archive", "console", "exporter-core"):
        bed.kill(name)
    _brokers(1, 2, 3, away_s=3.0)(bed)


RELAY = ("sidecar-east", "relay")
IN_FLIGHT = "observe forwards first: what the relay had forwarded in its last milliseconds is not on disk"
DECLARED = "forwarded uncounted; how much is counted and told"
HEALED = "started again at once"
BACK = "back before an alert is due"
CARRIED = "nothing waited for 30 s: there is nothing to do"
SLOW = Weather(delay_s=0.1, jitter_s=0.1, bytes_per_s=256e3)
LOSSY = Weather(delay_s=0.02, jitter_s=0.5, cut_after_s=3.0)
SCENARIOS = (
    Scenario("kill-relay-enforce", "kill -9 of east's relay (enforce)", _child("sidecar-east", "relay"), True, silent=HEALED),
    Scenario(
        "kill-relay-observe", "kill -9 of west's relay (observe)", _child("sidecar-west", "relay"), True, IN_FLIGHT,
        lambda bed: 10 * ROWS, silent=HEALED,
    ),
    Scenario("kill-shipper", "kill -9 of east's shipper", _child("sidecar-east", "shipper"), silent=HEALED),
    Scenario("kill-sidecar", "kill -9 of east's supervisor; relay and shipper end with it", _kill("sidecar-east"), True, silent=HEALED),
    Scenario("kill-detector", "kill -9 of one detector", _kill("detector-1"), silent=HEALED),
    Scenario("kill-detectors", "kill -9 of both detectors", _kill("detector-1", "detector-2"), silent=HEALED),
    Scenario("kill-responder", "kill -9 of the responder", _kill("responder"), silent=HEALED),
    Scenario("kill-exporter", "kill -9 of an exporter", _kill("exporter-core"), silent=HEALED),
    Scenario("kill-console", "kill -9 of the console", _kill("console"), silent=HEALED),
    Scenario("kill-archive", "kill -9 of the archiver", _kill("archive"), silent=HEALED),
    Scenario("shipper-again", "kill -9 of east's shipper, again and again", _again_and_again, tells=("ProcessRestarting",)),
    Scenario("relay-hangs", "east's relay stopped (SIGSTOP), then let go", _hangs, tells=("ProcessDown",)),
    Scenario("core-gone", "a detector, the responder and the archiver killed, and they do not start", _never_starts("detector-1", "responder", "archive"), tells=("ProcessDown",)),
    Scenario("exporter-gone", "an exporter killed, and it does not start", _never_starts("exporter-core"), tells=("GuardUnreachable",)),
    Scenario("kill-database", "kill -9 of PostgreSQL, 2 s away", _database(gently=False), True, silent=BACK),
    Scenario("restart-database", "PostgreSQL restarted (fast shutdown)", _database(gently=True), True, silent=BACK),
    Scenario("database-away", "PostgreSQL stopped", _database(gently=True), True, tells=("DatabaseUnreachable",)),
    Scenario("kill-broker-1", "kill -9 of broker 1", _brokers(1), tells=("KafkaCopiesMissing",)),
    Scenario("kill-broker-2", "kill -9 of broker 2", _brokers(2), tells=("KafkaCopiesMissing",)),
    Scenario("kill-broker-3", "kill -9 of broker 3", _brokers(3), tells=("KafkaCopiesMissing",)),
    Scenario("kill-two-brokers", "kill -9 of two of three brokers", _brokers(1, 2, away_s=12.0), tells=("EventsWait",)),
    Scenario("kill-core", "kill -9 of all brokers and all of the core at once, brokers 3 s away", _everything, silent="all of it started again within seconds"),
    Scenario("partition", "east cannot reach Kafka", _partition, needs=_needs_machines, tells=("EventsWait",)),
    Scenario("flapping-link", "east's link to Kafka away 0.3 s of every second, 12 s", _flapping, needs=_needs_machines, silent=CARRIED),
    Scenario(
        "slow-link", "east to Kafka through a slow link for 20 s: 0.1 to 0.2 s each way, 256 kB/s", _weather(SLOW, 20.0),
        needs=_needs_machines, silent=CARRIED,
    ),
    Scenario(
        "lossy-link", "east to Kafka through a bad link for 20 s: stalls of up to 0.5 s, connections reset after 3 s on average",
        _weather(LOSSY, 20.0), needs=_needs_machines, silent=CARRIED,
    ),
    Scenario("isolated-broker", "broker 2 alive and reached by nobody", _isolated, needs=_needs_machines, tells=("KafkaCopiesMissing",)),
    Scenario(
        "disk-full-spool", "east's disk full, Kafka there (on_full = forward)",
        _fill(lambda bed: bed.topology.data_dir("east"), 20.0, lambda bed: None), may_lose=DECLARED, most_lost=_declared,
        needs=_small("east"), tells=("DiskFull",),
    ),
    Scenario(
        "disk-full-broker", "broker 3's disk full, then started again",
        _fill(lambda bed: bed.topology.kafka.nodes[2].log_dir, 8.0, _restart_kafka_3), needs=_small("kafka-3"),
        tells=("KafkaCopiesMissing",),
    ),
    Scenario("out-of-memory", "detector 2 killed by its memory limit, again and again", _out_of_memory, needs=_needs_cgroup, tells=("ProcessDown",)),
    Scenario("clock-10-minutes", "east's clock 10 minutes ahead, then back", _clock(600), needs=_needs_clock, tells=("ClockSkew",)),
    Scenario("expired-certificate", "broker 1 comes back with an expired certificate, then renewed", _expired, tells=("KafkaCopiesMissing",)),
    Scenario("rolling-upgrade", "every part replaced in turn; frames of version 2 arrive", _rolling, True, tells=("DeadLetters",)),
    Scenario(
        "forged-frames", "west's stolen credential and key write 40 frames in east's name: refused, or they would count 1,000,000 rows",
        _forged, tells=("FramesForged",),
    ),
    Scenario("ten-times-load", "ten times the people for 10 s", _ten_times, silent="nothing falls behind"),
    Scenario(
        "disk-full-partition", "east's disk full and Kafka out of its reach (on_full = forward)", _full_and_alone,
        may_lose=DECLARED, most_lost=_declared, needs=lambda bed: _small("east")(bed) or _needs_machines(bed),
        tells=("DiskFull", "EventsWait"),
    ),
    Scenario("clock-10-minutes-back", "east's clock 10 minutes back", _clock(-600), needs=_needs_clock, tells=("ClockSkew",)),
    Scenario("clock-a-year", "east's clock a year ahead, then back", _clock(365 * 86_400), needs=_needs_clock, tells=("EventsWait",)),
    Scenario("failover", "PostgreSQL killed, its standby promoted, the sidecar given the new address", Bed.fail_over, True, silent=BACK),
)  # fmt: skip
