"""An attack, a real Prometheus, a real Alertmanager, and a webhook that rings: with the rules and routes that ship."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.embedded.child import Child, free_port
from exfilguard.runtime.clock import now_ms
from grafana.boards import BOARDS

from .conftest import Hospital
from .stack import connect, wait_for
from .test_guard import Guard, patiently

DEPLOY = Path(__file__).parents[2] / "deploy"
RINGS_WITHIN_S = 15.0


class Telephone:
    """What the on-call person's webhook received: (seconds since the epoch, alert)."""

    def __init__(self) -> None:
        self.rang: list[tuple[float, dict[str, Any]]] = []
        telephone = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                telephone.rang += [(time.time(), alert) for alert in body["alerts"]]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def first(self, name: str, status: str = "firing") -> tuple[float, dict[str, Any]] | None:
        found = [(at, a) for at, a in self.rang if a["labels"]["alertname"] == name and a["status"] == status]
        return found[0] if found else None

    def close(self) -> None:
        self._server.shutdown()


@dataclass
class Watched:
    """A guard under a real Prometheus and Alertmanager, after an attack."""

    telephone: Telephone
    prometheus: str
    stopped_s: float

    def ask(self, expression: str) -> list[Any]:
        """The result; raises when Prometheus calls the query an error."""
        url = f"{self.prometheus}/api/v1/query?{urlencode({'query': expression})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return list(json.load(answer)["data"]["result"])


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, hospital: Hospital, tansu: EmbeddedBroker) -> Iterator[Watched]:
    programs = {name: shutil.which(name) for name in ("prometheus", "prometheus-alertmanager")}
    if missing := [name for name, found in programs.items() if found is None]:
        pytest.skip(f"not installed: {', '.join(missing)}: apt install prometheus prometheus-alertmanager")
    directory = tmp_path_factory.mktemp("watched")
    guard, telephone = Guard(directory / "data", hospital, tansu), Telephone()
    alertmanager_port, prometheus_port = free_port(), free_port()
    routes = (DEPLOY / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8")
    for receiver in ("oncall", "daytime"):
        routes = routes.replace(f"url_file: /etc/alertmanager/{receiver}.url", f"url: {telephone.url}{receiver}")
    assert "url_file" not in routes
    (directory / "alertmanager.yml").write_text(routes, encoding="utf-8")
    for name in ("alerts.yml", "recording.yml"):
        shutil.copy(DEPLOY / "prometheus" / name, directory)
    shipped = (DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    (directory / "prometheus.yml").write_text(
        shipped.replace("alertmanager:9093", f"127.0.0.1:{alertmanager_port}").replace(
            "exfilguard:9187", guard.config.exporter.listen
        ),
        encoding="utf-8",
    )
    alertmanager = Child("Alertmanager", directory / "alertmanager.log")
    prometheus = Child("Prometheus", directory / "prometheus.log")
    try:
        alertmanager.start([
            str(programs["prometheus-alertmanager"]), f"--config.file={directory / 'alertmanager.yml'}",
            f"--storage.path={directory / 'am'}", f"--web.listen-address=127.0.0.1:{alertmanager_port}",
            "--cluster.listen-address=",
        ])  # fmt: skip
        prometheus.start([
            str(programs["prometheus"]), f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'tsdb'}", f"--web.listen-address=127.0.0.1:{prometheus_port}",
        ])  # fmt: skip
        guard.start()
        time.sleep(6)  # one scrape of the peace before
        assert not telephone.rang
        assert patiently(guard.dsn("dpi_export")).message, "the thief was not stopped"
        yield Watched(telephone, f"http://127.0.0.1:{prometheus_port}", now_ms() / 1000)
    finally:
        prometheus.stop()
        alertmanager.stop()
        guard.stack.stop()
        telephone.close()
        with connect(hospital.admin_dsn) as admin:
            admin.execute("ALTER ROLE dpi_export LOGIN")


def test_an_attack_rings_within_fifteen_seconds(watched: Watched) -> None:
    telephone = watched.telephone
    at, alert = wait_for(lambda: telephone.first("ExtractionInProgress"), 40, "no page came")
    assert at - watched.stopped_s < RINGS_WITHIN_S
    assert alert["labels"]["severity"] == "page"
    assert "1 account(s)" in alert["annotations"]["summary"]
    wait_for(lambda: telephone.first("AccountLocked"), 40, "the lock did not page")
    assert "dpi_export" not in json.dumps([a for _, a in telephone.rang]), "accounts are for the console, not for pages"


def test_every_panel_of_every_dashboard_shows_something(watched: Watched) -> None:
    empty = []
    for name, (_, _, panels) in BOARDS.items():
        for panel in panels:
            for expression, _ in panel.queries:
                asked = re.sub(r"\$(tenant|listener|account)", ".*", expression)
                try:
                    wait_for(lambda query=asked: watched.ask(query), 20)
                except AssertionError:
                    empty.append(f"{name}: {panel.title}: {asked}")
    assert empty == []
