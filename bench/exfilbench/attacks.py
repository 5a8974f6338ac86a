"""The thief. Each attack is a generator of (time, account, event, patients in it), in time order, as the sidecar would report it.

A thief takes patients 0, 1, 2 .. in order (or a random order), whatever the way; `speed` is patients a day, or WIRE: as fast as the
server and the network carry them. What one event holds is what one event of the sidecar holds: a progress event every 1,000 rows or
50 ms of a long result, one event for each short statement. The thief is told nothing of the guard and stops for nothing but a cut.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from .clinic import DAY_MS, FINGERPRINT, HOUR_MS, PATIENTS, digest, digest_of
from .policy import HONEYTOKENS

WIRE = 0
WIRE_ROWS_PER_S = 200_000
"""SELECT of whole patient rows over a local network: what PostgreSQL 15 sends of them on the machine of `make bench-attack`."""
SPEEDS = (WIRE, 200_000, 50_000, 10_000, 2_000, 1_000, 500)
HORIZON_DAYS = 10
TOOL = digest(20_000_000)
NOBODY = 30_000_000
DOCUMENT_BYTES = 2_000_000

ONE_BY_ONE = frozenset({"enumeration", "pipelined", "probe", "documents", "honeytokens"})
"""Ways that ask for one patient at a time."""
PIPELINE = 100
"""Statements that are sent before the first reply is read."""
TOKEN_EVERY = 400
"""Among the files of a thief who reads in order, one that nobody has a reason to open."""
BEFORE = frozenset({"copied", "written", "forged"})
"""Ways that begin with a statement that delivers nothing."""
BEFORE_MS = 3_000

Step = tuple[int, str, dict[str, Any], int]


@dataclass(frozen=True, slots=True)
class Attack:
    """One theft."""

    name: str
    speed: int
    accounts: tuple[str, ...] = ("dpi_export",)
    way: str = "pages"
    page: int = 500
    sources: tuple[str, ...] = ("10.66.0.13",)
    shape: str = TOOL
    application: str = "psql"
    hours: tuple[float, float] = (0.0, 24.0)
    """Of each day."""
    listeners: tuple[str, ...] = ("dpi",)
    """Each a sidecar of its own, before a node or an engine of its own."""
    budgeted: bool = True
    """On the users' listener, which has a local budget in `enforce`."""
    bar: bool = True
    """False: told beside the bars, with the reason in the README."""

    @property
    def title(self) -> str:
        speed = "at once" if self.speed == WIRE else f"{self.speed:,} a day"
        return f"{self.name}, {speed}"


def steps(attack: Attack, start_ms: int, seed: int) -> Iterator[Step]:
    """Until every patient is taken or the horizon is reached. A step of no patients delivers nothing, and may tell."""
    rng = random.Random(f"{attack.title} {seed}")
    at, taken, number = start_ms, 0, 0
    end = start_ms + HORIZON_DAYS * DAY_MS
    size = _size(attack)
    if attack.way in BEFORE:
        at = _in_hours(at, attack.hours)
        yield at, attack.accounts[0], _before(attack, at), 0
        at += BEFORE_MS
    while taken < PATIENTS and at < end:
        at = _in_hours(at, attack.hours)
        count = min(size, PATIENTS - taken)
        account = attack.accounts[number % len(attack.accounts)]
        source = attack.sources[number % len(attack.sources)]
        ids = range(taken, taken + count)
        event = _event(attack, at, account, source, ids, number)
        event["listener"] = attack.listeners[number % len(attack.listeners)]
        yield at, account, event, count
        taken += count
        number += 1
        at += _pause_ms(attack, count, number, rng)


def _size(attack: Attack) -> int:
    """Patients an event holds."""
    if attack.way in ONE_BY_ONE:
        return 1
    if attack.speed == WIRE:
        return 1_000 if attack.way not in ("pages", "sessions", "cursor") else attack.page
    day = attack.speed / len(attack.accounts)
    return max(1, min(attack.page, int(day / 20)))


def _pause_ms(attack: Attack, count: int, number: int, rng: random.Random) -> int:
    if attack.speed == WIRE:
        if attack.way == "pipelined":
            return 0 if number % PIPELINE else 5  # one round trip for all of them
        if attack.way in ONE_BY_ONE:
            return 1 if attack.way != "documents" else 20  # a query a millisecond; two megabytes take their time
        think = {"pages": 20, "sessions": 60, "cursor": 2, "cancelled": 30, "copied": 20, "forged": 20}.get(
            attack.way, 0
        )
        return max(1, count * 1000 // WIRE_ROWS_PER_S + think)
    low, high = attack.hours
    share = ((high - low) % 24 or 24) / 24
    return max(1, int(count * DAY_MS * share / attack.speed * rng.uniform(0.7, 1.3)))


def _in_hours(at: int, hours: tuple[float, float]) -> int:
    low, high = (int(h * HOUR_MS) for h in hours)
    if high - low >= DAY_MS:
        return at
    of_day = at % DAY_MS
    if low <= high:
        if of_day < low:
            return at - of_day + low
        return at if of_day < high else at - of_day + DAY_MS + low
    return at if of_day >= low or of_day < high else at - of_day + low


def _event(attack: Attack, at: int, account: str, source: str, ids: range, number: int) -> dict[str, Any]:
    count = len(ids)
    event: dict[str, Any] = {
        "time_ms": at, "kind": "query", "listener": "dpi", "session": f"{account}/thief", "principal": account, "login": account,
        "source": source, "application": attack.application, "statement": number + 1, "fingerprint": attack.shape,
        "rows": count, "bytes": count * 300, "patients": [digest_of(i) for i in ids], "patients_by": "origin",
    }  # fmt: skip
    way = attack.way
    if way in ("select", "copy", "dump", "json_agg") and attack.speed == WIRE:
        event["kind"] = "progress"
    if way in ("copy", "dump"):
        event["flags"] = ["copy"]
    elif way == "json_agg":
        event["rows"] = 1
        event["flags"] = ["aggregate", "packed"]
    elif way in ("renamed", "unselected"):  # md5(id), or names and addresses only: no digest of an identifier
        del event["patients"]
        event |= {"patients_estimated": count, "patients_by": "estimate"}
    elif way == "json_rows":  # whole objects in a cell, whose identifiers cannot be told: estimated
        del event["patients"]
        event |= {"rows": 1, "patients_estimated": count, "patients_by": "estimate", "flags": ["aggregate"]}
    elif way == "sessions":
        event["session"] = f"{account}/thief/{number}"
    elif way == "cancelled":
        event |= {"kind": "query", "error": "57014"}
    elif way == "foreign":  # through dblink or a foreign table: no origin
        del event["patients"]
        event |= {"patients_estimated": count, "patients_by": "estimate", "flags": ["foreign"]}
    elif way == "called":  # a function that reads inside returns text
        del event["patients"]
        event |= {"patients_estimated": count, "patients_by": "estimate", "flags": ["watched_call"]}
    elif way == "documents":  # an image or a letter a patient, by its own number
        event |= {"bytes": DOCUMENT_BYTES, "patients_by": "estimate", "flags": ["large_value"]}
    elif (
        way == "probe"
    ):  # SELECT count(*) .. WHERE id = 4711 AND ..: one row, the same for all; what was asked for tells them apart
        event |= {
            "asked": event["patients"],
            "patients": [digest_of(NOBODY - number % 2)],
            "patients_by": "estimate",
            "bytes": 8,
        }
    elif way == "honeytokens" and number % TOKEN_EVERY == TOKEN_EVERY - 1:
        event["patients"] = [digest_of(HONEYTOKENS[number // TOKEN_EVERY % len(HONEYTOKENS)])]
    if way in ("walk", "dump"):  # as an EHR's export does: several statements, 5.5 rows a patient
        event["rows"] = int(count * 5.5)
    return event


def _before(attack: Attack, at: int) -> dict[str, Any]:
    event = _event(attack, at, attack.accounts[0], attack.sources[0], range(0), 0)
    del event["patients"]
    if attack.way == "copied":  # CREATE TABLE .. AS SELECT: charged when moved
        event |= {"hidden_rows": PATIENTS, "patients_estimated": PATIENTS, "patients_by": "estimate"}
    elif attack.way == "written":  # COPY TO a file of the server, INTO OUTFILE: seen when it is over
        event |= {
            "hidden_rows": PATIENTS,
            "patients_estimated": PATIENTS,
            "patients_by": "estimate",
            "flags": ["server_export"],
        }
    else:  # a context with somebody else's name, not signed: the login is charged, and a finding tells
        event |= {"kind": "finding", "detail": "forged context", "rows": 0, "bytes": 0}
    return event


def honeytoken(account: str = "dr.003") -> Attack:
    """Somebody opens one file that nobody has a reason to open."""
    return Attack("one honeytoken read", 500, (account,), "honeytoken", bar=False)


def honeytoken_step(attack: Attack, at: int) -> Step:
    event = _event(attack, at, attack.accounts[0], "10.1.2.3", range(1), 0)
    event |= {
        "patients": [digest_of(HONEYTOKENS[0])],
        "rows": 1,
        "fingerprint": FINGERPRINT["identity"],
        "application": "dpi-web",
    }
    return at, attack.accounts[0], event, 1


def catalogue(working: dict[str, list[str]], *, quick: bool = False) -> list[Attack]:
    """Every attack. `working`: accounts that work on the days of the attack, by the beginning of their names: the stolen and the
    insiders."""
    doctors, secretaries, coders, pharmacists = (working[prefix] for prefix in PREFIXES)
    own = {"application": "dpi-web", "shape": FINGERPRINT["identity"], "hours": (8.0, 18.0)}
    ten = tuple(doctors[:7] + secretaries[:3])
    many = tuple(doctors[:17] + secretaries[:8])
    many_sources = tuple(f"10.66.3.{i}" for i in range(25))
    ten_sources = tuple(f"10.66.1.{i}" for i in range(10))
    ways = [
        Attack("one big SELECT", WIRE, way="select"),
        Attack("COPY TO STDOUT", WIRE, way="copy"),
        Attack("json_agg of identifiers", WIRE, way="json_agg"),
        Attack("json_agg of whole rows", WIRE, way="json_rows"),
        Attack("identifiers renamed (md5)", WIRE, way="renamed"),
        Attack("identifiers not selected", WIRE, way="unselected"),
        Attack("dump of every table", WIRE, way="dump"),
        Attack("through a foreign server (dblink)", WIRE, way="foreign"),
        Attack("a function that reads inside", WIRE, way="called"),
        Attack("copied into a table, then read", WIRE, way="copied"),
        Attack("written to a file of the server, then read", WIRE, way="written"),
        Attack("100 statements in a pipeline", WIRE, way="pipelined"),
        Attack("identity forged in a comment", WIRE, way="forged"),
    ]
    own_office = {"application": "dpi-web", "hours": (8.0, 18.0)}
    everywhere = [
        Attack("paging", WIRE, way="pages"),
        Attack("the application's own export", WIRE, way="walk", page=250, application="dpi-export", shape=FINGERPRINT["export"]),
        Attack("cursor, 100 rows a fetch", WIRE, way="cursor", page=100),
        Attack("ID enumeration", WIRE, way="enumeration"),
        Attack("a session for each query", WIRE, way="sessions", page=50),
        Attack("cancel and retry", WIRE, way="cancelled", page=300),
        Attack("json_agg in small portions", WIRE, way="json_agg", page=200),
        Attack("identifiers renamed, in portions", WIRE, way="renamed", page=200),
        Attack("in working hours, as the application", WIRE, way="walk", page=20, application="dpi-export", shape=FINGERPRINT["export"], hours=(8.0, 18.0)),
        Attack("at night", WIRE, way="pages", hours=(22.0, 6.0)),
        Attack("a doctor's account, beside the owner's work", WIRE, (doctors[7],), "enumeration", sources=("10.1.3.2",), **own),  # type: ignore[arg-type]
        Attack("a doctor's account, elsewhere", WIRE, (doctors[8],), "pages"),
        Attack("a secretary's account, beside the owner's work", WIRE, (secretaries[3],), "enumeration", sources=("10.2.3.2",), **own),  # type: ignore[arg-type]
        Attack("an interface's account", WIRE, ("svc_interface0",), "pages", application="interface", shape=FINGERPRINT["feed"], budgeted=False),
        Attack("an administrator's account", WIRE, ("dba.0",), "pages"),
        Attack("a new account", WIRE, ("dpi_support",), "pages"),
        Attack("riding on the nightly batch", WIRE, ("batch_pmsi",), "pages", application="pmsi", shape=FINGERPRINT["night"], hours=(1.6, 3.9), budgeted=False),
        Attack("the batch's account by day", WIRE, ("batch_pmsi",), "pages", hours=(9.0, 17.0), budgeted=False),
        Attack("documents, one a query", WIRE, way="documents"),
        Attack("COUNT and EXISTS, one patient a query", WIRE, way="probe"),
        Attack("ID enumeration over honeytokens", WIRE, way="honeytokens"),
        Attack("split over three sidecars and two engines", WIRE, way="pages", listeners=("dpi", "dpi-node2", "dpi-mysql")),
        Attack("a coder's account, beside the owner's work", WIRE, (coders[0],), "enumeration", sources=("10.2.3.4",), shape=FINGERPRINT["coding"], **own_office),  # type: ignore[arg-type]
        Attack("a pharmacist's account, beside the owner's work", WIRE, (pharmacists[0],), "enumeration", sources=("10.2.3.5",), shape=FINGERPRINT["identity"], **own_office),  # type: ignore[arg-type]
        Attack("split over 3 accounts and 3 sources", WIRE, ten[:3], "enumeration", sources=ten_sources[:3]),
        Attack("split over 25 accounts, one source", WIRE, many, "enumeration"),
        Attack("split over 25 accounts and 25 sources", WIRE, many, "enumeration", sources=many_sources),
        Attack("split over 10 accounts, one source", WIRE, ten, "enumeration"),
        Attack("split over 10 accounts and 10 sources", WIRE, ten, "enumeration", sources=ten_sources),
    ]  # fmt: skip
    mimic = Attack(
        "split over 10 accounts and sources, as the owners work",
        WIRE,
        ten,
        "enumeration",
        sources=ten_sources,
        bar=False,
        **own,
    )  # type: ignore[arg-type]
    hidden = Attack(
        "split over every doctor and secretary, as they work",
        500,
        tuple(doctors[:40] + secretaries[:10]),
        "enumeration",
        sources=tuple(f"10.66.2.{i}" for i in range(50)),
        bar=False,
        **own,
    )  # type: ignore[arg-type]
    out = list(ways)
    for attack in [*everywhere, mimic]:
        if not quick:
            out += [replace(attack, speed=speed) for speed in SPEEDS]
        elif attack.name in QUICK:
            out += [replace(attack, speed=speed) for speed in (WIRE, 50_000, 500)]
        elif len(attack.accounts) == 1:
            out.append(replace(attack, speed=500))
    return out if quick else [*out, hidden, replace(hidden, speed=2_000)]


PREFIXES = ("dr", "sec", "tim", "pharm")
QUICK = (
    "paging",
    "ID enumeration",
    "a doctor's account, beside the owner's work",
    "split over 10 accounts and 10 sources",
)
