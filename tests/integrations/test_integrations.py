"""The code of docs/integrations, as it stands there, through the real sidecar: each user's rows are charged to that user."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exfilguard.config.schema import Config, IdentityConfig, KafkaConfig
from exfilguard.context import sign
from exfilguard.observe.contexts import Contexts, read_tag
from tests.drivers.drivers import node
from tests.integration.conftest import Hospital, hospital  # noqa: F401
from tests.integration.guarded import Guarded
from tests.integration.stack import DATABASE, PASSWORD, Stack, clean_environment, listener, wait_for

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "integrations"
KEY = "a-key-for-the-integrations-01234567"
LOGIN = "dpi_export"
USERS = ("dr.anne", "dr.é (100%)")
VECTORS = json.loads((ROOT / "tests" / "context_vectors.json").read_text(encoding="utf-8"))


def code(page: str, language: str) -> str:
    """The page's one block of code in that language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", (PAGES / page).read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


def module(page: str) -> types.ModuleType:
    made = types.ModuleType(page.partition(".")[0] + "_page")
    exec(compile(code(page, "python"), page, "exec"), made.__dict__)
    return made


@pytest.fixture(scope="module")
def site(hospital: Hospital, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:  # noqa: F811
    config = Config(
        tenant="clinic",
        data_dir=str(tmp_path_factory.mktemp("integrations") / "data"),
        kafka=KafkaConfig(bootstrap="127.0.0.1:9"),
        identity=IdentityConfig(keys=f"k1:{KEY}"),
        listener=[listener(hospital.upstream)],
    )
    stack = Stack(config)
    stack.start("relay")
    stack.relay_ready()
    yield Guarded(stack, hospital)
    stack.stop()


def check(site: Guarded, name: str) -> None:
    """Reads marked `NAME_0`, `NAME_1` are the users', `NAME_x` is the login's; nothing was found forged or replayed."""
    expected = {f"{name}_0": USERS[0], f"{name}_1": USERS[1], f"{name}_x": LOGIN}

    def charged() -> dict[str, set[str]]:
        shapes: dict[str, str] = {}
        out: dict[str, set[str]] = {}
        for event in site.events():
            if event.get("query") and (found := re.search(rf"\b{name}_[01x]\b", event["query"])):
                shapes[event["fingerprint"]] = found[0]
            if event["kind"] == "query" and event.get("fingerprint") in shapes:
                out.setdefault(shapes[event["fingerprint"]], set()).add(event["principal"])
        return out

    wait_for(lambda: len(charged()) == 3, message=str(charged()))
    assert charged() == {marker: {who} for marker, who in expected.items()}
    assert not [e for e in site.events() if e["kind"] in ("finding", "desynced")]


def test_the_vectors_hold_here_and_at_the_guard() -> None:
    for v in VECTORS:
        comment = sign(
            v["user"],
            v["session"],
            v["key"].encode(),
            key_id=v["key_id"],
            issued_s=v["issued_s"],
            ttl_s=v["ttl_s"],
            nonce=v["nonce"],
        )
        assert comment == v["comment"]
        tag = read_tag(comment[2:-2].encode())
        assert tag is not None
        assert (tag.user, tag.session) == (v["user"], v["session"])
        assert Contexts({v["key_id"]: v["key"].encode()}).verify(tag, "s", b"", v["issued_s"] * 1000)[0] == ""


def test_psycopg(site: Guarded) -> None:
    import psycopg

    page = module("psycopg.md")
    page.KEY = KEY.encode()  # type: ignore[attr-defined]
    with psycopg.connect(site.dsn(LOGIN), autocommit=True, cursor_factory=page.SigningCursor) as connection:
        for n, user in enumerate((*USERS, "")):
            page.who.set((user, "web"))
            for _ in range(7):  # beyond psycopg's threshold for preparing
                mark = "x" if n == 2 else n
                assert connection.execute(f"SELECT id AS psycopg_{mark} FROM patient WHERE id < %s", (4,)).rowcount == 3
    check(site, "psycopg")


def test_sqlalchemy(site: Guarded) -> None:
    import sqlalchemy

    page = module("sqlalchemy.md")
    engine = sqlalchemy.create_engine(
        f"postgresql+psycopg://{LOGIN}@127.0.0.1:{site.port}/{DATABASE}",
        connect_args={"password": PASSWORD},
        pool_size=1,
        max_overflow=0,
    )
    page.install(engine, KEY.encode())
    for n, user in enumerate((*USERS, "")):
        page.who.set((user, ""))
        with engine.connect() as connection:
            mark = "x" if n == 2 else n
            found = connection.execute(
                sqlalchemy.text(f"SELECT id AS sqlalchemy_{mark} FROM patient WHERE id < :n AND '%' <> 'a'"), {"n": 4}
            )
            assert len(found.all()) == 3
    engine.dispose()
    check(site, "sqlalchemy")


DJANGO = """
import sys
import django
from django.conf import settings
settings.configure(EXFILGUARD_KEY=sys.argv[1].encode(), DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": sys.argv[3],
    "USER": sys.argv[4], "PASSWORD": sys.argv[5], "HOST": "127.0.0.1", "PORT": sys.argv[2]}})
django.setup()
from django.db import connection, models
import exfilguard_django as page

class Patient(models.Model):
    class Meta:
        app_label, db_table, managed = "lab", "patient", False

class User:
    def __init__(self, name): self.name = name
    is_authenticated = property(lambda self: bool(self.name))
    def get_username(self): return self.name

class Request:
    class session: session_key = "abc"
    def __init__(self, name): self.user = User(name)

for n, name in enumerate([*sys.argv[6:], ""]):
    mark = f"django_{'x' if n == 2 else n}"
    def view(request):
        assert len(list(Patient.objects.filter(id__lt=4).extra(select={mark: "1"}))) == 3
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT id AS {mark} FROM patient WHERE id < 4 AND '%' <> 'a'")
            cursor.execute(f"SELECT id AS {mark} FROM patient WHERE id < %s", [4])
    page.ExfilGuardMiddleware(view)(Request(name))
"""


def test_django(site: Guarded, tmp_path: Path) -> None:
    (tmp_path / "exfilguard_django.py").write_text(code("django.md", "python"), encoding="utf-8")
    (tmp_path / "app.py").write_text(DJANGO, encoding="utf-8")
    run(
        [ROOT / ".venv" / "bin" / "python", tmp_path / "app.py", KEY, site.port, DATABASE, LOGIN, PASSWORD, *USERS],
        {"PYTHONPATH": str(ROOT)},
    )
    check(site, "django")


def run(argv: list[Any], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [str(a) for a in argv],
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


NODE = """
const { Pool, Client } = require('pg');
const { who, sign, signing } = require('./exfilguard-context.js');
const [key, port, database, user, password, vectors, ...users] = process.argv.slice(2);
for (const v of JSON.parse(vectors)) {
  const made = sign(v.user, v.session, v.key, { keyId: v.key_id, ttl: v.ttl_s, issued: v.issued_s, nonce: v.nonce });
  if (made !== v.comment) throw new Error(made);
}
(async () => {
  const pool = new (signing(Pool, key))({ host: '127.0.0.1', port: +port, database, user, password, max: 1, Client: signing(Client, key) });
  const read = async (mark) => {
    await pool.query(`SELECT id AS node_${mark} FROM patient WHERE id < 4`);
    await pool.query(`SELECT id AS node_${mark} FROM patient WHERE id < $1`, [4]);
    const found = await pool.query({ name: 'n' + mark, text: `SELECT id AS node_${mark} FROM patient WHERE id < $1`, values: [4] });
    if (found.rows.length !== 3) throw new Error('rows');
  };
  await Promise.all(users.map((user, n) => who.run({ user, session: 'web' }, () => read(n))));
  await Promise.all(users.map((user, n) => who.run({ user, session: 'web' }, async () => {
    const client = await pool.connect();
    await client.query(`SELECT id AS node_${n} FROM patient WHERE id < 4`);
    client.release();
  })));
  await read('x');
  await pool.end();
})().catch((error) => { console.error(error); process.exit(1); });
"""


def test_node_postgres(site: Guarded, tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    program = node(environment)[0]
    (tmp_path / "exfilguard-context.js").write_text(code("node-postgres.md", "js"), encoding="utf-8")
    (tmp_path / "app.js").write_text(NODE, encoding="utf-8")
    run(
        [program, tmp_path / "app.js", KEY, site.port, DATABASE, LOGIN, PASSWORD, json.dumps(VECTORS), *USERS],
        environment,
    )
    check(site, "node")


PHP = """<?php
require $argv[1];
[, , $key, $port, $database, $login, $password, $vectors] = $argv;
foreach (json_decode($vectors, true) as $v) {
    $made = exfilguard_sign($v['user'], $v['session'], $v['key'], $v['key_id'], $v['ttl_s'], $v['issued_s'], $v['nonce']);
    if ($made !== $v['comment']) { fwrite(STDERR, $made); exit(1); }
}
$pdo = new SigningPDO("pgsql:host=127.0.0.1;port=$port;dbname=$database", $login, $password, [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
$pdo->exfilguardKey = $key;
foreach ([...array_slice($argv, 8), ''] as $n => $user) {
    $pdo->exfilguardUser = $user;
    $mark = $n == 2 ? 'x' : $n;
    $rows = $pdo->query("SELECT id AS php_$mark FROM patient WHERE id < 4;", PDO::FETCH_NUM)->fetchAll();
    if (count($rows) != 3) { exit(2); }
    $statement = $pdo->prepare("SELECT id AS php_$mark FROM patient WHERE id < :most");
    foreach ([4, 5] as $most) { $statement->execute(['most' => $most]); $statement->fetchAll(); }
}
"""


def test_php_pdo(site: Guarded, tmp_path: Path) -> None:
    php = shutil.which("php")
    if (
        php is None
        or "pdo_pgsql" not in subprocess.run([php, "-m"], capture_output=True, text=True, check=False).stdout
    ):
        pytest.skip("needs php-cli and php-pgsql")
    (tmp_path / "exfilguard_context.php").write_text(code("php-pdo.md", "php"), encoding="utf-8")
    (tmp_path / "app.php").write_text(PHP, encoding="utf-8")
    run(
        [
            php,
            tmp_path / "app.php",
            tmp_path / "exfilguard_context.php",
            KEY,
            site.port,
            DATABASE,
            LOGIN,
            PASSWORD,
            json.dumps(VECTORS),
            *USERS,
        ],
        {},
    )
    check(site, "php")
