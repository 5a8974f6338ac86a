"""`make bench-console`: how long the operator waits for each page, with 10,000 incidents on record and 300 open.

The real application under uvicorn, its state filled as the feed fills it (verdicts and actions), 15 accounts near a limit, pages asked over
HTTP by a logged-in operator, and, where Chromium is installed, loaded there to the end of their `load` event. The worst page of each
counts, by its 95th percentile.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from exfilguard.config.schema import Config, ConsoleConfig
from exfilguard.console.app import Console, Parts
from exfilguard.console.auth import LocalUsers
from exfilguard.console.state import ConsoleState
from exfilguard.detect.policy import default_policy
from exfilguard.embedded.child import free_port
from exfilguard.events.action import OPERATOR
from exfilguard.runtime.clock import now_ms
from exfilguard.runtime.stats import Snapshot
from tests.console.conftest import FakeFeed, Notebook, action, verdict
from tests.console.test_browser import FLAGS

from .report import QUICK, Report, percentile

INCIDENTS = 10_000
OPEN = 300
STEPS = 100
ROUNDS = 20 if QUICK else 200
BAR_MS = 200.0


def filled() -> ConsoleState:
    """A year of a large installation: most stories are over, one account has a long one, people decided thousands of times."""
    state, now = ConsoleState(), now_ms()
    for n in range(INCIDENTS):
        opened = now - (INCIDENTS - n) * 3_000_000 if n < INCIDENTS - OPEN else now - 60_000 + n
        name = f"account{n % 4_000}" if n < INCIDENTS - OPEN else f"open{n}"
        level = ("alert", "throttle", "cut", "lock")[n % 4]
        state.learn(verdict(name, level, opened))
        state.record(action(name, opened))
        if n % 3 == 0:
            state.record(action(name, opened, hook=OPERATOR, operation="ack", actor="oscar", reason="looked at it"))
        if n < INCIDENTS - OPEN:
            state.learn(verdict(name, "none", opened + 5_000, issuer="operator:oscar", reason="the yearly export"))
    for step in range(STEPS):
        state.learn(verdict("dpi_export", "lock", now - 50_000 + step))
        state.record(action(revision=now - 50_000 + step))
    return state


def pages(state: ConsoleState) -> dict[str, str]:
    """Name -> path of every page that is read."""
    story = state.of_account("clinic/dpi_export")[0].id
    return {
        "now": "/",
        "live": "/live",
        "incidents": "/incidents",
        "incidents_last": f"/incidents?page={INCIDENTS // 50}",
        "incidents_search": "/incidents?q=account12",
        "incident": f"/incidents/{story}",
        "account": "/accounts/account12",
        "audit": "/audit",
        "login": "/login",
    }


def over_http(address: str, token: str, asked: dict[str, str]) -> dict[str, float]:
    """Page -> 95th percentile, milliseconds."""
    out = {}
    with httpx2.Client(base_url=address, cookies={"exfilguard_session": token}) as client:
        for name, path in asked.items():
            took = []
            for _ in range(ROUNDS):
                started = time.perf_counter()
                answer = client.get(path)
                took.append(1000 * (time.perf_counter() - started))
                if answer.status_code != 200:
                    raise SystemExit(f"error: {path} answered {answer.status_code}")
            out[name] = percentile(took, 0.95)
    return out


def in_chromium(program: str, address: str, token: str, asked: dict[str, str]) -> dict[str, float]:
    """Page -> 95th percentile until its `load` event is over, milliseconds, by the browser's own clock."""
    from playwright.sync_api import sync_playwright

    out = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        context = browser.new_context(locale="en-GB")
        context.add_cookies([{"name": "exfilguard_session", "value": token, "url": address}])
        page = context.new_page()
        page.goto(address + "/login")
        for name, path in asked.items():
            took = []
            for _ in range(max(5, ROUNDS // 4)):
                page.goto(address + path, wait_until="load")
                took.append(float(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")))
            out[name] = percentile(took, 0.95)
        browser.close()
    return out


def main() -> int:
    report = Report("console")
    state = filled()
    with tempfile.TemporaryDirectory(prefix="exfilguard-console-") as name:
        policy = default_policy()
        near = {f"clinic/near{n}": [[100 + n, 50 + n, 9_000, 12]] * 7 for n in range(15)}
        relay = Snapshot("relay", "0", values=[("queries_total", {}, 1_234), ("sessions", {}, 7)])
        snapshots: dict[str, Snapshot | None] = {"relay-0": relay}
        feed: Any = FakeFeed(accounts=near)
        console = Console(
            Parts(
                Config(tenant="clinic", console=ConsoleConfig()),
                state,
                feed,
                LocalUsers(Path(name) / "users.json"),
                Notebook(),
                Notebook(),
                lambda: policy,
                lambda: snapshots,
            )
        )
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(console.app(), host="127.0.0.1", port=port, log_config=None))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        token = console.sessions.begin("ada", ("admin",), "127.0.0.1", time.time())
        address, asked = f"http://127.0.0.1:{port}", pages(state)
        try:
            report.facts["http_p95_ms"] = found = over_http(address, token, asked)
            report.bar("console_slowest_page_http_p95_ms", max(found.values()), BAR_MS)
            program = shutil.which("chromium")
            if program is None:
                report.facts["chromium"] = "not installed"
            else:
                del asked["live"]  # a part of a page
                report.facts["chromium_p95_ms"] = found = in_chromium(program, address, token, asked)
                report.bar("console_slowest_page_chromium_p95_ms", max(found.values()), BAR_MS)
        finally:
            server.should_exit = True
            thread.join(5)
    report.facts |= {"incidents": INCIDENTS, "open": OPEN, "rounds": ROUNDS}
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
