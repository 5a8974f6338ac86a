"""Patients without a visible identifier: lists are expanded, packed rows counted by their objects or their length."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.observe.estimate import PATIENT_BYTES, keyed_pattern, listed, patients_in


def binary_array(type_oid: int, values: list[bytes | None], *dimensions: int) -> bytes:
    """As PostgreSQL's array_send writes it."""
    sides = dimensions or (len(values),)
    head = struct.pack("!iiI", len(sides), int(None in values), type_oid)
    head += b"".join(struct.pack("!ii", side, 1) for side in sides)
    return head + b"".join(struct.pack("!i", -1) if v is None else struct.pack("!i", len(v)) + v for v in values)


@pytest.mark.parametrize(
    ("cell", "items"),
    [
        (b"{1,2,3}", [b"1", b"2", b"3"]),
        (b"[1, 2, 3]", [b"1", b"2", b"3"]),
        (b"1;2;3;4", [b"1", b"2", b"3", b"4"]),
        (b'["12", "13", "14"]', [b"12", b"13", b"14"]),
        (b"17 rue Pasteur, Lyon", []),
        (b"1,2", []),
        (b"2026-11-24 03:00:00", []),
        (b"", []),
        (b"\x01[1, 2, 3]", [b"1", b"2", b"3"]),
        (binary_array(20, [struct.pack("!q", n) for n in (1, -2, 3)]), [b"1", b"-2", b"3"]),
        (binary_array(20, [struct.pack("!q", n) for n in (1, 2, 3, 4)], 2, 2), [b"1", b"2", b"3", b"4"]),
        (binary_array(1043, [b"A12", None, b"A13", b"A14"]), [b"A12", b"A13", b"A14"]),
        (binary_array(2950, [bytes([n]) * 16 for n in (1, 2, 3)]), [b"01" * 16, b"02" * 16, b"03" * 16]),
        (binary_array(25, [b"Dupont", b"Martin", b"Roux"]), []),
        (binary_array(20, [struct.pack("!q", n) for n in (1, 2, 3)])[:-1], []),
    ],
)
def test_a_plain_list_of_identifiers_is_expanded(cell: bytes, items: list[bytes]) -> None:
    assert listed(cell) == items


@given(st.lists(st.integers(0, 10**9), min_size=3, max_size=200), st.sampled_from(["json", "pg", ", ", ";", "|"]))
def test_any_list_in_any_dress(identifiers: list[int], dress: str) -> None:
    texts = [str(i) for i in identifiers]
    cell = {"json": json.dumps(identifiers), "pg": "{" + ",".join(texts) + "}"}.get(dress, dress.join(texts))
    assert listed(cell.encode()) == [t.encode() for t in texts]


@given(st.binary(max_size=400))
def test_any_bytes_are_at_least_one_patient(cell: bytes) -> None:
    found, count = patients_in([cell, None], expressions=True)
    assert found or count >= 1


def test_packed_objects_and_long_rows_count_for_many() -> None:
    packed = json.dumps([{"id": n, "nom": "MARTIN"} for n in range(50)]).encode()
    assert patients_in([packed], expressions=True) == ([], 50)
    assert patients_in([b"x" * (10 * PATIENT_BYTES)], expressions=True) == ([], 10)
    assert patients_in([b"x" * (10 * PATIENT_BYTES)], expressions=False) == ([], 1)
    names = binary_array(25, [b"MARTIN"] * 40)
    assert patients_in([names], expressions=True) == ([], 40)
    assert patients_in([names], expressions=False) == ([], 1)
    assert patients_in([b"MARTIN", b"1980-01-01"], expressions=False) == ([], 1)


@pytest.mark.parametrize(
    "cell",
    [
        b'[{"id": 7, "nom": "A"},{"id":8,"nom":"B"}]',
        b'{"rows": [{"ID" : "7"}, {"id":"8", "ward_id": 99}]}',
        b"<table><row><id>7</id><nom>A</nom></row><row><id>8</id></row></table>",
        b'\x01[{"id": 7}, {"id": 8}]',
    ],
)
def test_json_and_xml_give_their_identifiers_by_name(cell: bytes) -> None:
    pattern = keyed_pattern(["id", "patient_id"])
    assert patients_in([cell], expressions=True, keyed=pattern) == ([b"7", b"8"], 0)
    assert patients_in([b"id 7 and id 8"], expressions=True, keyed=pattern)[0] == []
