"""SQLAlchemy's ORM on psycopg: mapped classes, bulk inserts, streamed results, savepoints, reflection."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from tests.drivers.scenario import Scenario, environment

run = Scenario(lambda error: getattr(getattr(error, "orig", None), "sqlstate", None))
where = environment()
url = sa.URL.create(
    "postgresql+psycopg", where["user"], where["password"], where["host"], int(where["port"]), where["database"],
    {"sslmode": "disable", "gssencmode": "disable"},
)  # fmt: skip
engine = sa.create_engine(url)


class Base(orm.DeclarativeBase):
    pass


class Patient(Base):
    __tablename__ = "patient"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    nom: orm.Mapped[str]
    sejours: orm.Mapped[list[Sejour]] = orm.relationship(back_populates="patient", order_by="Sejour.id")


class Sejour(Base):
    __tablename__ = "sejour"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    patient_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("patient.id"))
    unite: orm.Mapped[str]
    debut: orm.Mapped[Any] = orm.mapped_column(sa.DateTime)
    patient: orm.Mapped[Patient] = orm.relationship(back_populates="sejours")


class Journal(Base):
    __tablename__ = "journal"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    qui: orm.Mapped[str]
    quoi: orm.Mapped[str | None]


with orm.Session(engine) as session:
    run.step(
        "join",
        lambda: [
            (p.id, p.nom, [s.unite for s in p.sejours])
            for p in session.scalars(
                sa.select(Patient)
                .where(Patient.id <= 12)
                .order_by(Patient.id)
                .options(orm.selectinload(Patient.sejours))
            )
        ],
    )
    run.step("lazy", lambda: [s.debut for s in session.get_one(Patient, 77).sejours])
    run.step(
        "stream",
        lambda: sum(1 for _ in session.scalars(sa.select(Sejour).order_by(Sejour.id).execution_options(yield_per=50))),
    )
    run.step(
        "partitions",
        lambda: [
            len(part)
            for part in session.execute(
                sa.select(Sejour.id), execution_options={"stream_results": True, "max_row_buffer": 64}
            ).partitions(64)
        ],
    )
    session.add_all(Journal(qui="orm", quoi=f"orm{n}") for n in range(250))
    run.step("bulk insert", session.commit)

    def savepoint() -> Any:
        session.add(Journal(qui="orm", quoi="avant"))
        session.flush()
        try:
            with session.begin_nested():
                session.add(Journal(qui="orm", quoi="orm7"))
                session.flush()
        except sa.exc.IntegrityError as error:
            found = error.orig.sqlstate
        session.commit()
        return found

    run.step("savepoint", savepoint)
    run.step(
        "update",
        lambda: (
            session.execute(sa.update(Journal).where(Journal.qui == "orm", Journal.id > 200).values(quoi=None)).rowcount
        ),
    )
    session.commit()
    run.step("error", lambda: session.execute(sa.text("SELECT * FROM nulle_part")))
    session.rollback()
    run.step(
        "aggregate",
        lambda: session.execute(
            sa.select(Sejour.unite, sa.func.count()).group_by(Sejour.unite).order_by(Sejour.unite)
        ).all(),
    )

inspector = sa.inspect(engine)
run.step("tables", lambda: sorted(inspector.get_table_names("care")))
run.step(
    "columns", lambda: [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns("patient", "care")]
)
run.step("keys", lambda: [(k["name"], k["referred_table"]) for k in inspector.get_foreign_keys("sejour", "care")])
run.step("indexes", lambda: [(k["name"], k["column_names"]) for k in inspector.get_indexes("journal", "care")])
engine.dispose()
run.print()
