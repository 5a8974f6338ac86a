"""Digests back to patients, for whoever holds the key: every candidate's digest is computed anew, and compared.

Nothing is decrypted: without a list of candidates a digest stays one. The same digests as the sidecar's (observe/patients.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import EvidenceError
from ..observe.patients import Digester, canonical
from .exposure import Exposure

UUID_OID = 2950


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody who may be meant. `identifier` as text; `shown` what the list shall say of this patient."""

    identifier: str
    shown: tuple[str, ...] = ()
    type_oid: int = 0


@dataclass(slots=True)
class Resolution:
    """Who is behind which digest."""

    found: dict[str, Candidate] = field(default_factory=dict)
    candidates: int = 0
    packed: list[str] = field(default_factory=list)
    """Digests of `row_digests` that turned out to be patients."""
    unknown: list[str] = field(default_factory=list)
    """Identified digests that no candidate fits: deleted since, or of another column."""


def digester_of(key: str) -> Digester:
    """Raises EvidenceError."""
    try:
        return Digester(key.strip().encode())
    except ValueError:
        raise EvidenceError("the digest key is missing or too short: it is the `digest.key` of the sidecars") from None


def resolve(exposure: Exposure, digester: Digester, candidates: Iterable[Candidate]) -> Resolution:
    """Candidates are read once, as a stream."""
    identified = {patient.digest for patient in exposure.patients}
    others = set(exposure.row_digests)
    wanted = identified | others | set(exposure.asked)
    out = Resolution()
    for candidate in candidates:
        out.candidates += 1
        digest = digester.digest(canonical(candidate.identifier.encode(), candidate.type_oid, False))
        if digest in wanted:
            out.found.setdefault(digest, candidate)
    out.packed = sorted(others & out.found.keys())
    out.unknown = sorted(identified - out.found.keys())
    return out


def identifiers(lines: Iterable[str]) -> Iterable[Candidate]:
    """One identifier a line; with `;`, `,` or a tab, what follows is shown beside it."""
    for line in lines:
        text = line.strip().lstrip("\ufeff")
        if not text:
            continue
        for separator in (";", "\t", ","):
            if separator in text:
                first, *rest = (part.strip().strip('"') for part in text.split(separator))
                yield Candidate(first, tuple(rest))
                break
        else:
            yield Candidate(text.strip('"'))


def rows_of(
    exposure: Exposure, resolution: Resolution | None, shown: int, moment: Callable[[int], str] = str
) -> list[Mapping[str, str | int]]:
    """The list of patients. `shown`: how many further values a candidate has; `moment`: a time as people read it."""
    found = resolution.found if resolution is not None else {}
    rows: list[Mapping[str, str | int]] = []

    def row(digest: str, kind: str, first: int, last: int, times: int, columns: Iterable[str]) -> None:
        candidate = found.get(digest)
        values = {f"value_{n + 1}": "" for n in range(shown)}
        if candidate is not None:
            values |= {f"value_{n + 1}": text for n, text in enumerate(candidate.shown[:shown])}
        rows.append(
            {
                "digest": digest,
                "identifier": candidate.identifier if candidate is not None else "",
                **values,
                "kind": kind,
                "first": moment(first),
                "last": moment(last),
                "times": times,
                "columns": " ".join(columns),
            }
        )

    for patient in exposure.patients:
        row(patient.digest, "identified", patient.first_ms, patient.last_ms, patient.times, patient.columns)
    for digest in resolution.packed if resolution is not None else ():
        row(digest, "identified", exposure.first_ms, exposure.last_ms, 1, ())
    packed = set(resolution.packed) if resolution is not None else set()
    for digest in exposure.asked:
        if digest not in packed:
            row(digest, "asked", exposure.first_ms, exposure.last_ms, 1, ())
    return rows
