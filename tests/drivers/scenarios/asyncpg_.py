"""asyncpg: binary everywhere, its own prepared statements, cursors, COPY, notifications, time-outs by cancel."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import asyncpg

from tests.drivers.scenario import Scenario, environment, size

run = Scenario(lambda error: getattr(error, "sqlstate", None))


def said(_: Any, message: Any) -> None:
    run.notices.append([message.severity, message.sqlstate, message.message])


async def main() -> None:
    c = await asyncpg.connect(**environment(), ssl=False)  # type: ignore[arg-type]
    c.add_log_listener(said)

    async def fetch(query: str, *parameters: Any) -> Any:
        return [dict(row) for row in run.got(await c.fetch(query, *parameters))]

    await run.astep("patients", fetch("SELECT * FROM patient WHERE id <= $1 ORDER BY id", size(50)))
    for _ in range(3):
        await run.astep("again", fetch("SELECT id, nom FROM patient WHERE id = $1", 9))
    await run.astep(
        "types",
        fetch("SELECT 1::int2, 'x'::bpchar, ARRAY['bonne']::humeur[], now() - now(), '1.5'::numeric, NULL::int"),
    )
    await run.astep("notices", fetch("SELECT bavard(4)"))
    await run.astep("one value", c.fetchval("SELECT count(*) FROM sejour"))
    run.rows += 1

    async def cursor() -> Any:
        async with c.transaction():
            found = [
                tuple(row)
                async for row in c.cursor(f"SELECT id, unite FROM sejour ORDER BY id LIMIT {size(600)}", prefetch=37)
            ]
            return run.got(found)

    await run.astep("cursor", cursor())

    async def moved() -> Any:
        async with c.transaction():
            it = await c.cursor("SELECT id FROM patient ORDER BY id")
            await it.forward(20)
            return [tuple(r) for r in run.got(await it.fetch(30))]

    await run.astep("cursor, forward", moved())

    async def prepared() -> Any:
        statement = await c.prepare("SELECT id, nom, tags FROM patient WHERE id BETWEEN $1 AND $2 ORDER BY id")
        return [[a.name, a.type.name] for a in statement.get_attributes()], [
            [tuple(r) for r in run.got(await statement.fetch(n, n + 5))] for n in range(1, 60, 10)
        ]

    await run.astep("prepared", prepared())
    await run.astep(
        "many",
        c.executemany("INSERT INTO journal (qui, quoi) VALUES ('a', $1)", [(f"a{n}",) for n in range(size(100))]),
    )
    await run.astep(
        "many, one refused",
        c.executemany("INSERT INTO journal (qui, quoi) VALUES ('a', $1)", [("z1",), ("a5",), ("z2",)]),
    )
    await run.astep(
        "script", c.execute("CREATE TABLE copie (LIKE patient); INSERT INTO copie SELECT * FROM patient WHERE id < 9")
    )

    async def savepoint() -> Any:
        async with c.transaction(isolation="serializable"):
            await c.execute("INSERT INTO journal (qui, quoi) VALUES ('s', 's1')")
            try:
                async with c.transaction():
                    await c.execute("INSERT INTO journal (qui, quoi) VALUES ('s', 's1')")
            except asyncpg.UniqueViolationError as error:
                return error.sqlstate

    await run.astep("savepoint", savepoint())

    async def out(**options: Any) -> Any:
        target = io.BytesIO()
        status = await c.copy_from_query(
            f"SELECT id, nom, photo FROM patient ORDER BY id LIMIT {size(90)}", output=target, **options
        )
        run.rows += size(90)
        return status, target.getvalue()

    await run.astep("copy out, text", out())
    await run.astep("copy out, csv", out(format="csv"))
    await run.astep("copy out, binary", out(format="binary"))
    await run.astep(
        "copy in, records",
        c.copy_records_to_table(
            "journal", records=[("r", f"r{n}", n) for n in range(size(400))], columns=["qui", "quoi", "taille"]
        ),
    )
    await run.astep(
        "copy in, text", c.copy_to_table("journal", source=io.BytesIO(b"t\tt1\nt\tt2\n"), columns=["qui", "quoi"])
    )
    await run.astep("copy in, refused", c.copy_to_table("journal", source=io.BytesIO(b"t\n"), columns=["qui", "quoi"]))

    async def slow() -> Any:
        return await c.fetch("SELECT pg_sleep(30)", timeout=0.2)

    await run.astep("time-out", slow())
    for query in (
        "SELECT * FROM nulle_part",
        "SELEC 1",
        "SELECT 1/(id - 12) FROM patient ORDER BY id",
        "INSERT INTO journal (qui) VALUES (NULL)",
    ):
        await run.astep("error", fetch(query))
    await run.astep("bad parameter", fetch("SELECT $1::int", "Dupont"))

    heard: asyncio.Queue[Any] = asyncio.Queue()
    await c.add_listener("canal", lambda _c, _pid, channel, payload: heard.put_nowait([channel, payload]))
    await c.execute("NOTIFY canal, 'à toi'")
    await run.astep("notification", asyncio.wait_for(heard.get(), 10))
    await run.astep("big", c.fetchval(f"SELECT repeat('z', {size(500_000)})"))
    run.rows += 1
    await c.reset()
    await run.astep("after reset", fetch("SELECT count(*) FROM journal"))
    await c.close()
    run.print()


asyncio.run(main())
