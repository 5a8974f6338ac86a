"""The compiled shortcut and the general path: the same session, step by step and byte by byte, whatever comes."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfilguard.context import sign
from exfilguard.events.codec import encode_event
from exfilguard.observe import completed
from exfilguard.observe.asked import AskedColumns
from exfilguard.observe.classify import Classifier
from exfilguard.observe.contexts import Contexts
from exfilguard.observe.copy_tables import CopyTables
from exfilguard.observe.identity import Identity, Rules
from exfilguard.observe.mysql.quick import QuickMysqlObserver
from exfilguard.observe.mysql.session import MysqlObserver
from exfilguard.observe.mysql.statement import normalise as mysql_normalise
from exfilguard.observe.outlet import Outlet
from exfilguard.observe.patients import Digester, PatientColumns
from exfilguard.observe.quick import QuickObserver
from exfilguard.observe.session import SessionObserver
from exfilguard.observe.statement import normalise as postgres_normalise
from exfilguard.observe.tally import Setting
from exfilguard.observe.templates import Templates
from exfilguard.wire.postgres import startup
from tests.wire import build as b

from .test_transcripts import TRANSCRIPTS

if QuickObserver is None and os.environ.get("EXFILGUARD_REQUIRE_COMPILED") != "1":
    pytest.skip("no C compiler at installation", allow_module_level=True)

KEY = b"0123456789abcdef"
SIGNING = {"k1": b"fedcba9876543210"}
INT4, TEXT, UUID = 23, 25, 2950
PATIENT, NAME, OTHER = ("patient_id", 5000, 1, INT4), ("nom", 5000, 3, TEXT), ("patient_id", 6000, 2, INT4)
KEYED = ("patient_id", 5000, 1, UUID)
COMPUTED = ("fichier", 0, 0, TEXT)


class Kept(Outlet):
    """Everything, in order."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.shapes: dict[str, tuple[str, ...]] = {}

    def told(self, fingerprint: str, columns: tuple[str, ...]) -> bool:
        if self.shapes.get(fingerprint) == columns:
            return True
        self.shapes[fingerprint] = columns
        return False

    def put(
        self, principal: str, time_ms: int, payload: bytes, rows: int, size: int, patients: int, final: bool
    ) -> None:
        self.said.append((principal, time_ms, payload, rows, size, patients, final))


def observer(
    kind: type[SessionObserver],
    rules: Rules,
    large: int = 1 << 20,
    tables: CopyTables | None = None,
    keys: dict[str, bytes] = SIGNING,
) -> tuple[SessionObserver, Kept]:
    columns = PatientColumns(["dpi.patients.patient_id"])
    columns.copies = tables
    columns.set_origins({(5000, 1)}, {(6000, 2)}, {5000})
    asked = AskedColumns(["dpi.patients.patient_id"])
    kept = Kept()
    made = kind(
        Setting("ehr", Digester(KEY), 3, 50, large, kept), "s1", "10.0.0.9", columns,
        Identity(rules, Contexts(keys, capacity=20), "s1", "10.0.0.9"), asked=asked, templates=Templates(asked, settings=rules.settings_count, doubted=Classifier("postgresql").doubted),
    )  # fmt: skip
    made.startup({"user": "dpi", "database": "dpi", "application_name": "app"})
    return made, kept


def seen(made: Any, kept: Kept, events: list[Any]) -> tuple[Any, ...]:
    said, kept.said = kept.said, []
    return (
        [encode_event(event) for event in events], said, made.portion_rows, made.principal, made.evidence, made.desynced,
        made.in_transaction, made.awaiting_reply, made.at_boundary, made.client_missing, made.untold(),
    )  # fmt: skip


DENIED = {"aggregate", "server_export"}
KNOWN = {Digester(KEY).digest(b"%d" % number) for number in range(3)}
Steps = list[tuple[str, bytes, int]]
Pair = tuple[tuple[Any, Kept], tuple[Any, Kept]]


def compare(
    steps: Steps,
    rules: Rules = Rules(),  # noqa: B008
    large: int = 1 << 20,
    tables: CopyTables | None = None,
    keys: dict[str, bytes] = SIGNING,
) -> int:
    """How many answers took the shortcut."""
    kinds = (SessionObserver, QuickObserver)
    general, quick = (observer(kind, rules, large, tables, keys) for kind in kinds)
    return step_by_step((general, quick), steps)


def step_by_step(pair: Pair, steps: Steps) -> int:
    """The general path and the one with the shortcut, of either engine: what they say of the same session. How many answers took it."""
    back = b""  # what was held back
    for side, data, now in steps:
        found, held = [], b""
        if side not in ">?":
            data, back = back + data, b""
        for made, kept in pair:
            if side == ">":
                events = made.client_data(data, now)
            elif side == "?":  # looked at before it is sent
                passed, events = screened(made, data, now)
                kept.said.append(passed)
            elif side == "<":
                events = made.observed(data, now)
            else:  # counted before it is forwarded
                rows, patients = (5, None, 70, 0)[now % 4], (None, 1, 5, 70, 0)[now % 5]
                result = made.server_data(data, now, rows, patients, KNOWN if now % 3 else None, follow=True)
                events, result.events = result.events, []
                kept.said.append(result)
                held = data[result.hold_at :] if result.hold_at is not None else b""
            found.append(seen(made, kept, events + made.tick(now)))
        assert found[1] == found[0], (side, data)
        back = held
    ends = [seen(made, kept, made.close(10_000)) for made, kept in pair]
    assert ends[1] == ends[0]
    return int(pair[1][0].shortcuts)


def screened(made: Any, data: bytes, now: int) -> tuple[bytes, list[Any]]:
    """As the relay does it: what is sent instead, and the events."""

    def judge(principals: Collection[str], text: bytes, piece: bool = False, *, harmless: bool = False) -> str:
        normalise = mysql_normalise if made.engine == "mysql" else postgres_normalise
        fingerprint, _ = normalise(text.decode("utf-8", "replace"))
        flags = made._classifier.flags(fingerprint, text, made._columns.mentioned_in)
        return f"not for {sorted(principals)}" if DENIED & set(flags) else ""

    flags = made.hold(data, now)
    if flags is not None and not DENIED & set(flags):
        return data, []
    if flags is not None:
        made.let_go()
    return made.screen(data, now, judge)  # type: ignore[no-any-return]


def some(rng: random.Random, *choices: Any) -> Any:
    return rng.choice(choices)


def rows_of(rng: random.Random, columns: tuple[Any, ...], binary: bool) -> bytes:
    out = b""
    for _ in range(some(rng, 0, 1, 1, 1, 2, 5, 70)):
        values: list[bytes | None] = []
        for name, _, _, type_oid in columns:
            number = rng.randrange(-2, 9)
            if rng.random() < 0.05:
                values.append(None)
            elif type_oid == INT4:
                values.append(struct.pack("!i", number) if binary else b"%d" % number)
            elif type_oid == UUID:
                values.append(bytes([number % 7] * 16) if binary else b"%08d-0000-0000-0000-00000000000A" % abs(number))
            elif name == "fichier":
                values.append(some(rng, b"x", b"7", b"1,2,3,4,5", b'{"patient_id": 4}', b"y" * 300))
            else:
                values.append(some(rng, b"", b"Dupont", b"Z\0\0\0\5I", b"C" * 40))
        out += b.row(*values)
    return out


def columns_of(rng: random.Random) -> tuple[Any, ...]:
    return some(  # type: ignore[no-any-return]
        rng,
        (PATIENT, NAME),
        (PATIENT,),
        (NAME,),
        (OTHER, NAME),
        (COMPUTED,),
        (KEYED, NAME),
        (PATIENT, KEYED),
        (NAME, PATIENT),
    )


TEXTS = (
    "SELECT patient_id, nom FROM patients WHERE patient_id = {}", "SELECT patient_id FROM patients WHERE patient_id IN ({}, {}, -{})",
    "SELECT nom FROM patients WHERE patient_id=-{}", "SELECT count(*) FROM sejours LIMIT {}", "INSERT INTO notes VALUES ({})",
    "INSERT INTO copie SELECT * FROM patients WHERE patient_id < {}", "UPDATE patients SET nom = 'x' WHERE patient_id = {}",
    "SELECT patient_id, nom FROM patients WHERE nom = 'Lefèvre{}' AND patient_id = {}", "UPDATE notes SET t = 'l''été {}; fin' WHERE n = {}",
    "SELECT nom FROM patients WHERE patient_id IN ('{}', 'a', '{}')", 'SELECT "p"."nom" FROM "patients" p WHERE p."patient_id" = {}',
    "BEGIN", "COMMIT", "SET exfilguard.user = 'dr{}'", "SELECT json_agg(p) FROM patients p", "", "SHOW work_mem",
    "SELECT patient_id FROM patients WHERE patient_id = {} /* dr */", 'SELECT "Jean Dupont" FROM patients WHERE patient_id = {}',
    "DECLARE c CURSOR FOR SELECT md5(nom) FROM patients", "FETCH ALL FROM c", "CREATE VIEW v AS SELECT nom FROM patients", "TABLE v",
    "SELECT query_to_xml('SELECT * FROM patients WHERE patient_id = {}')", "INSERT INTO notes VALUES ('du patients, select {}')", "DO 'patients {}'",
    "SELECT fichier FROM notes WHERE n = 'x{}' /* patients {} */", "SELECT nom FROM patients WHERE patient_id = '{{{},4}}' OR patient_id = 'a''{}'",
    "SELECT U&\"a{}\" FROM patients", "SELECT E'\\'{}' FROM patients", "SELECT $$'$$, {} FROM patients WHERE nom = ''",
)  # fmt: skip
TAGS = (
    "SELECT 1",
    "SELECT 0",
    "SELECT 3",
    "INSERT 0 1",
    "INSERT 0 0",
    "UPDATE 1",
    "BEGIN",
    "COMMIT",
    "SET",
    "COPY 4",
    "SHOW",
    "DECLARE CURSOR",
    "CREATE VIEW",
    "CLOSE CURSOR",
)


def signed(rng: random.Random, calm: bool) -> str:
    """Mostly nothing, or what follows a text: a context, mostly one that holds, or another comment."""
    if rng.random() < 0.6:
        return ""
    odd = rng.random() + calm
    user = some(rng, "dr1", "dr1", "dr2", "l'été 2", "dr select")
    if odd < 0.2:
        return some(rng, f" /* enduser_id='{user}' */", "/*traceparent='00-1'*/ ;", " /*enduser_id='dr3'*/", " -- x")  # type: ignore[no-any-return]
    key = SIGNING["k1"] if odd > 0.3 else b"another's ......"
    issued_s, ttl_s = (1, 1 if odd < 0.4 else 60) if odd > 0.35 else (900, 60)
    number = rng.randrange(40 if odd < 0.5 else 1 << 60)
    return " " + sign(user, "", key, issued_s=issued_s, ttl_s=ttl_s, nonce=f"{number:016d}") + some(rng, "", "", ";")  # type: ignore[no-any-return]


def simple(rng: random.Random, calm: bool) -> tuple[bytes, bytes]:
    text = some(rng, *TEXTS[: 11 if calm else None])
    text = text.format(*(some(rng, 1, 2, 3, 12345, "0" * (9 if calm else 120)) for _ in range(3))) + signed(rng, calm)
    columns = columns_of(rng)
    answer = b""
    if rng.random() < 0.8:
        answer += b.description(*columns) + rows_of(rng, columns, False)
    return b.query(text), answer + ending(rng, calm)


def ending(rng: random.Random, calm: bool) -> bytes:
    said = b.complete(some(rng, *TAGS))
    odd = rng.random() + calm
    if odd < 0.06:
        said = b.error()
    elif odd < 0.09:
        said = b.message("N", b"SNOTICE\0\0") + said
    elif odd < 0.12:
        said += b.message("S", b"application_name\0other\0")
    elif odd < 0.14:
        said += said
    elif odd < 0.16:
        said = b.EMPTY
    elif odd < 0.18:
        said = b.message("S", b"standard_conforming_strings\0off\0") + said
    return said + b.message("Z", some(rng, b"I", b"I", b"T", b"E"))


PREPARED = (
    ("a", "SELECT patient_id, nom FROM patients WHERE patient_id = $1", (INT4,)),
    ("b", "SELECT nom FROM patients WHERE patient_id = ANY ($2) AND patient_id = 77 AND ville = $1", ()),
    ("", "SELECT count(*) FROM patients WHERE patient_id = $1", (UUID,)),
    ("c", "SELECT 1", ()),
    ("d", "SELECT set_config('exfilguard.user', $1, false)", ()),
)
AT_ONCE = (
    *[(text, types) for _, text, types in PREPARED],
    ("SELECT nom FROM patients WHERE patient_id = $1 AND nom <> 'é'", (0,)), ("SELECT nom FROM patients WHERE patient_id = 5", ()),
    ("SELECT json_agg(p) FROM patients p WHERE nom <> $1", (TEXT,)), ("SELECT nom FROM patients p WHERE p.patient_id = $1 /* dr */", (INT4,)), ("INSERT INTO notes VALUES ($1, 'select')", ()), ("", ()),
)  # fmt: skip


def parse(name: str, text: str, types: tuple[int, ...]) -> bytes:
    body = name.encode() + b"\0" + text.encode() + b"\0" + struct.pack(f"!H{len(types)}I", len(types), *types)
    return b.message("P", body)


def preparing(rng: random.Random) -> Steps:
    out: Steps = []
    for name, text, types in PREPARED:
        request, answer = parse(name, text, types), b.PARSED
        if rng.random() < 0.7:
            request += b.describe("S", name)
            columns = columns_of(rng)
            given = types or (TEXT, TEXT)
            answer += b.message("t", struct.pack(f"!H{len(given)}I", len(given), *given)) + b.description(*columns)
        out += [(">", request + b.SYNC, 1000), ("<", answer + b.READY, 1001)]
    return out


def prepared(rng: random.Random, calm: bool) -> tuple[bytes, bytes]:
    name, portal = (
        some(rng, "a", "a", "b", "", "c", *(() if calm else "de")),
        some(rng, "", *([] if calm else ["", "", "p"])),
    )
    described, binary = rng.random() < 0.6, some(rng, 0, 1)
    values = [
        some(
            rng,
            None,
            b"1",
            b"2",
            b" 12 ",
            struct.pack("!i", 5),
            b"{1,2}",
            b"%08d-0000-0000-0000-00000000000A" % 3,
            b"x" * 200,
        )
        for _ in range(some(rng, 0, 1, 1, 2, 3))
    ]
    formats = some(rng, (), (0,), (1,), tuple(some(rng, 0, 1) for _ in values))
    results = some(rng, (), (binary,), (binary, binary), (1, 0))
    body = portal.encode() + b"\0" + name.encode() + b"\0" + struct.pack(f"!H{len(formats)}h", len(formats), *formats)
    body += struct.pack("!H", len(values))
    body += b"".join(struct.pack("!i", -1) if v is None else struct.pack("!i", len(v)) + v for v in values)
    body += struct.pack(f"!H{len(results)}h", len(results), *results)
    request = b.message("B", body)
    columns = columns_of(rng)
    answer = b.BOUND
    if rng.random() < 0.3:  # prepared and executed at once
        text, types = some(rng, *(AT_ONCE[:8] if calm else AT_ONCE))
        text += signed(rng, calm)
        request = parse(some(rng, name, name, name, *(() if calm else "z")), text, types) + request
        answer = b.PARSED + answer
    if described:
        request += b.describe("P", portal)
        answer += some(rng, b.NO_DATA, *[b.description(*columns, fmt=binary)] * 6)
    most = some(rng, 0, *([] if calm else [0, 0, 0, 1]))
    request += b.execute(portal, most) + b.SYNC
    answer += rows_of(rng, columns, bool(binary))
    if most:
        return request, answer + b.SUSPENDED + b.READY
    return request, answer + ending(rng, calm)


def exchanged(rng: random.Random, calm: bool, now: int, request: bytes, answer: bytes, counts: float) -> Steps:
    """One request and its answer: a byte of each may be changed, both come cut anywhere, some time later; the answer is perhaps
    counted before it is forwarded, and the request looked at before it is sent."""
    side = "=" if rng.random() < counts else "<"
    asks = "?" if rng.random() < counts else ">"
    if rng.random() < 0.03:
        at = rng.randrange(len(answer) + 1)  # a command may have no answer
        answer = answer[:at] + bytes([rng.randrange(256)]) + answer[at + 1 :]
    if rng.random() < 0.03:
        at = rng.randrange(len(request))
        request = request[:at] + bytes([rng.randrange(256)]) + request[at + 1 :]
    now += some(rng, 0, 3, 60)
    steps: Steps = []
    for where, data in ((asks, request), (side, answer)):
        edges = sorted(rng.choices(range(len(data) + 1), k=0 if calm else some(rng, 0, 0, 1, 2)))
        for i, j in zip([0, *edges], [*edges, len(data)], strict=True):
            now += some(rng, 0, 1, 7)
            steps.append((where, data[i:j], now))
    return steps


def session(rng: random.Random) -> Steps:
    steps: Steps = [("<", b.LOGIN, 1000)]
    if rng.random() < 0.8:
        steps += preparing(rng)
    usual, counts = rng.random(), some(rng, 0.0, 0.05, 1.0)
    for _ in range(rng.randrange(1, 40)):
        calm = rng.random() < usual
        request, answer = some(rng, simple, prepared, prepared)(rng, calm)
        if rng.random() + calm < 0.1:  # pipelined
            more, further = some(rng, simple, prepared)(rng, calm)
            request, answer = request + more, answer + further
        steps += exchanged(rng, calm, steps[-1][2], request, answer, counts)
    return steps


@given(st.integers(min_value=0, max_value=2**40))
def test_one_behaviour(seed: int) -> None:
    rng = random.Random(seed)
    rules = some(
        rng,
        Rules(),
        Rules(),
        Rules(trusted_sources=("*",)),
        Rules(trusted_sources=("*",), pooled=True),
        Rules(roles=("dr*",)),
    )
    compare(session(rng), rules, some(rng, 1 << 20, 300), keys=some(rng, {}, SIGNING))


def many(request: Callable[[int], bytes], answer: Callable[[int], bytes], before: Steps | None = None) -> int:
    steps: Steps = [("<", b.LOGIN, 1000), *(before or [])]
    for n in range(20):
        steps += [(">", request(n), 1000 + n), ("<", answer(n), 1002 + n)]
    return compare(steps)


@pytest.mark.parametrize("kind", [SessionObserver, QuickObserver, MysqlObserver, QuickMysqlObserver])
def test_an_observers_methods_are_plain_calls_in_c(kind: Any) -> None:
    """With a `__dict__`, or defined in Python, each call of the relay's would look for another method of that name first."""
    assert kind.__dictoffset__ == 0
    assert not kind.__flags__ & 1 << 9  # Py_TPFLAGS_HEAPTYPE


def context(number: int) -> str:
    return sign(f"dr{number}", "", SIGNING["k1"], issued_s=1, nonce=f"{number:016d}")


def test_the_common_cases_take_the_shortcut() -> None:
    text = "SELECT patient_id, nom FROM patients WHERE patient_id = {}"
    found = b.description(PATIENT, NAME)
    done = b.complete("SELECT 1") + b.READY
    assert (
        many(lambda n: b.query(text.format(n)), lambda n: found + b.row(b"%d" % n, b"x") + done) == 19
    )  # the first is learned
    quoted = "SELECT patient_id, nom FROM patients WHERE nom = 'Lefèvre, {}' /* {} */"
    assert many(lambda n: b.query(quoted.format(n, n)), lambda n: found + b.row(b"%d" % n, b"x") + done) == 19
    said = "SELECT patient_id, nom FROM patients WHERE nom = 'Lefèvre, {}' {}"
    assert many(lambda n: b.query(said.format(n, context(n))), lambda n: found + b.row(b"%d" % n, b"x") + done) == 19
    for name in ("", "s"):
        parsed = parse(name, "SELECT patient_id, nom FROM patients WHERE nom <> 'é' AND patient_id = $1", (INT4,))
        assert many(
            lambda n: parsed + b.bind("", name, (b"%d" % n,)) + b.describe("P", "") + b.execute("") + b.SYNC,  # noqa: B023
            lambda n: b.PARSED + b.BOUND + found + b.row(b"%d" % n, b"x") + done,
        ) == 20  # fmt: skip
        assert many(
            lambda n: parse(name, f"SELECT nom FROM patients WHERE patient_id = $1 {context(n)}", (INT4,))  # noqa: B023
            + b.bind("", name, (b"%d" % n,)) + b.describe("P", "") + b.execute("") + b.SYNC,  # noqa: B023
            lambda n: b.PARSED + b.BOUND + found + b.row(b"%d" % n, b"x") + done,
        ) == 20  # fmt: skip
    before: Steps = [
        (">", b.parse("s", text.format("$1")) + b.describe("S", "s") + b.SYNC, 1000),
        ("<", b.PARSED + b.message("t", struct.pack("!HI", 1, INT4)) + found + b.READY, 1000),
    ]
    assert (
        many(
            lambda n: b.bind("", "s", (b"%d" % n,)) + b.execute("") + b.SYNC,
            lambda n: b.BOUND + b.row(b"%d" % n, b"x") + done,
            before,
        )
        == 20
    )
    assert many(
        lambda n: b.bind("", "s", (b"%d" % n,)) + b.describe("P", "") + b.execute("") + b.SYNC,
        lambda n: b.BOUND + found + b.row(b"%d" % n, b"x") + done,
        before,
    ) == 20  # fmt: skip


def test_results_with_more_columns_than_are_kept_are_read_the_general_way() -> None:
    """What is known of a shape's results stays for good: each holds the description they came with."""
    wide = b.description(*[(f"c{n}", 0, 0, TEXT) for n in range(500)])
    made, kept = observer(QuickObserver, Rules())
    made.observed(b.LOGIN, 1)
    for n in range(4):
        made.client_data(b.query(f"SELECT * FROM t LIMIT {n}"), 2)
        made.observed(wide + b.complete("SELECT 0") + b.READY, 3)
    assert made.shortcuts == 0
    assert not made._columns._readings
    assert len(kept.said) == 4


def test_names_of_columns_that_nobody_is_told_are_not_remembered() -> None:
    names = tuple([f"told{n}" for n in range(completed.MAX_COLUMNS)])
    before = completed._plain_names.cache_info().currsize
    assert [completed.plain_names((*names, f"x{n}")) for n in range(9)] == [names] * 9
    assert completed._plain_names.cache_info().currsize == before + 1


def test_what_one_session_has_described_is_not_known_in_another() -> None:
    """Both parse the same text; the first one's portal is described once more, by other columns."""
    (first, _), (second, kept) = (observer(QuickObserver, Rules()) for _ in range(2))
    second._templates = first._templates
    request = parse("", "SELECT nom FROM patients WHERE ville = $1", (TEXT,)) + b.bind("", "", (b"x",))
    done = b.complete("SELECT 1") + b.message("Z", b"T")
    for made in (first, second):
        made.observed(b.LOGIN, 1)
        for _ in range(2):
            made.client_data(request + b.describe("P", "") + b.execute("") + b.SYNC, 2)
            made.observed(b.PARSED + b.BOUND + b.description(NAME) + b.row(b"x") + done, 3)
    assert first.shortcuts == second.shortcuts == 2
    first.client_data(b.describe("P", "") + b.SYNC, 4)
    first.observed(b.description(PATIENT) + b.message("Z", b"T"), 5)
    kept.said.clear()
    second.client_data(request + b.execute("") + b.SYNC, 6)
    second.observed(b.PARSED + b.BOUND + b.row(b"7") + done, 7)
    (said,) = kept.said
    assert b'"patients_by":"estimate"' in said[2], "nobody had its rows described"


def test_columns_that_became_known_hold_at_once() -> None:
    """The catalog is asked while sessions go on."""
    text, found = "SELECT patient_id FROM sejours WHERE n = {}", b.description(OTHER)
    made, kept = observer(QuickObserver, Rules())
    made.observed(b.LOGIN, 1)
    columns: PatientColumns = made._columns
    for known in (True, False):
        columns.set_origins({(5000, 1)}, {(6000, 2)} if known else set())
        for n in range(3):
            made.client_data(b.query(text.format(n)), 2)
            made.observed(found + b.row(b"7") + b.complete("SELECT 1") + b.READY, 3)
    assert [b'"patients":' in said[2] for said in kept.said] == [False] * 3 + [True] * 3


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_recorded_conversations(name: str) -> None:
    (_, first), *rest = TRANSCRIPTS[name]
    request, used = startup.parse(first)
    assert isinstance(request, startup.StartupMessage)
    compare([(side, data, 1000 + n) for n, (side, data) in enumerate([(">", first[used:]), *rest])])


@pytest.mark.parametrize("kind", [SessionObserver, QuickObserver])
def test_a_statement_that_sql_has_put_under_a_described_name_is_not_read_by_that_description(
    kind: type[SessionObserver],
) -> None:
    seen = kind(
        Setting("ehr", Digester(KEY), 1000, 50, outlet=Kept()),
        "s1",
        "10.0.0.9",
        PatientColumns(["dpi.patients.patient_id"]),
    )
    seen.startup({"user": "dpi"})
    for side, data in [
        ("<", b.LOGIN),
        (">", b.parse("s", "SELECT 1 AS x") + b.describe("S", "s") + b.SYNC),
        ("<", b.PARSED + b.description(("x", 0, 0, INT4)) + b.READY),
        *[
            step for sql in ("DEALLOCATE s", "PREPARE s AS SELECT patient_id FROM patients")
            for step in ((">", b.query(sql)), ("<", b.complete(sql.split()[0]) + b.READY))
        ],
        (">", b.bind("", "s") + b.execute("") + b.SYNC),
    ]:  # fmt: skip
        if side == ">":
            seen.client_data(data, 5)
        else:
            seen.server_data(data, 5)
    rows = [b.row(b"%d" % number) for number in range(3)]
    found = seen.server_data(b.BOUND + b"".join(rows) + b.complete("SELECT 3") + b.READY, 6, None, 1, ())
    assert (found.rows, len(found.new_patients), found.cut_at) == (1, 1, len(b.BOUND + rows[0]))
