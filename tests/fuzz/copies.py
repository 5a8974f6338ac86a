"""COPY TO STDOUT of tables that the catalog knows: what a client asks and PostgreSQL answers, in text, csv and binary."""

from __future__ import annotations

import random
import struct

from exfilguard.observe.copy_tables import CopyTables, table_of
from tests.observe.test_copy_rows import INT4, OF_TEXT, OF_UUID, messages
from tests.wire import build as b
from tests.wire.transcript import Step

TABLES = [
    table_of(table)
    for table in (
        ["care", "patient", 12, 12, [["id", INT4, 0, 0]]],
        ["care", "sejour", 4, 4, [["patient_id", INT4, 1, 1]]],
        ["care", "dossier", 3, 4, [["cle", OF_UUID, 1, 1]]],
        ["care", "fiche", 2, 2, [["numero", OF_TEXT, 0, 0], ["autre", INT4, 1, 1]]],
    )
]
"""`patient` and `sejour` are those of the recorded conversations."""
COLUMNS = {
    "patient (nom, id)": 2, "patient": 12, "care.patient": 12, "sejour": 4, "dossier": 3, "fiche": 2,
    "(SELECT * FROM patient WHERE id < 9)": 12, "(SELECT note, cle AS x FROM care.dossier)": 2, "(SELECT id FROM patient p)": 1,
    "(SELECT upper(nom) FROM patient)": 1, "journal": 4,
}  # fmt: skip
FORMS = (
    "", "", "(FORMAT csv)", "(FORMAT csv, HEADER)", "(FORMAT csv, DELIMITER ';', QUOTE '!', ESCAPE '\\', NULL 'rien')",
    "(DELIMITER '|', NULL '')", "(FORMAT binary)", "BINARY",
)  # fmt: skip


def tables() -> CopyTables:
    return CopyTables(TABLES)


def conversation(rng: random.Random, known: CopyTables) -> list[Step]:
    """A few COPYs, message by message; what is not decoded has lines of anything."""
    out: list[Step] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        what, written = rng.choice(list(COLUMNS)), rng.choice(FORMS)
        columns, binary = COLUMNS[what], "binary" in written.lower()
        sql = f"COPY {what} TO STDOUT {written}"
        answer = struct.pack("!bH", binary, columns) + struct.pack(f"!{columns}h", *[int(binary)] * columns)
        form = known.form(sql.encode(), 0, "UTF8", backslashes=False, answer=answer)
        types = [OF_TEXT] * columns
        if form is not None:
            for at, type_oid in zip(form.positions, form.types, strict=True):
                types[at] = type_oid
        rows = [tuple(value(rng, kind) for kind in types) for _ in range(rng.choice((0, 1, 2, 5, 40)))]
        lines = messages(rows, types, form) if form is not None else [rng.randbytes(9) + b"\n" for _ in rows]
        if rng.random() < 0.2:
            whole = b"".join(lines)
            edges = sorted(rng.choices(range(len(whole) + 1), k=rng.choice((1, 3, 9))))
            lines = [whole[i:j] for i, j in zip([0, *edges], [*edges, len(whole)], strict=True)]
        out.append((">", b.query(sql)))
        out.append(("<", b.message("H", answer)))
        out += [("<", b.copy_data(line)) for line in lines]
        out += [("<", b.COPY_DONE), ("<", b.complete(f"COPY {len(rows)}")), ("<", b.READY)]
    return out


def value(rng: random.Random, type_oid: int) -> bytes | None:
    if rng.random() < 0.08:
        return None
    if type_oid == INT4:
        return b"%d" % rng.choice((0, 1, 7, -3, 12345, 2**31 - 1))
    if type_oid == OF_UUID:
        return b"%08d-0000-0000-0000-00000000000a" % rng.randrange(9)
    return rng.choice(
        (b"", b"7", b"P12", b"a\tb", b'"x"', b"l1\nl2", b"\\N", b"\\.", b"'", b";|,", "é".encode(), b"!", b"z" * 300)
    )
