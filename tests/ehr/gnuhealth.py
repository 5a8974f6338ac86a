"""GNU Health 5 behind the sidecar: several users at once through its own JSON-RPC API, one of them exporting all patients.

Not collected by `make test`: CI runs it as `make test-gnuhealth`, which makes a virtual environment with GNU Health (PyPI), sets up its database (about a
minute) and runs this file. The bar: every patient that leaves is charged to the user whose request it was; without the module
everything is charged to the shared account, which is never locked.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from exfilguard.config.schema import Config, IdentityConfig, KafkaConfig, SidecarConfig
from exfilguard.embedded.child import Child, free_port, port_is_taken
from exfilguard.embedded.postgres import EmbeddedPostgres
from exfilguard.observe.patients import Digester
from tests.integration.conftest import enterable_directory
from tests.integration.guarded import Guarded
from tests.integration.stack import Stack, listener, port_of, wait_for

ROOT = Path(__file__).parents[2]
VENV = Path(os.environ.get("GNUHEALTH_VENV", ROOT / ".venv-gnuhealth"))
MODULE = ROOT / "docs" / "integrations" / "tryton" / "exfilguard_context"
KEY, DIGEST_KEY = "a-key-for-gnu-health-0123456789ab", "a digest key for the tests"
DATABASE, ACCOUNT, PASSWORD = "ghealth", "gnuhealth", "a pass phrase for Tryton 42"
NURSES, EACH, EXTRA = ("nurse.anna", "nurse.berta", "nurse.carla"), 15, 30
THIEF = "coder.zoe"


class Client:
    """One user's session in the JSON-RPC API."""

    def __init__(self, port: int, login: str, password: str) -> None:
        self.url = f"http://127.0.0.1:{port}/{DATABASE}/"
        self.requests = 0
        self.authorization = ""
        uid, session = self.call("common.db.login", login, {"password": password}, "en", context=None)[:2]
        self.authorization = "Session " + base64.b64encode(f"{login}:{uid}:{session}".encode()).decode()

    def call(self, method: str, *params: Any, context: dict[str, Any] | None = {}) -> Any:  # noqa: B006
        body = {"id": 1, "method": method, "params": [*params] if context is None else [*params, context]}
        request = urllib.request.Request(
            self.url,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": self.authorization},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        self.requests += 1
        if isinstance(found, dict) and found.get("error"):
            raise RuntimeError(found["error"])
        return found["result"] if isinstance(found, dict) and "result" in found else found


def configuration(directory: Path, name: str, database_port: int, web_port: int) -> Path:
    path = directory / name
    path.write_text(
        f"[database]\nuri = postgresql://{ACCOUNT}:secret@127.0.0.1:{database_port}/\nlanguage = en\n"
        f"[web]\nlisten = 127.0.0.1:{web_port}\n[session]\nauthentications = password\n[password]\nlength = 4\n"
        f"[exfilguard]\nkey_file = {directory / 'context.key'}\nkey_id = k1\n",
        encoding="utf-8",
    )
    return path


@contextmanager
def trytond(directory: Path, config: Path, web_port: int, *, module: bool) -> Iterator[None]:
    installed = next(VENV.glob("lib/python3*/site-packages")) / "trytond" / "modules" / "exfilguard_context"
    shutil.rmtree(installed, ignore_errors=True)
    if module:
        shutil.copytree(MODULE, installed)
    server = Child("trytond", directory / "trytond.log")
    server.start([str(VENV / "bin" / "trytond"), "-c", str(config)], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        wait_for(lambda: port_is_taken(web_port), 60, (directory / "trytond.log").read_text()[-800:])
        yield
    finally:
        server.stop()
        shutil.rmtree(installed, ignore_errors=True)


@pytest.fixture(scope="module")
def site() -> Iterator[dict[str, Any]]:
    if not (VENV / "bin" / "trytond").is_file():
        pytest.fail("GNU Health is not installed: run `make test-gnuhealth`")
    with enterable_directory() as directory, EmbeddedPostgres(directory / "server") as server:
        with psycopg.connect(server.admin_dsn, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {ACCOUNT} LOGIN CREATEDB PASSWORD 'secret'")
            admin.execute(f"CREATE DATABASE {DATABASE} OWNER {ACCOUNT} TEMPLATE template0")
        (directory / "context.key").write_text(KEY, encoding="ascii")
        (directory / "password").write_text(PASSWORD, encoding="utf-8")
        straight = configuration(directory, "admin.conf", server.port, free_port())
        environment = {**os.environ, "TRYTONPASSFILE": str(directory / "password"), "PYTHONPATH": str(ROOT)}
        for arguments in (
            ["--all", "--email", "admin@example.org"],
            ["-u", "health", "health_lab", "health_inpatient", "health_history", "--activate-dependencies"],
        ):
            run = subprocess.run(
                [str(VENV / "bin" / "trytond-admin"), "-c", str(straight), "-d", DATABASE, *arguments],
                env=environment, capture_output=True, text=True, timeout=300,
            )  # fmt: skip
            assert run.returncode == 0, run.stderr[-2000:]
        config = Config(
            tenant="clinic",
            data_dir=str(directory / "data"),
            kafka=KafkaConfig(bootstrap="127.0.0.1:9"),
            sidecar=SidecarConfig(digest_key=DIGEST_KEY),
            identity=IdentityConfig(keys=f"k1:{KEY}"),
            # Without the catalog every column called `id` would be a patient's, those of GNU Health's own users too.
            listener=[
                listener(
                    f"127.0.0.1:{server.port}",
                    patient_columns=["gnuhealth_patient.id"],
                    catalog_dsn=psycopg.conninfo.make_conninfo(server.admin_dsn, dbname=DATABASE),
                )
            ],
        )
        stack = Stack(config)
        stack.start("shipper")  # resolves the columns; there is no Kafka here, the events are read from the spool
        wait_for(lambda: (stack.data_dir / "columns.json").is_file(), 60)
        stack.start("relay")
        stack.relay_ready()
        web = free_port()
        guarded = configuration(directory, "trytond.conf", port_of(config.listener[0].listen), web)
        try:
            yield {
                "directory": directory,
                "config": guarded,
                "web": web,
                "guarded": Guarded(stack, None),
                "server": server,
            }  # type: ignore[arg-type]
        finally:
            stack.stop()


def make_people(web: int) -> dict[str, list[int]]:
    """The users, and patients: so many for each nurse, and some nobody looks at but the thief."""
    admin = Client(web, "admin", PASSWORD)
    groups = admin.call("model.res.group.search", [], 0, None, None)
    for login in (*NURSES, THIEF):
        admin.call(
            "model.res.user.create",
            [{"name": login, "login": login, "password": PASSWORD, "groups": [["add", groups]]}],
        )
    country = admin.call("model.country.country.search", [], 0, 1, None)
    if not country:
        country = admin.call(
            "model.country.country.create", [{"name": "France", "code": "FR", "code3": "FRA", "code_numeric": "250"}]
        )
    out: dict[str, list[int]] = {}
    for owner in (*NURSES, ""):
        # One by one: of several in one call GNU Health makes the same code.
        parties = [
            admin.call(
                "model.party.party.create",
                [{"name": f"Anne{n}", "lastname": f"Martin{owner}{n}", "is_person": True, "is_patient": True, "gender": "f",
                    "fed_country": "FRA", "addresses": [], "contact_mechanisms": []}],
            )[0]
            for n in range(EACH if owner else EXTRA)
        ]  # fmt: skip
        out[owner] = admin.call("model.gnuhealth.patient.create", [{"party": party} for party in parties])
    return out


FIELDS = ["party/rec_name", "lastname", "gender", "age"]


def nurse_at_work(client: Client, mine: list[int]) -> None:
    for patient in mine:
        client.call("model.gnuhealth.patient.read", [patient], ["rec_name", "gender", "age"])
    client.call("model.gnuhealth.patient.search_read", [["id", "in", mine]], 0, 50, None, ["rec_name", "lastname"])


def work(web: int, people: dict[str, list[int]]) -> int:
    """Everybody at once; the thief exports. Returns the requests made."""
    clients = {login: Client(web, login, PASSWORD) for login in (*NURSES, THIEF)}
    threads = [threading.Thread(target=nurse_at_work, args=(clients[nurse], people[nurse])) for nurse in NURSES]
    exported: list[Any] = []

    def export() -> None:
        exported.extend(clients[THIEF].call("model.gnuhealth.patient.export_data_domain", [], FIELDS))

    threads.append(threading.Thread(target=export))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(exported) >= sum(map(len, people.values()))
    return sum(client.requests for client in clients.values())


def charged(guarded: Guarded, since_ms: int) -> dict[tuple[str, str], set[str]]:
    """(principal, evidence) -> patients delivered."""
    out: dict[tuple[str, str], set[str]] = {}
    for event in guarded.events():
        if event["time_ms"] >= since_ms and event.get("patients") and event.get("patients_by") in ("origin", "name"):
            out.setdefault((event["principal"], event.get("evidence", "login")), set()).update(event["patients"])
    return out


def settled(guarded: Guarded) -> None:
    """No event has come for two seconds."""
    known, since = -1, time.monotonic()
    while time.monotonic() - since < 2.0:
        if known != (known := len(guarded.events())):
            since = time.monotonic()
        time.sleep(0.2)


def refused(client: Client) -> bool:
    try:
        client.call("model.gnuhealth.patient.search_read", [], 0, 1, None, ["rec_name"])
    except (RuntimeError, urllib.error.HTTPError):
        return True
    return False


def test_the_right_user_is_charged_in_every_request(site: dict[str, Any]) -> None:
    guarded: Guarded = site["guarded"]
    digester = Digester(DIGEST_KEY.encode())
    with trytond(site["directory"], site["config"], site["web"], module=True):
        people = make_people(site["web"])
        site["people"] = people
        digests = {who: {digester.digest(b"%d" % n) for n in numbers} for who, numbers in people.items()}
        everybody = set().union(*digests.values())
        settled(guarded)
        since = int(time.time() * 1000)
        requests = work(site["web"], people)
        settled(guarded)
        found = charged(guarded, since)
        assert requests >= len(NURSES) * (EACH + 2)
        assert set(found) == {(who, "signed_context") for who in (*NURSES, THIEF)}, "somebody else was charged"
        for nurse in NURSES:
            assert found[nurse, "signed_context"] & everybody == digests[nurse]
        assert found[THIEF, "signed_context"] >= everybody
        assert not [e for e in guarded.events() if e["kind"] in ("finding", "desynced")]

        # The thief is locked: refused, statement by statement, on connections that the nurses go on using.
        from tests.integration.test_identity_matrix import tell_verdict

        nurse, thief = Client(site["web"], NURSES[0], PASSWORD), Client(site["web"], THIEF, PASSWORD)
        tell_verdict(guarded.stack, THIEF, "lock", 1)
        wait_for(lambda: refused(thief), 20, "the lock is late")
        for _ in range(5):
            with pytest.raises((RuntimeError, urllib.error.HTTPError)):
                thief.call("model.gnuhealth.patient.search_read", [], 0, 50, None, ["rec_name"])
            nurse_at_work(nurse, people[NURSES[0]])


def test_without_the_module_the_shared_account_is_charged(site: dict[str, Any]) -> None:
    guarded: Guarded = site["guarded"]
    with trytond(site["directory"], site["config"], site["web"], module=False):
        settled(guarded)
        since = int(time.time() * 1000)
        work(site["web"], site["people"])
        settled(guarded)
        assert set(charged(guarded, since)) == {(ACCOUNT, "login")}
