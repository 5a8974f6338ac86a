"""A Kafka as it should be run: three brokers, TLS, SCRAM, and the rights in deploy/kafka/acls.toml. Each part has what it needs; a
stolen sidecar credential has no more; who is refused is told why, and nothing is lost meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic
from kafka.errors import (
    AuthorizationError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    for_code,
)

from exfilguard.cli.common import write_resolved
from exfilguard.cli.main import main
from exfilguard.config.schema import Config, KafkaConfig, SidecarConfig
from exfilguard.embedded.authority import Authority
from exfilguard.embedded.kafka_cluster import KafkaCluster
from exfilguard.embedded.maven import missing_programs
from exfilguard.events.codec import encode_frame, frame_head
from exfilguard.events.signature import HEADER, sign
from exfilguard.events.topics import Topics
from exfilguard.runtime.kafka import admin_client, client_settings, count_events, read_verdicts
from exfilguard.runtime.kafka_acls import load_roles
from exfilguard.runtime.kafka_trouble import why

from .pipeline import PARTITIONS, installation
from .stack import Stack, settled_totals, wait_for

ACLS = Path(__file__).parents[2] / "deploy" / "kafka" / "acls.toml"
PREFIX = "exfilguard"
TOPICS = Topics(PREFIX)
ALL_TOPICS = [
    TOPICS.queries, TOPICS.verdicts, TOPICS.actions, TOPICS.snapshots, TOPICS.sums, TOPICS.standings, TOPICS.deadletter,
]  # fmt: skip
USERS = ["sidecar-east", "detector", "responder", "console", "archive", "operator"]
ROLES = load_roles(ACLS, PREFIX)


@dataclass
class Secured:
    """The cluster, set up by the product's own command."""

    cluster: KafkaCluster
    passwords: Path
    setup: Callable[..., int]

    def user(self, name: str, **changes: Any) -> Config:
        password = (self.passwords / f"{name}.password").read_text(encoding="utf-8").strip()
        return Config(kafka=self.cluster.client(name, password, partitions=PARTITIONS, **changes))

    @property
    def admin(self) -> Config:
        return Config(kafka=self.cluster.admin(partitions=PARTITIONS))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    if missing := missing_programs():
        pytest.skip(f"Apache Kafka needs {missing}")
    directory = tmp_path_factory.mktemp("secured")
    with KafkaCluster(directory / "kafka") as cluster:
        write_resolved(Config(kafka=cluster.admin(partitions=PARTITIONS)), directory / "admin.toml")

        def setup(*arguments: str) -> int:
            where = ("--config", str(directory / "admin.toml"), "--acls", str(ACLS))
            return main(["kafka-setup", *where, "--passwords", str(directory / "passwords"), *arguments])

        assert setup(*(part for user in USERS for part in ("--user", user))) == 0
        yield Secured(cluster, directory / "passwords", setup)


# -- attempts with real clients: each returns, or raises what the broker said ------------------------------------------


def write(config: Config, topic: str) -> None:
    producer = KafkaProducer(
        **client_settings(config), max_block_ms=8_000, allow_auto_create_topics=False, enable_idempotence=False
    )
    try:
        producer.send(topic, value=b"{}", partition=0).get(timeout=10)
    finally:
        producer.close(timeout=1)


def read(config: Config, topic: str, group: str | None = None) -> None:
    # A consumer waits for ever for a topic that it may not see: the broker is asked first, as every part of ours does.
    (described,) = administer(config, lambda admin: admin.describe_topics([topic]))
    if described["error_code"]:
        raise for_code(described["error_code"])(topic)
    consumer = KafkaConsumer(
        **client_settings(config), group_id=group, allow_auto_create_topics=False, auto_offset_reset="earliest"
    )
    try:
        at = TopicPartition(topic, 0)
        if group is None:
            consumer.assign([at])
        else:
            consumer.subscribe([topic])
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            consumer.poll(timeout_ms=200)
            if at in consumer.assignment() and consumer.highwater(at) is not None:
                return
        raise AssertionError(f"{topic}: neither read nor refused")
    finally:
        consumer.close()


def administer(config: Config, deed: Callable[[Any], Any]) -> Any:
    admin = admin_client(config)
    try:
        return deed(admin)
    finally:
        admin.close()


def allowed(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except AuthorizationError:
        return False
    return True


@pytest.mark.parametrize("user", USERS)
def test_each_part_reads_and_writes_what_its_role_lists_and_nothing_else(secured: Secured, user: str) -> None:
    config = secured.user(user)
    rights = {(right.operation, right.name) for right in ROLES[user.partition("-")[0]]}
    for topic in ALL_TOPICS:
        assert allowed(lambda topic=topic: read(config, topic)) == (("read", topic) in rights), f"read {topic}"
        # What is not a record of ours is for tests/stream; here the topics that parts write stay clean.
        if ("write", topic) not in rights:
            with pytest.raises(AuthorizationError):
                write(config, topic)


def test_a_stolen_sidecar_credential_writes_its_frames_reads_verdicts_and_that_is_all(secured: Secured) -> None:
    thief = secured.user("sidecar-east")
    scratch = f"{PREFIX}.queries"
    write(thief, scratch)
    read(thief, TOPICS.verdicts)

    def refuses(error: type[Exception], deed: Callable[[], Any]) -> None:
        with pytest.raises(error):
            deed()

    for topic in ALL_TOPICS[1:]:
        refuses(TopicAuthorizationFailedError, lambda topic=topic: write(thief, topic))
    for topic in (TOPICS.queries, TOPICS.actions, TOPICS.snapshots):
        refuses(TopicAuthorizationFailedError, lambda topic=topic: read(thief, topic))
    refuses(GroupAuthorizationFailedError, lambda: read(thief, TOPICS.verdicts, group=f"{PREFIX}-detector"))
    refuses(GroupAuthorizationFailedError, lambda: read(thief, TOPICS.verdicts, group="my-own"))

    def attempt(deed: Callable[[Any], Any]) -> Callable[[], Any]:
        return lambda: administer(thief, deed)

    new = NewTopic(f"{PREFIX}.mine", 1, 1)
    refuses(AuthorizationError, attempt(lambda admin: admin.create_topics([new])))
    refuses(TopicAuthorizationFailedError, attempt(lambda admin: admin.delete_topics([TOPICS.queries])))
    refuses(AuthorizationError, attempt(lambda admin: admin.create_partitions({TOPICS.queries: NewPartitions(9)})))
    keep_nothing = ConfigResource(ConfigResourceType.TOPIC, TOPICS.queries, {"retention.ms": "1"})
    answered = administer(thief, lambda admin: admin.alter_configs([keep_nothing], raise_on_unknown=False))
    assert "AuthorizationFailed" in str(answered), answered
    shown = administer(
        secured.admin, lambda admin: admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, TOPICS.queries)])
    )
    assert "retention.ms" not in str(shown), "a topic's settings were altered"
    with contextlib.suppress(AuthorizationError):
        assert administer(thief, lambda admin: admin.list_groups()) == []
    before = administer(secured.admin, lambda admin: admin.describe_user_scram_credentials())
    assert set(USERS) <= set(before)
    # This one is refused, or not answered at all by a loaded broker; never told.
    refuses(KafkaError, attempt(lambda admin: admin.describe_user_scram_credentials()))
    refuses(AuthorizationError, attempt(lambda admin: admin.delete_records({TopicPartition(TOPICS.queries, 0): -1})))
    seen = administer(thief, lambda admin: set(admin.list_topics()))
    assert {t if isinstance(t, str) else t["name"] for t in seen} <= {TOPICS.queries, TOPICS.verdicts}


def test_the_list_is_the_truth_a_right_that_is_not_in_it_is_taken_away(secured: Secured) -> None:
    from exfilguard.runtime.kafka_acls import Right, apply

    password = (secured.passwords / "archive.password").read_text(encoding="utf-8").strip()
    generous = [*ROLES["archive"], Right("topic", TOPICS.verdicts, "write")]
    administer(secured.admin, lambda admin: apply(admin, secured.admin, {"archive": (password, generous)}))
    wait_for(lambda: allowed(lambda: write_and_forget(secured.user("archive"))))
    assert secured.setup("--user", "archive") == 0

    def refused() -> bool:
        return not allowed(lambda: write_and_forget(secured.user("archive")))

    wait_for(refused, message="the right is still there")


def write_and_forget(config: Config) -> None:
    """Into a partition whose records nobody in this file reads."""
    producer = KafkaProducer(**client_settings(config), max_block_ms=8_000, enable_idempotence=False)
    try:
        producer.send(TOPICS.verdicts, value=b"{}", key=b"nobody", partition=PARTITIONS - 1).get(timeout=10)
    finally:
        producer.close(timeout=1)


# -- the parts, each with its own user ---------------------------------------------------------------------------------


def as_user(stack: Stack, name: str, secured: Secured) -> None:
    """What is started from now on is this user."""
    as_client(stack, secured.user(name).kafka)


def as_client(stack: Stack, kafka: KafkaConfig) -> None:
    """In a file of its own: what runs may not have read the last one yet."""
    stack.config = replace(stack.config, kafka=kafka)
    stack.path = stack.data_dir / f"{kafka.username}-{time.time_ns()}.toml"
    write_resolved(stack.config, stack.path)


def test_the_parts_work_with_the_rights_they_have_and_a_stolen_credential_writes_in_nobody_elses_name(
    secured: Secured, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    assert secured.setup("--user", "sidecar-east", "--user", "sidecar-west", "--frame-keys", str(keys)) == 0
    own = {name: (keys / f"{name}.key").read_text(encoding="ascii").strip() for name in ("east", "west")}
    for path in keys.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    stack, load = installation(tmp_path / "data", "127.0.0.1:1")
    stack.config = replace(stack.config, sidecar=SidecarConfig(id="east"))
    try:
        as_client(stack, secured.user("sidecar-east", frame_key=own["east"]).kafka)
        stack.start("shipper")
        for part in ("detector", "archive"):
            as_client(stack, secured.user(part, frame_keys_dir=str(keys)).kafka)
            stack.start(part)
        as_user(stack, "responder", secured)
        stack.start("responder")
        load.write(3_000)
        stack.detector_ready()
        stack.responder_ready()
        everything = replace(stack.config, kafka=secured.admin.kafka)
        totals = settled_totals(everything, PARTITIONS, load.equals)
        assert load.equals(totals)
        wait_for(lambda: stack.total("archive_events_total") >= load.events, 30, stack.log("archive")[-500:])
        assert stack.total("events_published_total") == load.events
        assert stack.total("frames_refused_total") == 0
        unreadable = stack.total("deadletters_total")  # what the tests before have left
        forge(secured.user("sidecar-west", frame_key=own["west"]), stack.config.tenant, "east-0")
        for reason in ("forged", "unsigned"):
            wait_for(
                lambda r=reason: stack.total("frames_refused_total", reason=r) >= 2 * FORGED,
                30,
                f"{reason}: not refused",
            )  # by detector and archive
        wait_for(lambda: stack.total("deadletters_total") >= unreadable + 2 * FORGED, 30)
        assert load.equals(settled_totals(everything, PARTITIONS, load.equals))
        assert stack.total("archive_events_total") == load.events
        for part in ("shipper", "detector", "responder", "archive"):
            assert "may not" not in stack.log(part), stack.log(part)[-500:]
    finally:
        stack.stop()


FORGED = 5


def forge(stolen: Config, tenant: str, sidecar: str) -> None:
    """Frames in the name of another sidecar, signed as the thief can, and not at all."""
    producer = KafkaProducer(**client_settings(stolen), max_block_ms=8_000, enable_idempotence=False)
    event = {"time_ms": 1, "kind": "query", "listener": "l", "session": "s", "principal": "victim", "rows": 750_000}
    try:
        for seq in range(FORGED):
            value = encode_frame(frame_head(tenant, sidecar, "stolen"), seq, [orjson.dumps(event)])
            for headers in ([(HEADER, sign(stolen.kafka.frame_key.encode(), 0, value))], []):
                producer.send(TOPICS.queries, value=value, partition=0, headers=headers).get(timeout=10)
    finally:
        producer.close(timeout=1)


WRONG: list[tuple[str, dict[str, str], str]] = [
    ("a wrong password", {"password": "guessed"}, "refuses the user sidecar-east: check kafka.username and kafka.password_file"),
    ("no TLS", {"security_protocol": "PLAINTEXT"}, "does not accept PLAINTEXT: it wants kafka.security_protocol SASL_SSL"),
    ("a wrong CA", {"ca_file": "other"}, "set kafka.ca_file to the CA that signed the brokers' certificates"),
]  # fmt: skip


def test_who_is_refused_is_told_why_and_the_spool_keeps_everything(secured: Secured, tmp_path: Path) -> None:
    right = secured.user("sidecar-east").kafka
    count = Config(kafka=secured.admin.kafka)
    before = count_events(count).events
    stacks = []
    try:
        for number, (_, changes, _) in enumerate(WRONG):
            stack, load = installation(tmp_path / str(number), "127.0.0.1:1")
            stack.config = replace(stack.config, sidecar=SidecarConfig(id=f"refused-{number}"))
            if "ca_file" in changes:
                changes = {"ca_file": str(Authority(tmp_path / "other").ca_file)}
            as_client(stack, replace(right, **changes))  # type: ignore[arg-type]
            load.write(500)
            stack.start("shipper")
            stacks.append((stack, load))
        for (stack, _), (what, _, told) in zip(stacks, WRONG, strict=True):
            wait_for(
                lambda log=stack.log, told=told: told in log("shipper"), 40, f"{what}: {stack.log('shipper')[-800:]}"
            )
            assert right.password not in stack.log("shipper")
            assert stack.total("spool_bytes") > 0
            assert stack.total("events_published_total") == 0
            stack.kill("shipper")
            as_client(stack, right)
            stack.start("shipper")
        for stack, load in stacks:
            wait_for(
                lambda s=stack, n=load.events: s.total("events_published_total") == n, 40, stack.log("shipper")[-800:]
            )
    finally:
        for stack, _ in stacks:
            stack.stop()
    assert count_events(count).events - before == sum(load.events for _, load in stacks)


def test_every_way_to_be_refused_has_its_sentence(secured: Secured) -> None:
    right = secured.user("sidecar-east").kafka
    admin = secured.admin.kafka

    def said(kafka: KafkaConfig) -> str:
        return why(Config(kafka=kafka))

    assert said(right) == said(admin) == ""
    assert "wants a login or a client certificate" in said(replace(right, security_protocol="SSL"))
    assert "wants a login or a client certificate" in said(replace(admin, cert_file="", key_file=""))
    assert "wants kafka.security_protocol SASL_SSL" in said(replace(right, security_protocol="SASL_PLAINTEXT"))
    assert "does not take SCRAM-SHA-256" in said(replace(right, sasl_mechanism="SCRAM-SHA-256"))
    assert "is for another name" in said(replace(right, bootstrap=right.bootstrap.replace("127.0.0.1", "localhost")))
    assert "nothing answers at" in said(replace(right, bootstrap="127.0.0.1:9"))


def test_a_command_with_a_user_that_may_not_says_so(
    secured: Secured, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_resolved(secured.user("sidecar-east"), tmp_path / "sidecar.toml")
    done = main([
        "kafka-setup", "--config", str(tmp_path / "sidecar.toml"), "--acls", str(ACLS),
        "--passwords", str(tmp_path / "made"), "--user", "detector",
    ])  # fmt: skip
    assert done == 1
    told = capsys.readouterr().err
    assert "the user sidecar-east may not use" in told
    assert "kafka-setup" in told


def test_passwords_are_for_their_owner_only_and_never_shown(
    secured: Secured, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in secured.passwords.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    for path in secured.cluster.authority.directory.glob("*.key*"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert secured.setup("--user", "detector", "--print") == 0
    shown = capsys.readouterr().out
    assert "kafka-acls.sh" in shown
    assert "--topic exfilguard.snapshots" in shown
    assert (secured.passwords / "detector.password").read_text(encoding="utf-8").strip() not in shown


def test_a_broker_that_is_gone_is_not_missed(secured: Secured, tmp_path: Path) -> None:
    """Three copies of which two are enough: one node killed, writing and counting go on; it comes back."""
    stack, load = installation(tmp_path / "data", "127.0.0.1:1")
    as_user(stack, "sidecar-east", secured)
    on_topic = replace(stack.config, kafka=secured.admin.kafka)
    before = count_events(on_topic).events
    node = secured.cluster.nodes[0]
    try:
        stack.start("shipper")
        load.write(300)
        wait_for(lambda: stack.total("events_published_total") == load.events, 30, stack.log("shipper")[-800:])
        node.kill()
        load.write(300)
        wait_for(lambda: stack.total("events_published_total") == load.events, 60, stack.log("shipper")[-800:])
    finally:
        if not node.alive:
            node.start()
            secured.cluster.wait_for(node)
        stack.stop()
    assert count_events(on_topic).events - before == load.events


def test_a_lock_is_told_again_by_who_may_write_verdicts_when_the_topics_are_made_anew(
    secured: Secured, tmp_path: Path
) -> None:
    """The sidecars, which know it, may not; and their events go on."""
    stack, load = installation(tmp_path / "data", "127.0.0.1:1")
    everything = replace(stack.config, kafka=secured.admin.kafka)
    try:
        for part, user in (("detector", "detector"), ("shipper", "sidecar-east")):
            as_user(stack, user, secured)
            stack.start(part)
        stack.detector_ready()
        as_user(stack, "operator", secured)
        assert main(["lock", "dpi_export", "--reason", "a test", "--config", str(stack.path)]) == 0
        load.write(300)
        wait_for(lambda: stack.total("events_published_total") == load.events, 30, stack.log("shipper")[-800:])
        admin = admin_client(secured.admin)
        admin.delete_topics([TOPICS.queries, TOPICS.verdicts])
        admin.close()
        wait_for(lambda: secured.setup() == 0, 30)
        load.write(300)
        wait_for(lambda: stack.total("events_published_total") == load.events, 30, stack.log("shipper")[-1500:])
        wait_for(lambda: stack.total("frames_resent_total") > 0, 30, stack.log("shipper")[-1500:])
        wait_for(lambda: "clinic/dpi_export" in read_verdicts(everything), 30, stack.log("detector")[-1500:])
    finally:
        stack.stop()
    assert count_events(everything).events == load.events
