"""The site builds without a broken link, holds every page, and fetches nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("mkdocs")), "build", "--strict", "--quiet", "--site-dir", str(target)],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_every_page_is_there_and_the_menu_leads_to_it(site: Path) -> None:
    menu = (site / "index.html").read_text(encoding="utf-8")
    for page in [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/integrations/*.md")]:
        made = page.relative_to(ROOT / "docs").with_suffix(".html")
        made = made.with_name("index.html") if made.stem == "README" else made
        assert (site / made).is_file(), page
        assert f'href="{made}"' in menu or made.name == "index.html", page


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    fetched = re.compile(
        r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//|<link[^>]+rel="stylesheet"[^>]+href="(?:https?:)?//'
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assert not fetched.search(page.read_text(encoding="utf-8")), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:@import\s+|url\()[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_every_alert_has_a_section_of_the_runbook_to_land_on(site: Path) -> None:
    page = (site / "RUNBOOK.html").read_text(encoding="utf-8")
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    anchors = re.findall(r"runbook_url: docs/RUNBOOK.md#(\w+)", rules)
    assert len(anchors) >= 17
    for anchor in anchors:
        assert f'id="{anchor}"' in page, anchor
