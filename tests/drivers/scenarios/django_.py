"""Django's ORM on psycopg 3: migrations' schema editor, querysets, server-side cursors, transactions, introspection."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings

from tests.drivers.scenario import Scenario, environment

where = environment()
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": where["database"], "USER": where["user"], "PASSWORD": where["password"],
            "HOST": where["host"], "PORT": where["port"],
            "OPTIONS": {"sslmode": "disable", "gssencmode": "disable"},
        }
    },
    INSTALLED_APPS=["django.contrib.contenttypes"],
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)  # fmt: skip
django.setup()

from django.db import IntegrityError, connection, models, transaction  # noqa: E402


class Patient(models.Model):
    id = models.IntegerField(primary_key=True)
    nom = models.TextField()
    naissance = models.DateField()
    extra = models.JSONField()

    class Meta:
        app_label = "care"
        db_table = "patient"
        managed = False


class Visite(models.Model):
    patient = models.ForeignKey(Patient, models.CASCADE, db_constraint=False)
    quand = models.DateTimeField()
    motif = models.CharField(max_length=80, unique=True)

    class Meta:
        app_label = "care"


def sqlstate(error: BaseException) -> str | None:
    return getattr(error.__cause__, "sqlstate", None)


run = Scenario(sqlstate)
with connection.schema_editor() as editor:
    editor.create_model(Visite)
run.step("filter", lambda: list(Patient.objects.filter(id__lte=25).order_by("id").values()))
run.step(
    "json",
    lambda: list(Patient.objects.filter(extra__pair=True, id__lt=30).order_by("id").values_list("id", flat=True)),
)
run.step("iterator", lambda: sum(1 for _ in Patient.objects.order_by("id").iterator(chunk_size=40)))
run.step("paging", lambda: [[p.nom for p in Patient.objects.order_by("id")[n : n + 10]] for n in range(0, 50, 10)])


def bulk() -> Any:
    from datetime import UTC, datetime, timedelta

    base = datetime(2024, 11, 19, tzinfo=UTC)
    made = Visite.objects.bulk_create(
        [Visite(patient_id=1 + n % 300, quand=base + timedelta(hours=n), motif=f"motif {n}") for n in range(400)],
        batch_size=100,
    )
    return [v.pk for v in made]


run.step("bulk", bulk)
run.step(
    "join",
    lambda: list(
        Visite.objects.select_related("patient")
        .filter(patient_id__lte=5)
        .order_by("id")
        .values_list("motif", "patient__nom")
    ),
)
run.step(
    "prefetch",
    lambda: [
        (p.id, p.visite_set.count())
        for p in Patient.objects.filter(id__lt=6).order_by("id").prefetch_related("visite_set")
    ],
)
run.step("aggregate", lambda: Visite.objects.aggregate(models.Count("id"), models.Min("quand"), models.Max("quand")))


def duplicate() -> Any:
    with transaction.atomic():
        Visite.objects.filter(pk=1).update(motif="changé")
        try:
            with transaction.atomic():
                Visite.objects.filter(pk=2).update(motif="changé")
        except IntegrityError as error:
            return sqlstate(error)


run.step("savepoint", duplicate)
run.step(
    "rolled back",
    lambda: (
        transaction.set_autocommit(False),
        Visite.objects.all().delete()[0],
        transaction.rollback(),
        transaction.set_autocommit(True),
    ),
)
run.step("for update", lambda: Visite.objects.select_for_update().count())


def raw(query: str, parameters: Any = None) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchall()


run.step("raw", lambda: raw("SELECT nom FROM patient WHERE id = %s", [3]))
run.step("error", lambda: raw("SELECT * FROM nulle_part"))
with connection.cursor() as cursor:
    run.step("introspection", lambda: sorted(table.name for table in connection.introspection.get_table_list(cursor)))
    run.step(
        "constraints",
        lambda: sorted(c["columns"] for c in connection.introspection.get_constraints(cursor, "care_visite").values()),
    )
connection.close()
run.print()
