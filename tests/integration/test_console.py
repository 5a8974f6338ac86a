"""The console as a process of a whole installation: it shows the attack, and a click gives the account back."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx2

from exfilguard.cli.console import FIRST_PASSWORD, USERS
from exfilguard.cli.main import main
from exfilguard.config.schema import ArchiveConfig, ConsoleConfig
from exfilguard.embedded.broker import EmbeddedBroker
from exfilguard.embedded.child import free_port

from .conftest import Hospital
from .stack import PASSWORD, Stack, connect, wait_for
from .test_guard import Guard, patiently


def field(html: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', html)
    assert found is not None, name
    return found[1]


def test_the_attack_is_shown_and_a_click_gives_the_account_back(
    tmp_path: Path, hospital: Hospital, tansu: EmbeddedBroker
) -> None:
    guard = Guard(
        tmp_path / "data",
        hospital,
        tansu,
        console=ConsoleConfig(listen=f"127.0.0.1:{free_port()}"),
        archive=ArchiveConfig(enabled=True, dir=str(tmp_path / "archive")),
    )
    address = f"http://{guard.config.console.listen}"
    guard.start()
    guard.stack.start("archive")
    guard.stack.start("console")
    try:
        wait_for(lambda: (guard.stack.data_dir / FIRST_PASSWORD).is_file(), 30)
        password = (guard.stack.data_dir / FIRST_PASSWORD).read_text().strip()
        assert password not in guard.stack.log("console")
        for name, part in guard.stack.parts.items():
            limits = Path(f"/proc/{part.pid}/limits").read_text(encoding="ascii")
            assert re.search(r"^Max core file size +0 ", limits, re.MULTILINE), name
            command = Path(f"/proc/{part.pid}/cmdline").read_bytes() + Path(f"/proc/{part.pid}/environ").read_bytes()
            assert PASSWORD.encode() not in command, name

        def answers() -> bool:
            try:
                return httpx2.get(f"{address}/healthz").status_code == 200
            except httpx2.HTTPError:
                return False

        wait_for(answers, 30, guard.stack.log("console"))
        with httpx2.Client(base_url=address, follow_redirects=True) as browser:

            def dossier() -> list[str]:
                answer = browser.get(f"{story[1]}/dossier", timeout=60)
                assert answer.status_code == 200
                return zipfile.ZipFile(io.BytesIO(answer.content)).namelist()

            page = browser.post("/login", data={"name": "admin", "password": password}).text
            assert "All quiet" in page
            assert patiently(guard.dsn("dpi_export")).message
            wait_for(lambda: not guard.may_login("dpi_export"), 10)
            wait_for(lambda: "1 account stopped" in browser.get("/").text, 10)
            page = browser.get("/").text
            assert "dpi_export took" in page
            story = re.search(r'href="(/incidents/[0-9a-f]{16})"', page)
            assert story is not None
            wait_for(lambda: "done, verified" in browser.get(story[1]).text, 10)
            page = browser.get(story[1]).text
            answer = browser.post(
                "/act",
                data={
                    "csrf": field(page, "csrf"), "deed": "unlock", "principal": "dpi_export", "hours": "1",
                    "reason": "the yearly export, asked by the head physician", "back": story[1],
                },
            )  # fmt: skip
            assert answer.status_code == 200, answer.text
            assert "Done:" in answer.text
            wait_for(lambda: guard.may_login("dpi_export"), 10)
            wait_for(lambda: "All quiet" in browser.get("/").text, 10)
            assert "operator:admin" in browser.get(story[1]).text
            record = browser.get("/audit").text
            assert "asked by the head physician" in record
            assert "console from 127.0.0.1" in record
            wait_for(lambda: any("incident" in name and name.endswith(".pdf") for name in dossier()), 20)
            names = dossier()
            assert "timeline.json" in names
            assert not [name for name in names if name.startswith("NOTE")], names
            assert [name for name in names if name.startswith("exposure") and name.endswith(".csv")], names
    finally:
        guard.stack.stop()
        with connect(hospital.admin_dsn) as admin:
            admin.execute("ALTER ROLE dpi_export LOGIN")


def test_a_password_is_set_from_the_command_line(tmp_path: Path, hospital: Hospital) -> None:
    stack = Stack(Guard(tmp_path / "data", hospital, "127.0.0.1:9").config)
    command = [sys.executable, "-m", "exfilguard", "console", "--config", str(stack.path), "--set-password", "anna"]
    short = subprocess.run(command, input="short\n", capture_output=True, text=True, timeout=60, check=False)
    assert short.returncode == 2
    assert "shorter than 12" in short.stderr
    done = subprocess.run(
        [*command, "--role", "dpo"],
        input="a long enough password\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    users = json.loads((stack.data_dir / USERS).read_text())
    assert users["anna"]["role"] == "dpo"
    assert "long enough" not in json.dumps(users)
    assert main(["console", "--config", str(stack.path), "--set-password", "x", "--role", "boss"]) == 2


def test_without_kafka_the_pages_say_so_and_sigterm_ends_them(tmp_path: Path, hospital: Hospital) -> None:
    guard = Guard(tmp_path / "data", hospital, "127.0.0.1:9", console=ConsoleConfig(listen=f"127.0.0.1:{free_port()}"))
    guard.stack.start("console")
    try:

        def status() -> int:
            try:
                return httpx2.get(f"http://{guard.config.console.listen}/healthz").status_code
            except httpx2.HTTPError:
                return 0

        assert wait_for(status, 30) == 503
    finally:
        part = guard.stack.parts["console"]
        assert part.process is not None
        part.process.send_signal(signal.SIGTERM)
        assert part.process.wait(15) == 0


def test_a_console_on_an_unsafe_address_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "exfilguard.toml"
    path.write_text('[console]\nlisten = "0.0.0.0:9188"\n', encoding="utf-8")
    assert main(["console", "--config", str(path)]) == 2
