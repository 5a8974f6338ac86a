"""MySQL's compiled shortcut and its general path: the same session, step by step and byte by byte, whatever comes."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.observe.asked import AskedColumns
from exfilguard.observe.classify import Classifier
from exfilguard.observe.contexts import Contexts
from exfilguard.observe.identity import Identity, Rules
from exfilguard.observe.mysql.patients import OriginColumns
from exfilguard.observe.mysql.quick import QuickMysqlObserver
from exfilguard.observe.mysql.session import MysqlObserver
from exfilguard.observe.mysql.statement import templates
from exfilguard.observe.patients import Digester
from exfilguard.observe.tally import Setting
from exfilguard.wire.mysql import messages, startup
from exfilguard.wire.mysql.messages import lenenc_pack, packet
from tests.wire import mysql_build as b
from tests.wire.test_mysql_parameters import DATE, DOUBLE, LONG, LONGLONG, STRING, execute

from .test_mysql_transcripts import TRANSCRIPTS
from .test_quick import KEY, SIGNING, Kept, Steps, context, exchanged, signed, some, step_by_step

if QuickMysqlObserver is None and os.environ.get("EXFILGUARD_REQUIRE_COMPILED") != "1":
    pytest.skip("no C compiler at installation", allow_module_level=True)

COLUMNS = ["patient.id", "sejour.patient_id"]
ATTRIBUTES = messages.CLIENT_QUERY_ATTRIBUTES
CACHED = messages.MARIADB_CLIENT_CACHE_METADATA
CAPABILITIES = tuple(
    base | more for base in (b.NATIVE, b.DEPRECATE) for more in (0, ATTRIBUTES, CACHED, 0xFFF << 32)
)  # fmt: skip
INT, TEXT, BYTES = 3, 253, 254
Columns = tuple[tuple[bytes, int], ...]
"""(definition, type)."""


def observer(
    kind: type[MysqlObserver],
    capabilities: int,
    rules: Rules,
    large: int = 1 << 20,
    keys: dict[str, bytes] = SIGNING,
) -> tuple[MysqlObserver, Kept]:
    kept = Kept()
    asked = AskedColumns(COLUMNS, "mysql")
    made = kind(
        Setting("ehr", Digester(KEY), 3, 50, large, kept), "s1", "10.0.0.9", OriginColumns(COLUMNS),
        Identity(rules, Contexts(keys, capacity=20), "s1", "10.0.0.9"), classifier=Classifier("mysql"), asked=asked,
        templates=templates(asked, settings=rules.settings_count, doubted=Classifier("mysql").doubted),
    )  # fmt: skip
    made.startup(startup.login(b.login(program_name="app")))
    made.login_succeeded(capabilities, "", 1)
    return made, kept


def compare(
    steps: Steps,
    capabilities: int = b.DEPRECATE,
    rules: Rules = Rules(engine="mysql"),  # noqa: B008
    large: int = 1 << 20,
    keys: dict[str, bytes] = SIGNING,
) -> int:
    """How many answers took the shortcut."""
    kinds = (MysqlObserver, QuickMysqlObserver)
    general, quick = (observer(kind, capabilities, rules, large, keys) for kind in kinds)
    return step_by_step((general, quick), steps)


def definition(name: str, table: str, kind: int, charset: int, flags: int, extended: bool) -> tuple[bytes, int]:
    found = b.column(name, table, kind=kind, charset=charset, flags=flags)
    if extended:  # MariaDB's type and format, none
        at = found.rindex(b"\x0c", 0, len(found) - 11)
        found = found[:at] + b"\0" + found[at:]
    return found, kind


def columns_of(rng: random.Random, capabilities: int) -> Columns:
    extended = bool(capabilities & messages.MARIADB_CLIENT_EXTENDED_METADATA)

    def one(name: str, table: str, kind: int, charset: int = 33, flags: int = 0) -> tuple[bytes, int]:
        return definition(name, table, kind, charset, flags, extended)

    patient, name = one("id", "patient", INT, flags=some(rng, 2, 2, 8, 0x22)), one("nom", "patient", TEXT)
    stay, other = one("patient_id", "sejour", BYTES, 63, 8), one("motif", "sejour", TEXT)
    return some(  # type: ignore[no-any-return]
        rng, (patient, name), (patient,), (name,), (other,), (stay, other), (one("dossier", "", TEXT),), (patient, stay),
        (one("count(*)", "", LONGLONG),), (one("id", "copie", INT), name), (one("jour", "sejour", DATE), patient),
    )  # fmt: skip


def value_of(rng: random.Random, kind: int, binary: bool) -> bytes | None:
    number = rng.randrange(-2, 9)
    if rng.random() < 0.05:
        return None
    if kind in (INT, LONGLONG):
        return struct.pack("<i" if kind == INT else "<q", number) if binary else b.text(b"%d" % number)
    if kind == DATE:
        return some(rng, b"\0", b"\4\xd0\7\1\1") if binary else b.text("2000-01-01")
    if kind == BYTES:
        return b.text(some(rng, bytes([number % 7] * 16), b"P%d" % number, b" 12 ", b"z" * 70))
    return b.text(some(rng, b"", b"x", b"7", b"1,2,3,4,5", b'{"id": 4}', b"Dupont", b"y" * 300))


def rows_of(rng: random.Random, columns: Columns, binary: bool) -> list[bytes]:
    out = []
    for _ in range(some(rng, 0, 1, 1, 1, 2, 5, 70)):
        values = [value_of(rng, kind, binary) for _, kind in columns]
        out.append(b.binary(*values) if binary else b"".join(b"\xfb" if v is None else v for v in values))
    return out


TEXTS = (
    "SELECT id, nom FROM patient WHERE id = {}", "SELECT id FROM patient WHERE id IN ({}, {}, -{})", "SELECT nom FROM patient WHERE id=-{}",
    "SELECT count(*) FROM sejour LIMIT {}", "INSERT INTO notes VALUES ({})", "UPDATE patient SET taille = 1 WHERE id = {}",
    "DELETE FROM notes WHERE n = {}",
    "UPDATE notes SET t = 'l\\'été {}; fin' WHERE n = {}", "SELECT id, nom FROM patient WHERE nom = 'Lefèvre{}' AND id = {}",
    "SELECT nom FROM patient WHERE id IN ('{}', \"a\", \"{}\")", "SELECT `p`.`nom` FROM `patient` p WHERE p.`id` = {}",
    "INSERT INTO copie SELECT * FROM patient WHERE id < {}", "CREATE TABLE copie SELECT * FROM patient",
    "BEGIN", "COMMIT", "SET @exfilguard_user = 'dr{}'", "SELECT json_arrayagg(id) FROM patient", "SELECT * FROM patient INTO OUTFILE 'x'", "x",
    "SELECT id FROM patient WHERE id = {} /* dr */", "SELECT `Jean Dupont` FROM patient WHERE id = {}", "SELECT 1 # {}", "CALL p({})",
    "SELECT id FROM copie WHERE id = {}", "SELECT 'd''un' FROM patient WHERE id = {}",
    "INSERT INTO notes VALUES ('du patient, select {}')",
    "SELECT json_object('a', 1) FROM notes WHERE n = 'x{}' /* patient {} */", "EXECUTE IMMEDIATE 'SELECT json_arrayagg(id) FROM patient LIMIT {}'",
    "SELECT nom FROM patient WHERE id = '{{{},4}}' OR id = 'a''{}'", "SELECT _utf8'a{}' FROM patient /*! LIMIT {} */", "SELECT 'a\\",
)  # fmt: skip
STATUS = (2, 2, 2, 2, 3, 2 | 0x200, 2 | 0x22)
ODD_STATUS = (8, 0x40, 0x1008, 0x200)


def simple(rng: random.Random, capabilities: int, calm: bool, usual: Columns, texts: list[str]) -> tuple[bytes, bytes]:
    text = some(rng, *(texts if calm else TEXTS))
    text = text.format(*(some(rng, 1, 2, 3, 12345, "0" * (9 if calm else 120)) for _ in range(3))) + signed(rng, calm)
    prefix = b""
    if capabilities & ATTRIBUTES:
        prefix = b"\0\1" if calm or rng.random() < 0.8 else b"\1\1\0\1\3\0\1a\5\0\0\0"
    columns = usual if calm or rng.random() < 0.5 else columns_of(rng, capabilities)
    return b.command(3, prefix + text.encode()), answer(rng, capabilities, calm, False, columns, cached=False)


def ok(rng: random.Random, calm: bool, header: int = 0) -> bytes:
    status = some(rng, *STATUS, *(() if calm else ODD_STATUS))
    moved, made = some(rng, 0, 1, 3, 250, *(() if calm else (251, 70_000))), some(rng, 0, 5, 300, 1 << 40)
    if header and calm:
        moved = made = 0
    return bytes((header,)) + lenenc_pack(moved) + lenenc_pack(made) + status.to_bytes(2, "little") + b"\0\0"


def answer(rng: random.Random, capabilities: int, calm: bool, binary: bool, columns: Columns, cached: bool) -> bytes:
    """`cached`: the columns may be left out (MariaDB's cached metadata)."""
    odd = rng.random() + calm
    if odd < 0.06:
        return b.numbered(b.err())
    if odd < 0.08:
        return b.numbered(b"\xfbfile.csv")
    if odd < 0.1:
        return b.numbered(b"\xff\xff\xff\1\1\0\0\0\0", ok(rng, calm))  # progress
    if odd < 0.12:
        return b.numbered(some(rng, b"", b"\xfc\0\1", b"\0"), ok(rng, calm))
    if rng.random() < 0.25:
        return b.numbered(ok(rng, calm))
    left_out = bool(capabilities & CACHED) and rng.random() < (0.7 if cached else 0.02)
    first = lenenc_pack(len(columns)) + ((b"\0" if left_out else b"\1") if capabilities & CACHED else b"")
    status = some(rng, *STATUS, *(() if calm else ODD_STATUS))
    deprecate = bool(capabilities & messages.CLIENT_DEPRECATE_EOF)
    end = ok(rng, calm, 0xFE) if deprecate else b.eof(status)
    if odd < 0.15:
        end = b.err("70100")
    middle = [] if deprecate else [b.eof(status if not calm and rng.random() < 0.1 else 2)]
    described = [] if left_out else [found for found, _ in columns]
    found = b.numbered(first, *described, *middle, *rows_of(rng, columns, binary), end)
    return found + found if odd < 0.17 else found


PREPARED: tuple[tuple[str, int], ...] = (
    ("SELECT id, nom FROM patient WHERE id = ?", 1), ("SELECT nom FROM sejour WHERE motif = ? AND patient_id IN (?, 77)", 2),
    ("SELECT count(*) FROM patient", 0), ("UPDATE patient SET taille = ? WHERE id = 5", 1), ("INSERT INTO copie SELECT * FROM patient WHERE id = ?", 1),
    ("SET @exfilguard_user = ?", 1),
)  # fmt: skip


def preparing(rng: random.Random, capabilities: int) -> tuple[Steps, list[Columns]]:
    steps: Steps = []
    known = []
    for number in range(1, len(PREPARED) + 1):
        columns = columns_of(rng, capabilities) if rng.random() < 0.8 else ()
        known.append(columns)
        request, said = preparation(number, columns, capabilities)
        steps += [(">", request, 1000), ("<", said, 1001)]
    return steps, known


def preparation(number: int, columns: Columns, capabilities: int) -> tuple[bytes, bytes]:
    text, parameters = PREPARED[number - 1]
    head = b"\0" + struct.pack("<IHH", number, len(columns), parameters) + b"\0\0\0"
    ends = [] if capabilities & messages.CLIENT_DEPRECATE_EOF else [b.eof()]
    packets = [head, *([b.column("?")] * parameters), *(ends if parameters else ())]
    packets += [*(found for found, _ in columns), *(ends if columns else ())]
    return b.command(0x16, text.encode()), b.numbered(*packets)


def prepared(rng: random.Random, capabilities: int, calm: bool, known: list[Columns]) -> tuple[bytes, bytes]:
    number = some(rng, 1, 1, 1, 1, 1, 2, 3, *(() if calm else (4, 5, 6, 9, 0xFFFFFFFF)))
    count = PREPARED[number - 1][1] if number <= len(PREPARED) else 1
    values = [
        some(
            rng, (LONG, struct.pack("<i", rng.randrange(-1, 8))), (LONG, None), (LONGLONG, struct.pack("<q", 1 << 33)),
            (STRING, b.text(some(rng, "1", " 12 ", "{1,2}", "00000003-0000-0000-0000-00000000000A", "x" * 200))),
            (STRING, b.text(bytes([200] * 16))), (DATE, b"\4\xd0\7\1\1"), (DOUBLE, struct.pack("<d", 4.0)), (1, b"\5"),
        )
        for _ in range(count)
    ]  # fmt: skip
    if calm:
        values = [(LONG, struct.pack("<i", rng.randrange(9))) for _ in values]
    types = rng.random() < (0.3 if calm else 0.5)
    body = bytearray(execute(*values, statement=number, types=types, attributes=bool(capabilities & ATTRIBUTES)))
    if not calm and rng.random() < 0.1:
        body[4] = some(rng, 1, 8)
    columns = known[number - 1] if number <= len(known) and (calm or rng.random() < 0.7) else ()
    columns = columns or columns_of(rng, capabilities)
    return b.command(0x17, bytes(body)), answer(rng, capabilities, calm, True, columns, cached=True)


OTHERS = (
    b.command(0x0E), b.command(0x1F), b.command(2, b"autre"), b.command(0x19, b"\2\0\0\0"), b.command(0x1A, b"\1\0\0\0"),
    b.command(0x18, b"\1\0\0\0\0\0" + b"12"), b.command(0xFA, b"\1\0\0\0\0\0"), b.command(0x1C, b"\1\0\0\0\1\0\0\0"),
)  # fmt: skip


def session(rng: random.Random, capabilities: int) -> Steps:
    steps: Steps = []
    known: list[Columns] = []
    if rng.random() < 0.8:
        steps, known = preparing(rng, capabilities)
    steps.insert(0, (">", b.command(0x0E), 1000))
    steps.insert(1, ("<", b.numbered(b.ok()), 1000))
    usual, columns, texts = rng.random() ** 0.5, columns_of(rng, capabilities), rng.sample(TEXTS[:11], 2)
    counts = some(rng, 0.0, 0.05, 1.0)
    for _ in range(rng.randrange(1, 40)):
        calm = rng.random() < usual
        if rng.random() < 0.5:
            request, said = simple(rng, capabilities, calm, columns, texts)
        elif known and rng.random() < 0.2:
            number = rng.randrange(len(PREPARED)) + 1
            request, said = preparation(number, known[number - 1], capabilities)
        else:
            request, said = prepared(rng, capabilities, calm, known)
        if rng.random() + calm < 0.1:  # pipelined
            more, further = simple(rng, capabilities, calm, columns, texts)
            request, said = request + more, said + further
        if rng.random() + calm < 0.1:
            request = some(rng, *OTHERS)
            said = b"" if request[4] in messages.UNANSWERED else b.numbered(some(rng, b.ok(), b.ok(), b.err()))
        steps += exchanged(rng, calm, steps[-1][2], request, said, counts)
    return steps


@given(st.integers(min_value=0, max_value=2**40))
def test_one_behaviour(seed: int) -> None:
    rng = random.Random(seed)
    rules = some(
        rng,
        Rules(engine="mysql"),
        Rules(engine="mysql"),
        Rules(trusted_sources=("*",), engine="mysql"),
        Rules(trusted_sources=("*",), pooled=True, engine="mysql"),
        Rules(roles=("dr*",), engine="mysql"),
    )
    capabilities = some(rng, *CAPABILITIES)
    compare(session(rng, capabilities), capabilities, rules, some(rng, 1 << 20, 300), some(rng, {}, SIGNING))


def many(
    request: Callable[[int], bytes],
    said: Callable[[int], bytes],
    before: Steps | None = None,
    capabilities: int = b.DEPRECATE,
) -> int:
    steps: Steps = [(">", b.command(0x0E), 1000), ("<", b.numbered(b.ok()), 1000), *(before or [])]
    for n in range(20):
        steps += [(">", request(n), 1000 + n), ("<", said(n), 1002 + n)]
    return compare(steps, capabilities)


TEXT_SQL = b"SELECT id, nom FROM patient WHERE id = %d"
FOUND = [b.column("id", "patient", flags=2), b.column("nom", "patient", kind=TEXT, charset=33)]


@pytest.mark.parametrize("capabilities", CAPABILITIES)
def test_texts_take_the_shortcut(capabilities: int) -> None:
    deprecate, prefix = bool(capabilities & 1 << 24), b"\0\1" if capabilities & ATTRIBUTES else b""
    extended = bool(capabilities & messages.MARIADB_CLIENT_EXTENDED_METADATA)
    columns = [
        definition("id", "patient", INT, 63, 2, extended)[0],
        definition("nom", "patient", TEXT, 33, 0, extended)[0],
    ]
    end = b.ok(header=0xFE) if deprecate else b.eof()
    first = b"\2\1" if capabilities & CACHED else b"\2"

    def said(n: int) -> bytes:
        return b.numbered(first, *columns, *([] if deprecate else [b.eof()]), b.row(b"%d" % n, b"x"), end)

    taken = many(lambda n: b.command(3, prefix + TEXT_SQL % n), said, capabilities=capabilities)
    assert taken == 19  # the first is learned
    request = b"SELECT id, nom FROM patient WHERE nom = 'x%d' "
    taken = many(lambda n: b.command(3, prefix + request % n + context(n).encode()), said, capabilities=capabilities)
    assert taken == 19
    for update in (
        b"UPDATE patient SET taille = 1 WHERE id = %d",
        "UPDATE patient SET nom = 'd\\'Agnès %d' /* %% */".encode(),
    ):
        assert many(lambda n: b.command(3, prefix + update % n), lambda n: b.numbered(b.ok(1)), capabilities=capabilities) == 19  # noqa: B023  # fmt: skip


@pytest.mark.parametrize("capabilities", CAPABILITIES)
def test_executions_take_the_shortcut(capabilities: int) -> None:
    deprecate, attributes = bool(capabilities & 1 << 24), bool(capabilities & ATTRIBUTES)
    extended = bool(capabilities & messages.MARIADB_CLIENT_EXTENDED_METADATA)
    columns = [
        definition("id", "patient", INT, 63, 2, extended)[0],
        definition("nom", "patient", TEXT, 33, 0, extended)[0],
    ]
    ends = [] if deprecate else [b.eof()]
    head = b"\0" + struct.pack("<IHH", 1, 2, 1) + b"\0\0\0"
    before: Steps = [
        (">", b.command(0x16, b"SELECT id, nom FROM patient WHERE id = ?"), 1000),
        ("<", b.numbered(head, b.column("?"), *ends, *columns, *ends), 1000),
    ]
    end = b.ok(header=0xFE) if deprecate else b.eof()

    def request(n: int) -> bytes:
        value = (LONG, n.to_bytes(4, "little"))
        return b.command(0x17, execute(value, statement=1, types=n == 0 or n % 3 == 1, attributes=attributes))

    def said(n: int) -> bytes:
        sent = [b"\2\0"] if capabilities & CACHED else [b"\2", *columns]
        return b.numbered(*sent, *ends, b.binary(n.to_bytes(4, "little"), b.text("x")), end)

    assert many(request, said, before, capabilities) == 20


def test_what_was_learned_of_tables_holds_at_once() -> None:
    """Another session makes a copy of patients' rows while this one goes on."""
    steps: Steps = []
    for n in range(6):
        if n == 3:
            steps += [(">", b.query("CREATE TABLE copie SELECT * FROM patient"), 5), ("<", b.numbered(b.ok(9)), 5)]
        steps += [
            (">", b.query(f"SELECT id FROM copie WHERE n = {n}"), 5),
            ("<", b.result([b.column("id", "copie")], [b.row("7")], deprecate=True), 6),
        ]
    assert compare(steps) >= 3
    made, kept = observer(QuickMysqlObserver, b.DEPRECATE, Rules(engine="mysql"))
    for side, data, now in steps:
        made.client_data(data, now) if side == ">" else made.observed(data, now)
    told = [said[2] for said in kept.said if b'"rows":1' in said[2]]
    assert [b'"patients":' in payload for payload in told] == [False] * 3 + [True] * 3


def test_a_word_of_what_is_kept() -> None:
    """What the relay asks between a command and its answer."""
    for kind in (MysqlObserver, QuickMysqlObserver):
        made, _ = observer(kind, b.DEPRECATE, Rules(engine="mysql"))
        for n in range(3):
            made.observed(b"", 1)
            made.client_data(b.command(3, TEXT_SQL % n), 2)
            assert (made.awaiting_reply, made.next_sequence, made.at_boundary) == (True, 1, True)
            assert made.only_reads
            made.observed(b.result(FOUND, [b.row("1", "x")], deprecate=True), 3)
            assert not made.awaiting_reply


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_recorded_conversations(name: str) -> None:
    found, steps = TRANSCRIPTS[name]
    if not found.capabilities & messages.CLIENT_COMPRESS:
        compare([(side, data, 1000 + n) for n, (side, data) in enumerate(steps)], found.capabilities)


def test_a_longer_packet_than_is_kept_goes_the_general_way() -> None:
    text = b"SELECT id, nom FROM patient WHERE id = %d " + b" " * 20_000
    said = b.result(FOUND, [b.row("1", "x")], deprecate=True)
    assert many(lambda n: packet(0, b"\3" + text % n), lambda n: said) == 0
