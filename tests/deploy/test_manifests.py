"""What ships for other people's machines, checked against the published schemas and against our own code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from exfilguard.cli.main import build_parser
from exfilguard.config.load import load_config

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
COMMANDS = set(next(a for a in build_parser()._actions if a.dest == "command").choices or ())


def documents(path: Path) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d]


def containers() -> list[tuple[str, dict[str, Any]]]:
    out = []
    for path in KUBERNETES:
        for document in documents(path):
            pod = document.get("spec", {}).get("template", {}).get("spec", {})
            out += [(path.name, c) for kind in ("containers", "initContainers") for c in pod.get(kind, ())]
    return [(name, c) for name, c in out if "exfilguard" in c["image"]]


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_takes_every_manifest(path: Path) -> None:
    for document in documents(path):
        if document["apiVersion"] in ("kustomize.config.k8s.io/v1beta1", "monitoring.coreos.com/v1"):
            continue  # a tool's own file and a custom resource: no published core schema
        kubernetes_validate.validate(document, "1.31", strict=True)


def test_the_kustomization_names_every_file_that_it_should() -> None:
    (made,) = documents(DEPLOY / "kubernetes" / "kustomization.yaml")
    there = {path.name for path in KUBERNETES} - {"kustomization.yaml", "application-sidecar.yaml"}
    assert set(made["resources"]) == there


def test_every_container_is_small_and_runs_a_command_that_exists() -> None:
    found = containers()
    assert len(found) >= 8
    for name, container in found:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"], name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert "memory" in container["resources"]["limits"], name
        assert container["args"][0] in COMMANDS, container["args"]


def test_the_settings_that_ship_are_settings_that_load(tmp_path: Path) -> None:
    for source in (DEPLOY / "kubernetes" / "exfilguard.toml", DEPLOY / "exfilguard.example.toml"):
        text = source.read_text(encoding="utf-8")
        for number, name in enumerate(dict.fromkeys(re.findall(r'^\w+_file = "([^"]+)"', text, re.MULTILINE))):
            secret = tmp_path / f"secret{number}"
            secret.write_text("a secret of sixteen characters and more", encoding="utf-8")
            text = text.replace(f'"{name}"', f'"{secret}"')
        (tmp_path / "exfilguard.toml").write_text(text, encoding="utf-8")
        assert load_config(tmp_path / "exfilguard.toml", {}).listener


def test_systemd_takes_the_unit_and_finds_it_well_locked_up(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed: apt install systemd")
    unit = (DEPLOY / "systemd" / "exfilguard@.service").read_text(encoding="utf-8")
    started = re.search(r"^ExecStart=(\S+)", unit, re.MULTILINE)
    assert started is not None
    (tmp_path / "exfilguard@sidecar.service").write_text(unit.replace(started[1], "/bin/true"), encoding="utf-8")
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60, "check": False}
    verified = subprocess.run([program, "verify", "./exfilguard@sidecar.service"], **run)  # type: ignore[call-overload]
    assert verified.returncode == 0, verified.stderr
    assert "exfilguard" not in verified.stderr
    rated = subprocess.run(
        [program, "security", "--offline=yes", "--threshold=20", "./exfilguard@sidecar.service"], **run
    )  # type: ignore[call-overload]
    assert rated.returncode == 0, rated.stdout[-300:]


def test_the_image_runs_as_nobody_and_starts_a_command_that_exists() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    final = lines.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001$", final, re.MULTILINE)
    assert "gcc" not in final
    command = re.search(r'^CMD \["(\w+)"', final, re.MULTILINE)
    assert command is not None
    assert command[1] in COMMANDS


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    program = Path(sys.executable).with_name("hadolint")
    # DL3008: Debian keeps only the newest build of a package, so that a pinned one soon cannot be installed any more.
    done = subprocess.run(
        [program, "--ignore", "DL3008", DEPLOY / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
