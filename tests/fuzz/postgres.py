"""PostgreSQL: the start-up parser, both readers, and the observer above them, as the relay uses them in both modes."""

from __future__ import annotations

import random

from exfilguard.errors import ProtocolError
from exfilguard.observe import columns, session
from exfilguard.observe import outlet as outlets
from exfilguard.observe.patients import Digester, PatientColumns
from exfilguard.observe.session import SessionObserver
from exfilguard.observe.tally import Setting
from exfilguard.wire.postgres import backend, frontend, startup
from tests.fuzz import copies, mutate
from tests.fuzz.checked import Checked
from tests.fuzz.target import Input
from tests.wire import build, oracle, transcript
from tests.wire.transcript import Step


def split(side: str, data: bytes) -> list[Step]:
    """Into messages; the rest as it is."""
    out: list[Step] = []
    pos = 0
    while pos < len(data):
        end = pos + 1 + int.from_bytes(data[pos + 1 : pos + 5], "big") if pos + 5 <= len(data) else len(data)
        out.append((side, data[pos:end]))
        pos = end
    return out


class Postgres:
    """See target.Target."""

    name = "postgres"

    def __init__(self) -> None:
        self.columns = PatientColumns(["care.patient.id", "care.sejour.patient_id"])
        self.tables = self.columns.copies = copies.tables()
        self.digester = Digester(b"0123456789abcdef")
        self.conversations = [transcript.load(transcript.FOLDER / f"{name}.txt") for name in transcript.names()]
        self.startups = [steps[0][1] for steps in self.conversations]
        self.startups += [startup.ssl_request(), startup.cancel_request(b"\0\0\0\7secr"), b"GET / HTTP/1.1\r\n\r\n"]
        self.messages = [self._messages(steps) for steps in self.conversations]

    @staticmethod
    def _messages(steps: list[Step]) -> list[Step]:
        """Message by message, each side's bytes joined first: a piece may end in the middle of one."""
        out: list[Step] = []
        pending = {">": b"", "<": b""}
        for side, data in steps[1:]:
            found = split(side, pending[side] + data)
            pending[side] = b""
            if found:
                last = found[-1][1]
                if len(last) < 5 or len(last) < 1 + int.from_bytes(last[1:5], "big"):
                    pending[side] = last
                    found.pop()
            out += found
        return out

    def make(self, rng: random.Random) -> Input:
        if rng.random() < 0.05:
            return Input((("!", mutate.bytes_of(rng, rng.choice(self.startups))),))
        if rng.random() < 0.15:
            steps = copies.conversation(rng, self.tables)
        else:
            messages = rng.choice(self.messages)
            start = rng.randrange(len(messages))
            steps = messages[start : start + rng.choice((2, 4, 8, 16, 32))]
        if rng.random() < 0.1:
            other = rng.choice(self.messages)
            at = rng.randrange(len(other))
            steps = steps + other[at : at + rng.choice((2, 4, 8))]
        if rng.random() < 0.5:
            steps = mutate.order(rng, steps)
        mutate.damaged(rng, steps, rng.choice((0, 1, 1, 2)))
        if rng.random() < 0.8:
            steps = [("<", build.LOGIN), *steps]
        rows = rng.choice((None, None, 0, 1, 5, 1000))
        patients = rng.choice((None, None, None, 0, 1, 5, 1000))
        return Input(tuple(mutate.cut(rng, steps)), rows, patients)

    def run(self, given: Input) -> None:
        if given.steps and given.steps[0][0] == "!":
            self.run_startup(given.steps[0][1])
        else:
            self.run_session(given)

    def run_startup(self, data: bytes) -> None:
        try:
            request, used = startup.parse(data)
        except ProtocolError:
            return
        assert 0 <= used <= len(data)
        assert (request is None) == (used == 0)
        if isinstance(request, startup.StartupMessage):
            assert request.params["user"]

    def run_session(self, given: Input) -> None:
        # Every other one as in the relay: statements become bytes in C, and each of them must be an event.
        outlet = Checked() if outlets.COMPILED and len(given.steps) % 2 else None
        told = self.play(given, outlet)
        if outlet is None and columns.Passing is not None and any(b"TO STDOUT" in data for _, data in given.steps):
            passing, columns.Passing = columns.Passing, None
            try:
                assert self.play(given, None) == told, "COPY's loop in C and its source"
            finally:
                columns.Passing = passing

    def play(self, given: Input, outlet: Checked | None) -> tuple[int, set[str]]:
        """Rows counted, and patients that events told of."""
        patients: set[str] = set()
        setting = Setting("dpi", self.digester, 1000, 50, outlet=outlet)
        seen = SessionObserver(setting, "s", "10.0.0.9", self.columns)
        seen.startup({"user": "app", "database": "care", "application_name": "fuzz"})
        rows_left, patients_left = given.allowed_rows, given.allowed_patients
        forwarded = bytearray()
        held = b""
        known: dict[str, int] = {}
        over = False
        counted = 0
        # As `observe` reads: the bytes have passed already.
        passed = rows_left is None and patients_left is None and len(given.steps) % 3 > 0
        for now, (side, data) in enumerate(given.steps, 1):
            if side == ">":
                events = seen.client_data(data, now)
            else:
                data, held = held + data, b""
                if not seen.authenticated:
                    data = startup.strip_scram_plus(data)
                if passed:
                    events = seen.observed(data, now)
                    assert seen.portion_rows >= -1
                    counted += sum(event.rows for event in events)
                    patients.update(*(event.patients for event in events))
                    continue
                result = seen.server_data(
                    data, now, allowed_rows=rows_left, allowed_patients=patients_left, known_patients=known
                )
                events = result.events
                assert result.rows >= 0 or result.rows == -1  # the trailer of a binary COPY takes one back
                for offset in (result.cut_at, result.hold_at):
                    assert offset is None or 0 <= offset <= len(data)
                if rows_left is not None:
                    rows_left = max(0, rows_left - result.rows)
                if patients_left is not None:
                    known |= dict.fromkeys(result.new_patients, now)
                    patients_left = max(0, patients_left - len(result.new_patients) - result.estimated)
                end = next((at for at in (result.cut_at, result.hold_at) if at is not None), len(data))
                forwarded += data[:end]
                if result.hold_at is not None:
                    held = data[result.hold_at :]
                    assert len(held) <= backend.MAX_KEPT_BYTES + len(data)
                over = result.cut_at is not None
            counted += sum(event.rows for event in events)
            patients.update(*(event.patients for event in events))
            assert seen.at_boundary in (True, False)
            if over:
                break
        events = seen.close(1000)
        counted += sum(event.rows for event in events)
        patients.update(*(event.patients for event in events))
        counted += outlet.rows if outlet is not None else 0
        self.check(given, seen, bytes(forwarded), counted)
        return counted, patients

    @staticmethod
    def check(given: Input, seen: SessionObserver, forwarded: bytes, counted: int) -> None:
        """What must hold whatever came."""
        assert counted >= 0
        assert len(seen._pending) <= session.MAX_PENDING
        assert len(seen._statements) <= session.MAX_STATEMENTS
        assert len(seen._frontend._carry) <= frontend.MAX_KEPT_BYTES
        assert len(seen._backend._carry) <= backend.MAX_KEPT_BYTES
        if given.allowed_rows is not None and not seen.desynced:
            # Naively counted, so a row cut off at the end is not in it. The trailer of a binary COPY is no row, nor is a header, in
            # however many messages it comes.
            kinds = [kind for kind, _ in oracle.messages(forwarded)]
            assert kinds.count("D") <= given.allowed_rows
            asked = b"".join(data for side, data in given.steps if side == ">").upper()
            if b"HEADER" not in asked and b"BINARY" not in asked:
                assert kinds.count("d") <= given.allowed_rows + forwarded.count(b"\xff\xff")
