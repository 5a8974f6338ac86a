"""`make bench-console`: how long the operator waits for each page, with 10,000 incidents on record and 300 open.

The real application under uvicorn, a process of its own, its state filled as the feed fills it (verdicts and actions), 15 accounts near a
limit, pages asked over HTTP by a logged-in operator, and, where Chromium is installed, loaded there to the end of their `load` event
and to the first text on the screen, whichever is later. The worst page of each counts, by its 95th percentile; the very first page
after the start is counted by itself.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
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
ROUNDS = 20 if QUICK else 100
BAR_MS = 200.0
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "console.md"


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


def pages(story: str) -> dict[str, str]:
    """Name -> path of every page that is read; `story`: the incident with the most steps."""
    return {
        "now": "/",
        "live": "/live",
        "incidents": "/incidents",
        "incidents_last": f"/incidents?page={INCIDENTS // 50}",
        "incidents_search": "/incidents?q=account12",
        "incidents_standing": "/incidents?standing=1",
        "incident": f"/incidents/{story}",
        "account": "/accounts/account12",
        "audit": "/audit",
        "login": "/login",
    }


def over_http(address: str, token: str, asked: dict[str, str]) -> tuple[dict[str, float], float]:
    """(page -> 95th percentile, the first answer after the server's start), milliseconds."""
    out, first = {}, 0.0
    with httpx2.Client(base_url=address, cookies={"exfilguard_session": token}) as client:
        for name, path in asked.items():
            took = []
            for _ in range(ROUNDS):
                started = time.perf_counter()
                answer = client.get(path)
                took.append(1000 * (time.perf_counter() - started))
                if answer.status_code != 200:
                    raise SystemExit(f"error: {path} answered {answer.status_code}")
            first = first or took.pop(0)
            out[name] = percentile(took, 0.95)
    return out, first


READY = """async () => {
  const painted = () => performance.getEntriesByType("paint");
  while (painted().length < 2) await new Promise(requestAnimationFrame);
  return Math.max(performance.getEntriesByType("navigation")[0].loadEventEnd, ...painted().map(entry => entry.startTime));
}"""


def in_chromium(program: str, address: str, token: str, asked: dict[str, str]) -> dict[str, float]:
    """Page -> 95th percentile until it is loaded and painted, milliseconds, by the browser's own clock."""
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
            for _ in range(max(10, ROUNDS // 4)):
                page.goto(address + path, wait_until="load")
                took.append(float(page.evaluate(READY)))
            out[name] = percentile(took, 0.95)
        browser.close()
    return out


def serve(port: int) -> None:
    """The console alone, until it is stopped. Says `ready`, a session of an administrator, and the address of the long story."""
    state, policy = filled(), default_policy()
    near = {f"clinic/near{n}": [[100 + n, 50 + n, 9_000, 12]] * 7 for n in range(15)}
    relay = Snapshot("relay", "0", values=[("queries_total", {}, 1_234), ("sessions", {}, 7)])
    snapshots: dict[str, Snapshot | None] = {"relay-0": relay}
    feed: Any = FakeFeed(accounts=near)
    with tempfile.TemporaryDirectory(prefix="exfilguard-console-") as name:
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
        token = console.sessions.begin("ada", ("admin",), "127.0.0.1", time.time())

        class Server(uvicorn.Server):
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                print(f"ready {token} {state.of_account('clinic/dpi_export')[0].id}", flush=True)

        Server(uvicorn.Config(console.app(), host="127.0.0.1", port=port, log_config=None)).run()


def write_page(report: Report) -> None:
    facts = report.facts
    chromium = facts["chromium_p95_ms"]
    lines = [
        "# Console: how long the operator waits",
        "",
        f"Made by `make bench-console` ({time.strftime('%Y-%m-%d', time.gmtime())}, Python {platform.python_version()}, {os.cpu_count()} cores); do not edit.",
        "",
        f"{INCIDENTS:,} incidents on record, {OPEN} of them open, one with {STEPS} verdicts and as many actions; the console is a process of its",
        f"own, asked by a logged-in administrator, {ROUNDS} times a page over HTTP and {max(10, ROUNDS // 4)} times in Chromium, which counts until the",
        "page is loaded and painted. 95th percentiles, milliseconds; the bar is 200 for the slowest page.",
        "",
        "| page | answered | ready in Chromium |",
        "| --- | ---: | ---: |",
    ]
    lines += [
        f"| {name.replace('_', ', ')} | {http:.1f} | {f'{chromium[name]:.0f}' if name in chromium else ''} |"
        for name, http in facts["http_p95_ms"].items()
    ]
    lines += ["", f"The very first answer after the start took {report.value('console_first_answer_ms'):.0f} ms.", ""]
    PAGE.write_text("\n".join(lines), encoding="utf-8")


def main() -> int:
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]))
        return 0
    report = Report("console")
    port = free_port()
    command = [sys.executable, "-m", "bench.console", "serve", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            word, token, story = server.stdout.readline().split()
            assert word == "ready"
            address, asked = f"http://127.0.0.1:{port}", pages(story)
            report.facts["http_p95_ms"], first = over_http(address, token, asked)
            report.bar("console_first_answer_ms", first, BAR_MS)
            report.bar("console_slowest_page_http_p95_ms", max(report.facts["http_p95_ms"].values()), BAR_MS)
            program = shutil.which("chromium")
            if program is None:
                report.facts["chromium"] = "not installed"
            else:
                del asked["live"]  # a part of a page
                report.facts["chromium_p95_ms"] = found = in_chromium(program, address, token, asked)
                report.bar("console_slowest_page_chromium_p95_ms", max(found.values()), BAR_MS)
        finally:
            server.terminate()
    report.facts |= {"incidents": INCIDENTS, "open": OPEN, "rounds": ROUNDS}
    if not QUICK and "chromium_p95_ms" in report.facts:
        write_page(report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
