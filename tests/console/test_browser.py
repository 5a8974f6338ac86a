"""The pages in a real Chromium: keyboard, live changes, a telephone's width, and axe-core's opinion."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from exfilguard.embedded.child import free_port

from .conftest import PASSWORD, Site, action, standing_now, verdict

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Chromium is not installed: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def address(site: Site) -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(site.console.app(), host="127.0.0.1", port=port, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    server.force_exit = True
    thread.join(5)


def opened(browser: Browser, site: Site, address: str, **options: object) -> Page:
    """A page of an administrator; what the browser complains about is in `problems`."""
    context = browser.new_context(locale="en-GB", **options)  # type: ignore[arg-type]
    token = site.console.sessions.begin("ada", ("admin",), "127.0.0.1", time.time())
    context.add_cookies([{"name": "exfilguard_session", "value": token, "url": address}])
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.problems = problems  # type: ignore[attr-defined]
    return page


def fill(site: Site) -> str:
    """An attack under way, a warning, a story that is over; the path of the first."""
    site.state.learn(verdict("interne.garde", level="alert", reason="interne.garde took 180 patients in 5m"))
    site.state.learn(standing_now())
    standing = site.state.standing("clinic/dpi_export")
    assert standing is not None
    site.state.record(action(revision=standing.revision))
    site.state.learn(standing_now(principal="sec.accueil", level="alert"))
    return "/incidents/" + site.state.of_account("clinic/dpi_export")[0].id


def serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html']}" for v in found if v["impact"] in ("serious", "critical")]


def test_somebody_logs_in_and_out_with_the_keyboard_alone(browser: Browser, address: str) -> None:
    page = browser.new_context(locale="en-GB").new_page()
    page.goto(address)
    assert "/login" in page.url
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("oscar")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(address + "/")
    assert page.locator("h1").inner_text() == "All quiet"
    page.get_by_role("button", name="Log out").press("Enter")
    page.wait_for_url(address + "/login")


def test_an_attack_appears_by_itself_and_is_acknowledged(site: Site, browser: Browser, address: str) -> None:
    page = opened(browser, site, address)
    page.goto(address)
    assert page.locator("h1").inner_text() == "All quiet"
    site.state.learn(standing_now())
    page.get_by_role("heading", name="1 account stopped").wait_for(timeout=5_000)
    page.get_by_role("link", name="took 3,214 patients").click()
    page.get_by_label("Reason").fill("I call the ward")
    page.get_by_role("button", name="Acknowledge").click()
    page.get_by_text("Done: ack of dpi_export").wait_for()
    assert [(o.deed, o.by, o.reason) for o in site.notebook.orders] == [("ack", "ada", "I call the ward")]
    page.get_by_role("button", name="Acknowledge").click()
    assert "/incidents/" in page.url, "the browser itself asks for the reason"
    assert len(site.notebook.orders) == 1
    assert page.problems == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(site: Site, browser: Browser, address: str, theme: str) -> None:
    path = fill(site)
    page = opened(browser, site, address, color_scheme=theme)
    for where in ("/", "/incidents", path, "/accounts/dpi_export", "/audit", "/nowhere"):
        page.goto(address + where)
        assert serious(page) == [], where
    page.context.clear_cookies()
    page.goto(address + "/login")
    assert serious(page) == []


def test_a_telephone_needs_no_sideways_scrolling(site: Site, browser: Browser, address: str) -> None:
    path = fill(site)
    page = opened(browser, site, address, viewport={"width": 375, "height": 740})
    for where in ("/", "/incidents", path, "/accounts/dpi_export", "/audit"):
        page.goto(address + where)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, where


def test_nothing_is_loaded_from_anywhere_else(site: Site, browser: Browser, address: str) -> None:
    page = opened(browser, site, address)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address + fill(site))
    assert asked
    assert all(url.startswith(address) for url in asked)
    assert page.problems == []  # type: ignore[attr-defined]
