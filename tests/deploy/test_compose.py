"""docker-compose.yml: no Docker runs here, so what can be held without it is: every file, command, setting and secret it names is
there and is taken, and every container is as small as it should be."""

from __future__ import annotations

import json
import os
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cryptography import x509

from exfilguard.cli.main import build_parser
from exfilguard.config.load import load_config
from exfilguard.runtime.frame_keys import read_keys
from exfilguard.runtime.kafka_acls import load_roles, role_of

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
COMMANDS = set(next(a for a in build_parser()._actions if a.dest == "command").choices or ())
DATA = "/var/lib/exfilguard/data"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return made


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What prepare.sh makes."""
    directory = tmp_path_factory.mktemp("compose") / "secrets"
    for _ in range(2):  # again: what is there stays
        done = subprocess.run(
            [ROOT / "deploy" / "compose" / "prepare.sh", directory],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return directory


def ours(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: s for name, s in compose["services"].items() if s["image"] == "exfilguard"}


def test_the_compose_specification_takes_it(compose: dict[str, Any]) -> None:
    text = (resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text("utf-8")
    schema = json.loads(text)
    check = jsonschema.validators.validator_for(schema, default=jsonschema.Draft7Validator)(schema)
    assert [f"{list(e.path)}: {e.message}" for e in check.iter_errors(compose)] == []
    misspelt = {"services": {"a": {"image": "b", "read_onyl": True}}}
    assert list(check.iter_errors(misspelt)), "the schema knows every key"


def test_it_is_the_installation_that_the_cluster_demo_runs(compose: dict[str, Any]) -> None:
    wanted = {
        "kafka-1", "kafka-2", "kafka-3", "kafka-setup", "sidecar-east", "sidecar-west", "detector-1", "detector-2", "responder",
        "archive", "console", "exporter-east", "exporter-west", "exporter-core", "prometheus", "alertmanager", "grafana",
    }  # fmt: skip
    assert set(compose["services"]) == wanted


def test_every_container_is_read_only_without_rights_limited_and_watched(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"].partition(":")[0] not in ("", "0", "root"), name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert "privileged" not in service, name
        assert ":latest" not in service["image"], name
        assert name == "kafka-setup" or service["healthcheck"]["test"], name


def test_no_secret_is_in_the_environment_or_in_a_command(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for key, value in service.get("environment", {}).items():
            if ("PASSWORD" in key or "DSN" in key or "KEY" in key) and not key.endswith("_DIR"):
                assert str(value).startswith("/run/secrets/"), f"{name}: {key}"
                assert Path(value).name in service["secrets"], f"{name}: {key}"


def test_every_file_and_secret_it_names_is_there(compose: dict[str, Any], secrets: Path) -> None:
    named = [s["file"] for s in compose["secrets"].values()]
    for service in compose["services"].values():
        named += [v.partition(":")[0] for v in service.get("volumes", ()) if v.startswith("./")]
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        volumes = {v.partition(":")[0] for v in service.get("volumes", ()) if not v.startswith("./")}
        assert volumes <= set(compose["volumes"])
        assert set(service["networks"]) <= set(compose["networks"])
        assert "ports" not in service or any(
            not (compose["networks"][network] or {}).get("internal") for network in service["networks"]
        ), "nobody reaches a port of a container that is on internal networks only"
    for path in named:
        made = secrets / path.removeprefix("./secrets/") if path.startswith("./secrets/") else ROOT / path
        assert made.exists(), path


def test_what_prepare_makes_is_for_its_owner_and_the_certificates_are_good(secrets: Path) -> None:
    for path in secrets.rglob("*"):
        if path.is_file() and path.name != "ca.pem":
            assert path.stat().st_mode & 0o077 == 0, path
    authority = x509.load_pem_x509_certificate((secrets / "ca.pem").read_bytes())
    for name, folder in (("kafka-1", "kafka-1"), ("kafka-admin", "admin"), ("console", "console")):
        made = x509.load_pem_x509_certificate((secrets / folder / f"{name}.pem").read_bytes())
        made.verify_directly_issued_by(authority)
        assert made.subject.rfc4514_string() == f"CN={name}"
    passwords = {path.read_text() for path in (secrets / "passwords").iterdir()}
    assert len(passwords) == 7


def test_every_part_starts_a_command_with_settings_that_load(
    compose: dict[str, Any], secrets: Path, tmp_path: Path
) -> None:
    files = {name: secrets / s["file"].removeprefix("./secrets/") for name, s in compose["secrets"].items()}
    users = set()
    for name, service in ours(compose).items():
        assert service["command"][0] in COMMANDS, name
        build_parser().parse_args(service["command"])
        mounted = next(v for v in service["volumes"] if v.startswith("./deploy/compose/"))
        text = (ROOT / mounted.partition(":")[0]).read_text(encoding="utf-8")
        environment = {k: v for k, v in service.get("environment", {}).items() if k.startswith("EXFILGUARD_")}
        # As inside the container: only the secrets that are given to it can be read.
        for secret in service.get("secrets", ()):
            text = text.replace(f"/run/secrets/{secret}", str(files[secret]))
            environment = {k: v.replace(f"/run/secrets/{secret}", str(files[secret])) for k, v in environment.items()}
        if any(volume.endswith(":/frame-keys:ro") for volume in service["volumes"]):
            environment = {k: v.replace("/frame-keys", str(secrets / "frame-keys")) for k, v in environment.items()}
        text = text.replace("/secrets/admin", str(secrets / "admin"))
        path = tmp_path / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        config = load_config(path, environment)
        if name.startswith("exporter") or name == "kafka-setup":
            assert not config.kafka.username
        else:
            users.add(config.kafka.username)
            assert config.kafka.security_protocol == "SASL_SSL"
            assert config.data_dir == DATA
            assert config.kafka.password
        if name.startswith("sidecar-"):
            key = (secrets / "frame-keys" / f"{config.sidecar_id}.key").read_text(encoding="ascii").strip()
            assert config.kafka.frame_key == key
        if name.startswith(("detector-", "archive")):
            assert {sidecar for _, sidecar in read_keys(Path(config.kafka.frame_keys_dir), config.tenant)} == {
                "east",
                "west",
            }
    roles = load_roles(ROOT / "deploy" / "kafka" / "acls.toml", "exfilguard")
    set_up = {
        a.removeprefix("--user=") for a in compose["services"]["kafka-setup"]["command"] if a.startswith("--user=")
    }
    assert users <= set_up
    assert all(role_of(user, roles) for user in set_up)


def test_the_brokers_settings_are_those_of_the_cluster_that_the_tests_run(compose: dict[str, Any]) -> None:
    text = (ROOT / "deploy" / "compose" / "kafka" / "server.properties").read_text(encoding="utf-8")
    shipped = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    from exfilguard.embedded.kafka_cluster import KafkaCluster

    cluster = KafkaCluster(Path(os.environ.get("TMPDIR", "/tmp")) / f"compose-properties-{os.getpid()}")
    try:
        node = cluster.nodes[0]
        node.data_dir.mkdir(parents=True, exist_ok=True)
        node.write_properties(cluster.nodes)
        tested = dict(line.split("=", 1) for line in node.properties.read_text(encoding="utf-8").splitlines())
    finally:
        cluster.remove()
    where = {"controller.quorum.voters", "ssl.keystore.location", "ssl.truststore.location", "log.dirs"}
    for key in shipped.keys() - where:
        assert shipped[key] == tested[key], key
    for n in (1, 2, 3):
        service = compose["services"][f"kafka-{n}"]
        assert service["environment"]["KAFKA_NODE_ID"] == str(n)
        assert f"CLIENTS://kafka-{n}:9092" in service["environment"]["KAFKA_ADVERTISED_LISTENERS"]
        assert f"./secrets/kafka-{n}:/certificates:ro" in service["volumes"]
