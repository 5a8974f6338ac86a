"""Apache Kafka itself, one KRaft node, for the tests: durable where the embedded broker is not.

The jars come from Maven Central (org.apache.kafka:kafka_2.13 with its dependencies, Apache-2.0) into a cache directory,
once. Needs Java 17 and Maven. Configuration: https://kafka.apache.org/documentation/#kraft
"""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
from pathlib import Path

from ..errors import EmbeddedError
from ..runtime.kafka import broker_answers
from .child import free_port
from .maven import CACHE, filled, missing_programs, run_maven
from .server import Server

VERSION = "4.1.0"
START_S = 60.0

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>exfilguard</groupId><artifactId>broker</artifactId><version>1</version>
<dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
<version>{VERSION}</version></dependency></dependencies></project>
"""


def jars() -> Path:
    """Directory with the broker's jars, fetched on first use. Raises EmbeddedError."""
    configured = os.environ.get("EXFILGUARD_KAFKA_LIBS")
    cache = Path(configured) if configured else CACHE / f"kafka-{VERSION}"
    if cache.is_dir():
        return cache
    if missing := missing_programs():
        raise EmbeddedError(f"Apache Kafka needs {missing}: on Debian/Ubuntu apt install openjdk-17-jre-headless maven")
    return filled(cache, _fetch)


def _fetch(work: Path, made: Path) -> None:
    (work / "pom.xml").write_text(_POM, encoding="utf-8")
    run_maven(work, "Apache Kafka", "dependency:copy-dependencies", f"-DoutputDirectory={made}")


JVM_OPTIONS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""For a broker that lives for minutes on a small machine: one collector thread, and no core given to the second compiler, whose
code would pay off in an hour."""


class ApacheKafka(Server):
    """The same handles as EmbeddedBroker. A new start on the same directory keeps the data."""

    name = "Apache Kafka"
    start_s = START_S
    stop_s = 20.0

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        super().__init__(port, data_dir / "kafka.log")
        self.data_dir = data_dir
        self._controller_port = free_port()

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def run(self) -> None:
        self.data_dir.mkdir(parents=True, exist_ok=True)
        classpath = f"{jars()}/*"
        properties = self.data_dir / "server.properties"
        properties.write_text(self._properties(), encoding="utf-8")
        if not (self.data_dir / "log" / "meta.properties").is_file():
            cluster = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
            command = [
                "java",
                "-cp",
                classpath,
                "kafka.tools.StorageTool",
                "format",
                f"--cluster-id={cluster}",  # one in 64 begins with a dash
                "-c",
                str(properties),
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            if done.returncode:
                raise EmbeddedError(f"Kafka's storage could not be formatted: {done.stderr.strip()[-300:]}")
        self._child.start(["java", *JVM_OPTIONS, "-cp", classpath, "kafka.Kafka", str(properties)])

    def ready(self) -> bool:
        return broker_answers(self.bootstrap)

    def _properties(self) -> str:
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.data_dir / "log"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())
