"""The alerting rules: played by promtool, and held to the metrics, the runbook and the pages' contract."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from exfilguard.exporter.catalogue import METRICS, PREFIX

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / name).read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = rules("alerts.yml")
TESTS = yaml.safe_load(Path(__file__).with_name("rules_test.yml").read_text(encoding="utf-8"))["tests"]


def promtool(*arguments: str, cwd: Path) -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: apt install prometheus")
    done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_plays_every_rule(tmp_path: Path) -> None:
    for name in ("alerts.yml", "recording.yml"):
        shutil.copy(PROMETHEUS / name, tmp_path)
    shutil.copy(Path(__file__).with_name("rules_test.yml"), tmp_path)
    promtool("check", "rules", "alerts.yml", "recording.yml", cwd=tmp_path)
    assert "SUCCESS" in promtool("test", "rules", "rules_test.yml", cwd=tmp_path)


def test_every_alert_is_played_until_it_fires() -> None:
    fired = {case["alertname"] for test in TESTS for case in test.get("alert_rule_test", ()) if case.get("exp_alerts")}
    assert fired == {alert["alert"] for alert in ALERTS}


def test_the_configuration_that_ships_is_one_that_prometheus_takes(tmp_path: Path) -> None:
    for path in PROMETHEUS.glob("*.yml"):
        shutil.copy(path, tmp_path)
    promtool("check", "config", "prometheus.yml", cwd=tmp_path)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_what_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "warning")
    assert alert["annotations"]["summary"]
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^### (\w+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert alert["alert"] in headings
    assert anchor == alert["alert"].lower()


@pytest.mark.parametrize("name", ["alerts.yml", "recording.yml"])
def test_rules_ask_for_metrics_that_exist(name: str) -> None:
    known = set(METRICS) | {
        f"{metric}_{suffix}"
        for metric, about in METRICS.items()
        if about.kind == "histogram"
        for suffix in ("bucket", "count", "sum")
    }
    for rule in rules(name):
        for metric in re.findall(rf"\b{PREFIX}(\w+)", rule["expr"]):
            assert metric in known, metric
