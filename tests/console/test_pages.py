"""The pages as a browser without scripts sees them, and as somebody hostile does."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from exfilguard.console import app as module
from exfilguard.console.auth import LocalUsers
from exfilguard.console.text import TEXTS

from .conftest import T0, Site, action, standing_now, verdict


def csrf(html: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', html)
    assert found is not None
    return found[1]


def test_both_languages_say_the_same_things() -> None:
    assert TEXTS["en"].keys() == TEXTS["fr"].keys()
    for key, text in TEXTS["en"].items():
        assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", TEXTS["fr"][key])), key


@pytest.mark.parametrize(
    "path", ["/", "/live", "/incidents", "/incidents/x", "/accounts/x", "/audit", "/events", "/incidents/x/dossier"]
)
def test_nothing_is_shown_without_a_login(site: Site, path: str) -> None:
    answer = site.client().get(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login?next=")


def test_quiet_says_so(site: Site) -> None:
    page = site.logged_in("vera").get("/").text
    assert "All quiet" in page
    assert "1,234 statements counted, 7 sessions open" in page
    assert "dpi_export" in page, "the account nearest to a limit"
    assert page.index("dpi_export") < page.index("dr.martin")


def test_an_attack_is_the_first_thing_on_the_page(site: Site) -> None:
    site.state.learn(standing_now())
    page = site.logged_in("vera").get("/").text
    assert "1 account stopped" in page
    assert page.index("took 3,214 patients in 1m") < page.index("What stands")
    assert 'class="banner attack"' in page


def test_an_impaired_guard_says_what_is_wrong(site: Site) -> None:
    site.feed.reading = False
    site.snapshots["shipper"] = None
    page = site.logged_in("vera").get("/", headers={"accept-language": "fr-FR,fr;q=0.9"}).text
    assert "La protection est dégradée" in page
    assert "Kafka ne répond pas" in page
    assert "shipper ne répond pas" in page
    assert site.client().get("/healthz").status_code == 503


def test_the_story_of_an_incident(site: Site) -> None:
    site.state.learn(verdict())
    site.state.record(action())
    (incident,) = site.state.of_account("clinic/dpi_export")
    page = site.logged_in("dora").get(f"/incidents/{incident.id}").text
    assert "NOLOGIN, 2 sessions ended" in page
    assert "verified" in page
    assert "Download the dossier" in page
    assert 'name="deed"' not in page, "a DPO reads"
    answer = site.logged_in("dora").get(f"/incidents/{incident.id}/dossier")
    assert answer.text == "clinic dpi_export en"
    assert "dossier%20%C3%A9%20dpi_export.txt" in answer.headers["content-disposition"]


@pytest.mark.parametrize(("name", "allowed"), [("vera", False), ("dora", False), ("oscar", True), ("ada", True)])
def test_only_who_may_act_acts(site: Site, name: str, allowed: bool) -> None:
    client = site.logged_in(name)
    form = {
        "csrf": csrf(client.get("/").text), "deed": "unlock", "principal": "dpi_export", "reason": "the yearly export",
        "hours": "4", "back": "/accounts/dpi_export",
    }  # fmt: skip
    answer = client.post("/act", data=form)
    if not allowed:
        assert answer.status_code == 403
        assert site.notebook.orders == []
        return
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/accounts/dpi_export?told=unlock")
    (order,) = site.notebook.orders
    assert (order.deed, order.by, order.reason, order.lasts_ms) == ("unlock", name, "the yearly export", 4 * 3_600_000)
    assert order.source == "testclient"
    assert "Done: unlock of dpi_export" in client.get(answer.headers["location"]).text


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"csrf": "stolen"}, 419), ({"csrf": ""}, 419), ({"reason": "abc"}, 400), ({"reason": "     "}, 400),
        ({"deed": "destroy"}, 404), ({"hours": "999999"}, 404), ({"hours": "x"}, 404), ({"principal": ""}, 404),
    ],
)  # fmt: skip
def test_a_click_that_is_not_whole_does_nothing(site: Site, change: dict[str, str], status: int) -> None:
    client = site.logged_in("oscar")
    form = {
        "csrf": csrf(client.get("/").text), "deed": "lock", "principal": "x", "reason": "a good reason", "hours": "1",
        "back": "/",
    }  # fmt: skip
    assert client.post("/act", data=form | change).status_code == status
    assert site.notebook.orders == []


def test_another_site_cannot_click_for_you(site: Site) -> None:
    client = site.logged_in("oscar")
    form = {
        "csrf": csrf(client.get("/").text),
        "deed": "lock",
        "principal": "x",
        "reason": "a good reason",
        "hours": "1",
    }
    assert client.post("/act", data=form, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post("/login", data={"name": "x"}, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert site.notebook.orders == []


def test_what_did_not_work_is_said(site: Site) -> None:
    client = site.logged_in("oscar")
    site.notebook.broken = True
    form = {
        "csrf": csrf(client.get("/").text),
        "deed": "lock",
        "principal": "x",
        "reason": "a good reason",
        "hours": "1",
    }
    answer = client.post("/act", data=form)
    assert answer.status_code == 502
    assert "nothing has changed, try again" in answer.text


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_a_login_leads_nowhere_else(site: Site, wanted: str) -> None:
    from .conftest import PASSWORD

    answer = site.client().post("/login", data={"name": "vera", "password": PASSWORD, "next": wanted})
    assert answer.headers["location"] == "/"


def test_guessing_is_slowed_down(site: Site) -> None:
    client = site.client()
    for _ in range(5):
        assert client.post("/login", data={"name": "vera", "password": "wrong"}).status_code == 401
    answer = client.post("/login", data={"name": "vera", "password": "wrong"})
    assert answer.status_code == 429
    assert "Wait five minutes" in answer.text


def test_every_answer_has_the_headers_of_a_careful_site(site: Site) -> None:
    client = site.logged_in("vera")
    for path in ("/", "/nowhere", "/login", "/healthz", "/static/console.css"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    cookie = (
        site.client().post("/login", data={"name": "vera", "password": "a long enough password"}).headers["set-cookie"]
    )
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert not re.search(r"style=|<script>|onclick", client.get("/").text)


def test_names_are_text_and_never_markup(site: Site) -> None:
    nasty = "<script>alert('x')</script>\"'/../%00 é"
    site.state.learn(standing_now(principal=nasty, reason=f"{nasty} took 5 patients"))
    client = site.logged_in("ada")
    page = client.get("/").text
    assert "<script>alert" not in page
    (incident,) = site.state.open(int(time.time() * 1000))
    assert client.get(f"/incidents/{incident.id}").status_code == 200
    link = re.search(r'href="(/accounts/[^"]+)"', page)
    assert link is not None
    assert "alert" in client.get(link[1]).text


def test_logging_out_ends_it(site: Site) -> None:
    client = site.logged_in("vera")
    cookie = client.cookies["exfilguard_session"]
    assert client.post("/logout", data={"csrf": csrf(client.get("/").text)}).status_code == 303
    client.cookies.set("exfilguard_session", cookie)
    assert client.get("/").status_code == 303


def test_language_and_theme_are_remembered(site: Site) -> None:
    client = site.logged_in("vera")
    token = csrf(client.get("/").text)
    client.post("/preferences", data={"csrf": token, "language": "fr", "theme": "dark", "back": "/"})
    page = client.get("/").text
    assert 'lang="fr" data-theme="dark"' in page
    assert "Tout est calme" in page
    client.post("/preferences", data={"csrf": token, "language": "xx", "back": "/"})
    assert 'lang="fr"' in client.get("/").text


def test_the_decisions_are_for_the_administrator(site: Site) -> None:
    site.state.learn(verdict())
    site.state.record(action(hook="operator", operation="ack", actor="anna", host="10.0.0.9", reason="I look after it"))
    assert site.logged_in("oscar").get("/audit").status_code == 403
    page = site.logged_in("ada").get("/audit").text
    assert "anna" in page
    assert "I look after it" in page


def test_an_error_inside_shows_nothing_of_itself(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(module, "judge", broken)
    client = site.logged_in("vera")
    from starlette.testclient import TestClient

    quiet = TestClient(
        site.console.app(), base_url="http://guard.test", raise_server_exceptions=False, cookies=client.cookies
    )
    answer = quiet.get("/")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text


def test_ten_thousand_incidents_are_a_page_in_time(site: Site) -> None:
    for n in range(10_000):
        site.state.learn(verdict(f"user{n}", revision=T0 + n))
    client = site.logged_in("vera")
    assert "10,000 incidents" in client.get("/incidents").text
    assert "user0<" in client.get("/incidents?page=200").text
    assert client.get("/incidents?q=user9999").text.count("/accounts/user9999") == 1
    assert client.get("/incidents?page=-1").status_code == client.get("/incidents?page=9999999999").status_code == 200


def test_static_files_are_kept_by_their_version_and_pages_never(site: Site) -> None:
    client = site.logged_in("vera")
    page = client.get("/")
    assert page.headers["cache-control"] == "no-store"
    addresses = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)
    assert len(addresses) == 3
    for address in addresses:
        assert "immutable" in client.get(address).headers["cache-control"]
        bare = client.get(address.partition("?")[0])
        assert bare.headers["cache-control"] == "no-cache", "another version may stand under this address tomorrow"
        assert bare.headers["x-content-type-options"] == "nosniff"


def test_only_the_worst_are_on_the_first_page_and_it_says_where_the_others_are(site: Site) -> None:
    for number in range(60):
        site.state.learn(standing_now(principal=f"account{number}", level="lock" if number == 59 else "alert"))
    site.state.learn(verdict("long.ago", level="alert"))
    client = site.logged_in("vera")
    page = client.get("/").text
    assert "25 of 60 are shown" in page
    assert re.findall(r">(account\d+)</a>", page)[0] == "account59", "the only lock"
    standing = client.get("/incidents?standing=1").text
    assert "Page 1 of 2, 60 incidents" in standing
    assert 'href="/incidents?q=&amp;standing=1&amp;page=2"' in standing
    assert "long.ago" not in standing
    assert "Page 1 of 2, 61 incidents" in client.get("/incidents").text


def test_decisions_are_turned_over_page_by_page(site: Site) -> None:
    site.state.learn(verdict())
    for number in range(60):
        site.state.record(
            action(hook="operator", operation="ack", actor="anna", reason=f"look {number}", started_ms=T0 + number)
        )
    client = site.logged_in("ada")
    first, second = client.get("/audit").text, client.get("/audit?page=2").text
    assert "look 59<" in first
    assert "look 9<" not in first
    assert "look 9<" in second
    assert "Page 2 of 2, 60 decisions" in second


def test_a_replaced_step_is_not_told_as_in_force_and_french_says_the_numbers_anew(site: Site) -> None:
    now = standing_now(level="alert")
    site.state.learn(now)
    site.state.learn(replace(now, level="lock", revision=now.revision + 1))
    path = f"/incidents/{site.state.of_account('clinic/dpi_export')[0].id}"
    client = site.logged_in("vera")
    page = client.get(path).text
    assert page.count(">replaced<") == page.count(">in force<") == 1
    client.cookies.set("language", "fr")
    assert "3\u202f214 patients en 1 min, limite 3\u202f000" in client.get(path).text


def test_a_console_without_any_user_says_how_to_make_one(site: Site, tmp_path: Path) -> None:
    site.console.parts.users = LocalUsers(tmp_path / "users.json")
    assert "exfilguard console --set-password" in site.client().get("/login").text
