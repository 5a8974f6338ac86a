"""PyMySQL, mysqlclient, MariaDB Connector/Python and MySQL Connector/Python: what each of them offers. Argument: which one."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
import threading
import time
from typing import Any

from tests.drivers.scenario import Scenario

WHICH = sys.argv[1]
driver: Any = importlib.import_module({"pymysql": "pymysql", "mysqlclient": "MySQLdb", "mariadb": "mariadb",
                                       "connector": "mysql.connector"}[WHICH])  # fmt: skip
SMALL = bool(os.environ.get("RECORD_TRANSCRIPTS"))


def sqlstate(error: BaseException) -> str | None:
    return str(getattr(error, "sqlstate", None) or error.args[:1])


run = Scenario(sqlstate)


def connect(**options: Any) -> Any:
    known: dict[str, Any] = {
        "host": "127.0.0.1", "port": int(os.environ["DBPORT"]), "user": os.environ["DBUSER"],
        "password": os.environ["DBPASSWORD"], "database": os.environ["DBNAME"],
    }  # fmt: skip
    if WHICH == "pymysql":
        known |= {"local_infile": True, "client_flag": 1 << 16}
    elif WHICH == "mysqlclient":
        known |= {"local_infile": 1, "charset": "utf8mb4", "ssl_mode": "DISABLED"}
        if "ssl_mode" in known and "mariadb" in driver.get_client_info().lower():
            del known["ssl_mode"]
    elif WHICH == "mariadb":
        known |= {"local_infile": True}
    else:
        known |= {"allow_local_infile": True, "use_pure": True, "ssl_disabled": True}
    known |= options
    if "db" in known:
        known["database"] = known.pop("db")
    return driver.connect(**known)


def ask(query: str, *values: Any, on: Any = None, **options: Any) -> Any:
    with contextlib.closing((on or c).cursor(**options)) as cursor:
        cursor.execute(
            query.replace("%s", "?") if WHICH == "mariadb" else query, values or None
        ) if values else cursor.execute(query)
        return (
            [run.got(cursor.fetchall()), [column[0] for column in cursor.description]]
            if cursor.description
            else cursor.rowcount
        )


c = connect()
run.step("all types", lambda: ask("SELECT * FROM patient WHERE id <= 30 ORDER BY id"))
run.step("types again", lambda: ask("SELECT NULL, 1.5, 'é', x'00ff', CAST('10:11:12' AS TIME), DATE '2026-02-03', 1e3"))
run.step(
    "parameters",
    lambda: ask("SELECT id, nom FROM patient WHERE id IN (%s, %s) AND nom LIKE %s ORDER BY id", 3, 4, "N%"),
)
run.step("no rows", lambda: ask("SELECT id FROM patient WHERE id < 0"))
run.step(
    "alias",
    lambda: ask("SELECT p.id AS x, s.id FROM patient AS p JOIN sejour AS s ON s.patient_id = p.id WHERE p.id < 9"),
)
run.step("view", lambda: ask("SELECT dossier FROM v_patient WHERE dossier <= 12 ORDER BY dossier"))
run.step("packed", lambda: ask("SELECT GROUP_CONCAT(id ORDER BY id) FROM patient WHERE id <= 40"))
run.step("insert", lambda: ask("INSERT INTO journal (qui, quoi) VALUES (%s, %s)", "moi", "éà"))
for query in ("SELECT * FROM nulle_part", "SELEC 1", "INSERT INTO journal (qui, quoi) VALUES ('n', 'éà')",
              "SELECT nom FROM patient WHERE id = (SELECT id FROM patient WHERE id < 3)", "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'stop'"):  # fmt: skip
    run.step("error", lambda q=query: ask(q))
run.step("after errors", lambda: ask("SELECT 1"))
run.step(
    "insert select",
    lambda: ask("INSERT INTO journal (qui, quoi) SELECT 'x', CONCAT('n', id) FROM patient WHERE id <= 20"),
)
run.step("rollback", lambda: (c.rollback(), ask("SELECT COUNT(*) FROM journal")))


def many() -> Any:
    with contextlib.closing(c.cursor()) as cursor:
        mark = "?" if WHICH == "mariadb" else "%s"
        cursor.executemany(
            f"INSERT INTO journal (qui, quoi) VALUES ({mark}, {mark})", [("m", f"m{i}") for i in range(50)]
        )
        c.commit()
        return cursor.rowcount


run.step("executemany", many)


def procedure() -> Any:
    found = []
    with contextlib.closing(c.cursor()) as cursor:
        if WHICH == "connector":
            args = cursor.callproc("deux", (5, 0))
            found = [run.got(result.fetchall()) for result in cursor.stored_results()]
            run.rows += 1  # the OUT parameters, asked for by the driver
            return found, args
        cursor.callproc("deux", (5, 0))
        while True:
            if cursor.description:
                found.append(run.got(cursor.fetchall()))
            if not cursor.nextset():
                return found


run.step("procedure", procedure)


def several() -> Any:
    found = []
    with contextlib.closing(c.cursor()) as cursor:
        cursor.execute(
            "SELECT 1; INSERT INTO journal (qui) VALUES ('s'); SELECT id FROM patient WHERE id < 4; SELECT 2"
        )
        while True:
            found.append(run.got(cursor.fetchall()) if cursor.description else cursor.rowcount)
            if not cursor.nextset():
                return found


if WHICH in ("pymysql", "mysqlclient"):
    run.step("several", several)


def infile() -> Any:
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        file.writelines(f"f,f{i}\n" for i in range(20 if SMALL else 20_000))
        file.flush()
        return ask(f"LOAD DATA LOCAL INFILE '{file.name}' INTO TABLE journal FIELDS TERMINATED BY ',' (qui, quoi)")


run.step("local infile", infile)
c.commit()
if WHICH != "connector":  # it leaves the session in the middle of the transfer
    run.step("local infile of nothing", lambda: ask("LOAD DATA LOCAL INFILE '/nonexistent' INTO TABLE journal (qui)"))


def streamed() -> Any:
    options = {"pymysql": lambda: {"cursor": driver.cursors.SSCursor}, "mysqlclient": lambda: {"cursorclass": importlib.import_module("MySQLdb.cursors").SSCursor},
               "mariadb": lambda: {"buffered": False}}.get(WHICH, lambda: {"buffered": False})()  # fmt: skip
    with contextlib.closing(c.cursor(**options)) as cursor:
        cursor.execute("SELECT s.id, p.nom FROM sejour AS s JOIN patient AS p ON p.id = s.patient_id ORDER BY s.id")
        return len(run.got(cursor.fetchall()))


run.step("streamed", streamed)
if not SMALL and WHICH != "connector":  # it gives up on such packets by itself
    run.step("large values", lambda: len(ask("SELECT REPEAT('x', 40000000)")[0][0][0]))
    run.step(
        "exactly full packets",
        lambda: [
            len(row[0])
            for row in ask("SELECT REPEAT('y', 16777211) UNION ALL SELECT REPEAT('z', 16777210) UNION ALL SELECT 'a'")[
                0
            ]
        ],
    )
    run.step("large statement", lambda: ask("SELECT LENGTH(%s), 1", "q" * 20_000_000))

if WHICH in ("mariadb", "connector"):
    options = {"binary": True} if WHICH == "mariadb" else {"prepared": True}
    with contextlib.closing(c.cursor(**options)) as prepared:
        for number in (3, 20, 999):

            def once(n: int = number) -> Any:
                prepared.execute(
                    "SELECT id, nom, grand FROM patient WHERE id <= ? ORDER BY id"
                    if WHICH == "mariadb"
                    else "SELECT id, nom, grand FROM patient WHERE id <= %s ORDER BY id",
                    (n,),
                )
                return run.got(prepared.fetchall())

            run.step("prepared", once)
    run.step("prepared error", lambda: ask("SELECT * FROM nulle_part WHERE id = %s", 1, **options))
    run.step("prepared, NULL", lambda: ask("SELECT %s, id FROM patient WHERE id < %s", None, 4, **options))
if WHICH == "mariadb":

    def with_cursor() -> Any:
        with contextlib.closing(c.cursor(binary=True, cursor_type=1, prefetch_size=25, buffered=False)) as cursor:
            cursor.execute("SELECT id, patient_id FROM sejour WHERE id <= ? ORDER BY id", (130,))
            return len(run.got(cursor.fetchall()))

    run.step("server cursor", with_cursor)

run.step("ping", lambda: (c.ping(), "well")[1])
if hasattr(c, "select_db"):
    run.step(
        "other database",
        lambda: (c.select_db("information_schema"), ask("SELECT DATABASE()"), c.select_db(os.environ["DBNAME"]))[1],
    )
if WHICH != "pymysql":

    def squeezed() -> Any:
        with contextlib.closing(connect(compress=True)) as other:
            first = ask("SELECT * FROM patient ORDER BY id", on=other)
            return (
                first,
                ask(
                    "SELECT LENGTH(%s), nom FROM patient WHERE id < 5", "w" * (30_000 if SMALL else 3_000_000), on=other
                ),
                ask("SELECT 1", on=other),
            )

    run.step("compressed", squeezed)

if WHICH != "pymysql":

    def changed() -> Any:
        if WHICH == "mysqlclient" or WHICH == "mariadb":
            c.change_user("other", os.environ["DBPASSWORD"], os.environ["DBNAME"])
        else:
            c.cmd_change_user("other", os.environ["DBPASSWORD"], os.environ["DBNAME"])
        return ask("SELECT SUBSTRING_INDEX(CURRENT_USER(), '@', 1)"), ask("SELECT id FROM patient WHERE id < 8")

    run.step("change user", changed)
if WHICH == "connector" or WHICH == "mariadb":
    run.step("reset", lambda: (c.reset() if WHICH == "mariadb" else c.cmd_reset_connection(), ask("SELECT @x"))[1])


def killed() -> Any:
    victim = connect()
    thread = victim.thread_id() if WHICH in ("pymysql", "mysqlclient") else victim.connection_id
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.3):  # again, when the first came before its query: the machine may be busy
            with contextlib.closing(connect()) as other, contextlib.suppress(Exception):
                ask(f"KILL QUERY {thread}", on=other)

    killer = threading.Thread(target=kill)
    killer.start()
    began = time.monotonic()
    try:
        found = ask("SELECT SLEEP(20)", on=victim)
        assert time.monotonic() - began < 15
    finally:
        over.set()
        killer.join()
        with contextlib.suppress(Exception):
            victim.close()
    return found


run.step("kill query", killed)
c.close()
run.step("wrong password", lambda: connect(password="wrong"))
run.step("no such database", lambda: connect(database="nulle_part"))
run.print()
