"""kafka-python with this installation's settings: one place for bootstrap, TLS and SASL of every client made here."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewPartitions, NewTopic
from kafka.codec import lz4_encode
from kafka.consumer import fetcher
from kafka.errors import AuthorizationError, KafkaError, TopicAlreadyExistsError, TopicAuthorizationFailedError
from kafka.record import default_records

from ..config.certificates import expires_at
from ..config.schema import Config
from ..errors import BrokerError, CodecError
from ..events.action import Action
from ..events.codec import decode_action, decode_frame, decode_verdict
from ..events.signature import signature_of
from ..events.topics import Topics
from ..events.verdict import Verdict
from .batches import Records
from .frame_keys import KeyFiles
from .kafka_trouble import why
from .standstill import Standstill

log = logging.getLogger(__name__)

fetcher.MemoryRecords = Records

TIMEOUT_S = 10.0
GRANT = "give it what its role needs with `exfilguard kafka-setup` (deploy/kafka)"
WATCH_S = 2.0
WATCH_RETRY_S = 0.25
END_WAIT_MS = 10
"""For readers that only go to the end of a topic: how long a broker may hold the fetch that finds no more."""


LZ4_LEVEL = -20
"""Negative: lz4's acceleration."""


def compress_quickly() -> None:
    """For a process that publishes: lz4 without thoroughness. Digests of patients hold nothing to compress, and looking for it costs six
    times as much as finding out; events of small queries come out eleven times smaller all the same. kafka-python has no setting."""
    default_records.lz4_encode = partial(lz4_encode, compression_level=LZ4_LEVEL)


def client_settings(config: Config) -> dict[str, Any]:
    """Keyword arguments that every kafka-python client takes."""
    kafka = config.kafka
    settings: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in kafka.bootstrap.split(",")],
        "security_protocol": kafka.security_protocol,
        "bootstrap_timeout_ms": 5_000,
    }
    if "SASL" in kafka.security_protocol:
        settings |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.username,
            "sasl_plain_password": kafka.password,
        }
    if "SSL" in kafka.security_protocol and kafka.ca_file:
        settings["ssl_cafile"] = kafka.ca_file
    if "SSL" in kafka.security_protocol and kafka.cert_file:
        settings |= {"ssl_certfile": kafka.cert_file, "ssl_keyfile": kafka.key_file}
    return settings


def certificate_figures(config: Config) -> list[tuple[str, dict[str, str], float]]:
    """When the certificate shown to the brokers expires, for a Snapshot; nothing without one. Asked for when a process starts: its
    clients keep what they have loaded."""
    if not config.kafka.cert_file:
        return []
    try:
        until = expires_at(Path(config.kafka.cert_file))
    except (OSError, ValueError):
        until = 0  # a file that cannot be read is as bad as one that has expired
    return [("certificate_expiration_timestamp_seconds", {"tenant": config.tenant, "use": "kafka"}, until)]


def admin_client(config: Config) -> KafkaAdminClient:
    """Raises KafkaError."""
    return KafkaAdminClient(**client_settings(config), request_timeout_ms=5_000)


def broker_answers(bootstrap: str) -> bool:
    """True when a Kafka-protocol broker answers a metadata request there."""
    host, _, port = bootstrap.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(0.5)
        if probe.connect_ex((host, int(port))):
            return False
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=2_000)
    except (KafkaError, OSError):
        return False
    try:
        admin.list_topics()
    except (KafkaError, OSError):
        return False
    finally:
        admin.close()
    return True


class OnBrokers(NamedTuple):
    """One topic as the brokers have it."""

    topic_id: str
    partitions: int
    under_replicated: int
    """Partitions with fewer copies in step than they should have."""


def _on_brokers(topic: dict[str, Any]) -> OnBrokers:
    partitions = topic["partitions"]
    behind = sum(len(p["isr_nodes"]) < len(p["replica_nodes"]) for p in partitions)
    return OnBrokers(str(topic["topic_id"]), len(partitions), behind)


def ensure_topics(admin: KafkaAdminClient, config: Config, needs: Sequence[str] | None = None) -> dict[str, OnBrokers]:
    """Create the topics that are missing; returns what the brokers have by name, or nothing while some are still being
    made. `needs`: only these, for a user that may see no others; None: all. Raises KafkaError, BrokerError.

    A topic's id changes when the topic is made anew: that is how a broker that forgot is recognised.
    """
    topics = Topics(config.kafka.prefix)
    compact = {"cleanup.policy": "compact"}
    wanted = {
        topics.queries: (config.kafka.partitions, {}),
        topics.verdicts: (config.kafka.partitions, compact),
        # What a lock changed must be on record for as long as the lock may stand.
        topics.actions: (config.kafka.partitions, {"retention.ms": "-1"}),
        # Superseded snapshots are dead weight, and a compaction that comes late makes a recovery slow.
        topics.snapshots: (
            config.kafka.partitions,
            {**compact, "segment.ms": "600000", "min.cleanable.dirty.ratio": "0.1"},
        ),
        topics.sums: (1, {**compact, "segment.ms": "600000", "min.cleanable.dirty.ratio": "0.1"}),
        # Each word replaces the one before within seconds.
        topics.standings: (1, {"retention.ms": "600000", "segment.ms": "600000"}),
        topics.deadletter: (1, {}),
    }
    if needs is not None:
        wanted = {name: wanted[name] for name in needs}

    def described() -> dict[str, OnBrokers]:
        answers = admin.describe_topics(list(wanted))
        if refused := sorted(t["name"] for t in answers if t["error_code"] == TopicAuthorizationFailedError.errno):
            raise BrokerError(f"the user {_user(config)} may not use {', '.join(refused)}: {GRANT}")
        return {t["name"]: _on_brokers(t) for t in answers if not t["error_code"]}

    found = described()
    for name in wanted.keys() - found.keys():
        partitions, settings = wanted[name]
        try:
            admin.create_topics([NewTopic(name, partitions, config.kafka.replication, topic_configs=settings)])
        except TopicAlreadyExistsError:
            continue
        except AuthorizationError:
            raise BrokerError(
                f"the topic {name} is missing and the user {_user(config)} may not create topics: {GRANT}"
            ) from None
    if len(found) < len(wanted):
        found = described()
    if len(found) < len(wanted):
        return {}  # made, and not known to every broker yet
    if (  # each queries partition has its own snapshots partition
        topics.snapshots in wanted
        and topics.queries in wanted
        and found[topics.snapshots].partitions < found[topics.queries].partitions
    ):
        admin.create_partitions({topics.snapshots: NewPartitions(found[topics.queries].partitions)})
        found = described()
    return found


def _user(config: Config) -> str:
    return config.kafka.username or "(without a name)"


class RepeatedError:
    """Logs a failure when it begins, when its reason changes and when it ends, not every time it is met."""

    def __init__(self, what: str, remedy: str) -> None:
        self._what = what
        self._remedy = remedy
        self._since = 0.0
        self._said = ""

    def failed(self, error: BaseException, reason: str = "") -> None:
        """`reason`: what is known beyond the error's type, and what to do about it."""
        self._since = self._since or time.monotonic()
        text = f"{reason}; {self._remedy}" if reason else self._remedy
        if text != self._said:
            self._said = text
            log.error("%s (%s): %s", self._what, type(error).__name__, text)

    def worked(self) -> None:
        if self._since:
            log.info("%s: over after %.1f s", self._what, time.monotonic() - self._since)
            self._since, self._said = 0.0, ""


class TopicWatch:
    """The topics as they are now. `state`: where their ids are kept, to notice a broker that forgot while we were away."""

    def __init__(self, config: Config, state: Path | None = None, needs: Sequence[str] | None = None) -> None:
        """`needs`: the topics this process uses; None: all."""
        self._config = config
        self._state = state
        self._needs = needs
        self._admin: KafkaAdminClient | None = None
        self._trouble = RepeatedError(
            f"Kafka at {config.kafka.bootstrap} cannot be used", "events wait in the spool meanwhile"
        )
        self._ids: dict[str, str] = self._load()
        self.partitions: dict[str, int] = {}
        self.under_replicated = 0
        """Partitions of these topics with fewer copies in step than they have brokers for."""
        self.generation = 0
        """Changes when the broker forgot its topics, or one of them was deleted and made anew."""

    @property
    def ids(self) -> dict[str, str]:
        """Topic -> id: another one than before means that its offsets count anew."""
        return self._ids

    def _load(self) -> dict[str, str]:
        if self._state is None:
            return {}
        try:
            saved = orjson.loads(self._state.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return {}
        return saved if isinstance(saved, dict) else {}

    def look(self) -> bool:
        """True when the topics are there."""
        try:
            if self._admin is None:
                self._admin = admin_client(self._config)
            found = ensure_topics(self._admin, self._config, self._needs)
        except BrokerError as error:
            self._trouble.failed(error, str(error))
            self.close()
            return False
        except (KafkaError, OSError) as error:
            self._trouble.failed(error, why(self._config) or "check the broker")
            self.close()
            return False
        self._trouble.worked()
        if not found:
            return False
        ids = {name: topic.topic_id for name, topic in found.items()}
        self.partitions = {name: topic.partitions for name, topic in found.items()}
        self.under_replicated = sum(topic.under_replicated for topic in found.values())
        if ids != self._ids:
            if anew := sorted(name for name in ids if self._ids.get(name, ids[name]) != ids[name]):
                log.warning("made anew: %s: what was on it and is known here is published again", ", ".join(anew))
                self.generation += 1
            self._ids = ids
            if self._state is not None:
                with contextlib.suppress(OSError):
                    self._state.write_bytes(orjson.dumps(ids))
        return True

    def figures(self) -> list[tuple[str, dict[str, str], float]]:
        """For a Snapshot."""
        return [("kafka_under_replicated_partitions", {}, self.under_replicated)]

    def close(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            with contextlib.suppress(KafkaError, OSError):
                admin.close()


def _unreachable(config: Config, error: KafkaError) -> BrokerError:
    reason = why(config) or "check kafka.bootstrap and the broker"
    return BrokerError(f"Kafka at {config.kafka.bootstrap} did not answer ({type(error).__name__}): {reason}")


def _need_broker(config: Config) -> None:
    """Raises BrokerError where there can be none: `up` puts its address into the settings that the other commands read."""
    if config.kafka.bootstrap == "embedded":
        raise BrokerError(
            "the embedded broker runs only with `exfilguard up`, which was not started here: start it first"
        )


@contextlib.contextmanager
def producer_of(config: Config) -> Iterator[KafkaProducer]:
    """A producer for a command: acks=all, bounded in time. Raises BrokerError."""
    _need_broker(config)
    try:
        producer = KafkaProducer(
            **client_settings(config), acks="all", enable_idempotence=False, max_block_ms=int(TIMEOUT_S * 1000)
        )
    except KafkaError as error:
        raise _unreachable(config, error) from None
    try:
        yield producer
    finally:
        producer.close(timeout=TIMEOUT_S)


def send_now(producer: KafkaProducer, topic: str, key: bytes, value: bytes) -> None:
    """Publish one record and wait for its acknowledgement. Raises BrokerError."""
    try:
        producer.send(topic, value=value, key=key).get(timeout=TIMEOUT_S)
    except KafkaError as error:
        raise BrokerError(f"{topic} was not written ({type(error).__name__}): nothing has changed, try again") from None


def whole_topic(config: Config, topic: str, quiet_s: float) -> Iterator[tuple[int, bytes]]:
    """(partition, value) of every record of a topic; see `records_of`. Raises BrokerError."""
    return ((record.partition, record.value) for record in records_of(config, topic, quiet_s))


def frames_of(config: Config, quiet_s: float) -> Iterator[tuple[int, bytes]]:
    """The queries topic without what `kafka.frame_keys_dir` refuses. Raises BrokerError, ConfigError."""
    keys = KeyFiles(config).keys
    for record in records_of(config, Topics(config.kafka.prefix).queries, quiet_s):
        if keys is not None:
            try:
                frame = decode_frame(record.value)
            except CodecError:
                continue
            if keys.refusal(record.partition, frame.tenant, frame.sidecar, record.value, signature_of(record.headers)):
                continue
        yield record.partition, record.value


def records_of(config: Config, topic: str, quiet_s: float) -> Iterator[Any]:
    """Every record that has a value, from the topic's beginning to its end as it is met, or until it is silent. Raises
    BrokerError."""
    _need_broker(config)
    try:
        consumer = KafkaConsumer(
            **client_settings(config),
            enable_auto_commit=False,
            group_id=None,
            fetch_max_wait_ms=END_WAIT_MS,
            allow_auto_create_topics=False,  # a topic made by looking at it would have the broker's number of partitions
        )
    except KafkaError as error:
        raise _unreachable(config, error) from None
    try:
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        if not partitions:
            return
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        silent_since = time.monotonic()
        while time.monotonic() - silent_since < quiet_s:
            for records in consumer.poll(timeout_ms=100).values():
                silent_since = time.monotonic()
                yield from (record for record in records if record.value is not None)
            # The fetch's high watermark: the embedded broker's `end_offsets` is wrong.
            ends = {at: consumer.highwater(at) for at in partitions}
            if all(end is not None and consumer.position(at) >= end for at, end in ends.items()):
                return
    except KafkaError as error:
        raise _unreachable(config, error) from None
    finally:
        consumer.close()


def follow(
    config: Config,
    watch: TopicWatch,
    topics: Sequence[str],
    stop: threading.Event,
    wait_ms: int = 200,
) -> Iterator[list[tuple[str, bytes]]]:
    """(topic, value) of every record of these topics, from their beginning and on, in portions as they come; an empty one when
    nothing more has come for `wait_ms`. Ends when `stop` is set or the broker forgot its topics. Raises KafkaError, OSError."""
    generation = watch.generation
    assigned = [TopicPartition(topic, n) for topic in topics for n in range(watch.partitions.get(topic, 0))]
    if not all(watch.partitions.get(topic) for topic in topics):
        return
    consumer = KafkaConsumer(
        **client_settings(config),
        enable_auto_commit=False,
        group_id=None,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=config.kafka.fetch_wait_ms,
        allow_auto_create_topics=False,
    )
    try:
        consumer.assign(assigned)
        consumer.seek_to_beginning(*assigned)
        standstill = Standstill(consumer)
        while not stop.is_set() and generation == watch.generation:
            polled = consumer.poll(timeout_ms=wait_ms)
            standstill.check()
            yield [(at.topic, r.value) for at, records in polled.items() for r in records if r.value is not None]
    finally:
        consumer.close()


def read_verdicts(config: Config, quiet_s: float = 1.0) -> dict[str, Verdict]:
    """The newest verdict of every key. Raises BrokerError."""
    newest: dict[str, Verdict] = {}
    for _, value in whole_topic(config, Topics(config.kafka.prefix).verdicts, quiet_s):
        with contextlib.suppress(CodecError):
            verdict = decode_verdict(value)
            known = newest.get(verdict.key)
            if known is None or known.revision < verdict.revision:
                newest[verdict.key] = verdict
    return newest


def read_actions(config: Config, quiet_s: float = 1.0) -> Iterator[Action]:
    """All actions on record, each account's in their order. Raises BrokerError."""
    for _, value in whole_topic(config, Topics(config.kafka.prefix).actions, quiet_s):
        with contextlib.suppress(CodecError):
            yield decode_action(value)


class OnTopic(NamedTuple):
    """What lies on the queries topic, each frame once."""

    events: int
    rows: int
    rows_by_account: dict[str, int]


def count_events(config: Config, quiet_s: float = 1.0) -> OnTopic:
    """The oracle of the demo and the tests: an own count of the topic. Raises BrokerError."""
    seen: set[tuple[int, str, str, int]] = set()
    events = 0
    rows: dict[str, int] = defaultdict(int)
    for partition, value in frames_of(config, quiet_s):
        with contextlib.suppress(CodecError):
            frame = decode_frame(value)
            key = (partition, frame.sidecar, frame.epoch, frame.seq)
            if key in seen:
                continue
            seen.add(key)
            events += len(frame.events)
            for event in frame.events:
                rows[event["principal"]] += event.get("rows", 0)
    return OnTopic(events, sum(rows.values()), dict(rows))
