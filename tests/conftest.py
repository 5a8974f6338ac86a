"""Rules of the whole suite: every skip is on the list, and the last line counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every CI run: a run there says something of the change, not of the day's luck. New ones are looked
# for where somebody is there to look at them: on the developer's machine, and in `make fuzz`.
# No deadline: how long an example takes says something of who else uses the machine.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", derandomize=True, print_blob=True, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")

ALLOWED_SKIPS = Path(__file__).parents[1] / ".ci" / "allowed-skips"


def _allowed() -> set[str]:
    lines = ALLOWED_SKIPS.read_text(encoding="utf-8").splitlines()
    return {line.partition("#")[0].strip() for line in lines} - {""}


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI (EXFILGUARD_REQUIRE_COMPILED is set there) a skip that is not on the list fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = {report.nodeid for report in reporter.stats.get("skipped", [])} if reporter is not None else set()
    unexpected = skipped - _allowed()
    if unexpected and os.environ.get("EXFILGUARD_REQUIRE_COMPILED"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"skips that are not in {ALLOWED_SKIPS.name}: {', '.join(sorted(unexpected))}", red=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The closing line that counts."""
    stats = terminalreporter.stats
    counts = {name: len(stats.get(name, [])) for name in ("passed", "failed", "error", "skipped")}
    where = {report.nodeid.split("/")[1] for report in stats.get("passed", [])}
    terminalreporter.write_line(
        f"exfilguard tests: {counts['passed']} passed, {counts['failed'] + counts['error']} failed, "
        f"{counts['skipped']} skipped, in {len(where)} rooms ({', '.join(sorted(where))})"
    )


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """The very last lines name what failed, and why in a line: whoever sees only the end of a log knows where to look."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    for kind in ("rerun", "failed", "error"):
        for report in reporter.stats.get(kind, []):
            crash = getattr(report.longrepr, "reprcrash", None)
            why = (crash.message if crash is not None else str(report.longrepr)).strip().partition("\n")[0]
            reporter.write_line(f"{kind}: {report.nodeid}: {why[:160]}")
