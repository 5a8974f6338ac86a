"""Rows in which no identifier is visible: how many patients they stand for. Rather too many than too few.

Where it applies (see PatientColumns.estimates): a result that comes from a table of patients without its identifier column,
or consists of expressions only over a table that holds patients (`json_agg(p)`, `md5(id)`, `string_agg(..)`), or of any expression
beside other columns over one, or a COPY of one whose columns are not certain (copy_tables.py): there a line is a patient, or, from an
aggregate, as many as its length says.

- a cell that is a plain list of identifiers (`array_agg(id)`, also in PostgreSQL's binary form, `json_agg(id)`, `string_agg(id, ',')`), or JSON or XML with
  elements named like the configured columns (`json_agg(p)`, `row_to_json`, `table_to_xml`), is expanded: the same identifiers as
  elsewhere;
- any other row is at least one patient, known by the digest of its bytes, so that the same row seen again is the same patient;
- a row that packs objects, or is long, is as many as it has objects, or `PATIENT_BYTES` goes into it;
- what is computed beside columns of tables, in a statement that may pack many into one row, is further ones by its length, behind
  OWN_BYTES where the row's own patient is known.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence

from .classify import PACKING

try:
    from ._hot import may_be_list
except ImportError:  # no C compiler at installation

    def may_be_list(cell: bytes) -> bool:
        return True


OWN_BYTES = 4_096
"""So much of a row whose patient is known may be computed, and be about this patient: a list of stays in JSON."""
PATIENT_BYTES = 128
"""A long row of expressions is one patient per so many bytes: an identity with a date of birth and an address is longer."""
MIN_LIST = 3
_STRUCTURES = (b"{", b"[", b"<", b"\x01")
"""JSON, XML, and the binary form of jsonb."""

_LIST = re.compile(
    rb"""[\[{(]?\s*+["']?[0-9a-fA-F-]{1,36}+["']?(?:(?:\s*+[,;|]\s*+|\s++)["']?[0-9a-fA-F-]{1,36}+["']?)++\s*+[\]})]?"""
)
_ITEM = re.compile(rb"[0-9a-fA-F-]{1,36}")


_MOST_DIMENSIONS = 6
_INTEGERS = {20: 8, 21: 2, 23: 4}
_UUID, _UUID_BYTES = 2950, 16


def elements(cell: bytes) -> list[tuple[int, bytes]]:
    """(type OID, bytes) of each element of an array in PostgreSQL's binary form; empty when it is none. int32 dimensions, flags, type OID,
    two int32 a dimension, then each element's length (-1: NULL) and bytes (array_send of the server's arrayfuncs.c)."""
    if (
        len(cell) < 20
        or cell[:3] != b"\0\0\0"
        or not 1 <= cell[3] <= _MOST_DIMENSIONS
        or cell[4:7] != b"\0\0\0"
        or cell[7] > 1
    ):
        return []
    type_oid = int.from_bytes(cell[8:12], "big")
    out: list[tuple[int, bytes]] = []
    pos, end = 12 + 8 * cell[3], len(cell)
    while pos + 4 <= end:
        (size,) = struct.unpack_from("!i", cell, pos)
        pos += 4
        if size < 0:
            continue
        if pos + size > end:
            return []
        out.append((type_oid, cell[pos : pos + size]))
        pos += size
    return out if pos == end else []


def _identifier(type_oid: int, value: bytes) -> bytes | None:
    if type_oid in _INTEGERS:
        return b"%d" % int.from_bytes(value, "big", signed=True) if len(value) == _INTEGERS[type_oid] else None
    if type_oid == _UUID:
        return value.hex().encode() if len(value) == _UUID_BYTES else None
    return value if _ITEM.fullmatch(value) is not None else None


def listed(cell: bytes) -> list[bytes]:
    """The identifiers of a cell that is a plain list of them; empty when it is not."""
    if cell[:1] == b"\0":
        found = [_identifier(*element) for element in elements(cell)]
        known = [item for item in found if item is not None]
        return known if len(known) >= MIN_LIST and len(known) == len(found) else []
    if cell[:1] == b"\x01":  # jsonb in its binary form
        cell = cell[1:]
    if len(cell) < 2 * MIN_LIST - 1 or not may_be_list(cell) or _LIST.fullmatch(cell) is None:
        return []
    items = _ITEM.findall(cell)
    return items if len(items) >= MIN_LIST else []


def keyed_pattern(names: Iterable[str]) -> re.Pattern[bytes] | None:
    """Finds the values of JSON members and XML elements with one of these names, in any case; None without names."""
    known = "|".join(re.escape(name) for name in sorted(names))
    if not known:
        return None
    return re.compile(
        rf"""\"(?:{known})\"\s*:\s*(?:"([^"\\]{{1,100}})"|(-?\d{{1,40}}))|<(?:{known})>([^<]{{1,100}})</""".encode(),
        re.IGNORECASE,
    )


_QUERIES = re.compile(rb"\b(?:select|table|values|with)\b", re.IGNORECASE)
_PACKS = re.compile(rb":=|\b(?:" + "|".join(sorted(PACKING)).encode() + rb")\b", re.IGNORECASE)


def nested(sql: bytes) -> bool:
    """True for a text that may have a query within another."""
    return len(_QUERIES.findall(sql)) > 1


def aggregates(sql: bytes) -> bool:
    """True for a text that puts many records into one value."""
    return _PACKS.search(sql) is not None


def packs(sql: bytes) -> bool:
    """True for a text that may put many records into one row."""
    return nested(sql) or aggregates(sql)


def beside(size: int, *, known: bool) -> int:
    """How many patients more the computed columns of a row stand for that are `size` bytes long. `known`: its own patient is."""
    return max(0, size - (OWN_BYTES if known else PATIENT_BYTES)) // PATIENT_BYTES


def patients_in(
    cells: Sequence[bytes | None], *, expressions: bool, keyed: re.Pattern[bytes] | None = None
) -> tuple[list[bytes], int]:
    """(identifiers found in lists or by name, patients a row without any stands for).

    `expressions`: no cell comes straight from a table's column, so its length says something. `keyed`: see keyed_pattern.
    """
    found: list[bytes] = []
    objects = size = 0
    for cell in cells:
        if cell is None:
            continue
        found += listed(cell)
        if keyed is not None and (cell[:1] in _STRUCTURES or b'{"' in cell):
            found += [match[match.lastindex or 0] for match in keyed.finditer(cell)]
        size += len(cell)
        if expressions and cell[:1] == b"\0":
            objects += len(elements(cell))
        objects += cell.count(b'{"')
    if found:
        return found, 0
    return [], max(1, objects, size // PATIENT_BYTES if expressions else 0)
