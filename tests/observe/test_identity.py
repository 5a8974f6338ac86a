"""Who is charged, transcript by transcript: a change takes effect exactly at its statement, never earlier or later."""

from __future__ import annotations

import random
import re
import time

import pytest

from exfilguard.context import sign, tag
from exfilguard.events.query import QueryEvent
from exfilguard.observe.contexts import Contexts
from exfilguard.observe.identity import Identity, Rules
from exfilguard.observe.patients import Digester, PatientColumns
from exfilguard.observe.session import SessionObserver
from exfilguard.observe.tally import Setting
from tests.wire import build as b

KEY = b"a key of the clinic, 32 bytes long"
NOW_S = 1_700_000_000
NOW = NOW_S * 1000
NONCE = "n" * 20

Step = tuple[str, bytes]


def observer(
    contexts: Contexts | None = None, source: str = "10.0.0.9", app: str = "", **rules: object
) -> SessionObserver:
    made = Rules(trusted_sources=("10.0.0.0/8",), **rules)  # type: ignore[arg-type]
    identity = Identity(made, contexts or Contexts({"k1": KEY}), "s1", source)
    found = SessionObserver(Setting("ehr", Digester(KEY[:16]), 1000, 50), "s1", source, PatientColumns([]), identity)
    found.startup({"user": "ehr_app", "database": "dpi", "application_name": app})
    return found


def signed(user: str, nonce: str = NONCE, **changes: object) -> str:
    return sign(user, "web-1", KEY, issued_s=NOW_S, nonce=nonce, **changes)  # type: ignore[arg-type]


def play(
    steps: list[Step], target: SessionObserver | None = None, cut: int | random.Random = 0, at: int = NOW
) -> list[QueryEvent]:
    seen = target or observer()
    events: list[QueryEvent] = []
    for side, data in [("<", b.LOGIN), *steps]:
        pieces = [data]
        if cut == 1:
            pieces = [data[i : i + 1] for i in range(len(data))]
        elif isinstance(cut, random.Random):
            edges = sorted(cut.choices(range(len(data) + 1), k=min(9, len(data))))
            pieces = [data[i:j] for i, j in zip([0, *edges], [*edges, len(data)], strict=True)]
        for piece in pieces:
            events += seen.client_data(piece, at) if side == ">" else seen.server_data(piece, at).events
    return events


def charged(events: list[QueryEvent]) -> list[tuple[str, str, int]]:
    """(principal, evidence, rows) of each statement."""
    out: list[tuple[str, str, int]] = []
    rows = 0
    for event in events:
        rows += event.rows
        if event.kind == "query":
            out.append((event.principal, event.evidence, rows))
            rows = 0
    return out


def findings(events: list[QueryEvent]) -> list[tuple[str, str]]:
    return [(e.detail, e.principal) for e in events if e.kind == "finding"]


ROWS = b.description(("x", 0, 0, 23)) + b.row(b"1") + b.row(b"2") + b.complete("SELECT 2")
OK, IN_TX, FAILED_TX = b.READY, b.message("Z", b"T"), b.message("Z", b"E")


def ask(sql: str, answer: bytes = ROWS, status: bytes = OK) -> list[Step]:
    return [(">", b.query(sql)), ("<", answer + status)]


def done(tag_text: str) -> bytes:
    return b.complete(tag_text)


def setting(sql: str, status: bytes = OK) -> list[Step]:
    return ask(sql, done("SET"), status)


APP = ("ehr_app", "login", 2)
ALICE, BOB = ("alice", "session_setting", 2), ("bob", "session_setting", 2)
BEGIN = ask("BEGIN", done("BEGIN"), IN_TX)
COMMIT = ask("COMMIT", done("COMMIT"))
ROLLBACK = ask("ROLLBACK", done("ROLLBACK"))
SELECT, SELECT_IN_TX = ask("SELECT 1"), ask("SELECT 1", status=IN_TX)
LOCAL = setting("SET LOCAL exfilguard.end_user = 'alice'", IN_TX)
STICKY = setting("SET exfilguard.end_user TO 'alice'")
STICKY_IN_TX = setting("SET exfilguard.end_user TO 'alice'", IN_TX)
ERROR = [(">", b.query("SELECT boom")), ("<", b.error() + FAILED_TX)]

TRANSCRIPTS: dict[str, tuple[list[Step], list[tuple[str, str, int]]]] = {
    "a setting holds from the next statement": ([*SELECT, *STICKY, *SELECT], [APP, ("ehr_app", "login", 0), ALICE]),
    "SET LOCAL dies at COMMIT": ([*BEGIN, *LOCAL, *SELECT_IN_TX, *COMMIT, *SELECT], [None, None, ALICE, None, APP]),
    "SET LOCAL dies at ROLLBACK": ([*BEGIN, *LOCAL, *SELECT_IN_TX, *ROLLBACK, *SELECT], [None, None, ALICE, None, APP]),
    "SET survives COMMIT": ([*BEGIN, *STICKY_IN_TX, *COMMIT, *SELECT], [None, None, None, ALICE]),
    "SET is undone by ROLLBACK": ([*BEGIN, *STICKY_IN_TX, *SELECT_IN_TX, *ROLLBACK, *SELECT], [None, None, ALICE, None, APP]),
    "SET is undone by an error, at once": ([*BEGIN, *STICKY_IN_TX, *ERROR, *ROLLBACK, *SELECT], [None, None, None, None, APP]),
    "COMMIT of a failed transaction undoes": (
        [*BEGIN, *STICKY_IN_TX, *ERROR, *ask("COMMIT", done("ROLLBACK")), *SELECT], [None, None, None, None, APP]),
    "a savepoint keeps what was before it": (
        [*STICKY, *BEGIN, *ask("SAVEPOINT a", done("SAVEPOINT"), IN_TX), *setting("SET exfilguard.end_user='bob'", IN_TX), *SELECT_IN_TX,
            *ask("ROLLBACK TO a", done("ROLLBACK"), IN_TX), *SELECT_IN_TX, *COMMIT, *SELECT],
        [None, None, None, None, BOB, None, ALICE, None, ALICE]),
    "an error behind a savepoint is undone to it": (
        [*BEGIN, *STICKY_IN_TX, *ask("SAVEPOINT a", done("SAVEPOINT"), IN_TX), *setting("SET exfilguard.end_user='bob'", IN_TX), *ERROR,
            *ask("ROLLBACK TO SAVEPOINT a", done("ROLLBACK"), IN_TX), *SELECT_IN_TX, *COMMIT, *SELECT],
        [None, None, None, None, None, None, ALICE, None, ALICE]),
    "a released savepoint is part of the transaction": (
        [*BEGIN, *ask("SAVEPOINT a", done("SAVEPOINT"), IN_TX), *STICKY_IN_TX, *ask("RELEASE a", done("RELEASE"), IN_TX), *SELECT_IN_TX,
            *ROLLBACK, *SELECT],
        [None, None, None, None, ALICE, None, APP]),
    "RESET": ([*STICKY, *SELECT, *ask("RESET exfilguard.end_user", done("RESET")), *SELECT], [None, ALICE, None, APP]),
    "SET TO DEFAULT": ([*STICKY, *setting("SET exfilguard.end_user TO DEFAULT"), *SELECT], [None, None, APP]),
    "RESET ALL": ([*STICKY, *ask("reset all", done("RESET")), *SELECT], [None, None, APP]),
    "DISCARD ALL": ([*STICKY, *ask("DISCARD ALL", done("DISCARD ALL")), *SELECT], [None, None, APP]),
    "another SET": ([*STICKY, *setting("set session exfilguard.end_user = bob"), *SELECT], [None, None, BOB]),
    "a SET that fails changes nothing": (
        [*STICKY, (">", b.query("SET exfilguard.end_user = 'bob'")), ("<", b.error() + OK), *SELECT], [None, None, ALICE]),
    "set_config": ([*ask("SELECT set_config('exfilguard.end_user', 'alice', false)"), *SELECT], [APP, ALICE]),
    "set_config, local, outside of a transaction": (
        [*ask("SELECT set_config('exfilguard.end_user', 'alice', true)"), *SELECT], [APP, APP]),
    "set_config of another setting": ([*STICKY, *ask("SELECT set_config('work_mem', '1MB', false)"), *SELECT], [None, ALICE, ALICE]),
    "set_config of what is computed is nobody's": (
        [*STICKY, *ask("SELECT set_config('exfilguard.end_user', name, false) FROM staff"), *SELECT], [None, ALICE, APP]),
    "a DO block that names the setting is nobody's": (
        [*STICKY, *ask("DO $$ BEGIN PERFORM set_config('exfilguard.end_user', 'x', false); END $$", done("DO")), *SELECT],
        [None, None, APP]),
    "PREPARE of a set_config: the session's settings are believed no more": (
        [*ask("PREPARE p AS SELECT set_config('exfilguard.end_user', $1, false)", done("PREPARE")), *STICKY, *SELECT], [None, None, APP]),
    "several statements in one Query": (
        [(">", b.query("SET exfilguard.end_user = 'alice'; SELECT 1; RESET exfilguard.end_user; SELECT 1")),
            ("<", done("SET") + ROWS + done("RESET") + ROWS + OK), *SELECT],
        [None, ALICE, None, APP, APP]),
    "an error in one Query undoes its SET": (
        [(">", b.query("SET exfilguard.end_user = 'alice'; SELECT 1; SELECT boom")), ("<", done("SET") + ROWS + b.error() + OK), *SELECT],
        [None, ALICE, None, APP]),
    "in a literal it is only text": ([*ask("SELECT 'x; SET exfilguard.end_user = ''bob'' '"), *SELECT], [APP, APP]),
    "behind comments": ([*setting("/* hi */ -- there\n SET /* x */ exfilguard.end_user = 'alice'"), *SELECT], [None, ALICE]),
    "a name with control characters is none": ([*setting("SET exfilguard.end_user = E'a\\nb'"), *SELECT], [None, APP]),
    "an empty name is none": ([*STICKY, *setting("SET exfilguard.end_user = ''"), *SELECT], [None, None, APP]),
    "a comment at the end": (
        [*ask(f"SELECT 1 {signed('dr.martin')}"), *SELECT], [("dr.martin", "signed_context", 2), APP]),
    "a comment, then a semicolon": ([*ask(f"SELECT 1 {signed('dr.martin')} ; ")], [("dr.martin", "signed_context", 2)]),
    "a comment is better than a setting": (
        [*STICKY, *ask(f"SELECT 1 {signed('dr.martin')}"), *SELECT], [None, ("dr.martin", "signed_context", 2), ALICE]),
    "a comment that is not the last thing": ([*ask(f"SELECT 1 {signed('dr.martin')} + 1")], [APP]),
    "a comment in a literal": ([*ask(f"SELECT 'x {signed('bob').replace(chr(39), chr(34))}' /* */")], [APP]),
    "a comment in a line comment": ([*ask(f"SELECT 1 -- {signed('dr.martin')}")], [APP]),
    "a comment in a dollar quote": ([*ask(f"SELECT $a$ {signed('dr.martin')}")], [APP]),
    "a comment in a comment": ([*ask(f"SELECT 1 /* {signed('dr.martin')}")], [APP]),
    "an injected tag that comments the real one out": ([*ask(f"SELECT 1 /*enduser_id='bob'*/-- {signed('dr.martin')}")], [APP]),
    "a plain comment from a trusted source": ([*ask("SELECT 1 /*enduser_id='dr.z%C3%A9',route='%2Fx'*/")], [("dr.zé", "comment", 2)]),
    "a comment of an ordinary kind": ([*STICKY, *ask("SELECT 1 /* list view */")], [None, ALICE]),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSCRIPTS)
@pytest.mark.parametrize("cut", ["whole", "bytes", "random"])
def test_a_transcript(name: str, cut: str) -> None:
    steps, expected = TRANSCRIPTS[name]
    how: int | random.Random = {"whole": 0, "bytes": 1, "random": random.Random(7)}[cut]  # type: ignore[assignment]
    found = charged(play(steps, cut=how))
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        assert want is None or got == want, (found, expected)


def test_unsigned_words_of_an_untrusted_client_count_for_nothing() -> None:
    for steps in (
        STICKY,
        ask("SELECT 1 /*enduser_id='bob'*/"),
        ask("SELECT set_config('exfilguard.end_user','bob',false)"),
    ):
        events = play(
            [*steps, *SELECT],
            observer(source="192.168.1.5", app="user:bob", name_pattern=re.compile("user:(?P<principal>.*)")),
        )
        assert {e.principal for e in events} == {"ehr_app"}
    events = play(ask(f"SELECT 1 {signed('dr.martin')}"), observer(source="192.168.1.5"))
    assert charged(events) == [("dr.martin", "signed_context", 2)]


def test_behind_a_pooler_a_setting_ends_with_its_transaction() -> None:
    seen = observer(pooled=True, app="user:bob", name_pattern=re.compile("user:(?P<principal>.*)"))
    assert seen.principal == "ehr_app"
    events = play([*STICKY, *SELECT, *BEGIN, *STICKY_IN_TX, *SELECT_IN_TX, *COMMIT, *SELECT], seen)
    assert [c[0] for c in charged(events)] == ["ehr_app"] * 4 + ["alice", "alice", "ehr_app"]


def test_application_name_follows_its_changes() -> None:
    seen = observer(app="user:alice", name_pattern=re.compile("user:(?P<principal>.*)"))
    report = b.message("S", b"application_name\0user:carol\0")
    events = play([*SELECT, *setting("SET application_name = 'user:bob'"), *SELECT, ("<", report), *SELECT], seen)
    assert [c[:2] for c in charged(events)] == [
        ("alice", "application_name"), ("alice", "application_name"), ("bob", "application_name"), ("carol", "application_name"),
    ]  # fmt: skip


def test_roles_that_stand_for_persons() -> None:
    seen = observer(roles=("dr.*",))
    steps = [
        *setting('SET ROLE "dr.alice"'), *SELECT, *setting("SET ROLE readers"), *SELECT, *setting("SET ROLE 'dr.bob'"), *SELECT,
        *ask("RESET ROLE", done("RESET")), *SELECT, *setting("SET SESSION AUTHORIZATION 'dr.carol'"), *SELECT,
        *ask("RESET ALL", done("RESET")), *SELECT, *ask("DISCARD ALL", done("DISCARD ALL")), *SELECT,
    ]  # fmt: skip
    got = [c[:2] for c in charged(play(steps, seen)) if c[2]]
    role = "role"
    assert got == [
        ("dr.alice", role), ("ehr_app", "login"), ("dr.bob", role), ("ehr_app", "login"), ("dr.carol", role), ("dr.carol", role),
        ("ehr_app", "login"),
    ]  # fmt: skip


def test_a_pipeline_changes_at_its_statement() -> None:
    """Everything is sent before anything is answered; an error in the middle takes back what came before it in its batch."""
    one = b.parse("", "SET exfilguard.end_user='alice'") + b.bind("", "") + b.execute("") + b.SYNC
    local = (
        b.parse("", "SELECT set_config('exfilguard.end_user', $1, $2)") + b.bind("", "", (b"bob", b"f")) + b.execute("")
    )
    read = b.parse("", "SELECT 1") + b.bind("", "") + b.execute("")
    wrong = b.parse("", "SELECT boom") + b.bind("", "") + b.execute("")
    ok = b.PARSED + b.BOUND
    select = ok + b.row(b"1") + b.row(b"2") + done("SELECT 2")
    steps = [
        (">", one + read + b.SYNC + local + read + wrong + read + b.SYNC + read + b.SYNC),
        (
            "<",
            ok
            + done("SET")
            + OK
            + select
            + OK
            + ok
            + b.row(b"bob")
            + done("SELECT 1")
            + select
            + b.error()
            + OK
            + select
            + OK,
        ),
    ]
    for cut in (0, 1, random.Random(3)):
        got = charged(play(steps, cut=cut))
        assert got == [
            ("ehr_app", "login", 0),
            ALICE,
            ("alice", "session_setting", 1),
            BOB,
            ("bob", "session_setting", 0),
            ALICE,
        ]


def test_signed_statements_of_several_users_in_one_pipeline() -> None:
    users = ["alice", "bob", "alice", "carol"]
    sent = b"".join(
        b.parse("", f"SELECT 1 {signed(user, nonce=f'nonce-{i}-0123456789')}") + b.bind("", "") + b.execute("")
        for i, user in enumerate(users)
    )
    answer = b.PARSED + b.BOUND + b.row(b"1") + b.row(b"2") + done("SELECT 2")
    got = charged(play([(">", sent + b.SYNC), ("<", answer * 4 + OK)], cut=random.Random(5)))
    assert got == [(user, "signed_context", 2) for user in users]


def test_a_prepared_statement_keeps_its_context_until_it_expires() -> None:
    seen = observer()
    prepare = [(">", b.parse("p", f"SELECT 1 {signed('dr.martin')}") + b.SYNC), ("<", b.PARSED + OK)]
    run = [(">", b.bind("", "p") + b.execute("") + b.SYNC), ("<", b.BOUND + b.row(b"1") + done("SELECT 1") + OK)]
    events = play([*prepare, *run, *run, *run], seen)
    assert charged(events) == [("dr.martin", "signed_context", 1)] * 3
    assert not findings(events)
    late = [step for step in run for _ in (0,)]
    events = []
    for side, data in late:
        events += seen.client_data(data, NOW + 91_000) if side == ">" else seen.server_data(data, NOW + 91_000).events
    assert charged(events) == [("ehr_app", "login", 1)]
    assert findings(events) == [("identity_expired", "ehr_app")]


def test_a_portal_keeps_its_context_to_its_end() -> None:
    seen = observer()
    play([(">", b.parse("", f"SELECT 1 {signed('dr.martin')}") + b.bind("c", "") + b.execute("c", 1) + b.FLUSH),
        ("<", b.PARSED + b.BOUND + b.row(b"1") + b.SUSPENDED)], seen)  # fmt: skip
    events = seen.client_data(b.execute("c", 1) + b.SYNC, NOW + 500_000)
    events += seen.server_data(b.row(b"2") + done("SELECT 1") + OK, NOW + 500_000).events
    assert charged(events) == [("dr.martin", "signed_context", 1)]


def forged(text: str) -> str:
    return text.replace("dr.martin", "dr.dupont")


@pytest.mark.parametrize(
    ("sql", "finding"),
    [
        (f"SELECT 1 {forged(signed('dr.martin'))}", "identity_forged"),
        (f"SELECT 1 {signed('dr.martin')[:-4]}00*/".replace("00*/", "'*/"), "identity_forged"),
        (f"SELECT 1 {sign('dr.martin', '', b'another key, long enough', issued_s=NOW_S)}", "identity_forged"),
        (f"SELECT 1 {sign('dr.martin', '', KEY, key_id='k9', issued_s=NOW_S)}", "identity_forged"),
        (f"SELECT 1 {sign('dr.martin', '', KEY, issued_s=NOW_S - 1000)}", "identity_expired"),
        (f"SELECT 1 {sign('dr.martin', '', KEY, issued_s=NOW_S + 100)}", "identity_expired"),
        (f"SELECT 1 {sign('dr.martin', '', KEY, issued_s=NOW_S - 400, ttl_s=3600)}", "identity_expired"),
        (f"SELECT 1 {signed('dr.martin').replace('exfilguard_sig', 'exfilguard_sic')}", "identity_forged"),
    ],
    ids=["user changed", "signature cut", "other key", "unknown key id", "expired", "from the future", "too long a life", "unsigned"],
)  # fmt: skip
def test_a_context_that_does_not_hold_is_charged_to_the_login_and_told(sql: str, finding: str) -> None:
    events = play([*STICKY, *ask(sql), *SELECT])
    assert charged(events)[1:] == [APP, ALICE]
    assert findings(events) == [(finding, "ehr_app")]
    assert "dr.martin" not in repr([e for e in events if e.kind == "finding"])


def test_a_replay_is_refused_and_a_retry_is_not() -> None:
    contexts = Contexts({"k1": KEY})
    comment = signed("dr.martin")
    first = play(ask(f"SELECT 1 {comment}"), observer(contexts))
    assert charged(first) == [("dr.martin", "signed_context", 2)]
    seen = observer(contexts)
    assert charged(play(ask(f"SELECT 1 {comment}"), seen)) == [
        ("dr.martin", "signed_context", 2)
    ]  # the same session id
    again = play(ask(f"SELECT * FROM patient {comment}"), observer(contexts))
    assert charged(again) == [APP]
    assert findings(again) == [("identity_replayed", "ehr_app")]
    other = Identity(Rules(), contexts, "s2", "10.0.0.9")
    script = other.read(f"SELECT 1 {comment}".encode(), NOW)
    assert script is not None
    assert script.finding == "identity_replayed"


def test_keys_rotate() -> None:
    new_key = b"the clinic's new key, long enough"
    both = Contexts({"k1": KEY, "k2": new_key})
    new = sign("dr.martin", "", new_key, key_id="k2", issued_s=NOW_S)
    for comment in (signed("dr.martin"), new):
        assert charged(play(ask(f"SELECT 1 {comment}"), observer(both))) == [("dr.martin", "signed_context", 2)]
    only_new = Contexts({"k2": new_key})
    assert findings(play(ask(f"SELECT 1 {signed('dr.martin')}"), observer(only_new))) == [
        ("identity_forged", "ehr_app")
    ]


def test_the_memory_of_nonces_is_bounded_and_never_accepts_twice() -> None:
    contexts = Contexts({"k1": KEY}, capacity=100)
    identity = Identity(Rules(), contexts, "s", "x")
    comments = [sign("u", "", KEY, issued_s=NOW_S + i // 50, nonce=f"nonce-{i:020}") for i in range(500)]
    for i, comment in enumerate(comments):
        script = identity.read(f"SELECT 1 {comment}".encode(), NOW + i * 20)
        assert script is not None
        assert script.principal == "u"
    assert contexts.remembered == 100
    other = Identity(Rules(), contexts, "s2", "x")
    found = [other.read(f"SELECT 1 {comment}".encode(), NOW + 10_000) for comment in comments]
    assert {s.finding for s in found if s is not None} == {"identity_expired", "identity_replayed"}


def test_a_full_memory_of_nonces_costs_no_more_than_an_empty_one() -> None:
    contexts = Contexts({"k1": KEY}, capacity=50_000)

    def cpu_s(first: int) -> float:
        began = time.process_time()
        for n in range(first, first + 50_000):
            contexts._remember(n, (NOW + n + 330_000, NOW + n, n), NOW + n)
        return time.process_time() - began

    empty = cpu_s(0)
    assert cpu_s(50_000) < 10 * empty


def test_a_flood_of_forgeries_tells_one_finding_a_second() -> None:
    events = play([step for i in range(50) for step in ask(f"SELECT {i} {forged(signed('dr.martin'))}")])
    assert len(findings(events)) == 1
    assert {c[0] for c in charged(events)} == {"ehr_app"}


def test_a_statement_too_long_to_be_kept_is_charged_to_the_login() -> None:
    long = "SELECT " + "1," * 60_000 + "1 "
    assert charged(play([*STICKY, *ask(long + signed("dr.martin"))]))[-1] == APP


def test_tag_leaves_a_commented_statement_alone() -> None:
    assert tag("SELECT 1 /* x */", "u", "", KEY) == "SELECT 1 /* x */"
    assert tag("SELECT 1;", "u", "", KEY).startswith("SELECT 1 /*enduser_id='u',")
    assert "%%C3" in tag("SELECT 1", "é", "", KEY, percent="%%")
