"""Exposure: exactly who was in the results; estimates and questions apart; digests back to people with the key only."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exfilguard.errors import EvidenceError
from exfilguard.evidence.archive import ArchiveWriter
from exfilguard.evidence.exposure import columns_taken, exposure
from exfilguard.evidence.reader import ArchiveReader
from exfilguard.evidence.resolve import Candidate, digester_of, identifiers, resolve, rows_of

from .test_archive import NOW, YEAR_MS, event, frame

KEY = "0123456789abcdef"
DIGESTER = digester_of(KEY)


def digest(identifier: object) -> str:
    return DIGESTER.digest(str(identifier).encode())


def archive(root: Path, events: list[dict[str, Any]]) -> ArchiveReader:
    writer = ArchiveWriter(root, YEAR_MS)
    writer.begin("t")
    for n, one in enumerate(events):
        writer.add(0, n, frame(n, [one]))
        if n % 3 == 0:
            writer.commit(NOW)
    writer.commit(NOW)
    writer.close()
    return ArchiveReader(root)


SELECT = {"fingerprint": "aa" * 8, "patients_by": "origin"}
NAMES = {"fingerprint": "bb" * 8, "patients_by": "estimate"}


def test_identified_estimated_and_asked_are_three_things(tmp_path: Path) -> None:
    reader = archive(
        tmp_path,
        [
            event("thief", NOW, rows=2, patients=[digest(1), digest(2)], query="select id , nom from patient", columns=["id", "nom"], **SELECT) | {"kind": "progress"},
            event("thief", NOW + 5, rows=1, patients=[digest(2)], **SELECT),
            event("thief", NOW + 6, rows=3, patients=["f" * 16, digest(9)], patients_estimated=1, query="select nom from patient", columns=["nom"], **NAMES),
            event("thief", NOW + 7, rows=0, asked=[digest(1), digest(7)], fingerprint="cc" * 8),
            event("nurse", NOW + 8, rows=1, patients=[digest(3)], **SELECT),
            event("thief", NOW + 1000, rows=1, patients=[digest(4)], **SELECT),
        ],
    )  # fmt: skip
    found = exposure(reader, "clinic", "thief", NOW, NOW + 1000)
    assert [(p.digest, p.first_ms, p.last_ms, p.times, p.columns) for p in found.patients] == sorted(
        [(digest(1), NOW, NOW, 1, ("id", "nom")), (digest(2), NOW, NOW + 5, 2, ("id", "nom"))], key=lambda p: p[0]
    )
    assert (found.rows, found.statements, found.counted, found.estimated) == (6, 3, 1, 3)
    assert found.asked == [digest(7)]
    assert set(found.row_digests) == {"f" * 16, digest(9)}
    assert columns_taken(found.shapes) == ["nom", "id"] or columns_taken(found.shapes) == ["id", "nom"]
    assert {s.fingerprint: (s.patients, s.estimated) for s in found.shapes}["aa" * 8] == (2, 0)

    resolution = resolve(found, DIGESTER, [Candidate(str(n), (f"name {n}",)) for n in range(9, 0, -1)])
    assert {c.identifier for c in resolution.found.values()} == {"1", "2", "7", "9"}
    assert resolution.packed == [digest(9)], "was packed in a cell: the key tells it from a row's digest"
    assert resolution.unknown == []
    rows = rows_of(found, resolution, 1)
    assert sorted((r["identifier"], r["kind"], r["value_1"]) for r in rows) == [
        ("1", "identified", "name 1"),
        ("2", "identified", "name 2"),
        ("7", "asked", "name 7"),
        ("9", "identified", "name 9"),
    ]
    wrong = resolve(found, digester_of("another key, long enough"), [Candidate(str(n)) for n in range(10)])
    assert wrong.found == {}
    assert len(wrong.unknown) == 2


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 30))
def test_equals_a_naive_count(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = random.Random(seed)
    events = []
    for n in range(40):
        by = rng.choice(["origin", "name", "estimate", ""])
        patients = [digest(rng.randrange(30)) for _ in range(rng.randrange(5))] if by else []
        events.append(
            event(
                rng.choice(["thief", "nurse"]), NOW + rng.randrange(100), rows=len(patients), patients=patients,
                patients_by=by, patients_estimated=rng.randrange(3) if by == "estimate" else 0, fingerprint=f"{n % 4:016x}",
                asked=[digest(rng.randrange(40))] if rng.random() < 0.2 else [],
            ) | {"kind": rng.choice(["query", "progress"])}
        )  # fmt: skip
    reader = archive(tmp_path_factory.mktemp("a"), events)
    low, high = sorted((NOW + rng.randrange(101), NOW + rng.randrange(101)))
    found = exposure(reader, "clinic", "thief", low, high + 1)
    mine = [e for e in events if e["principal"] == "thief" and low <= e["time_ms"] <= high]
    identified = {d for e in mine if e["patients_by"] != "estimate" for d in e["patients"]}
    assert {p.digest for p in found.patients} == identified
    assert len(found.patients) == len(identified)
    assert (
        set(found.row_digests)
        == {d for e in mine if e["patients_by"] == "estimate" for d in e["patients"]} - identified
    )
    assert set(found.asked) == {d for e in mine for d in e["asked"]} - identified
    assert found.rows == sum(e["rows"] for e in mine) == sum(s.rows for s in found.shapes)
    assert found.counted == sum(e["patients_estimated"] for e in mine)
    assert found.statements == sum(e["kind"] == "query" for e in mine)


def test_lists_of_identifiers_are_read_as_people_export_them() -> None:
    lines = ["\ufeff17;DUPONT;Jean\n", "\n", '"18"\n', "19\tMARTIN\n", "20,X\n", "21\n"]
    assert [(c.identifier, c.shown) for c in identifiers(lines)] == [
        ("17", ("DUPONT", "Jean")),
        ("18", ()),
        ("19", ("MARTIN",)),
        ("20", ("X",)),
        ("21", ()),
    ]


@pytest.mark.parametrize("key", ["", "short", "  \n"])
def test_a_key_that_is_missing_or_too_short(key: str) -> None:
    with pytest.raises(EvidenceError, match=r"digest\.key"):
        digester_of(key)
