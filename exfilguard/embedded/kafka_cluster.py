"""Apache Kafka as a real installation has it: three KRaft nodes, TLS everywhere, SCRAM for clients, ACLs. For the cluster
demo, the tests and the chaos runs.

    CLIENTS     SASL_SSL, SCRAM-SHA-512     what ExfilGuard's parts use
    BROKERS     SSL, client certificates    between the brokers, and for the administrator
    CONTROLLER  SSL, client certificates    KRaft

Nodes and the administrator are who their certificate says (its common name), and super users; everybody else has exactly what
deploy/kafka/acls.toml gives. https://kafka.apache.org/documentation/#security
"""

from __future__ import annotations

import base64
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.schema import KafkaConfig
from ..errors import EmbeddedError
from .authority import Authority
from .child import Child, free_port, port_is_taken
from .kafka import jars

NODES = 3
HEAP_MB = 256
START_S = 90.0
ADMIN = "kafka-admin"


@dataclass(slots=True)
class Host:
    """Where a node runs: an address, and what a command needs in front of it to run there."""

    address: str = "127.0.0.1"
    enter: list[str] = field(default_factory=list)


class KafkaNode:
    """One broker and controller."""

    def __init__(self, number: int, host: Host, data_dir: Path, authority: Authority) -> None:
        self.number = number
        self.host = host
        self.data_dir = data_dir
        self.log_dir = data_dir / "log"
        self.clients_port, self.brokers_port, self.controller_port = free_port(), free_port(), free_port()
        self.child = Child(f"Kafka node {number}", data_dir / "kafka.log")
        self.name = f"kafka-{number}"
        self.authority = authority
        self.heap_mb = HEAP_MB

    @property
    def alive(self) -> bool:
        return self.child.alive

    @property
    def properties(self) -> Path:
        return self.data_dir / "server.properties"

    def issue(self, **times: Any) -> None:
        """A certificate for this node; a broker reads it again when it starts."""
        certificate, key = self.authority.issue(self.name, [self.host.address, self.name], **times)
        self.authority.keystore(certificate, key)

    def write_properties(self, nodes: Sequence[KafkaNode]) -> None:
        here = self.host.address
        keystore = self.authority.directory / f"{self.name}.keystore.pem"
        settings = {
            "process.roles": "broker,controller",
            "node.id": str(self.number),
            "controller.quorum.voters": ",".join(f"{n.number}@{n.host.address}:{n.controller_port}" for n in nodes),
            "listeners": f"CLIENTS://{here}:{self.clients_port},BROKERS://{here}:{self.brokers_port},"
            f"CONTROLLER://{here}:{self.controller_port}",
            "advertised.listeners": f"CLIENTS://{here}:{self.clients_port},BROKERS://{here}:{self.brokers_port}",
            "listener.security.protocol.map": "CLIENTS:SASL_SSL,BROKERS:SSL,CONTROLLER:SSL",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "BROKERS",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.clients.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(keystore),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.ca_file),
            "ssl.client.auth": "none",
            "listener.name.brokers.ssl.client.auth": "required",
            "listener.name.controller.ssl.client.auth": "required",
            "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false",
            "super.users": ";".join(f"User:{name}" for name in [*(n.name for n in nodes), ADMIN]),
            "auto.create.topics.enable": "false",
            "log.dirs": str(self.log_dir),
            "default.replication.factor": str(len(nodes)),
            "min.insync.replicas": str(max(1, len(nodes) - 1)),
            "offsets.topic.replication.factor": str(len(nodes)),
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": str(len(nodes)),
            "transaction.state.log.min.isr": str(max(1, len(nodes) - 1)),
            "transaction.state.log.num.partitions": "2",
            "group.initial.rebalance.delay.ms": "0",
            # A node that is gone is noticed in seconds: the demo and the chaos runs do not have a minute.
            "broker.session.timeout.ms": "6000",
            "replica.lag.time.max.ms": "6000",
            "controlled.shutdown.max.retries": "1",
        }
        self.properties.write_text("".join(f"{k}={v}\n" for k, v in settings.items()), encoding="utf-8")

    def format(self, cluster_id: str) -> None:
        """Raises EmbeddedError."""
        if (self.log_dir / "meta.properties").is_file():
            return
        command = [
            *("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{jars()}/*", "kafka.tools.StorageTool"),
            *("format", f"--cluster-id={cluster_id}", "-c", str(self.properties)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise EmbeddedError(f"Kafka's storage could not be formatted: {done.stderr.strip()[-300:]}")

    def start(self) -> None:
        """Returns at once: a node answers only with another one."""
        self.child.start([
            *self.host.enter,
            *("java", f"-Xmx{self.heap_mb}m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            *("-XX:+ExitOnOutOfMemoryError", "-cp", f"{jars()}/*", "kafka.Kafka", str(self.properties)),
        ])  # fmt: skip

    def accepts(self) -> bool:
        return port_is_taken(self.clients_port, self.host.address)

    def kill(self) -> None:
        self.child.kill()

    def stop(self) -> None:
        self.child.stop(grace_s=15.0)


class KafkaCluster:
    """Three nodes below `data_dir`. `hosts`: where each runs; default all on loopback."""

    def __init__(self, data_dir: Path, hosts: Sequence[Host] | None = None) -> None:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.data_dir = data_dir
        self.authority = Authority(data_dir / "certificates")
        self.nodes = [
            KafkaNode(n + 1, host, data_dir / f"kafka-{n + 1}", self.authority)
            for n, host in enumerate(hosts or [Host() for _ in range(NODES)])
        ]
        self._admin = self.authority.issue(ADMIN)

    @property
    def bootstrap(self) -> str:
        return ",".join(f"{n.host.address}:{n.clients_port}" for n in self.nodes)

    def client(self, user: str, password: str, **changes: Any) -> KafkaConfig:
        """Settings of one of ExfilGuard's parts."""
        settings = {
            "bootstrap": self.bootstrap,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "username": user,
            "password": password,
            "ca_file": str(self.authority.ca_file),
            "replication": len(self.nodes),
        }
        return KafkaConfig(**{**settings, **changes})

    def admin(self, **changes: Any) -> KafkaConfig:
        """Settings of the administrator, who has a certificate and may do everything."""
        certificate, key = self._admin
        settings = {
            "bootstrap": ",".join(f"{n.host.address}:{n.brokers_port}" for n in self.nodes),
            "security_protocol": "SSL",
            "ca_file": str(self.authority.ca_file),
            "cert_file": str(certificate),
            "key_file": str(key),
            "replication": len(self.nodes),
        }
        return KafkaConfig(**{**settings, **changes})

    def start(self) -> None:
        """Returns when every node accepts clients. Raises EmbeddedError."""
        jars()
        cluster_id = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        for node in self.nodes:
            node.data_dir.mkdir(exist_ok=True, mode=0o700)
            node.issue()
            node.write_properties(self.nodes)
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(lambda node: node.format(cluster_id), self.nodes))
        # In this thread: a child dies with the thread that started it.
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            self.wait_for(node)

    def wait_for(self, node: KafkaNode) -> None:
        """Raises EmbeddedError."""
        node.child.wait_until(node.accepts, START_S)

    def stop(self) -> None:
        """All at once: the last one alone would have nobody to hand over to."""
        for node in self.nodes:
            if node.alive and node.child.process is not None:
                node.child.process.terminate()
        for node in self.nodes:
            node.stop()

    def remove(self) -> None:
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def __enter__(self) -> KafkaCluster:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()
