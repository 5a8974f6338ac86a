"""Statements written to an outlet are, field by field, the events that an observer without one returns."""

from __future__ import annotations

import os
import random
from typing import Any

import orjson
import pytest

from exfilguard.events.codec import check_event, encode_event
from exfilguard.observe import outlet
from exfilguard.observe.asked import AskedColumns
from exfilguard.observe.mysql.patients import OriginColumns
from exfilguard.observe.mysql.session import MysqlObserver
from exfilguard.observe.session import SessionObserver
from exfilguard.observe.tally import Setting
from exfilguard.wire.mysql.messages import CLIENT_COMPRESS
from tests.wire import build as b

from . import test_mysql_transcripts as mysql
from .test_session import KEY, TRANSCRIPTS, Digester, PatientColumns

if not outlet.COMPILED and os.environ.get("EXFILGUARD_REQUIRE_COMPILED") != "1":
    pytest.skip("no C compiler at installation", allow_module_level=True)


class Collected(outlet.Outlet):
    """In the order in which they come; knows each shape's text once."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.sums = [0, 0, 0, 0]
        self.shapes: set[str] = set()

    def told(self, fingerprint: str, columns: tuple[str, ...]) -> bool:
        known = fingerprint in self.shapes
        self.shapes.add(fingerprint)
        return known

    def put(
        self, principal: str, time_ms: int, payload: bytes, rows: int, size: int, patients: int, final: bool
    ) -> None:
        event = check_event(orjson.loads(payload))
        assert (event["principal"], event["time_ms"]) == (principal, time_ms)
        self.events.append(event)
        for i, value in enumerate((rows, size, patients, int(final))):
            self.sums[i] += value


def observer(into: outlet.Outlet | None, application: str) -> SessionObserver:
    columns = PatientColumns(["dpi.patients.patient_id"])
    made = SessionObserver(Setting("ehr", Digester(KEY), 2, 50, outlet=into), "s1", "10.0.0.9", columns)
    made.startup({"user": 'J "é" \\ D', "database": "dpi", "application_name": application})
    return made


def play(steps: list[tuple[str, bytes]], into: Collected | None, rng: random.Random) -> list[dict[str, Any]]:
    made = observer(into, "ps\u2028ql")
    out: list[dict[str, Any]] = []
    now = 1_795_500_000_000
    for side, data in [("<", b.LOGIN), *steps]:
        cuts = sorted(rng.choices(range(len(data) + 1), k=3))
        for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True):
            now += rng.randrange(30)
            events = made.client_data(data[i:j], now) if side == ">" else made.server_data(data[i:j], now).events
            if into is None:
                out += [orjson.loads(encode_event(e)) for e in events]
            else:
                into.events += [orjson.loads(encode_event(e)) for e in events]
    last = made.close(now)
    rest = [orjson.loads(encode_event(e)) for e in last]
    if into is not None:
        into.events += rest
        return into.events
    return out + rest


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_the_same_events(name: str) -> None:
    for seed in range(12):
        steps = TRANSCRIPTS[name][0]
        expected = play(steps, None, random.Random(seed))
        told: set[str] = set()
        for event in expected:
            if event.get("query"):
                if event["fingerprint"] in told:
                    del event["query"]
                    event.pop("columns", None)
                told.add(event.get("fingerprint", ""))
        collected = Collected()
        assert play(steps, collected, random.Random(seed)) == expected
        statements = [e for e in expected if e["kind"] in ("query", "progress")]
        assert collected.sums == [
            sum(e.get("rows", 0) for e in statements),
            sum(e.get("bytes", 0) for e in statements),
            sum(len(e.get("patients", ())) + e.get("patients_estimated", 0) for e in statements),
            sum(e["kind"] == "query" for e in statements),
        ]


def test_a_change_of_identity_shows_in_the_next_event() -> None:
    collected = Collected()
    made = observer(collected, "first")
    made.server_data(b.LOGIN, 1)
    for name in ("first", "second"):
        made.server_data(b.message("S", b"application_name\0" + name.encode() + b"\0"), 2)
        made.client_data(b.query("SELECT 1"), 3)
        made.server_data(b.complete("SELECT 1") + b.READY, 4)
    assert [e["application"] for e in collected.events] == ["first", "second"]


MYSQL = [name for name in mysql.TRANSCRIPTS if "java" in name or "pymysql" in name or "mysql2" in name]


def play_mysql(name: str, into: Collected | None, rng: random.Random) -> list[dict[str, Any]]:
    login, steps = mysql.TRANSCRIPTS[name]
    columns = OriginColumns(["patient.id", "sejour.patient_id"])
    setting = Setting("ehr", Digester(KEY), 2, 50, outlet=into)
    made = MysqlObserver(setting, "s1", "10.0.0.9", columns, asked=AskedColumns(["patient.id"], "mysql"))
    made.startup(login)
    now = 1_795_500_000_000
    events = made.login_succeeded(login.capabilities, "zlib" if login.capabilities & CLIENT_COMPRESS else "", now)
    out: list[dict[str, Any]] = [] if into is None else into.events
    for side, data in [*steps, ("", b"")]:
        cuts = sorted(rng.choices(range(len(data) + 1), k=3))
        for i, j in zip([0, *cuts], [*cuts, len(data)], strict=True):
            now += rng.randrange(30)
            out += [orjson.loads(encode_event(e)) for e in events]
            events = made.client_data(data[i:j], now) if side == ">" else made.server_data(data[i:j], now).events
    return out + [orjson.loads(encode_event(e)) for e in [*events, *made.close(now)]]


@pytest.mark.parametrize("name", MYSQL)
def test_the_same_events_of_mysql(name: str) -> None:
    for seed in range(4):
        expected = play_mysql(name, None, random.Random(seed))
        told: set[str] = set()
        for event in expected:
            if event.get("query"):
                if event["fingerprint"] in told:
                    del event["query"]
                    event.pop("columns", None)
                told.add(event.get("fingerprint", ""))
        assert play_mysql(name, Collected(), random.Random(seed)) == expected
        assert any(event["kind"] == "query" and event["engine"] == "mysql" for event in expected)
