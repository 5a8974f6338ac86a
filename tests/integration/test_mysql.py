"""The relay in front of a real MariaDB, with the clients people use. No broker: nothing of this may need one."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from exfilguard.embedded.child import free_port
from exfilguard.embedded.mariadb import EmbeddedMariadb, missing_programs
from exfilguard.events.verdict import Verdict

from . import mysql
from .conftest import enterable_directory
from .mysql import ACCOUNT, PATIENTS, GuardedMysql, Streaming, change_user
from .mysql_server import Mysql8
from .stack import PASSWORD, meanwhile, rss_kib, wait_for
from .test_relay import certificate
from .test_tls import made

Relay = Callable[..., GuardedMysql]


@pytest.fixture(scope="module")
def mariadb() -> Iterator[EmbeddedMariadb]:
    if missing := missing_programs():
        pytest.skip(f"MariaDB needs {missing}")
    with enterable_directory() as directory:
        cert, key = certificate(directory)
        for path in (cert, key):
            Path(path).chmod(0o644)
        settings = {"ssl-cert": str(cert), "ssl-key": str(key)}
        with EmbeddedMariadb(directory / "server", settings=settings) as server:
            mysql.load(server)
            yield server


@pytest.fixture
def relay(tmp_path: Path, mariadb: EmbeddedMariadb) -> Iterator[Relay]:
    with mysql.guards(tmp_path, mariadb.port) as start:
        yield start


def say(guarded: GuardedMysql, level: str, principal: str = ACCOUNT, revision: int = 9) -> None:
    """A verdict, as the shipper hands it to the relay."""
    verdict = Verdict(
        tenant="clinic",
        principal=principal,
        level=level,
        revision=revision,
        issued_ms=1,
        reason="r",
        issuer="operator:x",  # type: ignore[arg-type]
    )
    guarded.stack.tell(verdict)
    time.sleep(0.1)


def taken(connection: Any, query: str = "SELECT id, dossier FROM patient") -> tuple[int, Exception | None]:
    """Rows a client received one by one, and how it ended."""
    rows = 0
    try:
        with connection.cursor(Streaming) as cursor:
            cursor.execute(query)
            while cursor.fetchone() is not None:
                rows += 1
    except (
        pymysql.MySQLError,
        AttributeError,
    ) as error:  # the latter when PyMySQL's cursor closes on a lost connection
        return rows, error
    return rows, None


def test_rows_and_patients_are_counted(relay: Relay) -> None:
    guarded = relay()
    with guarded.connect() as connection, connection.cursor() as cursor:
        assert cursor.execute("SELECT id AS x FROM patient WHERE id <= 10") == 10
        assert cursor.execute("SELECT * FROM patient") == PATIENTS
        assert cursor.execute("SELECT patient_id FROM sejour WHERE patient_id <= 5") > 0
    wait_for(lambda: guarded.counted() >= PATIENTS + 10)
    assert len(guarded.patients()) == PATIENTS
    text = b"".join(p.read_bytes() for p in (guarded.stack.data_dir / "spool" / "0").glob("*.seg"))
    assert b"<= 10" not in text
    assert PASSWORD.encode() not in text


HIDING = (
    ("SELECT k, n FROM (SELECT id AS k, nom AS n FROM patient) x", PATIENTS, PATIENTS),
    ("SELECT k, n FROM (SELECT id AS k, nom AS n FROM patient) /* a */ AS/**/`sejour`", PATIENTS, PATIENTS),
    ("WITH x (k, n) AS (SELECT id, CONCAT(nom, id) FROM patient) SELECT k, n FROM x", PATIENTS, PATIENTS),
    ("SELECT id, nom FROM (SELECT id, nom FROM patient) x", PATIENTS, PATIENTS),
    ("SELECT CONCAT(p.id, p.nom), t.n FROM patient p JOIN (SELECT 1 AS n) t", PATIENTS, PATIENTS),
    ("SELECT CONCAT(p.id, p.nom), s.note FROM patient p JOIN sejour s ON s.id = 1", PATIENTS, PATIENTS),
    ("SELECT GROUP_CONCAT(p.id, ':', p.nom), s.note FROM patient p JOIN sejour s ON s.id = 1", 1, 200),
    ("SELECT id, (SELECT GROUP_CONCAT(id, ':', nom) FROM patient) FROM patient WHERE id = 1", 1, 170),
    ("SELECT nom, (SELECT GROUP_CONCAT(id, ':', nom) FROM patient) FROM patient WHERE id = 1", 1, 170),
    ("SELECT 1 AS id, (SELECT GROUP_CONCAT(id, ':', nom) FROM patient) AS x", 1, 170),
    (f"SELECT /*{'x' * 70_000}*/ CONCAT(id, nom) FROM patient", PATIENTS, PATIENTS),
)
"""Statements, the rows and at least so many patients of each."""


def test_patients_behind_names_of_subqueries_and_beside_other_columns(relay: Relay) -> None:
    """MariaDB tells a subquery's name as its columns' table."""
    guarded = relay()
    for sql, rows, patients in HIDING:
        for times in (1, 2):  # the second time the shortcut may read it
            with guarded.connect() as connection, connection.cursor() as cursor:
                cursor.execute("SET group_concat_max_len = 10000000")
                for _ in range(times):
                    assert cursor.execute(sql) == rows
            wait_for(lambda: guarded.events()[-1]["kind"] == "logout")
            events = guarded.events()
            told = [e for e in events if e["session"] == events[-1]["session"]]
            estimated = sum(e.get("patients_estimated", 0) for e in told)
            assert len(guarded.patients(told)) + estimated // times >= patients, sql[:90]


def test_what_is_beside_a_patients_own_columns_is_that_patients(relay: Relay) -> None:
    guarded = relay()
    with guarded.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT p.id, (SELECT JSON_ARRAYAGG(JSON_OBJECT('d', s.entree)) FROM sejour s WHERE s.patient_id = p.id), "
            "TO_BASE64(REPEAT(p.dossier, 3)) FROM patient p WHERE p.id < 100"
        )
        cursor.execute("SELECT s.note, REPEAT(UPPER(s.note), 50000) FROM sejour s WHERE s.id = 5")
        cursor.execute("SELECT v.d FROM (SELECT entree AS d, id FROM sejour) v WHERE v.id = 7")
    wait_for(lambda: guarded.counted() == 101)
    assert len(guarded.patients()) == 101
    assert guarded.counted(what="patients_estimated") == 0


def test_after_an_error_in_a_procedures_first_result_answers_are_told_apart(relay: Relay) -> None:
    """The error is the last of its results."""
    guarded = relay()
    with guarded.connect() as connection, connection.cursor() as cursor:
        for _ in range(2):
            with pytest.raises(pymysql.OperationalError, match="1242"):
                cursor.execute("CALL breaks_off()")
            cursor.execute("SELECT id FROM patient WHERE id <= 7")
            assert len(cursor.fetchall()) == 7

    def told() -> list[tuple[int, str]]:
        return [(e.get("rows", 0), e.get("error", "")) for e in guarded.events() if e["kind"] == "query"]

    wait_for(lambda: told()[-4:] == [(4, "21000"), (7, "")] * 2, message=str(told()))


@pytest.mark.parametrize("account", [ACCOUNT, "edward"])
@pytest.mark.parametrize("client_tls", [False, True])
@pytest.mark.parametrize("upstream_tls", ["disable", "require"])
def test_tls_on_either_side(relay: Relay, tmp_path: Path, account: str, client_tls: bool, upstream_tls: str) -> None:
    """mysql_native_password and client_ed25519, with packets numbered anew where the sides differ."""
    changes: dict[str, Any] = {"upstream_tls": upstream_tls}
    options: dict[str, Any] = {}
    if client_tls:
        cert, key = certificate(tmp_path)
        changes |= {"tls": "terminate", "tls_cert": cert, "tls_key": key}
        options = {"ssl": ssl.create_default_context(cafile=cert)}
        options["ssl"].check_hostname = False
    guarded = relay(**changes)
    if account == "edward":
        pytest.importorskip("nacl", reason="PyMySQL needs PyNaCl for ed25519")
    with guarded.connect(account, **options) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM patient WHERE id < 4")
        assert cursor.fetchall() == ((1,), (2,), (3,))
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        assert bool(cursor.fetchone()[1]) == (upstream_tls == "require")
    wait_for(lambda: guarded.counted(account) == 4)
    with pytest.raises(pymysql.OperationalError, match="1045"):
        guarded.connect(account, password="wrong", **options)
    wait_for(lambda: any(e["kind"] == "login_failed" and e["error"] == "28000" for e in guarded.events()))


def test_a_name_that_is_spelled_in_another_character_set_is_the_same_account(
    relay: Relay, mariadb: EmbeddedMariadb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """armscii8 has a second `-`, and a second quote, which the server takes off; swe7 has letters where ASCII has signs."""
    with mariadb.connect() as connection, connection.cursor() as cursor:
        for name in ("app-dpi", "zoé"):
            cursor.execute(f"CREATE OR REPLACE USER `{name}`@'%' IDENTIFIED BY '{PASSWORD}'")
            cursor.execute(f"GRANT SELECT ON dpi.* TO `{name}`@'%'")
    guarded = relay()
    monkeypatch.setattr(pymysql.connections.Connection, "set_character_set", lambda *_: None)
    for charset, spelled in ((32, "app\xacdpi"), (32, "\xffapp-dpi\xff"), (10, "zo`"), (82, "zo`")):
        found = pymysql.charset.Charset(charset, "latin1", "one of the server's", "")
        monkeypatch.setattr(pymysql.connections, "charset_by_name", lambda _, found=found: found)
        with guarded.connect(spelled, charset="latin1") as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    wait_for(lambda: sum(e["kind"] == "logout" for e in guarded.events()) == 4)
    assert {e["principal"] for e in guarded.events()} == {"app-dpi", "zoé"}


def test_a_client_certificate_must_be_the_accounts(relay: Relay, tmp_path: Path) -> None:
    cert, key = made(tmp_path, "guard")
    own, own_key = made(tmp_path, ACCOUNT)
    guarded = relay(tls="terminate", tls_cert=str(cert), tls_key=str(key), tls_client_ca=str(own))
    shown = ssl.create_default_context(cafile=str(cert))
    shown.check_hostname = False
    shown.load_cert_chain(own, own_key)
    bare = ssl.create_default_context(cafile=str(cert))
    bare.check_hostname = False
    with guarded.connect(ssl=shown) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        # Another account behind the same certificate's login.
        with pytest.raises(pymysql.OperationalError, match="certificate"):
            connection._execute_command(0x11, b"other\0\0dpi\0\x2d\0mysql_native_password\0\0")
            connection._read_packet()
    for user, options, words in (
        ("other", {"ssl": shown}, "another account's"),
        (ACCOUNT, {"ssl": bare}, "certificate is required"),
        (ACCOUNT, {"ssl_disabled": True}, "connect with TLS"),
    ):
        with pytest.raises(pymysql.OperationalError, match=words):
            guarded.connect(user, **options)


@pytest.mark.parametrize("server_tls", [False, True])
@pytest.mark.parametrize("client_tls", [False, True])
def test_caching_sha2_password_full_and_fast(relay: Relay, tmp_path: Path, server_tls: bool, client_tls: bool) -> None:
    """Where one side is secure and the other is not, the guard translates the password; the server sees what it expects."""
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = Mysql8(PASSWORD.encode(), context if server_tls else None)
    changes: dict[str, Any] = {"upstream_tls": "require" if server_tls else "disable"}
    options: dict[str, Any] = {}
    if client_tls:
        changes |= {"tls": "terminate", "tls_cert": cert, "tls_key": key}
        options = {"ssl": ssl.create_default_context(cafile=cert)}
        options["ssl"].check_hostname = False
    guarded = relay(f"127.0.0.1:{server.port}", **changes)
    for _ in range(2):
        with guarded.connect("app", **options) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM patient")
            assert cursor.fetchall() == ((7,),)
    with pytest.raises(pymysql.MySQLError):
        guarded.connect("app", password="wrong", **options)
    assert server.paths == ["full, TLS" if server_tls else "full, RSA", "fast", "fast"]
    assert all(bool(c & 1 << 11) == server_tls for c in server.capabilities)
    wait_for(lambda: guarded.counted("app") == 2)
    server.close()


@pytest.mark.parametrize(
    ("server_tls", "client_tls", "mode"),
    [(False, True, "observe"), (False, True, "enforce"), (True, False, "enforce"), (True, True, "observe")],
)
def test_caching_sha2_password_in_full_for_a_change_of_user(
    relay: Relay, tmp_path: Path, server_tls: bool, client_tls: bool, mode: str
) -> None:
    """COM_CHANGE_USER authenticates anew; the guard translates as at login, and the session goes on in step."""
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = Mysql8(PASSWORD.encode(), context if server_tls else None)
    changes: dict[str, Any] = {
        "upstream_tls": "require" if server_tls else "disable",
        "mode": mode,
        "budget_rows": 1_000,
    }
    options: dict[str, Any] = {}
    if client_tls:
        changes |= {"tls": "terminate", "tls_cert": cert, "tls_key": key}
        options = {"ssl": ssl.create_default_context(cafile=cert)}
        options["ssl"].check_hostname = False
    guarded = relay(f"127.0.0.1:{server.port}", **changes)
    connection = guarded.connect("app", **options)
    for user, password, accepted in (("other", PASSWORD, True), ("third", "wrong", False), ("last", PASSWORD, True)):
        assert change_user(connection, user, password) == accepted
        if accepted:
            with connection.cursor() as cursor:
                cursor.execute("SELECT id FROM patient")
                assert cursor.fetchall() == ((7,),)
    connection.close()
    assert server.paths == ["full, TLS" if server_tls else "full, RSA"] * 4
    wait_for(lambda: guarded.counted("last") == 1)
    assert guarded.counted("other") == 1
    assert [e["principal"] for e in guarded.events() if e["kind"] == "login"] == ["app", "other", "last"]
    assert any(e["kind"] == "login_failed" for e in guarded.events())
    server.close()


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_a_change_of_user_in_a_compressed_session(relay: Relay, tmp_path: Path, mode: str) -> None:
    """MariaDB's own client, with TLS on its side alone: the authentication comes to the guard in envelopes; `edward` has another plugin
    than the session began with."""
    driver = pytest.importorskip("MySQLdb")
    cert, key = certificate(tmp_path)
    guarded = relay(mode=mode, budget_rows=100_000, upstream_tls="disable", tls="terminate", tls_cert=cert, tls_key=key)
    connection = driver.connect(
        host="127.0.0.1",
        port=guarded.port,
        user="other",
        password=PASSWORD,
        database="dpi",
        compress=True,
        ssl={"ca": cert},
    )
    cursor = connection.cursor()
    for user in ("other", "edward", "other"):
        connection.change_user(user, PASSWORD, "dpi")
        cursor.execute("SELECT CURRENT_USER()")
        assert cursor.fetchone()[0] == f"{user}@%"
        cursor.execute("SHOW STATUS LIKE 'Compression'")
        assert cursor.fetchone()[1] == "ON"
        cursor.execute("SELECT id, dossier FROM patient ORDER BY id LIMIT 500")
        assert len(cursor.fetchall()) == 500
    with pytest.raises(driver.MySQLError) as caught:
        connection.change_user("edward", "wrong", "dpi")
    assert caught.value.args[0] == 1045
    expected = ["other", "other", "edward", "other"]
    wait_for(lambda: [e["principal"] for e in guarded.events() if e["kind"] == "login"] == expected)
    wait_for(lambda: guarded.counted("edward") == 502)
    wait_for(lambda: any(e["kind"] == "login_failed" for e in guarded.events()))
    assert not any(e["kind"] == "desynced" for e in guarded.events())


@pytest.mark.parametrize("unit", ["rows", "patients"])
@pytest.mark.parametrize("compress", [False, True])
def test_no_row_passes_the_local_budget(relay: Relay, unit: str, compress: bool) -> None:
    guarded = relay(mode="enforce", **{f"budget_{unit}": 1_000})
    query = "SELECT p.id, p.dossier FROM patient AS p JOIN sejour AS s ON s.patient_id = p.id ORDER BY p.id"
    if compress:
        driver = pytest.importorskip("MySQLdb")
        cursors = pytest.importorskip("MySQLdb.cursors")
        connection = driver.connect(
            host="127.0.0.1", port=guarded.port, user=ACCOUNT, password=PASSWORD, database="dpi", compress=True
        )
        seen: list[int] = []
        with pytest.raises(driver.MySQLError) as caught, connection.cursor(cursors.SSCursor) as cursor:
            cursor.execute(query)
            while row := cursor.fetchone():
                seen.append(row[0])
        code = caught.value.args[0]
    else:
        seen = []
        with (
            pytest.raises(pymysql.MySQLError) as raised,
            guarded.connect() as through,
            through.cursor(Streaming) as cursor,
        ):
            cursor.execute(query)
            while row := cursor.fetchone():
                seen.append(row[0])
        code = raised.value.args[0]
    assert code == 1226
    assert (len(seen) if unit == "rows" else len(set(seen))) == 1_000
    wait_for(lambda: guarded.counted() == len(seen))
    assert len(guarded.patients()) == len(set(seen))


@pytest.mark.parametrize("with_kill", [False, True])
@pytest.mark.parametrize("compress", [False, True])
def test_after_a_cut_the_session_goes_on_in_step(
    relay: Relay, mariadb: EmbeddedMariadb, with_kill: bool, compress: bool
) -> None:
    driver = pytest.importorskip("MySQLdb")
    dsn = f"mysql://exfilguard_admin:{mariadb.password}@127.0.0.1:{mariadb.port}" if with_kill else ""
    guarded = relay(mode="enforce", budget_patients=100, on_cut="error", kill_dsn=dsn)
    connection = driver.connect(
        host="127.0.0.1", port=guarded.port, user=ACCOUNT, password=PASSWORD, database="dpi", compress=compress
    )
    with connection.cursor() as cursor:
        for _ in range(3):
            with pytest.raises(driver.MySQLError, match="ExfilGuard") as caught:
                cursor.execute("SELECT id, dossier FROM patient ORDER BY id")
                cursor.fetchall()
            assert caught.value.args[0] == 1226
            cursor.execute("SELECT 'in step', 6000")
            assert cursor.fetchall() == (("in step", 6000),)
    connection.close()
    wait_for(lambda: any(e["kind"] == "logout" for e in guarded.events()))
    assert len(guarded.patients()) == 100


@pytest.mark.parametrize("compress", [False, True])
def test_a_verdict_in_the_middle_of_a_result_ends_it_between_two_rows(relay: Relay, compress: bool) -> None:
    driver = pytest.importorskip("MySQLdb")
    cursors = pytest.importorskip("MySQLdb.cursors")
    guarded = relay()
    connection = driver.connect(
        host="127.0.0.1", port=guarded.port, user=ACCOUNT, password=PASSWORD, database="dpi", compress=compress
    )
    rows = 0
    with pytest.raises(driver.MySQLError, match="reference 9"), connection.cursor(cursors.SSCursor) as cursor:
        cursor.execute("SELECT p.id, SHA2(p.id * q.id, 512), p.dossier FROM patient AS p, patient AS q")
        while cursor.fetchone():
            rows += 1
            if rows == 3_000:
                say(guarded, "lock")
            assert rows < 8_000_000
    wait_for(lambda: guarded.counted() == rows, message=f"{rows} received, {guarded.counted()} counted")


def test_a_locked_account_cannot_log_in_and_nobody_can_become_it(relay: Relay) -> None:
    guarded = relay()
    with guarded.connect("other") as connection:
        say(guarded, "lock")
        for name in (ACCOUNT, f"'{ACCOUNT}'"):  # to the servers these are the same
            with pytest.raises(pymysql.MySQLError, match="reference 9") as caught:
                guarded.connect(name)
            assert caught.value.args[0] == 3118
        body = f"{ACCOUNT}\0".encode() + b"\0" + b"dpi\0\x2d\0mysql_native_password\0\0"
        connection._execute_command(0x11, body)
        with contextlib.suppress(pymysql.MySQLError, OSError):
            packet = connection._read_packet()
            if packet.is_auth_switch_request():
                connection._process_auth(b"mysql_native_password", packet)
    with pytest.raises(pymysql.MySQLError), guarded.connect("other") as once, once.cursor() as cursor:
        say(guarded, "lock", "other", 10)
        cursor.execute("SELECT 1")


def test_a_locked_account_with_a_long_name_cannot_log_in_under_a_longer_one(
    relay: Relay, mariadb: EmbeddedMariadb
) -> None:
    """The server cuts a name behind 128 characters."""
    name = "r" * 128
    with mariadb.connect() as admin, admin.cursor() as cursor:
        cursor.execute(f"CREATE USER IF NOT EXISTS '{name}'@'%' IDENTIFIED BY '{PASSWORD}'")
        cursor.execute(f"GRANT SELECT ON dpi.* TO '{name}'@'%'")
    guarded = relay()
    guarded.connect(name + "x").close()
    say(guarded, "lock", name)
    for user in (name, name + "x"):
        with pytest.raises(pymysql.MySQLError, match="reference 9"):
            guarded.connect(user)


def test_replication_is_refused(relay: Relay) -> None:
    guarded = relay()
    for command in (0x12, 0x15, 0x1E):
        with guarded.connect() as connection:
            connection._execute_command(command, b"\4\0\0\0" * 8)
            with pytest.raises(pymysql.MySQLError, match="not allowed through this guard") as caught:
                connection._read_packet()
            assert caught.value.args[0] == 1227
    wait_for(lambda: sum(e["kind"] == "refused" for e in guarded.events()) == 3)


def test_a_statement_is_judged_by_all_of_it_however_long(relay: Relay) -> None:
    """A comment in front was enough to get by; while a long statement of an application's own passes."""
    guarded = relay(mode="enforce", budget_rows=1_000_000)
    with guarded.connect() as connection, connection.cursor() as cursor:
        for _ in range(2):
            with pytest.raises(pymysql.MySQLError, match="not allowed through this guard"):
                cursor.execute("SELECT /*" + "x" * 200_000 + "*/ LOAD_FILE('/etc/passwd')")
            for length in (200_000, 3_000_000):
                cursor.execute(f"SELECT LENGTH('{'x' * length}')")
                assert cursor.fetchone() == (length,)
        with pytest.raises(pymysql.MySQLError, match="over 1 MiB"):
            cursor.execute("SELECT /*" + "x" * 3_000_000 + "*/ LOAD_FILE('/etc/passwd')")


EXPORTS = (
    b"SET STATEMENT max_statement_time = 100 FOR SELECT id FROM patient INTO OUTFILE '@'",
    b"SELECT id /*!99999 ' */ FROM patient INTO OUTFILE '@'",
    b"SELECT id FROM patient INTO /*!99999 x */ OUTFILE '@'",
    b"BEGIN NOT ATOMIC EXECUTE IMMEDIATE 'SELECT id FROM patient INTO OUTFILE \"@\"'; END",
    b"SELECT 1 --\x7f ' \n INTO OUTFILE '@'",
    b"SELECT t.*, 1 --\xc2\xa0 INTO OUTFILE '@' FROM (SELECT p.id, 1 AS \xc2\xa0 FROM patient p) t",
    b"SET NAMES latin1",
    b"SELECT id FROM patient INTO\xa0OUTFILE\xa0'@'",
    b"SET NAMES gbk",
    b"SELECT '\xbf\\' INTO OUTFILE '@' FROM patient",
    b"SET sql_mode = 'ANSI_QUOTES'",
    b"SELECT 1 AS \"\\\" INTO OUTFILE '@'",
    b"SET sql_mode = 'NO_BACKSLASH_ESCAPES'",
    b"SELECT '\\' INTO OUTFILE '@'",
)
READS = ("SET @x = LOAD_FILE('/etc/passwd')", "LOAD DATA INFILE '/etc/passwd' INTO TABLE sejour (note)")


def test_what_is_denied_is_denied_however_the_server_reads_it(relay: Relay, tmp_path: Path) -> None:
    """Each of these wrote the server's file past `deny`: the guard read another text than the server did, or did not look."""
    guarded = relay(mode="enforce", budget_rows=1_000_000)
    target = f"/tmp/exfilguard-{tmp_path.name}-"
    with guarded.connect() as connection:
        for number, sql in enumerate(EXPORTS):
            connection._execute_command(3, sql.replace(b"@", f"{target}{number}".encode()))
            if sql.startswith((b"SET NAMES", b"SET sql_mode")):
                connection._read_packet()
            else:
                with pytest.raises(pymysql.MySQLError, match="not allowed through this guard"):
                    connection._read_packet()
        for sql in READS:
            with pytest.raises(pymysql.MySQLError, match="not allowed through this guard"):
                connection.query(sql)
    assert not list(Path("/tmp").glob(Path(target).name + "*"))


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_a_compressed_session_is_screened_and_goes_on(relay: Relay, mode: str) -> None:
    driver = pytest.importorskip("MySQLdb")
    guarded = relay(mode=mode, deny=["server_export"], budget_rows=1_000_000)
    connection = driver.connect(
        host="127.0.0.1", port=guarded.port, user=ACCOUNT, password=PASSWORD, database="dpi", compress=True
    )
    cursor = connection.cursor()
    for padding in (0, 50, 30_000, 900_000):
        with pytest.raises(driver.MySQLError, match="not allowed through this guard"):
            cursor.execute(f"SELECT '{'x' * padding}', LOAD_FILE('/etc/passwd')")
        cursor.execute(f"SELECT LENGTH('{'x' * padding}'), 1")
        assert cursor.fetchone() == (padding, 1)
    cursor.execute("SELECT id, dossier FROM patient")
    assert len(cursor.fetchall()) == PATIENTS
    connection.close()
    wait_for(lambda: sum(e["kind"] == "refused" for e in guarded.events()) == 4)


def test_kill_reaches_the_server_from_a_side_connection(relay: Relay) -> None:
    guarded = relay()
    with guarded.connect() as connection, guarded.connect() as side, connection.cursor() as cursor:
        thread = connection.thread_id()
        began = time.monotonic()
        with meanwhile(lambda: side.query(f"KILL QUERY {thread}")), contextlib.suppress(pymysql.MySQLError):
            cursor.execute("SELECT SLEEP(20)")
        assert time.monotonic() - began < 10
        assert cursor.execute("SELECT 1") == 1


def test_a_kill_may_come_through_any_worker(relay: Relay) -> None:
    """The thread's number is the server's own, as the client has seen it; the side connection goes where the kernel puts it."""
    guarded = relay(workers=3)
    with guarded.connect() as connection, connection.cursor() as cursor:
        thread = connection.thread_id()
        for _ in range(6):

            def kill() -> None:
                with guarded.connect() as side:
                    side.query(f"KILL QUERY {thread}")

            began = time.monotonic()
            with meanwhile(kill, 0.1), contextlib.suppress(pymysql.MySQLError):
                cursor.execute("SELECT SLEEP(20)")
            assert time.monotonic() - began < 10
            assert cursor.execute("SELECT 1") == 1
    shares = [guarded.stack.snapshot(f"relay-{n}") for n in range(3)]
    taken = [v for one in shares if one is not None for name, _, v in one.values if name == "connections_total"]
    assert sum(taken) >= 7


def test_with_kill_dsn_a_backend_that_only_computes_is_stopped(relay: Relay, mariadb: EmbeddedMariadb) -> None:
    dsn = f"mysql://exfilguard_admin:{mariadb.password}@127.0.0.1:{mariadb.port}"
    guarded = relay(kill_dsn=dsn)
    connection = guarded.connect()
    with (
        meanwhile(lambda: say(guarded, "cut"), 0.5, 1),
        pytest.raises(pymysql.MySQLError, match="reference 9"),
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT SLEEP(30), 'a guarded nap'")
    with mariadb.connect() as admin, admin.cursor() as cursor:

        def running() -> int:
            cursor.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP(30)%'")
            return int(cursor.fetchone()[0])

        wait_for(lambda: not running(), 5.0, "the backend was killed")
    assert mariadb.password not in guarded.stack.log("relay")


def test_bounds_and_an_unreachable_database_in_mysqls_own_words(relay: Relay) -> None:
    guarded = relay(max_sessions=1)
    with guarded.connect():
        with pytest.raises(pymysql.MySQLError, match="max_sessions") as caught:
            guarded.connect()
        assert caught.value.args[0] == 1040
    wait_for(lambda: guarded.stack.total("sessions") == 0)
    guarded.connect().close()
    away = relay(f"127.0.0.1:{free_port()}")
    with pytest.raises(pymysql.MySQLError, match="cannot reach the database") as caught:
        away.connect()
    assert caught.value.args[0] == 1053


def test_clients_that_do_not_speak_the_protocol(relay: Relay) -> None:
    guarded = relay(login_timeout_ms=2_000)
    for words in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 40,
        b"\1\0\0\1\0",
        (36).to_bytes(3, "little") + b"\1" + b"\0" * 36,
        b"x" * 300_000,
    ):
        with socket.create_connection(("127.0.0.1", guarded.port), timeout=5) as raw:
            raw.sendall(words)
            said = b""
            with contextlib.suppress(OSError):
                while part := raw.recv(4096):
                    said += part
            assert said[4:5] in (b"\x0a", b"\xff"), "the greeting, or an error"
    assert guarded.stack.total("garbage_connections_total") >= 4
    with guarded.connect() as connection, connection.cursor() as cursor:
        assert cursor.execute("SELECT 1") == 1
    wait_for(lambda: guarded.stack.total("sessions") == 0)


def test_servers_that_do_not_speak_the_protocol_or_die(relay: Relay) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    guarded = relay(f"127.0.0.1:{server.getsockname()[1]}")
    for words in (b"", b"SSH-2.0-x\r\n", b"\5\0\0\0\x09abcd", b"\xff\xff\xff\0" + b"x" * 100, b"\4\0\0\0\x0aab\0"):

        def once(said: bytes = words) -> None:
            peer, _ = server.accept()
            with peer, contextlib.suppress(OSError):
                peer.sendall(said)
                time.sleep(0.05)

        with meanwhile(once, 0.0, 1), pytest.raises((pymysql.MySQLError, OSError)):
            guarded.connect()
    server.close()


def test_a_server_that_dies_in_the_middle_of_a_result(relay: Relay, mariadb: EmbeddedMariadb) -> None:
    guarded = relay()
    connection = guarded.connect()
    thread = connection.thread_id()

    def kill() -> None:
        with mariadb.connect() as admin, admin.cursor() as cursor:
            cursor.execute(f"KILL {thread}")

    with meanwhile(kill, 0.4, 1):
        rows, error = taken(connection, "SELECT p.id, p.dossier FROM patient AS p, patient AS q")
    assert rows > 0
    assert error is not None
    # A row of which only the beginning was delivered is counted: too many, never too few.
    wait_for(lambda: rows <= guarded.counted() <= rows + 1, message=f"{rows} received, {guarded.counted()} counted")


def test_a_client_that_never_reads_and_a_large_result_use_no_more_memory(relay: Relay) -> None:
    guarded = relay()
    pid = guarded.stack.parts["relay"].pid
    with guarded.connect() as connection:
        taken(connection, "SELECT 1")
        before = rss_kib(pid)
        idle = guarded.connect()
        idle._execute_command(3, "SELECT REPEAT('x', 1000) FROM seq_1_to_1000000")
        rows, error = taken(connection, "SELECT REPEAT('x', 1000) FROM seq_1_to_150000")
        assert (rows, error) == (150_000, None)
        time.sleep(0.3)
        assert rss_kib(pid) - before < 16_000
        idle._force_close()


@pytest.mark.parametrize("on_cut", ["close", "error"])
def test_records_in_errors_end_at_the_budget(relay: Relay, on_cut: str) -> None:
    guarded = relay(mode="enforce", budget_rows=3, on_cut=on_cut)
    said = []
    with guarded.connect() as connection, connection.cursor() as cursor:
        for number in range(1, 6):
            with pytest.raises(pymysql.MySQLError) as caught:
                cursor.execute(
                    f"SELECT EXTRACTVALUE(1, CONCAT('~', (SELECT CONCAT(nom, id) FROM patient WHERE id = {number})))"
                )
            said.append(str(caught.value))
        assert [f"~NOM{n}{n}" in text for n, text in enumerate(said, 1)] == [True] * 3 + [False] * 2
        if on_cut == "error":
            cursor.execute("DO 1")
    wait_for(lambda: len(guarded.patients()) == 3)
    assert guarded.counted() == 0


def test_patients_that_were_put_elsewhere_are_known_there(relay: Relay) -> None:
    guarded = relay()
    with guarded.connect() as connection, connection.cursor() as cursor:
        for statement in (
            "CREATE TEMPORARY TABLE ailleurs (k BIGINT, v TEXT)",
            "INSERT INTO ailleurs (k) SELECT seq FROM seq_1_to_50",
            "UPDATE ailleurs a JOIN patient p ON p.id = a.k SET a.v = CONCAT(p.nom, p.id)",
        ):
            cursor.execute(statement)
        assert cursor.execute("SELECT v FROM ailleurs") == 50
        cursor.execute("CREATE TEMPORARY TABLE encore (v TEXT)")
        assert cursor.execute("INSERT INTO encore SELECT CONCAT(nom, id) FROM patient LIMIT 60 RETURNING v") == 60
    wait_for(lambda: guarded.events()[-1]["kind"] == "logout")
    told = [e for e in guarded.events() if e["kind"] == "query"]
    assert [(e.get("hidden_rows", 0), len(e.get("patients", ()))) for e in told[-4:]] == [
        (50, 0), (0, 50), (0, 0), (0, 60),
    ]  # fmt: skip


def test_a_side_connection_reads_what_one_long_statement_hides(
    relay: Relay, tmp_path: Path, mariadb: EmbeddedMariadb
) -> None:
    guarded = relay()
    with guarded.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE copie AS SELECT id, nom FROM patient WHERE id <= 30")
        cursor.execute(f"SELECT id FROM patient WHERE id <= 20 INTO OUTFILE '{mariadb.data_dir}/out.txt'")
        cursor.execute("SELECT id AS x FROM copie")
        cursor.execute("DROP TABLE copie")
    wait_for(lambda: guarded.counted(what="hidden_rows") == 50)
    assert guarded.counted(what="patients_estimated") == 50
    assert len(guarded.patients()) == 30, "the copy's identifiers are patients"
