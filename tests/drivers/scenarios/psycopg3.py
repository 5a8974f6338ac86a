"""psycopg 3: text and binary, prepared, pipeline, server cursors, COPY both ways, notifications, cancel; sync and async."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

import psycopg
from psycopg import rows

from tests.drivers.scenario import Scenario, size

run = Scenario(lambda error: getattr(error, "sqlstate", None))


def connect(**options: Any) -> psycopg.Connection[Any]:
    connection = psycopg.connect(sslmode="disable", gssencmode="disable", **options)
    connection.add_notice_handler(
        lambda d: run.notices.append([d.severity, d.sqlstate, d.message_primary, d.message_hint])
    )
    return connection


def fetched(c: psycopg.Connection[Any], query: str, parameters: Any = None, **options: Any) -> Any:
    return run.got(c.execute(query, parameters, **options).fetchall())


def queries(c: psycopg.Connection[Any]) -> None:
    for binary in (False, True):
        run.step(
            f"patients, binary={binary}",
            lambda b=binary: fetched(c, "SELECT * FROM patient WHERE id <= %s ORDER BY id", (size(40),), binary=b),
        )
        run.step(
            "types",
            lambda b=binary: fetched(
                c,
                "SELECT NULL, 1::int2, 2.5::float8, 'x'::bpchar, '{1,2}'::int[], '1 day'::interval, '(1,2)'::point, %s::bytea",
                (b"\0\xff",),
                binary=b,
            ),
        )
    for _ in range(7):  # beyond prepare_threshold
        run.step("prepared", lambda: fetched(c, "SELECT nom FROM patient WHERE id = %s", (7,)))
    run.step("no columns", lambda: len(run.got(c.execute("SELECT FROM patient WHERE id < 4").fetchall())))
    run.step("empty", lambda: c.execute("").statusmessage)
    run.step(
        "several", lambda: [run.got(r.fetchall()) for r in c.execute("SELECT 1; SELECT 2, 3; TABLE journal").results()]
    )
    run.step(
        "wide", lambda: [len(r) for r in fetched(c, "SELECT " + ", ".join(f"{n} AS c{n}" for n in range(size(1600))))]
    )
    run.step("a megabyte", lambda: [len(r[0]) for r in fetched(c, f"SELECT repeat('x', {size(1_000_000)})")])
    run.step("a long statement", lambda: [len(r[0]) for r in fetched(c, "SELECT '" + "y" * size(300_000) + "'")])
    run.step("notices", lambda: fetched(c, "SELECT bavard(%s)", (3,)))
    run.step(
        "rows by stream",
        lambda: sum(len(run.got([r])) for r in c.cursor().stream(f"SELECT * FROM sejour LIMIT {size(600)}")),
    )
    run.step(
        "insert returning", lambda: fetched(c, "INSERT INTO journal (qui, quoi) VALUES ('a', 'b') RETURNING id, qui")
    )
    run.step("many", lambda: many(c))
    run.step("procedure", lambda: fetched(c, "CALL note('par la procédure', NULL)"))
    run.step("create as", lambda: c.execute("CREATE TABLE copie AS SELECT * FROM patient WHERE id <= 25").statusmessage)
    run.step("update", lambda: c.execute("UPDATE copie SET nom = upper(nom) WHERE id > %s", (20,)).rowcount)
    run.step("show", lambda: fetched(c, "SHOW application_name"))
    run.step("set", lambda: (c.execute("SET application_name = 'autre'"), fetched(c, "SHOW application_name"))[1])


def many(c: psycopg.Connection[Any]) -> list[Any]:
    with c.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO journal (qui, quoi) VALUES ('many', %s) RETURNING quoi",
            [(f"m{n}",) for n in range(size(30))],
            returning=True,
        )
        return [run.got(result.fetchall()) for result in cursor.results()]


def errors(c: psycopg.Connection[Any]) -> None:
    for name, query in {
        "unknown table": "SELECT * FROM nulle_part",
        "syntax": "SELEC 1",
        "division": "SELECT 1 / (id - 20) FROM patient ORDER BY id",
        "unique": "INSERT INTO journal (qui, quoi) VALUES ('x', 'b')",
        "foreign key": "DELETE FROM patient WHERE id = 5",
        "not null": "INSERT INTO journal (qui) VALUES (NULL)",
        "cast": "SELECT 'Dupont'::int",
        "denied": "SELECT * FROM pg_authid",
        "timeout": "SET statement_timeout = 60; SELECT pg_sleep(5)",
        "second of two": "INSERT INTO journal (qui, quoi) VALUES ('y', 'z'); SELECT 1/0",
    }.items():
        run.step(name, lambda q=query: fetched(c, q))
        c.execute("RESET statement_timeout")
    run.step("error with a parameter", lambda: fetched(c, "SELECT %s::int", ("Dupont",)))
    run.step("after all that", lambda: fetched(c, "SELECT count(*) FROM journal"))


def transactions(c: psycopg.Connection[Any]) -> None:
    def savepoints() -> Any:
        with c.transaction():
            c.execute("INSERT INTO journal (qui, quoi) VALUES ('t', 't1')")
            with contextlib.suppress(psycopg.errors.UniqueViolation), c.transaction():
                c.execute("INSERT INTO journal (qui, quoi) VALUES ('t', 't1')")
            with c.transaction(force_rollback=True):
                c.execute("INSERT INTO journal (qui, quoi) VALUES ('t', 't2')")
            c.execute("INSERT INTO journal (qui, quoi) VALUES ('t', 't3')")
        return fetched(c, "SELECT quoi FROM journal WHERE qui = 't' ORDER BY id")

    run.step("savepoints", savepoints)

    def failed() -> Any:
        with c.transaction():
            with contextlib.suppress(psycopg.Error):
                c.execute("SELECT 1/0")
            return fetched(c, "SELECT 1")

    run.step("in a failed transaction", failed)


def cursors(c: psycopg.Connection[Any]) -> None:
    def named() -> Any:
        with c.transaction(), c.cursor(name="tenu", scrollable=True) as cursor:
            cursor.itersize = 17
            cursor.execute("SELECT id, nom FROM patient ORDER BY id")
            first = run.got([next(cursor)])
            cursor.scroll(100)
            some = run.got(cursor.fetchmany(5))
            cursor.scroll(0, "absolute")
            return first + some + run.got(cursor.fetchmany(2)) + run.got(cursor.fetchall())

    # Iterating fetches 17 rows at once; those behind the first are discarded by scroll.
    run.step("named cursor", named)
    run.rows += 16

    def held() -> Any:
        with c.cursor(name="garde", withhold=True) as cursor:
            cursor.execute("SELECT id FROM sejour ORDER BY id LIMIT 50")
            return run.got(cursor.fetchall())

    run.step("with hold", held)

    def binary() -> Any:
        with c.transaction(), psycopg.ServerCursor(c, "binaire", row_factory=rows.dict_row) as cursor:
            cursor.execute("SELECT id, photo, naissance FROM patient WHERE id <= 60 ORDER BY id", binary=True)
            return run.got(cursor.fetchall())

    run.step("binary server cursor", binary)


def pipelines(c: psycopg.Connection[Any]) -> None:
    def many_at_once() -> Any:
        with c.pipeline():
            asked = [c.execute("SELECT id, nom FROM patient WHERE id = %s", (n,)) for n in range(1, size(120))]
        return [run.got(one.fetchall()) for one in asked]

    run.step("pipeline", many_at_once)

    def with_error() -> Any:
        # At libpq's level: psycopg raises here or there, as the answers happen to come in.
        raw = psycopg.pq.PGconn.connect(b"sslmode=disable gssencmode=disable")
        raw.enter_pipeline_mode()
        for query in (b"SELECT 1", b"SELECT 1/0", b"SELECT 2"):
            raw.send_query_params(query, None)
        raw.pipeline_sync()
        raw.send_query_params(b"SELECT id FROM patient WHERE id < 4", None)
        raw.pipeline_sync()
        seen: list[Any] = []
        for _ in range(6):
            while (result := raw.get_result()) is not None:
                rows_here = run.got(result.get_value(n, 0) for n in range(result.ntuples))
                state = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
                seen.append([psycopg.pq.ExecStatus(result.status).name, rows_here, state])
                if result.status == psycopg.pq.ExecStatus.PIPELINE_SYNC:
                    break
        raw.finish()
        return seen

    run.step("pipeline with an error", with_error)

    def transaction() -> Any:
        with c.pipeline(), c.transaction():
            for n in range(size(20)):
                c.execute("INSERT INTO journal (qui, quoi) VALUES ('p', %s)", (f"p{n}",))
            count = c.execute("SELECT count(*) FROM journal WHERE qui = 'p'")
        return run.got(count.fetchall())

    run.step("pipeline and transaction", transaction)


def copies(c: psycopg.Connection[Any]) -> None:
    def out(options: str) -> Any:
        with (
            c.cursor() as cursor,
            cursor.copy(f"COPY (SELECT * FROM patient WHERE id <= {size(70)} ORDER BY id) TO STDOUT {options}") as copy,
        ):
            found = [bytes(part) for part in copy]
        run.rows += size(70)
        return b"".join(found)

    run.step("copy out, text", lambda: out(""))
    run.step("copy out, csv", lambda: out("(FORMAT csv, DELIMITER ';', FORCE_QUOTE *)"))
    run.step("copy out, binary", lambda: out("(FORMAT binary)"))

    def none(options: str) -> Any:
        with c.cursor() as cursor, cursor.copy(f"COPY (SELECT * FROM patient WHERE false) TO STDOUT {options}") as copy:
            return [bytes(part) for part in copy]

    run.step("copy out, nothing", lambda: none(""))
    run.step("copy out, nothing, binary", lambda: none("(FORMAT binary)"))

    def into(options: str, start: int) -> Any:
        with c.cursor() as cursor:
            with cursor.copy(f"COPY journal (qui, quoi, taille) FROM STDIN {options}") as copy:
                if options:
                    copy.set_types(["text", "text", "int8"])
                for n in range(start, start + size(500)):
                    copy.write_row(("copie", f"c{n}", n * n))
            return [cursor.statusmessage, cursor.rowcount]

    run.step("copy in, text", lambda: into("", 0))
    run.step("copy in, binary", lambda: into("(FORMAT binary)", 10_000))

    def broken() -> Any:
        with c.cursor() as cursor, cursor.copy("COPY journal (qui, quoi) FROM STDIN") as copy:
            copy.write("x\ty\tz\n")

    run.step("copy in, refused by the server", broken)

    def given_up() -> Any:
        with c.cursor() as cursor, cursor.copy("COPY journal (qui, quoi) FROM STDIN") as copy:
            copy.write_row(("x", "given up"))
            raise ValueError("the client changed its mind")

    run.step("copy in, given up by the client", given_up)

    def abandoned() -> Any:
        with c.cursor() as cursor, cursor.copy("COPY (SELECT 1/(50 - id) FROM patient ORDER BY id) TO STDOUT") as copy:
            found = 0
            for _ in copy:
                found += 1
                run.rows += 1
            return found

    run.step("copy out, an error in its middle", abandoned)
    run.step("still in step", lambda: fetched(c, "SELECT count(*) FROM journal"))


def others(c: psycopg.Connection[Any]) -> None:
    def notify() -> Any:
        c.execute("LISTEN canal")
        with connect(autocommit=True) as other:
            other.execute("NOTIFY canal, 'bonjour'")
            other.execute("NOTIFY canal, 'encore'")
        return [(n.channel, n.payload) for n in c.notifies(timeout=10, stop_after=2)]

    run.step("notifications", notify)

    def cancelled() -> Any:
        timer = threading.Timer(0.2, c.cancel_safe)
        timer.start()
        try:
            return fetched(c, "SELECT pg_sleep(30)")
        finally:
            timer.join()

    run.step("cancel", cancelled)
    run.step(
        "large object", lambda: fetched(c, "SELECT lo_get(%s)", fetched(c, "SELECT lo_from_bytea(0, 'abc'::bytea)")[0])
    )
    run.step("discard", lambda: c.execute("DISCARD ALL").statusmessage)


async def asynchronous() -> None:
    async with await psycopg.AsyncConnection.connect(sslmode="disable", gssencmode="disable", autocommit=True) as c:

        async def ask(query: str, *parameters: Any, **options: Any) -> Any:
            return run.got(await (await c.execute(query, parameters or None, **options)).fetchall())

        await run.astep("async", ask("SELECT * FROM patient WHERE id <= %s ORDER BY id", 30))
        await run.astep("async, binary", ask("SELECT * FROM patient WHERE id <= %s ORDER BY id", 30, binary=True))
        await run.astep("async, error", ask("SELECT 1/0"))

        async def pipeline() -> Any:
            async with c.pipeline():
                asked = [await c.execute("SELECT %s::int * 2", (n,)) for n in range(size(60))]
            return [run.got(await one.fetchall()) for one in asked]

        await run.astep("async, pipeline", pipeline())

        async def copy() -> Any:
            found = b""
            async with (
                c.cursor() as cursor,
                cursor.copy(f"COPY (SELECT * FROM sejour ORDER BY id LIMIT {size(600)}) TO STDOUT") as copying,
            ):
                async for part in copying:
                    found += bytes(part)
            run.rows += found.count(b"\n")
            return found

        await run.astep("async, copy", copy())

        async def stopped() -> Any:
            return await asyncio.wait_for(ask("SELECT pg_sleep(30)"), 0.2)

        await run.astep("async, cancelled", stopped())
        await run.astep("async, afterwards", ask("SELECT 1"))


with connect(autocommit=True) as main:
    for part in (queries, errors, transactions, cursors, pipelines, copies, others):
        part(main)
run.step("wrong password", lambda: connect(password="wrong").close())
run.step("unknown database", lambda: connect(dbname="inconnue").close())
asyncio.run(asynchronous())
run.print()
