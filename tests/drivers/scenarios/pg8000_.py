"""pg8000, pure Python: its native interface and DB-API, COPY by streams, notices, errors."""

from __future__ import annotations

import io
from typing import Any

import pg8000.dbapi
import pg8000.native

from tests.drivers.scenario import Scenario, environment


def sqlstate(error: BaseException) -> str | None:
    fields = error.args[0] if error.args else None
    return fields.get("C") if isinstance(fields, dict) else None


run = Scenario(sqlstate)
where = environment()
c = pg8000.native.Connection(
    where["user"], where["host"], where["database"], int(where["port"]), where["password"], ssl_context=False
)


def ask(query: str, **values: Any) -> Any:
    return run.got(c.run(query, **values) or ())


run.step("patients", lambda: ask("SELECT * FROM patient WHERE id <= :most ORDER BY id", most=45))
run.step("columns", lambda: [column["name"] for column in c.columns])
run.step("types", lambda: ask("SELECT NULL, 1.5::numeric, '{1,2,NULL}'::int[], '\\x00ff'::bytea, interval '1 month'"))
run.step("notices", lambda: (ask("SELECT bavard(5)"), [notice[b"M"].decode() for notice in c.notices]))
statement = c.prepare("SELECT id, nom FROM patient WHERE id = :id")
for number in (1, 2, 300, 301):
    run.step("prepared", lambda n=number: run.got(statement.run(id=n)))
statement.close()
run.step("insert", lambda: ask("INSERT INTO journal (qui, quoi) VALUES ('g', :quoi) RETURNING id", quoi="éà"))
for query in (
    "SELECT * FROM nulle_part",
    "SELEC 1",
    "SELECT 1/(id - 12) FROM patient ORDER BY id",
    "INSERT INTO journal (qui, quoi) VALUES ('g', 'éà')",
):
    run.step("error", lambda q=query: ask(q))


def out() -> Any:
    target = io.BytesIO()
    c.run("COPY (SELECT * FROM patient WHERE id <= 80 ORDER BY id) TO STDOUT", stream=target)
    run.rows += 80
    return target.getvalue()


run.step("copy out", out)
lines = io.BytesIO(b"".join(b"f\tf%d\t%d\n" % (n, n) for n in range(200)))
run.step("copy in", lambda: c.run("COPY journal (qui, quoi, taille) FROM STDIN", stream=lines))
run.step("copy in, refused", lambda: c.run("COPY journal (qui, quoi) FROM STDIN", stream=io.BytesIO(b"1\t2\t3\n")))
run.step(
    "transaction",
    lambda: [
        ask("BEGIN"),
        ask("INSERT INTO journal (qui) VALUES ('h')"),
        ask("ROLLBACK"),
        ask("SELECT count(*) FROM journal"),
    ],
)
c.close()

d = pg8000.dbapi.connect(
    where["user"], where["host"], where["database"], int(where["port"]), where["password"], ssl_context=False
)
cursor = d.cursor()
cursor.execute("SELECT id, nom, naissance FROM patient WHERE id < %s ORDER BY id", (30,))
run.step("dbapi", lambda: run.got(cursor.fetchall()))
cursor.executemany("INSERT INTO journal (qui, quoi) VALUES (%s, %s)", [("i", f"i{n}") for n in range(20)])
d.commit()
run.step("two-phase is refused by this server", lambda: (d.tpc_begin(d.xid(1, "g", "b")), d.tpc_prepare()))
d.close()
run.print()
