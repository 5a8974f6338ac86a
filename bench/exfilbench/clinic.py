"""Normal traffic of a clinic, day by day, as QueryEvents in time order. The distributions and their sources: README.md.

Nothing here knows a policy or a detector. Events are dicts as a frame carries them, with nothing a QueryEvent does not have.
Times are UTC milliseconds; the clinic's clock is UTC too. Everything follows from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

PATIENTS = 758_912
DAY_MS, HOUR_MS = 86_400_000, 3_600_000
MONDAY_MS = 1_767_571_200_000 // DAY_MS * DAY_MS  # 2026-01-05
WARD_BEDS = 28
STAY_DAYS = 5.6
_MASK = (1 << 64) - 1

Event = dict[str, Any]


def digest(patient: int) -> str:
    """What a keyed digest looks like: 16 hex digits, without order (splitmix64)."""
    x = (patient + 1) * 0x9E3779B97F4A7C15 & _MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return f"{x ^ x >> 31:016x}"


DIGESTS: dict[int, str] = {}


def digest_of(patient: int) -> str:
    found = DIGESTS.get(patient)
    if found is None:
        found = DIGESTS[patient] = digest(patient)
    return found


@dataclass(slots=True)
class Person:
    """One account and how its owner works."""

    login: str
    role: str
    ward: int
    level: float
    """Own pace: a lognormal factor."""
    panel: list[int] = field(default_factory=list)
    """Patients that come again."""
    hired: int = 0
    """First day."""
    away: set[int] = field(default_factory=set)
    busier: dict[int, float] = field(default_factory=dict)
    """Day -> factor: stands in for a colleague, changes role, has an audit."""
    phase: int = 0


SHAPES = (
    "list",
    "search",
    "identity",
    "stays",
    "reports",
    "results",
    "agenda",
    "census",
    "drugs",
    "coding",
    "feed",
    "night",
    "export",
    "probe",
)
FINGERPRINT = {name: f"{digest(10_000_000 + i)}" for i, name in enumerate(SHAPES)}
ROWS = {"identity": 1, "stays": 6, "reports": 9, "results": 14}


@dataclass(frozen=True, slots=True)
class Size:
    """How large a clinic. The full one has 12 wards."""

    wards: int = 12
    doctors: int = 60
    nurses: int = 110
    secretaries: int = 34
    emergency: int = 34
    pharmacists: int = 6
    coders: int = 6
    ancillary: int = 24
    services: int = 4
    applications: int = 4
    dbas: int = 2


SMALL = Size(4, 20, 36, 12, 12, 2, 2, 8, 2, 2, 1)


class Clinic:
    """Draws the days in order: `day(n)` for n = 0, 1, 2 .. once each."""

    def __init__(self, seed: int, days: int, size: Size = Size()) -> None:
        self.rng = random.Random(f"clinic {seed}")
        self.days = days
        self.size = size
        self.people: list[Person] = []
        self.beds = [[self.new_patient() for _ in range(WARD_BEDS)] for _ in range(size.wards)]
        self.yesterday: list[int] = []
        self.wave_start = self.rng.randrange(days * 2)  # a winter wave: in half of the clinics within the run
        self._staff()

    # -- who ----------------------------------------------------------------------------------------------------------

    def new_patient(self) -> int:
        return self.rng.randrange(PATIENTS)

    def _staff(self) -> None:
        rng, size = self.rng, self.size
        roles = (
            [("dr", "doctor")] * size.doctors
            + [("ide", "nurse")] * size.nurses
            + [("sec", "secretary")] * size.secretaries
            + [("dr", "emergency doctor")] * (size.emergency // 3)
            + [("ide", "emergency nurse")] * (size.emergency - size.emergency // 3)
            + [("pharm", "pharmacist")] * size.pharmacists
            + [("tim", "coder")] * size.coders
            + [("ide", "ancillary")] * size.ancillary
        )
        for i, (prefix, role) in enumerate(roles):
            person = Person(
                f"{prefix}.{i:03d}",
                role,
                rng.randrange(size.wards),
                rng.lognormvariate(0, 0.22),
                phase=rng.randrange(14),
            )
            if role in ("doctor", "secretary"):
                person.panel = [self.new_patient() for _ in range(900 if role == "doctor" else 2_500)]
            self._life(person)
            self.people.append(person)
        for i in range(size.services):
            self.people.append(Person(f"svc_interface{i}", "service", 0, rng.uniform(0.6, 1.3)))
        for i in range(size.applications):
            self.people.append(
                Person("dpi_export" if i == 0 else f"dpi_app{i}", "application", 0, rng.lognormvariate(0, 0.3))
            )
        for i in range(size.dbas):
            self.people.append(Person(f"dba.{i}", "dba", 0, 1.0))
        self.people.append(Person("batch_pmsi", "batch", 0, 1.0))

    def _life(self, person: Person) -> None:
        """Holidays and who stands in, role changes, new hires, over all days of the run."""
        rng = self.rng
        if rng.random() < 0.04:
            person.hired = rng.randrange(1, max(2, self.days))
        day = rng.randrange(1, 75)
        while day < self.days:
            length = rng.choice((5, 7, 12, 14))
            person.away.update(range(day, day + length))
            day += length + rng.randrange(45, 100)
        if rng.random() < 0.25:  # stands in for a colleague
            start, factor = rng.randrange(self.days), rng.uniform(1.25, 1.8)
            for d in range(start, start + rng.choice((5, 12))):
                person.busier[d] = factor
        if rng.random() < 0.02:  # another post in the same job
            start, factor = rng.randrange(self.days), rng.lognormvariate(0, 0.35)
            for d in range(start, self.days):
                person.busier[d] = factor

    # -- days ---------------------------------------------------------------------------------------------------------

    def day(self, number: int) -> list[Event]:
        """All events of a day, in time order."""
        rng = self.rng
        weekday = number % 7
        self._move_patients()
        wave = 1.25 if 0 <= number - self.wave_start < 21 else 1.0
        busy = rng.lognormvariate(0, 0.05)
        arrivals = int(rng.gauss(130, 14) * wave * (1.11 if weekday == 0 else 0.98) * self.size.wards / 12)
        emergencies = [self.new_patient() for _ in range(max(10, arrivals))]
        out: list[Event] = []
        seen: list[int] = list(emergencies)
        start = MONDAY_MS + number * DAY_MS
        for person in self.people:
            if number < person.hired or number in person.away:
                continue
            work = getattr(self, "_" + person.role.replace(" ", "_"))
            factor = person.level * busy * person.busier.get(number, 1.0) * rng.lognormvariate(0, 0.15)
            for at, shape, patients, rows in work(person, number, weekday, factor, emergencies):
                out.append(event(start + at, person, shape, patients, rows, rng))
                if person.role == "secretary" and shape == "identity":
                    seen += patients
        self.yesterday = [p for ward in self.beds for p in ward] + seen
        out.sort(key=lambda e: e["time_ms"])
        return out

    def _move_patients(self) -> None:
        for ward in self.beds:
            for bed in range(WARD_BEDS):
                if self.rng.random() < 1 / STAY_DAYS:
                    ward[bed] = self.new_patient()

    # -- what they do: (ms of the day, shape, patients, rows) -----------------------------------------------------------

    def _files(
        self, patients: list[int], start_h: float, hours: float, again: float = 0.5
    ) -> Iterator[tuple[int, str, list[int], int]]:
        rng = self.rng
        for patient in patients:
            at = int((start_h + rng.random() * hours) * HOUR_MS)
            yield at, "identity", [patient], 1
            for shape in ("stays", "reports", "results"):
                if rng.random() < again:
                    at += rng.randrange(3_000, 60_000)
                    yield at, shape, [patient], max(1, int(rng.gauss(ROWS[shape], 3)))

    def _search(self, start_h: float, hours: float, patient: int) -> tuple[int, str, list[int], int]:
        """By name: namesakes come along."""
        rng = self.rng
        hits = min(20, int(rng.lognormvariate(0.4, 0.9)))
        found = [patient] + [self.new_patient() for _ in range(hits)]
        return int((start_h + rng.random() * hours) * HOUR_MS), "search", found, len(found)

    def _doctor(self, who: Person, number: int, weekday: int, factor: float, _: list[int]) -> Iterator[Any]:
        rng = self.rng
        on_call = (number + who.phase) % 11 == 0
        if weekday < 5:
            ward = self.beds[who.ward]
            yield int(8 * HOUR_MS + rng.random() * HOUR_MS), "list", list(ward), len(ward)
            yield from self._files(rng.sample(ward, min(len(ward), int(12 * factor) + 1)), 8.5, 3)
            if (weekday + who.phase) % 5 < 3:  # a day of consultations, 22 of them
                agenda = [
                    rng.choice(who.panel) if rng.random() < 0.6 else self.new_patient() for _ in range(int(22 * factor))
                ]
                yield int(8 * HOUR_MS + rng.random() * HOUR_MS), "agenda", agenda, len(agenda)
                yield from self._files(agenda, 9, 9, 0.6)
                for patient in agenda:
                    if rng.random() < 0.25:
                        yield self._search(9, 9, patient)
            if rng.random() < 1 / 90:  # an audit, a study, a meeting: old files
                yield from self._files([self.new_patient() for _ in range(rng.randrange(40, 120))], 13, 6, 0.3)
        if on_call:
            for other in rng.sample(range(len(self.beds)), min(4, len(self.beds))):
                yield int((18.5 + rng.random() * 5) * HOUR_MS), "list", list(self.beds[other]), WARD_BEDS
                yield from self._files(rng.sample(self.beds[other], 4), 19, 4.9)

    def _nurse(self, who: Person, number: int, weekday: int, factor: float, _: list[int]) -> Iterator[Any]:
        rng = self.rng
        turn = (number + who.phase) % 14
        if turn in (2, 3, 6, 9, 10, 13):  # days off
            return
        begin = (6.5, 6.5, 13.5, 21.0)[(who.phase + number // 14) % 4]
        ward = self.beds[who.ward if rng.random() < 0.93 else rng.randrange(len(self.beds))]
        hours = min(7.5, 23.9 - begin)
        for _round in range(4):
            yield int((begin + rng.random() * hours) * HOUR_MS), "list", list(ward), WARD_BEDS
        yield from self._files(rng.sample(ward, min(len(ward), int(13 * factor) + 1)), begin, hours, 0.4)
        if begin == 21.0:  # the night's second half
            for _round in range(2):
                yield int(rng.random() * 6 * HOUR_MS), "list", list(ward), WARD_BEDS
            yield from self._files(rng.sample(ward, min(len(ward), int(8 * factor) + 1)), 0, 6, 0.4)

    def _ancillary(self, who: Person, number: int, weekday: int, factor: float, _: list[int]) -> Iterator[Any]:
        rng = self.rng
        if weekday >= 5:
            return
        for ward in rng.sample(self.beds, min(3, len(self.beds))):
            yield int((8 + rng.random() * 8) * HOUR_MS), "list", list(ward), WARD_BEDS
            yield from self._files(rng.sample(ward, min(len(ward), int(6 * factor) + 1)), 8, 8, 0.3)

    def _secretary(self, who: Person, number: int, weekday: int, factor: float, _: list[int]) -> Iterator[Any]:
        rng = self.rng
        if weekday >= 5:
            return
        agenda = [rng.choice(who.panel) if rng.random() < 0.5 else self.new_patient() for _ in range(int(55 * factor))]
        for i in range(0, len(agenda), 22):
            yield int((7.5 + rng.random()) * HOUR_MS), "agenda", agenda[i : i + 22], 22
        for patient in agenda:
            if rng.random() < 0.8:
                yield self._search(8, 9, patient)
        yield from self._files(agenda, 8, 9, 0.15)

    def _emergency_doctor(
        self, who: Person, number: int, weekday: int, factor: float, arrivals: list[int]
    ) -> Iterator[Any]:
        yield from self._emergency(who, number, int(16 * factor), arrivals)

    def _emergency_nurse(
        self, who: Person, number: int, weekday: int, factor: float, arrivals: list[int]
    ) -> Iterator[Any]:
        yield from self._emergency(who, number, int(22 * factor), arrivals)

    def _emergency(self, who: Person, number: int, own: int, arrivals: list[int]) -> Iterator[Any]:
        rng = self.rng
        turn = (number + who.phase) % 7
        if turn not in (0, 1, 4):
            return
        begin = 8.0 if turn == 0 else 12.0
        shift = arrivals[: int(len(arrivals) * 0.6)] if begin == 8.0 else arrivals[len(arrivals) // 3 :]
        for i in range(10):
            low = max(0, int(len(shift) * i / 10) - 25)
            census = shift[low : low + 35]
            yield int((begin + i * 1.15) * HOUR_MS), "census", census, len(census)
        yield from self._files(rng.sample(shift, min(len(shift), own + 1)), begin, 11.5, 0.6)

    def _pharmacist(self, who: Person, number: int, weekday: int, factor: float, _: list[int]) -> Iterator[Any]:
        rng = self.rng
        if weekday >= 6:
            return
        mine = [w for i, w in enumerate(self.beds) if (i + who.phase) % 2 == 0] or self.beds
        for ward in mine:
            at = int((8.5 + rng.random() * 8) * HOUR_MS)
            yield at, "drugs", list(ward), WARD_BEDS * 5
            yield from self._files(rng.sample(ward, min(len(ward), int(7 * factor) + 1)), 8.5, 8.5, 0.3)

    def _coder(self, who: Person, number: int, weekday: int, factor: float, _: list[int]) -> Iterator[Any]:
        if weekday >= 5 or not self.yesterday:
            return
        month_end = number % 30 >= 26 or number % 30 < 3
        count = int((65 if not month_end else 150) * factor)
        stays = [
            self.rng.choice(self.yesterday) if self.rng.random() < 0.5 else self.new_patient() for _ in range(count)
        ]
        for at, _shape, patients, rows in self._files(stays, 8, 9, 0.3):
            yield at, "coding", patients, rows

    def _service(self, who: Person, number: int, weekday: int, factor: float, arrivals: list[int]) -> Iterator[Any]:
        rng = self.rng
        pool = [p for ward in self.beds for p in ward] + arrivals
        total = int(1_500 * factor * (0.55 if weekday >= 5 else 1.0) * len(self.beds) / 12)
        left = total
        while left > 0:
            few = min(left, 10)
            left -= few
            hour = min(23.9, max(0.0, rng.gauss(13, 4.5)))
            # Results of those who are here, of those who were seen yesterday, and of some who only had a sample taken.
            found = [
                rng.choice(pool)
                if (luck := rng.random()) < 0.45
                else rng.choice(self.yesterday or pool)
                if luck < 0.85
                else self.new_patient()
                for _ in range(few)
            ]
            yield int(hour * HOUR_MS), "feed", found, few * 3

    def _application(self, who: Person, number: int, weekday: int, factor: float, arrivals: list[int]) -> Iterator[Any]:
        rng = self.rng
        if weekday >= 5:
            return
        for _i in range(max(1, int(6 * factor))):
            few = rng.randrange(4, 22)
            yield int((9 + rng.random() * 8) * HOUR_MS), "export", [self.new_patient() for _ in range(few)], few * 6
        if weekday == 4 and rng.random() < 0.5:  # a weekly list
            yield int(17 * HOUR_MS), "export", [self.new_patient() for _ in range(rng.randrange(100, 250))], 250

    def _dba(self, who: Person, number: int, weekday: int, factor: float, _: list[int]) -> Iterator[Any]:
        rng = self.rng
        if weekday >= 5 or rng.random() < 0.4:
            return
        for _i in range(rng.randrange(1, 8)):
            few = rng.choice((0, 0, 1, 1, 3, 20))
            yield (
                int((9 + rng.random() * 8) * HOUR_MS),
                "probe",
                [self.new_patient() for _ in range(few)],
                rng.randrange(1, 200),
            )

    def _batch(self, who: Person, number: int, weekday: int, factor: float, _: list[int]) -> Iterator[Any]:
        """Yesterday's stays and visits, in one statement, reported every 1,000 rows."""
        stays = self.yesterday[:2_300]
        for i in range(0, len(stays), 250):
            yield 2 * HOUR_MS + i, "night" if i + 250 >= len(stays) else "night+", stays[i : i + 250], 1_000


def event(at: int, who: Person, shape: str, patients: list[int], rows: int, rng: random.Random) -> Event:
    """As the sidecar would have reported it."""
    progress = shape.endswith("+")
    shape = shape.rstrip("+")
    if who.role in ("service", "batch", "application"):
        source = f"10.0.1.{sum(map(ord, who.login)) % 200}"
    elif who.role == "dba":
        source = "10.0.2.9"
    elif who.role in ("secretary", "coder", "pharmacist"):
        source = f"10.2.{who.ward}.{who.phase}"  # an office of two or three
    elif who.role.startswith("emergency"):
        source = f"10.3.0.{rng.randrange(12)}"
    else:
        source = f"10.1.{who.ward}.{rng.randrange(8)}"  # the ward's screens
    return {
        "time_ms": at, "kind": "progress" if progress else "query", "listener": "dpi", "session": f"{who.login}/{at // DAY_MS}",
        "principal": who.login, "login": who.login, "source": source, "application": APPLICATION.get(who.role, "dpi-web"),
        "statement": 1, "fingerprint": FINGERPRINT[shape], "rows": rows, "bytes": rows * 300,
        "patients": [digest_of(p) for p in dict.fromkeys(patients)], "patients_by": "origin" if patients else "",
    }  # fmt: skip


APPLICATION = {"service": "interface", "batch": "pmsi", "application": "dpi-export", "dba": "psql"}
